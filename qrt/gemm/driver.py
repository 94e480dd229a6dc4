"""The loops around a tile: products and convolutions by row pointers, one kernel per table row.

A matrix product is a 1x1 convolution over one line of m pixels. Tiles of MR outputs read their rows
where they lie, so activations are never copied: as many as a line of the image holds are one run,
whose rows are one ramp and whose taps are one list of offsets. A tile that wraps has pointers of
its own, one that touches the padding has them per tap (pad taps point at a row of zero points).
Runs go over a block of panels that fits L2, and are as long as L1 holds. Channels count bytes, four
to a dot group: a float32 is a group of its own, and nothing here knows it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from qrt.gemm.extents import GEOMETRY, LANES, product_extents
from qrt.gemm.order import NARROW
from qrt.gemm.ranges import NO_RECORD, is_no_record
from qrt.gemm.ranges import RUN as RANGE_RUN
from qrt.gemm.table import (
    CODES,
    EPILOGUES,
    FLOAT_EPILOGUE,
    FLOAT_TILES,
    TILES,
    WEIGHT_NBYTES,
    TileSpec,
)
from qrt.gemm.tiles import tiles as tile_functions
from qrt.gemm.widen import widen_rows, words_nbytes
from qrt.jit.declare import Kernel, helper, kernel, slots
from qrt.simd.memory import as_i32, as_i64, operand, put_ramp

FIELDS = (
    "x",
    "y",
    "panels",
    "columns",
    "sums",  # int32 row sums of the activations, used when has_sums
    "pad",  # a row of x zero points, as long as a tap's channels
    "limits",  # four int32, or a record of a range per thread
    "limits_step",
    "rows",  # scratch: `work_nbytes` per thread
    "has_sums",
    *GEOMETRY,
    "x_pixel",  # bytes from pixel to pixel, row to row, image to image, group to group
    "x_row",
    "x_image",
    "x_group",
    "channels",  # bytes of x that one tap reads
    "n",  # output columns of one group
    "y_pixel",
    "y_group",
    "groups",
    "block",  # panels that stay in L2 while the rows go by
    "run",  # tiles whose x and y stay in L1 while the panels go by
    "max_threads",  # the product is too small for more
)
(
    X, Y, PANELS, COLUMNS, SUMS, PAD, LIMITS, LIMITS_STEP, ROWS, HAS_SUMS, BATCH, HEIGHT, WIDTH,
    OUT_HEIGHT, OUT_WIDTH, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H,
    DILATION_W, X_PIXEL, X_ROW, X_IMAGE, X_GROUP, CHANNELS, N, Y_PIXEL, Y_GROUP, GROUPS, BLOCK, RUN,
    MAX_THREADS,
) = slots(FIELDS)  # fmt: skip


# int64 of scratch: the ramp of a line's rows, where each row of a tile starts, its line and column,
# the offset of every tap, as many zeros, and pointers per tap
RAMP, STARTS, TOPS, LEFTS, OFFSETS = 0, LANES * 8, LANES * 16, LANES * 24, LANES * 32


@helper
def prepare_rows(row, work):  # type: ignore[no-untyped-def]
    """Write what all tiles share: the ramp, the taps' offsets and zeros."""
    step = row[STRIDE_W] * row[X_PIXEL]
    for r in range(0, LANES, 8):
        put_ramp(work + RAMP + r * 8, r * step, step)
    offsets = as_i64(work + OFFSETS)
    taps = row[KERNEL_H] * row[KERNEL_W]
    tap = 0
    for ky in range(row[KERNEL_H]):
        for kx in range(row[KERNEL_W]):
            offsets[tap] = ky * row[DILATION_H] * row[X_ROW] + kx * row[DILATION_W] * row[X_PIXEL]
            offsets[taps + tap] = 0
            tap += 1


@helper
def fill_rows(row, x, pad, work, mr, m, image, oy, ox):  # type: ignore[no-untyped-def]
    """Point at the m rows of outputs from (image, oy, ox) on, one tile: (rows, row_step, offsets).

    Rows from m to mr repeat the last, so that a whole tile can be computed. `row_step` is 0 where
    no row touches the padding: then taps lie `offsets` apart.
    """
    height, width = row[HEIGHT], row[WIDTH]
    x_pixel, x_row = row[X_PIXEL], row[X_ROW]
    stride_w = row[STRIDE_W]
    top = oy * row[STRIDE_H] - row[PAD_H]
    left = ox * stride_w - row[PAD_W]
    # where the last tap lies from the first
    reach_h = (row[KERNEL_H] - 1) * row[DILATION_H]
    reach_w = (row[KERNEL_W] - 1) * row[DILATION_W]
    start = x + image * row[X_IMAGE] + top * x_row + left * x_pixel
    starts = as_i64(work + STARTS)
    tops = as_i64(work + TOPS)
    lefts = as_i64(work + LEFTS)
    inside = True
    for r in range(mr):
        starts[r] = start
        tops[r] = top
        lefts[r] = left
        inside &= (top >= 0) & (top + reach_h < height) & (left >= 0) & (left + reach_w < width)
        if r < m - 1:
            ox += 1
            left += stride_w
            start += stride_w * x_pixel
            if ox == row[OUT_WIDTH]:
                ox = 0
                oy += 1
                if oy == row[OUT_HEIGHT]:
                    oy = 0
                    image += 1
                top = oy * row[STRIDE_H] - row[PAD_H]
                left = -row[PAD_W]
                start = x + image * row[X_IMAGE] + top * x_row + left * x_pixel
    if inside:
        return work + STARTS, 0, work + OFFSETS
    zeros = work + OFFSETS + row[KERNEL_H] * row[KERNEL_W] * 8
    rows = zeros + row[KERNEL_H] * row[KERNEL_W] * 8
    lanes = (mr + 7) // 8 * 8
    slot = rows
    for ky in range(row[KERNEL_H]):
        dy = ky * row[DILATION_H]
        for kx in range(row[KERNEL_W]):
            dx = kx * row[DILATION_W]
            offset = dy * x_row + dx * x_pixel
            table = as_i64(slot)
            # whole vectors: past a tap's mr rows the next tap's follow
            for r in range(lanes):
                there = (
                    (tops[r] + dy >= 0)
                    & (tops[r] + dy < height)
                    & (lefts[r] + dx >= 0)
                    & (lefts[r] + dx < width)
                )
                table[r] = starts[r] + offset if there else pad
            slot += mr * 8
    return rows, mr * 8, zeros


@helper
def place(row, m):  # type: ignore[no-untyped-def]
    """(image, oy, ox) of output m."""
    pixels = row[OUT_HEIGHT] * row[OUT_WIDTH]
    image = m // pixels
    oy = (m - image * pixels) // row[OUT_WIDTH]
    return image, oy, m - image * pixels - oy * row[OUT_WIDTH]


@helper
def advance(row, m, image, oy, ox):  # type: ignore[no-untyped-def]
    """`place` of the output m further, without a division: one costs as much as a small tile."""
    ox += m
    while ox >= row[OUT_WIDTH]:
        ox -= row[OUT_WIDTH]
        oy += 1
        if oy == row[OUT_HEIGHT]:
            oy = 0
            image += 1
    return image, oy, ox


@helper
def is_dense(row):  # type: ignore[no-untyped-def]
    """True when output m reads the m-th pixel of x: a matrix product, or a 1x1 convolution."""
    return (
        row[KERNEL_H] * row[KERNEL_W] == 1
        and row[STRIDE_H] == 1
        and row[STRIDE_W] == 1
        and row[PAD_H] == 0
        and row[PAD_W] == 0
        and row[OUT_WIDTH] == row[WIDTH]
        and row[OUT_HEIGHT] == row[HEIGHT]
        and (row[HEIGHT] == 1 or row[X_ROW] == row[X_PIXEL] * row[WIDTH])
        and (row[BATCH] == 1 or row[X_IMAGE] == row[X_PIXEL] * row[WIDTH] * row[HEIGHT])
    )


@helper
def inner_width(row):  # type: ignore[no-untyped-def]
    """Outputs of a line, from its first, whose taps do not reach past the right edge."""
    room = row[WIDTH] + row[PAD_W] - 1 - (row[KERNEL_W] - 1) * row[DILATION_W]
    return min(row[OUT_WIDTH], room // row[STRIDE_W] + 1) if room >= 0 else 0


@helper
def whole_tiles(row, mr, inner, oy, ox):  # type: ignore[no-untyped-def]
    """Tiles from (oy, ox) on in this line of outputs that touch no padding; `inner_width` inner."""
    top = oy * row[STRIDE_H] - row[PAD_H]
    reach = (row[KERNEL_H] - 1) * row[DILATION_H]
    inside = (top >= 0) & (top + reach < row[HEIGHT]) & (ox * row[STRIDE_W] >= row[PAD_W])
    return (inner - ox) // mr if inside and inner > ox else 0


def make_kernel(tile: TileSpec, epilogue: str) -> Kernel:
    """The product kernel of a table row; its closure holds the tile's constants."""
    mr, nr, lanes = tile.mr, tile.nr, tile.lanes
    kr = tile.kr
    itemsize = 1 if epilogue in NARROW else 4
    twice = epilogue == CODES  # the second time only where the first guessed wrong
    finds = epilogue not in NARROW
    heights, widths = tile.heights, tile.widths
    full_nv = tile.nv
    words = tile.words
    run_tile = tile_functions(tile, epilogue)

    def product(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        threads = min(threads, row[MAX_THREADS])
        m_total = row[BATCH] * row[OUT_HEIGHT] * row[OUT_WIDTH]
        if thread >= threads or m_total == 0:
            return 0
        limits = operand(row, LIMITS, arena, constants) + thread * row[LIMITS_STEP]
        if twice and as_i32(limits)[RANGE_RUN] == 0:
            return 0
        if finds and is_no_record(row[LIMITS_STEP], limits):
            return NO_RECORD
        n = row[N]
        taps = row[KERNEL_H] * row[KERNEL_W]
        k_groups = (row[CHANNELS] + kr - 1) // kr
        table_nbytes = (5 * LANES + (2 + mr) * taps) * 8
        work_nbytes = table_nbytes + (words_nbytes(taps, k_groups, mr) if words else 0)
        work = operand(row, ROWS, arena, constants) + thread * work_nbytes
        prepare_rows(row, work)
        step = row[STRIDE_W] * row[X_PIXEL]
        inner = inner_width(row)
        # a tile of words sees one tap, and one tile's words are there at once
        longest = 1 if words else row[RUN]
        tile_taps = 1 if words else taps
        tile_groups = taps * k_groups if words else k_groups
        dense = is_dense(row)
        pad = operand(row, PAD, arena, constants)
        y_pixel = row[Y_PIXEL]
        panels = (n + nr - 1) // nr
        panel_nbytes = taps * k_groups * nr * WEIGHT_NBYTES
        m_tiles = (m_total + mr - 1) // mr
        # the last rows take the lowest tile that holds them, the last columns the narrowest panel
        last_m = m_total - m_total // mr * mr
        last_height = mr
        for height in heights:
            if height >= last_m:
                last_height = height
        rest = n - n // nr * nr
        last_nv = full_nv
        for nv in widths:
            if nv * lanes >= rest:
                last_nv = nv
        padded = n // nr * nr + (last_nv * lanes if rest > 0 else 0)
        group_panels = taps * k_groups * WEIGHT_NBYTES * padded
        # split by the dimension whose largest share, in columns of tiles, is the smaller
        by_rows = (m_tiles + threads - 1) // threads * padded
        by_panels = min((panels + threads - 1) // threads * nr, padded) * m_tiles
        if by_rows <= by_panels:
            t0, t1 = m_tiles * thread // threads, m_tiles * (thread + 1) // threads
            p0, p1 = 0, panels
        else:
            t0, t1 = 0, m_tiles
            p0, p1 = panels * thread // threads, panels * (thread + 1) // threads
        for group in range(row[GROUPS]):
            x = operand(row, X, arena, constants) + group * row[X_GROUP]
            y = operand(row, Y, arena, constants) + group * row[Y_GROUP]
            panel0 = operand(row, PANELS, arena, constants) + group * group_panels
            columns0 = operand(row, COLUMNS, arena, constants) + group * padded * 16
            sums0 = operand(row, SUMS, arena, constants) + group * m_total * 4
            for jc in range(p0, p1, row[BLOCK]):
                image, oy, ox = place(row, t0 * mr)
                t = t0
                while t < t1:
                    m0 = t * mr
                    tiles, height, m = 1, mr, mr
                    if m0 + mr > m_total:
                        height, m = last_height, m_total - m0
                        whole = 0
                    elif dense:
                        whole = m_total // mr - t
                    else:
                        whole = whole_tiles(row, mr, inner, oy, ox)
                    if whole > 0:
                        tiles = min(whole, longest, t1 - t)
                        rows, row_step, offsets = work + RAMP, 0, work + OFFSETS
                        base = x + m0 * step
                        if not dense:
                            base = x + image * row[X_IMAGE] + (ox * row[STRIDE_W] - row[PAD_W]) * (
                                row[X_PIXEL]
                            )
                            base += (oy * row[STRIDE_H] - row[PAD_H]) * row[X_ROW]
                    else:
                        if dense:
                            image, oy, ox = place(row, m0)
                        rows, row_step, offsets = fill_rows(
                            row, x, pad, work, height, m, image, oy, ox
                        )
                        base = 0
                    if words:
                        rows = widen_rows(rows, row_step, offsets, base, height, taps, m, k_groups,
                                          work + STARTS, work + table_nbytes)  # fmt: skip
                        row_step, offsets, base = 0, work + OFFSETS + taps * 8, 0
                    sums = sums0 + m0 * 4 if row[HAS_SUMS] != 0 else 0
                    for j in range(jc, min(jc + row[BLOCK], p1)):
                        panel = panel0 + j * panel_nbytes
                        columns = columns0 + j * nr * 16
                        ahead = panel_nbytes if tiles > 1 and j + 1 < p1 else 0
                        valid = min(nr, n - j * nr)
                        nv = full_nv if valid == nr else last_nv
                        out = y + m0 * y_pixel + j * nr * itemsize
                        run_tile(height, nv, rows, row_step, offsets, base, mr * step, tiles,
                                 tile_taps, tile_groups, panel, ahead, columns, sums, out, y_pixel,
                                 m, valid, limits)  # fmt: skip
                    t += tiles
                    if not dense:
                        image, oy, ox = advance(row, tiles * mr, image, oy, ox)
        return 0

    return kernel(
        tile.kernel_name(epilogue),
        FIELDS,
        partial(product_extents, tile, epilogue),
        family="gemm",
        features=tile.features,
        preconditions=(
            {"max_scaled": 2**31} if tile.family != "portable" and tile.types != "f32" else {}
        ),
    )(product)


PRODUCTS: dict[tuple[TileSpec, str], Any] = {
    (tile, epilogue): make_kernel(tile, epilogue)
    for tile in TILES
    for epilogue in (*EPILOGUES, CODES)
}
FLOAT_PRODUCTS: dict[TileSpec, Any] = {
    tile: make_kernel(tile, FLOAT_EPILOGUE) for tile in FLOAT_TILES
}
