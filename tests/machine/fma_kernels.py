"""Kernels that only the tests of fused multiply-adds use, one for each width there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.simd import fma, vectors
from qrt.simd.memory import as_f32, operand

FIELDS = ("x", "w", "acc", "y", "n")
X, W, ACC, Y, N = slots(FIELDS)


def extents(row: Mapping[str, int]) -> list[Extent]:
    """n values each."""
    return [Extent(name, 4 * row["n"], writes=name == "y") for name in FIELDS[:4]]


@kernel("test_fma_x1", FIELDS, extents, family="test")
def fma_scalar(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """y = x * w + acc, a value at a time; LLVM may make vectors of it."""
    x = as_f32(operand(row, X, arena, constants))
    w = as_f32(operand(row, W, arena, constants))
    acc = as_f32(operand(row, ACC, arena, constants))
    y = as_f32(operand(row, Y, arena, constants))
    for i in range(row[N]):
        y[i] = fma.fma_f32(x[i], w[i], acc[i])
    return 0


def _of_vectors(lanes: int) -> Kernel:
    load: Any = getattr(vectors, f"load_f32x{lanes}")
    store: Any = getattr(vectors, f"store_f32x{lanes}")
    step: Any = getattr(fma, f"fma_f32x{lanes}")

    def fma_vectors(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = operand(row, X, arena, constants)
        w = operand(row, W, arena, constants)
        acc = operand(row, ACC, arena, constants)
        y = operand(row, Y, arena, constants)
        for i in range(0, 4 * row[N], 4 * lanes):
            store(y + i, step(load(x + i), load(w + i), load(acc + i)))
        return 0

    return kernel(f"test_fma_x{lanes}", FIELDS, extents, family="test")(fma_vectors)


KERNELS = (fma_scalar, _of_vectors(8), _of_vectors(16))
