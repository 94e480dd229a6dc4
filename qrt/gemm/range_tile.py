"""What a tile adds to the range of its tensor, as LLVM IR (`ranges.py` says where it lies)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from qrt.gemm.emit import const, declare, load, store
from qrt.gemm.ranges import HIGH_AT, LOW_AT

CHAINS = 4  # comparisons in flight
ENDS = {"low": (LOW_AT, "<"), "high": (HIGH_AT, ">")}


def widen_ranges(
    b: Any, fn: Any, arg: dict[str, Any], rows: list[list[Any]], ends: tuple[str, ...]
) -> None:
    """Take the valid rows (float vectors, padded columns are 0) into `ends` of the record at
    `limits`. Leaves `b` behind the blocks that it adds to `fn`."""
    zero = ir.Constant(rows[0][0].type, [0.0] * rows[0][0].type.count)
    whole, part, after = (fn.append_basic_block(f"range_{n}") for n in ("whole", "part", "done"))
    b.cbranch(b.icmp_signed(">=", arg["m"], const(len(rows))), whole, part)
    found = []
    for block in (whole, part):
        b.position_at_end(block)
        valid = rows
        if block is part:  # rows that no output has may hold anything
            inside = [b.icmp_signed("<", const(r), arg["m"]) for r in range(len(rows))]
            valid = [
                [b.select(i, v, zero) for v in row] for i, row in zip(inside, rows, strict=True)
            ]
        found.append([_furthest(b, valid, ENDS[end][1], zero) for end in ends])
        b.branch(after)
    b.position_at_end(after)
    values = [b.phi(zero.type) for _ in ends]
    for end, value, one, other in zip(ends, values, *found, strict=True):
        at, relation = ENDS[end]
        value.add_incoming(one, whole)
        value.add_incoming(other, part)
        address = b.add(arg["limits"], const(at))
        # a select would become a store by a mask, which the next load has to wait for
        store(b, _further(b, value, load(b, address, zero.type), relation), address, 4)


def header_word(b: Any, arg: dict[str, Any], word: int, kind: Any) -> Any:
    """A number of the header at `limits`, which no product writes: LLVM may read it before a loop
    that stores."""
    value = load(b, b.add(arg["limits"], const(4 * word)), kind)
    value.set_metadata("invariant.load", b.module.add_metadata([]))
    return value


def _furthest(b: Any, rows: list[list[Any]], relation: str, zero: Any) -> Any:
    """The extreme of each lane, 0 if none is beyond: in chains that begin with 0, so that none
    holds NaN."""
    values = [v for row in rows for v in row]
    ends = [zero] * min(CHAINS, len(values))
    for i, value in enumerate(values):
        ends[i % len(ends)] = _nearer(b, value, ends[i % len(ends)], relation)
    while len(ends) > 1:
        rest = ends[len(ends) // 2 * 2 :]
        ends = [_nearer(b, x, y, relation) for x, y in zip(ends[::2], ends[1::2], strict=False)]
        ends += rest
    return ends[0]


def _further(b: Any, x: Any, y: Any, relation: str) -> Any:
    """The smaller or larger of x and y, neither NaN nor -0."""
    name = {"<": "minnum", ">": "maxnum"}[relation]
    kind = x.type
    which = declare(b.module, f"llvm.{name}.v{kind.count}f32", kind, [kind, kind])
    return b.call(which, [x, y], fastmath=("nnan", "nsz"))


def _nearer(b: Any, value: Any, end: Any, relation: str) -> Any:
    """`value` where it is beyond `end`, which is no NaN."""
    return b.select(b.fcmp_ordered(relation, value, end), value, end)
