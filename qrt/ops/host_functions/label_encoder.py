"""LabelEncoder of ai.onnx.ml 1: a string to its position in a list, or back."""

from __future__ import annotations

from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions import category_mapper
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference
from qrt.ops.spec import HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    classes = AttrReader(node).strings("classes_strings", ())
    attrs = {name: v for name, v in node.attrs.items() if name.startswith("default_")}
    attrs |= {"cats_strings": classes, "cats_int64s": list(range(len(classes)))}
    twin = Node("CategoryMapper", node.inputs, node.outputs, attrs, node.domain, version=1)
    return category_mapper.make(twin, reference)


SPEC = HostFunctionSpec("LabelEncoder", make, until=2, domain="ai.onnx.ml")
