"""Moving elements: one call that finds the kernel for any pair of strided nests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qrt.errors import UnsupportedError
from qrt.ir import Value
from qrt.ops.movement_kernels import (
    BATCH_RANK,
    ITEMSIZES,
    RANK,
    STRIDED_KERNELS,
    TRANSPOSE_KERNELS,
    copy_rows,
)
from qrt.ops.nests import Nest, collapse
from qrt.ops.spec import Lowering, Operand


def emit_move(
    program: Lowering,
    x: Operand,
    y: Operand,
    itemsize: int,
    sizes: Sequence[int],
    x_strides: Sequence[int],
    y_strides: Sequence[int],
) -> None:
    """y[i . y_strides] = x[i . x_strides] for all i below `sizes`; strides count elements.

    The loops should be in the order of y's memory. Emits no row when there is nothing to move.
    """
    if itemsize not in ITEMSIZES:
        raise UnsupportedError(f"moving elements of {itemsize} bytes")
    if math.prod(sizes) == 0:
        return
    nest = collapse(sizes, [s * itemsize for s in x_strides], [s * itemsize for s in y_strides])
    in_x, in_y = nest.strides
    last = len(nest.sizes) - 1
    if last < 0 or (in_x[last] == itemsize and in_y[last] == itemsize):
        outer = Nest(nest.sizes[:last], (in_x[:last], in_y[:last])) if last >= 0 else nest
        nbytes = itemsize * (nest.sizes[last] if last >= 0 else 1)
        fields = _padded(outer, RANK)
        program.emit(copy_rows, x=x, y=y, **fields, nbytes=nbytes)
        return
    if in_y[last] == itemsize and itemsize in in_x[:last] and last - 1 <= BATCH_RANK:
        p = in_x.index(itemsize)
        around = [i for i in range(last) if i != p]
        outer = Nest(*_picked(nest, around))
        program.emit(
            TRANSPOSE_KERNELS[itemsize],
            x=x,
            y=y,
            **_padded(outer, BATCH_RANK),
            p=nest.sizes[p],
            q=nest.sizes[last],
            x_q=in_x[last],
            y_p=in_y[p],
        )
        return
    outer = Nest(*_picked(nest, list(range(last))))
    program.emit(
        STRIDED_KERNELS[itemsize],
        x=x,
        y=y,
        **_padded(outer, RANK),
        count=nest.sizes[last],
        x_step=in_x[last],
        y_step=in_y[last],
    )


def itemsize_of(value: Value) -> int:
    """Bytes of one element."""
    assert value.dtype is not None
    return value.dtype.itemsize


def _picked(nest: Nest, loops: list[int]) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    return (
        tuple(nest.sizes[i] for i in loops),
        tuple(tuple(s[i] for i in loops) for s in nest.strides),
    )


def _padded(nest: Nest, rank: int) -> dict[str, int]:
    return nest.padded(rank).fields("n", "x_stride", "y_stride")
