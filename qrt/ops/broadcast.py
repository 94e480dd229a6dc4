"""Element-wise operators of two tensors, NumPy broadcasting: the loops around any inner span.

Loops follow the memory of the output, which is written in one piece. Per-channel vectors, one value
per image or row, scalars and equal shapes all come down to strides 0 and 1 of the innermost loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Value
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.ops.movement import emit_move
from qrt.ops.nests import Nest, elementwise_nest, names, numbered, reach
from qrt.ops.spec import Lowering
from qrt.simd.memory import operand
from qrt.simd.scalar import share

RANK = 4  # loops of a kernel; broadcasting that needs more is unrolled into rows
MAX_ROWS = 64  # rows that one node may unroll into
LONG = 1024  # elements of an innermost loop beyond which its start no longer counts
MAX_REPEATED = 16 * 1024  # bytes that a repeated operand may take, of L1
GRAIN = 2048  # elements; below this a second thread costs more than it saves
# every such kernel's fields begin with these
FIELDS = ("a", "b", "y", *names("n", RANK), *names("a_stride", RANK), *names("b_stride", RANK))
A, B, Y, N0, N1, N2, N3, A0, A1, A2, A3, B0, B1, B2, B3 = slots(FIELDS)


def broadcast_rows(
    program: Lowering, y: Value, a: Value, b: Value, ends: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """`FIELDS` of each row that computes `y` from `a` and `b`: one, or none when it is empty.

    `ends` replaces operands that are not where their values are.
    """
    nest = elementwise_nest(y, a, b)
    if nest.count == 0:
        return
    outer = max(len(nest.sizes) - RANK, 0)
    lead = nest.sizes[:outer]
    if math.prod(lead) > MAX_ROWS:
        raise UnsupportedError(f"broadcasting needs {len(nest.sizes)} nested loops")
    inner = Nest(nest.sizes[outer:], tuple(s[outer:] for s in nest.strides)).padded(RANK)
    places = {name: program.operand(v) for name, v in (("a", a), ("b", b), ("y", y))}
    places |= ends or {}
    itemsizes = [np.dtype(v.dtype).itemsize for v in (a, b, y)]
    for i, index in enumerate(np.ndindex(lead)):
        offsets = [
            sum(k * s for k, s in zip(index, row[:outer], strict=True)) for row in nest.strides
        ]
        offsets.append(i * inner.count)
        shifted = {
            name: place.at(offset * itemsize)
            for (name, place), offset, itemsize in zip(
                places.items(), offsets, itemsizes, strict=True
            )
        }
        yield {**shifted, **inner.fields("n", "a_stride", "b_stride")}


def repeated(program: Lowering, nest: Mapping[str, Any], itemsize: int) -> dict[str, Any]:
    """The nest with a short row that repeats (a value per channel, say) written out several times,
    by a row of its own, so that the innermost loop is long; the same nest where that gains nothing.
    """
    fields = dict(nest)
    rows, n = nest["n2"], nest["n3"]
    long = [k for k in range(2, LONG // max(n, 1) + 1) if rows % k == 0]
    for one, other in (("a", "b"), ("b", "a")):
        steps = [nest[f"{one}_stride{i}"] for i in range(RANK)]
        walks = [nest[f"{other}_stride{i}"] for i in range(RANK)]
        outer = [nest[f"n{i}"] if steps[i] else 1 for i in range(2)]
        if not long or steps[2:] != [0, 1] or walks[2:] != [n, 1]:
            continue
        k = long[-1]
        own = [outer[1] * k * n * bool(steps[0]), k * n * bool(steps[1])]
        nbytes = math.prod(outer) * k * n * itemsize
        if nbytes > MAX_REPEATED:
            continue
        copy = program.scratch(nbytes)
        emit_move(
            program, nest[one], copy, itemsize, [*outer, k, n], [*steps[:2], 0, 1], [*own, n, 1]
        )
        fields |= {one: copy, "n2": rows // k, "n3": k * n, f"{other}_stride2": k * n}
        fields |= {f"{one}_stride0": own[0], f"{one}_stride1": own[1]}
        return fields
    return fields


def declare_broadcast(
    name: str,
    more_fields: tuple[str, ...],
    itemsizes: tuple[int, int, int],
    read: Any,
    span: Any,
    features: tuple[str, ...] = (),
) -> Kernel:
    """Kernel `name` whose innermost loop is `span(a, b, y, n, a_step, b_step, values)`: n outputs
    at address y, steps in elements, `values` what `read(row)` made of `more_fields`, once."""
    a_itemsize, b_itemsize, y_itemsize = itemsizes

    def extents(row: Mapping[str, int]) -> list[Extent]:
        sizes = numbered(row, "n", RANK)
        found = []
        for field, itemsize in (("a", a_itemsize), ("b", b_itemsize)):
            low, high = reach(sizes, numbered(row, f"{field}_stride", RANK))
            found.append(Extent(field, itemsize * (high - low), start=itemsize * low))
        return [*found, Extent("y", y_itemsize * math.prod(sizes), writes=True)]

    def broadcast_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        a = operand(row, A, arena, constants)
        b = operand(row, B, arena, constants)
        y = operand(row, Y, arena, constants)
        values = read(row)
        n1, n2, n = row[N1], row[N2], row[N3]
        a_step, b_step = row[A3], row[B3]
        a_row, b_row = a_itemsize * row[A2], b_itemsize * row[B2]
        start, stop = share(row[N0] * n1 * n2 * n, thread, threads, GRAIN)
        i = start
        while i < stop:
            # one block of n2 rows, or what this thread has of it
            r = i // n
            i2 = r % n2
            i1 = r // n2 % n1
            i0 = r // n2 // n1
            at_a = a + a_itemsize * (i0 * row[A0] + i1 * row[A1]) + i2 * a_row
            at_b = b + b_itemsize * (i0 * row[B0] + i1 * row[B1]) + i2 * b_row
            first = i - r * n
            while i2 < n2 and i < stop:
                count = min(stop - i, n - first)
                span(
                    at_a + a_itemsize * first * a_step,
                    at_b + b_itemsize * first * b_step,
                    y + y_itemsize * i,
                    count,
                    a_step,
                    b_step,
                    values,
                )
                i += count
                first = np.int64(0)
                at_a += a_row
                at_b += b_row
                i2 += 1
        return 0

    # a compile worker imports the module that declares the kernel
    broadcast_kernel.__module__ = span.__module__
    fields = (*FIELDS, *more_fields)
    return kernel(name, fields, extents, family="broadcast", features=features)(broadcast_kernel)
