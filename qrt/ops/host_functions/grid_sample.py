"""GridSample of opset 16 to 19: that of opset 20 under other names of its modes."""

from __future__ import annotations

from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference
from qrt.ops.spec import HostFunction

MODES = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}


def make(node: Node, reference: Reference) -> HostFunction:
    mode = AttrReader(node).string("mode", "bilinear", tuple(MODES))
    attrs = {**node.attrs, "mode": MODES[mode]}
    return reference(Node(node.op, node.inputs, node.outputs, attrs, "", version=20))


SPEC = HostFunctionSpec("GridSample", make, until=20)
