"""RoiAlign of opset 10: that of opset 16 whose coordinates are not shifted by half a pixel."""

from __future__ import annotations

from qrt.ir import Node
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference
from qrt.ops.spec import HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    attrs = {**node.attrs, "coordinate_transformation_mode": "output_half_pixel"}
    return reference(Node(node.op, node.inputs, node.outputs, attrs, "", version=16))


SPEC = HostFunctionSpec("RoiAlign", make, until=16)
