"""What a layer costs in integers of 8 bits, with activations of 16 bits, and in float.

Cost is in multiply-adds of dense 8-bit products: each kind of product has a factor per multiply-add
and precision, and every byte that a layer reads or writes counts as `BYTE` of them. The factors are
those of qrt on a CPU with dot-product instructions: a vector holds four times as many bytes as
floats; activations of 16 bits are two products of bytes, whose sums are joined; a grouped
convolution of theirs goes through the dense kernels, group by group.
"""

from __future__ import annotations

from dataclasses import dataclass

INT8, INT16, FLOAT = "int8", "int16", "float"
PRECISIONS = (INT8, INT16, FLOAT)
# per multiply-add, by kind of product
FACTORS = {
    "dense": {INT8: 1.0, INT16: 2.0, FLOAT: 4.0},
    "grouped": {INT8: 3.0, INT16: 350.0, FLOAT: 5.0},
}
BYTE = 4.0  # an L2 cache gives a quarter as many bytes as the same time multiplies
NBYTES = {INT8: 1, INT16: 2, FLOAT: 4}  # of an element
SUM_NBYTES = 4  # of an int32 sum; a 16-bit product has two per output
JOINED = 2


@dataclass(frozen=True)
class Work:
    """What one layer does per run: multiply-adds of its product, 0 of others, and elements."""

    kind: str = "dense"
    macs: int = 0
    read: int = 0
    written: int = 0
    weights: int = 0


def cost(work: Work, precision: str, read: str, written: str) -> float:
    """Multiply-adds that a layer is worth, computed in `precision`.

    `read` and `written` are the precisions of what it reads and writes; where they differ from
    its own, it converts.
    """
    moved = work.read * NBYTES[read] + work.written * NBYTES[written]
    moved += work.weights * NBYTES[FLOAT if precision == FLOAT else INT8]
    if precision == INT16:  # bytes apart, and the sums of both written and read again
        moved += work.read * NBYTES[INT16] + 2 * JOINED * work.written * SUM_NBYTES
    elif precision == FLOAT:
        converted = work.read * (read != FLOAT) + work.written * (written != FLOAT)
        moved += 2 * NBYTES[FLOAT] * converted
    return work.macs * FACTORS[work.kind][precision] + BYTE * moved
