"""The fields of a Winograd row, its scratch, and which bytes it touches."""

from __future__ import annotations

from collections.abc import Mapping

from qrt.gemm.extents import LIMIT, check_alignment
from qrt.gemm.order import NARROW
from qrt.gemm.ranges import limits_extent
from qrt.gemm.table import padded_columns
from qrt.gemm.winograd import POSITIONS
from qrt.gemm.winograd_table import WinogradSpec
from qrt.jit.declare import Extent, helper, slots

FIELDS = (
    "x",
    "y",
    "panels",
    "bias",  # see `pack_winograd_bias`
    "columns",
    "pad",  # a pixel of x zero points, rounded up to a vector of channels
    "limits",  # as a product's
    "limits_step",
    "scratch",  # `scratch_nbytes` per thread
    "batch",
    "height",
    "width",
    "out_height",
    "out_width",
    "pad_h",
    "pad_w",
    "channels",
    "n",
    "block",  # tiles whose transforms lie in scratch at once
    "max_threads",
)
(
    X, Y, PANELS, BIAS, COLUMNS, PAD, LIMITS, LIMITS_STEP, SCRATCH, BATCH, HEIGHT, WIDTH,
    OUT_HEIGHT, OUT_WIDTH, PAD_H, PAD_W, CHANNELS, N, BLOCK, MAX_THREADS,
) = slots(FIELDS)  # fmt: skip
_MAY_BE_ZERO = ("height", "width", "pad_h", "pad_w")

PIXELS_NBYTES = 320  # pointers to the pixels of a tile, rounded up to a cache line
LINE = 64  # bytes that keep steps apart from powers of two, which share sets of a cache
RAMP_NBYTES = 64  # where the rows of a product's tile lie, from its first; of two kinds of tiles


@helper
def inputs_nbytes(channels, per_vector):  # type: ignore[no-untyped-def]
    """Bytes of a tile's transformed inputs at one position."""
    return (channels + per_vector - 1) // per_vector * per_vector * 2


@helper
def position_nbytes(block, channels, per_vector):  # type: ignore[no-untyped-def]
    """Bytes from position to position of a block's transformed inputs."""
    return block * inputs_nbytes(channels, per_vector) + LINE


@helper
def sums_nbytes(nr):  # type: ignore[no-untyped-def]
    """Bytes from tile to tile of a panel's sums."""
    return POSITIONS * nr * 4 + LINE


@helper
def scratch_nbytes(block, channels, per_vector, nr):  # type: ignore[no-untyped-def]
    """Bytes of scratch of one thread: transformed inputs, sums, pointers to pixels, ramps."""
    inputs = POSITIONS * position_nbytes(block, channels, per_vector)
    nbytes = inputs + block * sums_nbytes(nr) + PIXELS_NBYTES + 2 * RAMP_NBYTES + LINE
    return (nbytes + LINE - 1) // LINE * LINE


def winograd_extents(
    spec: WinogradSpec, epilogue: str, row: Mapping[str, int]
) -> list[Extent]:
    """Extents of a row; ValueError when its numbers contradict each other."""
    for name in FIELDS[9:]:
        low = 0 if name in _MAY_BE_ZERO else 1
        if not low <= row[name] < LIMIT:
            raise ValueError(f"{name} must be at least {low}, got {row[name]}")
    check_alignment(row, "panels", 64)  # tiles load weights with aligned instructions
    channels, n, per_vector = row["channels"], row["n"], spec.channels
    padded = padded_columns(n, spec.tile)
    pixels = row["batch"] * row["out_height"] * row["out_width"]
    per_thread = scratch_nbytes(row["block"], channels, per_vector, spec.tile.nr)
    return [
        Extent("x", row["batch"] * row["height"] * row["width"] * channels),
        Extent("y", pixels * n * (1 if epilogue in NARROW else 4), writes=True),
        Extent("panels", POSITIONS * -(-channels // 2) * 4 * padded),
        Extent("bias", 4 * (spec.tile.nr + padded)),
        Extent("columns", 16 * -(-n // spec.tile.lanes) * spec.tile.lanes),
        Extent("pad", inputs_nbytes(channels, per_vector) // 2),
        limits_extent(row, epilogue),
        Extent("scratch", row["max_threads"] * per_thread, writes=True),
    ]
