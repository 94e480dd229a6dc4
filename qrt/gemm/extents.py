"""Which bytes a product's row touches, from its numbers alone: what the verifier proves."""

from __future__ import annotations

from collections.abc import Mapping

from qrt.gemm.order import NARROW
from qrt.gemm.ranges import limits_extent
from qrt.gemm.table import WEIGHT_NBYTES, TileSpec, padded_columns
from qrt.gemm.widen import words_nbytes
from qrt.jit.declare import Extent

# sizes of a convolution, in the order that rows hold them
GEOMETRY = (
    "batch",
    "height",
    "width",
    "out_height",
    "out_width",
    "kernel_h",
    "kernel_w",
    "stride_h",
    "stride_w",
    "pad_h",
    "pad_w",
    "dilation_h",
    "dilation_w",
)
# a row has something to do: lowering emits none for an empty product
POSITIVE = (
    "batch", "out_height", "out_width", "n", "groups", "kernel_h", "kernel_w", "stride_h",
    "stride_w", "dilation_h", "dilation_w", "block", "run",
)  # fmt: skip
NOT_NEGATIVE = (
    "height", "width", "channels", "x_pixel", "x_row", "x_image", "x_group", "y_pixel", "y_group",
    "pad_h", "pad_w", "max_threads",
)  # fmt: skip
LANES = 16  # rows of the widest tile, rounded up to whole vectors of int64
LIMIT = 2**40  # no size or stride of a real program comes near; keeps products inside int64


def check_geometry(row: Mapping[str, int]) -> None:
    """Raise ValueError when a row's numbers contradict each other."""
    for name in POSITIVE:
        if not 0 < row[name] < LIMIT:
            raise ValueError(f"{name} must be positive, got {row[name]}")
    for name in NOT_NEGATIVE:
        if not 0 <= row[name] < LIMIT:
            raise ValueError(f"{name} must not be negative, got {row[name]}")


def check_alignment(row: Mapping[str, int], name: str, nbytes: int) -> None:
    """Raise ValueError when operand `name` does not lie at a multiple of `nbytes`."""
    offset = row[name] if row[name] >= 0 else ~row[name]
    if offset % nbytes:
        raise ValueError(f"{name} must lie at a multiple of {nbytes} bytes, got {offset}")


def rows_nbytes(taps: int, mr: int) -> int:
    """Bytes of row pointers of one thread: a ramp, three lists of a tile's rows, offsets and zeros
    of the taps, and a table of pointers with its overrun."""
    return (5 * LANES + (2 + mr) * taps) * 8


def work_nbytes(tile: TileSpec, taps: int, channels: int) -> int:
    """Bytes of scratch of one thread: row pointers, and the widened rows of a tile of words."""
    words = words_nbytes(taps, -(-channels // tile.kr), tile.mr) if tile.words else 0
    return rows_nbytes(taps, tile.mr) + words


def input_nbytes(row: Mapping[str, int]) -> int:
    """Bytes of x that the taps inside the image reach, from the row's x."""
    reach = {}
    for size, out, stride, pad, kernel, dilation in (
        ("height", "out_height", "stride_h", "pad_h", "kernel_h", "dilation_h"),
        ("width", "out_width", "stride_w", "pad_w", "kernel_w", "dilation_w"),
    ):
        furthest = (row[out] - 1) * row[stride] - row[pad] + (row[kernel] - 1) * row[dilation]
        reach[size] = min(row[size] - 1, furthest)
    if min(reach.values()) < 0 or not row["channels"]:
        return 0
    return (
        (row["batch"] - 1) * row["x_image"]
        + reach["height"] * row["x_row"]
        + reach["width"] * row["x_pixel"]
        + (row["groups"] - 1) * row["x_group"]
        + row["channels"]
    )


def output_nbytes(row: Mapping[str, int], itemsize: int) -> int:
    """Bytes of y from the row's y to the end of the last output."""
    m = row["batch"] * row["out_height"] * row["out_width"]
    nbytes = row["n"] * itemsize
    # outputs of their own bound the steps by the bytes that the row owns
    for name, count in (("y_pixel", m), ("y_group", row["groups"])):
        if count > 1 and row[name] < nbytes:
            raise ValueError(f"{name} must be at least {nbytes}, got {row[name]}")
    return (m - 1) * row["y_pixel"] + (row["groups"] - 1) * row["y_group"] + row["n"] * itemsize


def product_extents(tile: TileSpec, epilogue: str, row: Mapping[str, int]) -> list[Extent]:
    """Extents of a product by `tile` that ends in `epilogue`."""
    check_geometry(row)
    if tile.family != "portable":
        check_alignment(row, "panels", 64)  # tiles load weights with aligned instructions
    taps = row["kernel_h"] * row["kernel_w"]
    groups = -(-row["channels"] // tile.kr)
    padded = padded_columns(row["n"], tile)
    m = row["batch"] * row["out_height"] * row["out_width"]
    extents = [
        Extent("x", input_nbytes(row)),
        Extent("y", output_nbytes(row, 1 if epilogue in NARROW else 4), writes=True),
        Extent("panels", row["groups"] * padded * taps * groups * WEIGHT_NBYTES),
        Extent("columns", row["groups"] * padded * 16),
        Extent("pad", row["channels"]),
        limits_extent(row, epilogue),
        Extent("rows", row["max_threads"] * work_nbytes(tile, taps, row["channels"]), writes=True),
    ]
    if row["has_sums"]:
        extents.append(Extent("sums", 4 * m * row["groups"]))
    return extents
