"""Scatter (ONNX 9, deprecated in 11): ScatterElements under its first name."""

from __future__ import annotations

from qrt.ir import Node
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference
from qrt.ops.spec import HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    attrs = dict(node.attrs)
    return reference(Node("ScatterElements", node.inputs, node.outputs, attrs, "", version=11))


SPEC = HostFunctionSpec("Scatter", make)
