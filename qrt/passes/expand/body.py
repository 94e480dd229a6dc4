"""The nodes that one operator stands for: a small writer of ONNX nodes, shapes being known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.ir import Node, Value

VERSION = 18  # of the operators written here: axes are inputs
CODES = {"float32": 1, "int32": 6, "int64": 7, "bool": 9}  # onnx.TensorProto's


class Body:
    """Collects nodes that stand for `node`; `finish` names what they give."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes: list[Node] = []

    def constant(self, data: Any, dtype: Any = None) -> Value:
        """A constant; Python floats become float32, integers int64."""
        array = np.asarray(data)
        if dtype is None:
            dtype = {"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype)
        array = np.ascontiguousarray(array, dtype).reshape(array.shape)
        return Value(self._fresh("constant"), array.dtype, array.shape, array)

    def several(
        self,
        op: str,
        inputs: Sequence[Value | None],
        count: int,
        attrs: Mapping[str, Any] | None = None,
        domain: str = "",
        version: int = VERSION,
    ) -> list[Value]:
        """The outputs of a node."""
        outputs = [Value(self._fresh(op)) for _ in range(count)]
        node = self.node
        self.nodes.append(
            Node(op, list(inputs), outputs, dict(attrs or {}), domain, node.name, node.index,
                 version, node.origin, node.why, node.onnx_op or node.op)
        )  # fmt: skip
        return outputs

    def __call__(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        """The output of an ONNX node."""
        return self.several(op, inputs, 1, attrs)[0]

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """`x` in `shape`."""
        y = self("Reshape", x, self.constant(list(shape), np.int64))
        y.shape = tuple(shape)
        return y

    def transpose(self, x: Value, *perm: int) -> Value:
        """`x` with its axes in the order `perm`."""
        return self("Transpose", x, perm=list(perm))

    def slice(self, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        """x[start:stop:step] along `axis`."""
        return self("Slice", x, *(self.constant([v]) for v in (start, stop, axis, step)))

    def split(self, x: Value, sizes: Sequence[int], axis: int = -1) -> list[Value]:
        """Parts of `sizes` along `axis`."""
        lengths = self.constant(list(sizes))
        return self.several("Split", [x, lengths], len(sizes), {"axis": axis})

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        """`parts` one after the other."""
        return self("Concat", *parts, axis=axis)

    def cast(self, x: Value, dtype: Any) -> Value:
        """`x` as `dtype`. Positions are counted in float32, which has kernels and is exact."""
        y = self("Cast", x, to=CODES[np.dtype(dtype).name])
        y.shape, y.dtype = x.shape, np.dtype(dtype)
        return y

    def finish(self, *results: Value | None) -> list[Node]:
        """The nodes, their `results` being the node's outputs; None for one that nobody reads."""
        renamed: dict[Value, Value] = {}
        made = {value for node in self.nodes for value in node.outputs}
        for value, out in zip(results, self.node.outputs, strict=False):
            if value is None or not out.name:
                continue
            if value in made and value not in renamed:
                renamed[value] = out
            else:
                source = renamed.get(value, value)
                self.nodes.append(
                    Node("Identity", [source], [out], version=13, index=self.node.index)
                )
        for node in self.nodes:
            node.inputs = [None if v is None else renamed.get(v, v) for v in node.inputs]
            node.outputs = [renamed.get(v, v) for v in node.outputs]
        return self.nodes

    def _fresh(self, op: str) -> str:
        return f"{self.node.outputs[0].name}/{op}{len(self.nodes)}"
