"""Transpose (ONNX, opset 1 to 25): never moves a byte, it only renames axes.

Output axis i is input axis perm[i], so the output's memory order is the input's, renamed.
"""

from __future__ import annotations

from collections.abc import Sequence

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.nests import memory_order
from qrt.ops.spec import Array, Lowering, OpSpec


def parse(node: Node) -> tuple[int, ...]:
    """`perm`; its default reverses the axes."""
    rank = len(node.required(0).static_shape)
    attrs = AttrReader(node)
    perm = tuple(attrs.ints("perm", tuple(reversed(range(rank)))))
    attrs.done()
    if sorted(perm) != list(range(rank)):
        raise ModelError(f"perm must be a permutation of {rank} axes, got {list(perm)}")
    return perm


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x = node.required(0)
    return [(tuple(x.static_shape[a] for a in parse(node)), x.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    return [x.transpose(parse(node))]


def output_layout(node: Node) -> tuple[int, ...]:
    """Memory order of the output that makes it the same bytes as the input."""
    perm = parse(node)
    return tuple(perm.index(a) for a in memory_order(node.required(0)))


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    order = [a for a in output_layout(node) if y.static_shape[a] != 1]
    if [a for a in memory_order(y) if y.static_shape[a] != 1] != order:
        raise UnsupportedError(
            f"Transpose renames axes: its output's layout must be {output_layout(node)},"
            f" got {memory_order(y)}"
        )
    program.alias(y, x)


SPEC = OpSpec("Transpose", "", infer, reference, lower, layout="free")
