"""Element-wise operators that only feed each other become one, which passes over memory once.

f(g(x), h(x)) = Chain(x): the same operations on each element in the same order, so the same bits.
Layouts are chosen; each of the operators gives the shape and order of the last one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qrt.errors import QrtError
from qrt.ir import Graph, Node, Value
from qrt.ir.qparams import QParams
from qrt.ops import float_binary, float_unary
from qrt.ops.chain import nest_of
from qrt.ops.chain_steps import INPUTS, Step, assemble

U8 = np.dtype(np.uint8)
F32 = np.dtype(np.float32)


def fuse_chains(graph: Graph) -> Graph:
    """Replace every group of two or more; `graph` is changed."""
    groups = _Groups(graph)
    for node in reversed(graph.nodes):
        groups.grow(node)
    graph.nodes = [n for node in graph.nodes for n in groups.replaced(node)]
    return graph


class _Groups:
    """Groups by their last node."""

    def __init__(self, graph: Graph) -> None:
        self.producers, self.consumers = graph.producers(), graph.consumers()
        self.outputs = set(graph.outputs)
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.steps = {node: step for node in graph.nodes if (step := _step(node)) is not None}
        self.taken: set[Node] = set()
        self.chains: dict[Node, Node] = {}

    def grow(self, last: Node) -> None:
        """The group that ends with `last`."""
        if last not in self.steps or last in self.taken:
            return
        members = [last]
        refused: set[Node] = set()
        while True:
            added = next((n for n in self._feeders(members) if n not in refused), None)
            if added is None:
                break
            if self._chain([added, *members]) is None:
                refused.add(added)
            else:
                members.append(added)
        chain = self._chain(members)
        if len(members) > 1 and chain is not None:
            self.taken.update(members)
            self.chains[last] = chain

    def replaced(self, node: Node) -> list[Node]:
        """What stands where `node` stood."""
        if node in self.chains:
            return [self.chains[node]]
        return [] if node in self.taken else [node]

    def _feeders(self, members: list[Node]) -> Iterable[Node]:
        """Element-wise nodes whose result only `members` read, in their shape and order."""
        last = members[0].outputs[0]
        for member in members:
            for value in _operands(member):
                node = self.producers.get(value)
                if node is None or node in members or node in self.taken:
                    continue
                step = self.steps.get(node)
                if step is None or step.name == "Quantize" or value in self.outputs:
                    continue
                same = value.static_shape == last.static_shape and value.layout == last.layout
                if same and all(reader in members for reader in self.consumers[value]):
                    yield node

    def _chain(self, members: list[Node]) -> Node | None:
        """The node of a group; None when it has more inputs, results or loops than a chain can."""
        nodes = sorted(members, key=self.position.__getitem__)
        made = {node.outputs[0]: i for i, node in enumerate(nodes)}
        inputs: list[Value] = []
        steps = []
        for node in nodes:
            refs = []
            for value in _operands(node):
                if value in made:
                    refs.append(~made[value])
                    continue
                if value not in inputs:
                    inputs.append(value)
                refs.append(inputs.index(value))
            step = self.steps[node]
            steps.append(Step(node, step.name, tuple(refs), step.alpha, step.beta, step.qparams))
        last = nodes[-1]
        y = last.outputs[0]
        fits = len(inputs) <= INPUTS and assemble(steps) is not None
        if not fits or nest_of(y, inputs) is None:
            return None
        if any(v.dtype == U8 and v.static_shape != y.static_shape for v in inputs):
            return None
        origin = tuple(dict.fromkeys(name for node in nodes for name in node.origin))
        why = next((node.why for node in nodes if node.why), "")
        return Node(
            "Chain", list(inputs), [y], {"steps": tuple(steps)}, "qrt", last.name, last.index, 1,
            origin, why, last.onnx_op or last.op,
        )  # fmt: skip


def _operands(node: Node) -> list[Value]:
    """The tensors that the node computes with, constants that shape its function left out."""
    count = 2 if node.domain == "" and node.op in float_binary.BINARY else 1
    return [node.required(i) for i in range(count)]


def _step(node: Node) -> Step | None:
    """The node as a step, its operands left open; None when it is not one."""
    if not node.outputs or node.outputs[0].dtype not in (F32, U8) or not node.inputs:
        return None
    if node.domain == "qrt" and node.op in ("Quantize", "Dequantize"):
        qparams: QParams = node.attrs["y" if node.op == "Quantize" else "x"]
        narrow = node.outputs[0] if node.op == "Quantize" else node.required(0)
        wide = node.required(0) if node.op == "Quantize" else node.outputs[0]
        if qparams.axis is not None or narrow.dtype != U8 or wide.dtype != F32:
            return None
        return Step(node, node.op, (), qparams=qparams)
    if node.domain or any(v is None or v.dtype != F32 for v in node.inputs):
        return None
    if node.op in float_binary.BINARY and len(node.inputs) == 2:
        if node.op == "Pow" and not float_binary.has_exponent(node.required(1)):
            return None
        return Step(node, node.op, ())
    if node.op not in float_unary.UNARY:
        return None
    try:
        name, alpha, beta = float_unary.parse(node)
    except QrtError:  # its lowering says it better
        return None
    return Step(node, name, (), float(np.float32(alpha)), float(np.float32(beta)))
