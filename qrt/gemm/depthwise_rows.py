"""The fields of a depthwise row, and which bytes they make it touch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.gemm.depthwise_table import DepthwiseSpec, blocks, scratch_nbytes
from qrt.gemm.extents import GEOMETRY, check_alignment
from qrt.gemm.ranges import limits_extent
from qrt.jit.declare import Extent, slots

FIELDS = (
    "x",
    "y",
    "weights",
    "columns",
    "pad",
    "limits",  # as a product's
    "limits_step",
    "scratch",  # scratch_nbytes per thread
    "scratch_nbytes",
    *GEOMETRY,
    "channels",
    "max_threads",
)
(
    X, Y, WEIGHTS, COLUMNS, PAD, LIMITS, LIMITS_STEP, SCRATCH, SCRATCH_NBYTES, BATCH, HEIGHT,
    WIDTH, OUT_HEIGHT, OUT_WIDTH, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H,
    DILATION_W, CHANNELS, MAX_THREADS,
) = slots(FIELDS)  # fmt: skip


def depthwise_extents(spec: DepthwiseSpec, row: Mapping[str, int]) -> list[Extent]:
    for name in FIELDS[9:]:
        low = 0 if name in ("pad_h", "pad_w", "height", "width") else 1
        if not low <= row[name] < 2**40:
            raise ValueError(f"{name} must be at least {low}, got {row[name]}")
    channels = row["channels"]
    padded = channels
    if spec.family != "portable":
        # tiles load weights, and store and load scratch, with aligned instructions
        check_alignment(row, "weights", 64)
        check_alignment(row, "scratch", 64)
        if row["scratch_nbytes"] % 64:
            raise ValueError("scratch_nbytes must be a multiple of 64")
        full, rest = divmod(channels, 4 * spec.lanes[0])
        padded = 4 * (full * spec.lanes[0] + sum(blocks(rest, spec)))
    groups = -(-row["kernel_h"] // spec.rows)
    if row["scratch_nbytes"] < scratch_nbytes(row, spec):
        raise ValueError(f"scratch_nbytes is too small: {row['scratch_nbytes']}")
    itemsize = np.dtype(spec.weight_dtype).itemsize
    weights = padded * groups * spec.rows * row["kernel_w"] * itemsize
    pixels = row["batch"] * row["out_height"] * row["out_width"]
    return [
        Extent("x", row["batch"] * row["height"] * row["width"] * channels),
        Extent("y", pixels * channels * spec.itemsize, writes=True),
        Extent("weights", weights),
        Extent("columns", spec.column_nbytes * padded),
        Extent("pad", 64),
        limits_extent(row, spec.epilogue),
        Extent("scratch", row["max_threads"] * row["scratch_nbytes"], writes=True),
    ]
