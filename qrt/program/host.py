"""The rows of host operators: where native rows end and Python goes on (`qrt.vm.hosted`).

They are rows like any other for memory, barriers, labels and times; their field says which of
`Program.hosts` is meant. The executor cuts the program at them: their kernels are never called.
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
def REFERENCE(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    return NOT_NATIVE


@kernel("host: python", FIELDS, extents, family="host")
def OWN(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    return NOT_NATIVE


HOSTS = (REFERENCE, OWN)
