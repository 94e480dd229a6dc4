"""The loop over dot groups of a tile, and what a family of dot instructions tells it (`Dot`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from qrt.gemm.emit import I32, I64, const, load, prefetch

KR = 4  # bytes of an activation dword; every family's group


@dataclass(frozen=True)
class Dot:
    """How a family multiplies: lanes of sums per vector, KR bytes per group, its instructions.

    `expand(b, dword)` turns four activation bytes (i32) into operands, `weights(b, pointer)` loads
    one vector's worth of a group of weights, `step(b, acc, operands, weights)` adds the products.
    `weight_nbytes` is what one lane's group of four weights takes in a panel. A family whose
    instructions pick a dword out of a register says in `block(b, address)` how to load the operands
    of `block_groups` groups at once; what is left of a row goes through `expand`. One lane sums in
    `sum_type`; `chains` sums in flight keep the units of the instruction busy: a tile with fewer
    outputs adds its groups to as many copies of them in turn. `tune` is the CPU whose pipes LLVM
    orders the instructions for, by its name; "" leaves that to the target.
    A family that `fetches` asks for the weights `ahead` beside its own: its cores load more a cycle
    than its dot products need.

    An instruction of `matrices` multiplies two rows by two columns, two groups deep: `block` gets
    the addresses of two rows, `expand` 8 bytes of them, or 4 of the last group, and both give
    operands of two groups. `octets` and `weights` load the weights of a vector's columns, two by
    two, of two groups or of the last one. Lines 2i and 2i + 1 of the sums then hold rows 2i and
    2i + 1 of the first two columns of a vector, and of the other two.
    """

    lanes: int
    weight_nbytes: int
    features: tuple[str, ...]
    expand: Callable[[Any, Any], Any]
    weights: Callable[[Any, Any], Any]
    step: Callable[[Any, Any, Any, Any], Any]
    block: Callable[[Any, Any], list[Any]] | None = None
    block_groups: int = 1
    sum_type: Any = I32
    chains: int = 8  # a latency of 4, two a cycle
    matrices: bool = False
    octets: Callable[[Any, Any], Any] | None = None
    tune: str = ""
    fetches: bool = False


def dot_steps(dot: Dot, outputs: int) -> list[tuple[int, int]]:
    """How a tile of `outputs` vectors walks groups: (groups at once, copies of its sums), the last
    takes what is left one by one.

    No more than a block of four groups at once, for short rows. Sums of floats have one order, so
    they have no copies.
    """
    copies = 1
    depth = 2 if dot.matrices else 1
    most = dot.chains if dot.sum_type is I32 else 1
    while copies * depth < 4 and 2 * copies * outputs <= most:
        copies *= 2
    counts = (max(dot.block_groups, copies * depth), depth, 1)
    return [(n, copies if n == counts[0] else 1) for n in sorted(set(counts), reverse=True)]


def walk_groups(
    b: Any,
    fn: Any,
    dot: Dot,
    count: int,
    copies: int,
    rows: list[Any],
    state: tuple[Any, Any, Any],
    stop: Any,
    ahead: Any,
    *,
    skips: bool,
) -> tuple[Any, Any, list[list[Any]]]:
    """Dot groups, `count` a step, until k is `stop`; `state` and the result are (k, panel, acc).

    Leaves `b` behind the loop. Group g of a step adds to copy g % copies of the sums. The loop
    `skips` when there is nothing to walk.
    """
    k0, panel0, acc0 = state
    mr, nv = len(acc0), len(acc0[0])
    vec = acc0[0][0].type
    group_nbytes = nv * dot.lanes * dot.weight_nbytes
    zeros = [[ir.Constant(vec, [0] * dot.lanes)] * nv for _ in range(mr)]
    starts = [acc0] + [zeros] * (copies - 1)
    before = b.block
    loop, after = fn.append_basic_block("k"), fn.append_basic_block("k_end")
    if skips:
        b.cbranch(b.icmp_signed("<", k0, stop), loop, after)
    else:
        b.branch(loop)

    b.position_at_end(loop)
    k = b.phi(I64)
    panel = b.phi(I64)
    acc = [[[b.phi(vec) for _ in range(nv)] for _ in range(mr)] for _ in range(copies)]
    out: list[list[list[Any]]] = [[list(row) for row in copy] for copy in acc]
    multiply = _multiply_matrices if dot.matrices else _multiply_rows
    multiply(b, dot, count, [b.add(row, k) for row in rows], panel, out)
    for nbytes in range(0, count * group_nbytes if dot.fetches else 0, 64):
        prefetch(b, b.add(b.add(panel, ahead), const(nbytes)))
    k_next = b.add(k, const(KR * count))
    panel_next = b.add(panel, const(count * group_nbytes))
    b.cbranch(b.icmp_signed("<", k_next, stop), loop, after)

    b.position_at_end(after)

    def merge(phi: Any, first: Any, following: Any) -> Any:
        phi.add_incoming(first, before)
        phi.add_incoming(following, loop)
        if not skips:
            return following
        end = b.phi(phi.type)
        end.add_incoming(first, before)
        end.add_incoming(following, loop)
        return end

    ends = [merge(k, k0, k_next), merge(panel, panel0, panel_next)]
    merged = [
        [[merge(acc[c][r][v], starts[c][r][v], out[c][r][v]) for v in range(nv)] for r in range(mr)]
        for c in range(copies)
    ]
    while len(merged) > 1:
        half = len(merged) // 2
        merged = [
            [[b.add(x, y) for x, y in zip(*pair, strict=True)] for pair in zip(p, q, strict=True)]
            for p, q in zip(merged[:half], merged[half:], strict=True)
        ]
    return ends[0], ends[1], merged[0]


def _multiply_rows(
    b: Any, dot: Dot, count: int, rows: list[Any], panel: Any, out: list[list[list[Any]]]
) -> None:
    """`count` groups at the addresses `rows`: out[copy][row][vector] gains its products."""
    nv = len(out[0][0])
    vector_nbytes = dot.lanes * dot.weight_nbytes
    blocks = []
    if dot.block and count == dot.block_groups:
        blocks = [dot.block(b, row) for row in rows]
    for g in range(count):
        at = b.add(panel, const(g * nv * vector_nbytes))
        weights = [dot.weights(b, b.add(at, const(v * vector_nbytes))) for v in range(nv)]
        sums = out[g % len(out)]
        for r, row in enumerate(rows):
            if blocks:
                operands = blocks[r][g]
            else:
                operands = dot.expand(b, load(b, b.add(row, const(KR * g)), I32, 1))
            sums[r] = [dot.step(b, sums[r][v], operands, weights[v]) for v in range(nv)]


def _multiply_matrices(
    b: Any, dot: Dot, count: int, rows: list[Any], panel: Any, out: list[list[list[Any]]]
) -> None:
    """`_multiply_rows` two by two: pairs of groups, or the last one."""
    assert dot.block and dot.octets
    nv = len(out[0][0])
    depth = min(count, 2)
    vector_nbytes = depth * dot.lanes * dot.weight_nbytes
    pairs = [[rows[r], rows[min(r + 1, len(rows) - 1)]] for r in range(0, len(rows), 2)]
    load_weights = dot.octets if depth == 2 else dot.weights
    if count == dot.block_groups:
        blocks = [dot.block(b, pair) for pair in pairs]
    else:
        head = I64 if depth == 2 else I32
        blocks = [[dot.expand(b, [load(b, row, head, 1) for row in pair])] for pair in pairs]
    for g in range(count // depth):
        at = b.add(panel, const(g * nv * vector_nbytes))
        sums = out[g % len(out)]
        for v in range(nv):
            low, high = load_weights(b, b.add(at, const(v * vector_nbytes)))
            for i, operands in enumerate(blocks):
                sums[2 * i][v] = dot.step(b, sums[2 * i][v], operands[g], low)
                sums[2 * i + 1][v] = dot.step(b, sums[2 * i + 1][v], operands[g], high)
