"""Rows of packed tables against weights that are unpacked here, number by number."""

from __future__ import annotations

from itertools import product as combinations

import numpy as np
import pytest
from kernel_harness import new_value
from operator_cases import Cases, constant

from qrt.ir import Node
from qrt.ops import gather_nbits

SIZE = 7  # rows of the table


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (rows, blocks, n) to bytes, the first in the lowest bits."""
    parts = codes.reshape(*codes.shape[:2], -1, 8 // bits)
    packed = np.zeros(parts.shape[:3], np.uint8)
    for i in range(8 // bits):
        packed |= parts[..., i] << (i * bits)
    return packed


@pytest.mark.parametrize("dtype", gather_nbits.KERNELS)
@pytest.mark.parametrize("bits", (2, 4, 8))
def test_rows(bits: int, dtype: str) -> None:
    """Whole and partial last blocks, with zero points and without, indices from the end too."""
    rng = np.random.default_rng(961)
    with Cases("GatherNBits") as cases:
        for (blocks, block, columns), zeros, count in combinations(
            ((1, 16, 16), (3, 16, 41), (2, 32, 64)), (True, False), (0, 1, 9)
        ):
            codes = rng.integers(0, 1 << bits, (SIZE, blocks, block)).astype(np.uint8)
            scales = rng.standard_normal((SIZE, blocks)).astype(np.float32)
            zero_points = rng.integers(0, 1 << bits, (SIZE, blocks)).astype(np.uint8)
            middle = zero_points if zeros else np.full_like(zero_points, 1 << (bits - 1))
            indices = rng.integers(-SIZE, SIZE, count).astype(dtype)
            want = np.zeros((count, columns), np.float32)
            for r, c in np.ndindex(want.shape):
                row, i = int(indices[r]) % SIZE, c // block
                centered = int(codes[row, i, c % block]) - int(middle[row, i])
                want[r, c] = np.float32(centered) * scales[row, i]
            table = pack(codes, bits)
            values = [constant(table), constant(scales), constant(zero_points) if zeros else None,
                      new_value("indices", dtype, (count,))]  # fmt: skip
            attrs = {"bits": bits, "columns": columns}
            node = Node("GatherNBits", values, [new_value("y", np.float32)], attrs, "qrt")
            fed = [table, scales, zero_points if zeros else None, indices]
            cases.node((blocks, columns, zeros, count), gather_nbits.SPEC, node, fed, [want])
