"""The order of a panel's columns, shared by packing and by the epilogues that undo it."""

from __future__ import annotations

NARROW = ("u8", "codes")  # epilogues that store bytes


def column_order(nv: int, lanes: int, epilogue: str) -> list[int]:
    """Column at each position of a panel's vectors, so that packed bytes come out in order.

    Position v * lanes + e holds the returned column. The saturating packs of x86 work within
    128-bit lanes (4 int32 each), so a lane of the result holds 4 columns of each vector in turn:

        vector 0: c0 c1 c2 c3 | c16 ..      packs      bytes of lane 0: c0..c3 c4..c7 c8.. c12..
        vector 1: c4 c5 c6 c7 | c20 ..     ------->
    """
    if epilogue not in NARROW or nv == 1:
        return list(range(nv * lanes))
    return [4 * nv * (e // 4) + 4 * v + e % 4 for v in range(nv) for e in range(lanes)]
