"""The row of a host operator: where native rows end and Python goes on (`qrt.vm.hosted`).

It is a row like any other for memory, barriers, labels and times; its field says which of
`Program.hosts` is meant. The executor cuts the program at it, so its kernel is never called.
"""

from __future__ import annotations

from collections.abc import Mapping

from qrt.jit.declare import Extent, kernel, slots

FIELDS = ("call",)
(CALL,) = slots(FIELDS)
NOT_NATIVE = 2  # the status of a host row that a native run came to


def extents(row: Mapping[str, int]) -> list[Extent]:
    return []  # `touches` takes them from the call


@kernel("host: onnx.reference", FIELDS, extents, family="host")
def HOST(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    return NOT_NATIVE
