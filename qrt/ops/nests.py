"""Loop nests over operands in memory: strides by layout, broadcasting, fewest loops.

A nest is a list of sizes, outermost first, with one list of element strides per operand. Kernels
take a fixed number of loops; `collapse` merges what can be merged and `padded` fills up with ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qrt.errors import UnsupportedError
from qrt.ir import Value

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Nest:
    """`sizes` of the loops, outermost first; `strides[k]` are the element strides of operand k."""

    sizes: Ints
    strides: tuple[Ints, ...]

    @property
    def count(self) -> int:
        """Iterations of the innermost body."""
        return math.prod(self.sizes)

    def padded(self, rank: int) -> Nest:
        """The same nest with exactly `rank` loops; UnsupportedError when it needs more."""
        lack = rank - len(self.sizes)
        if lack < 0:
            raise UnsupportedError(
                f"memory order needs {len(self.sizes)} nested loops, at most {rank} are supported"
            )
        return Nest((1,) * lack + self.sizes, tuple((0,) * lack + s for s in self.strides))

    def fields(self, sizes: str, *names: str) -> dict[str, int]:
        """Row fields: `sizes`0.. and one name per operand, numbered by loop."""
        columns = {sizes: self.sizes, **dict(zip(names, self.strides, strict=True))}
        return {f"{name}{i}": v for name, row in columns.items() for i, v in enumerate(row)}


def memory_order(value: Value) -> Ints:
    """Logical axes from outermost to innermost in memory."""
    return value.layout if value.layout is not None else tuple(range(len(value.static_shape)))


def common_order(x: Value, y: Value) -> Ints:
    """An order of the axes that is the memory order of both, axes of size 1 standing anywhere.

    UnsupportedError when there is none.
    """
    for order in (memory_order(x), memory_order(y)):
        if all(
            [a for a in order if v.static_shape[a] != 1]
            == [a for a in memory_order(v) if v.static_shape[a] != 1]
            for v in (x, y)
        ):
            return order
    raise UnsupportedError(
        f"input and output must lie in one memory order, got {x.layout} and {y.layout}"
    )


def element_strides(value: Value) -> Ints:
    """Elements from one index to the next, per logical axis."""
    shape = value.static_shape
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(memory_order(value)):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def broadcast_strides(value: Value, shape: Ints) -> Ints:
    """Strides of `value` seen in `shape` by NumPy broadcasting: 0 where it repeats."""
    own, strides = value.static_shape, element_strides(value)
    lead = len(shape) - len(own)
    return (0,) * lead + tuple(
        0 if size == 1 else stride for size, stride in zip(own, strides, strict=True)
    )


def collapse(sizes: Sequence[int], *strides: Sequence[int]) -> Nest:
    """Drop loops of one iteration and merge neighbours that all operands walk as one."""
    kept = [i for i, n in enumerate(sizes) if n != 1]
    out_sizes: list[int] = []
    out_strides: list[list[int]] = [[] for _ in strides]
    for i in kept:
        n, steps = sizes[i], [s[i] for s in strides]
        if out_sizes and all(s[-1] == step * n for s, step in zip(out_strides, steps, strict=True)):
            out_sizes[-1] *= n
            for s, step in zip(out_strides, steps, strict=True):
                s[-1] = step
        else:
            out_sizes.append(n)
            for s, step in zip(out_strides, steps, strict=True):
                s.append(step)
    return Nest(tuple(out_sizes), tuple(tuple(s) for s in out_strides))


def elementwise_nest(out: Value, *operands: Value) -> Nest:
    """Loops in the order of the memory of `out`; operands broadcast. The strides of `out` follow
    from its sizes, so they are not in the nest."""
    shape = out.static_shape
    order = memory_order(out)
    strides = [element_strides(out), *(broadcast_strides(v, shape) for v in operands)]
    nest = collapse([shape[a] for a in order], *([s[a] for a in order] for s in strides))
    return Nest(nest.sizes, nest.strides[1:])


def reach(sizes: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """(lowest, highest + 1) element offset that a nest touches; (0, 0) when it touches nothing."""
    if any(n < 0 for n in sizes):
        raise ValueError(f"sizes {tuple(sizes)} must not be negative")
    if any(n == 0 for n in sizes):
        return 0, 0
    ends = [(n - 1) * s for n, s in zip(sizes, strides, strict=True)]
    return sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends) + 1


def numbered(row: Mapping[str, int], name: str, count: int) -> list[int]:
    """The fields `name`0 to `name``count - 1` of a row."""
    return [row[f"{name}{i}"] for i in range(count)]


def names(name: str, count: int) -> tuple[str, ...]:
    """`name`0 to `name``count - 1`, as field names."""
    return tuple(f"{name}{i}" for i in range(count))
