"""The loops of a Winograd convolution: transform a block of tiles, multiply, transform back.

A tile is 4x4 outputs. The transforms of a block of tiles, and the sums of one panel of columns,
stay in L2; for each of the 36 positions the panel's weights go by once per block.
"""

from __future__ import annotations

from collections.abc import Mapping

from qrt.gemm.ranges import NO_RECORD, is_no_record
from qrt.gemm.table import EPILOGUES
from qrt.gemm.tiles import tiles
from qrt.gemm.winograd import BIAS_POSITION, IN, OUT, POSITIONS
from qrt.gemm.winograd_calls import input_transform, output_transform
from qrt.gemm.winograd_rows import (
    BATCH,
    BIAS,
    BLOCK,
    CHANNELS,
    COLUMNS,
    FIELDS,
    HEIGHT,
    LIMITS,
    LIMITS_STEP,
    MAX_THREADS,
    OUT_HEIGHT,
    OUT_WIDTH,
    PAD,
    PAD_H,
    PAD_W,
    PANELS,
    PIXELS_NBYTES,
    RAMP_NBYTES,
    SCRATCH,
    WIDTH,
    N,
    X,
    Y,
    inputs_nbytes,
    position_nbytes,
    scratch_nbytes,
    sums_nbytes,
    winograd_extents,
)
from qrt.gemm.winograd_table import WINOGRAD, WinogradSpec
from qrt.jit.declare import Extent, Kernel, helper, kernel
from qrt.simd.memory import as_i64, operand, put_ramp

# a thread of fewer tiles waits for weights: each is used once per tile (a core multiplies a row of
# weights in 64 cycles per tile and byte)
FEW_TILES = 8
# columns whose products take as long as a tile's input transform
INPUT_COLUMNS = 4


@helper
def place_tile(row, tile):  # type: ignore[no-untyped-def]
    """(image, oy, ox) of the first output of a tile."""
    wide = (row[OUT_WIDTH] + OUT - 1) // OUT
    high = (row[OUT_HEIGHT] + OUT - 1) // OUT
    line = tile // wide
    image = line // high
    return image, (line - image * high) * OUT, (tile - line * wide) * OUT


@helper
def next_tile(row, image, oy, ox):  # type: ignore[no-untyped-def]
    """`place_tile` of the tile behind, without its divisions."""
    ox += OUT
    if ox >= row[OUT_WIDTH]:
        ox = 0
        oy += OUT
        if oy >= row[OUT_HEIGHT]:
            oy = 0
            image += 1
    return image, oy, ox


@helper
def point_at_pixels(row, x, pad, image, oy, ox, pixels):  # type: ignore[no-untyped-def]
    """Write the addresses of the 6x6 pixels under a tile; those outside the image are `pad`."""
    height, width, channels = row[HEIGHT], row[WIDTH], row[CHANNELS]
    left = ox - row[PAD_W]
    for i in range(IN):
        iy = oy - row[PAD_H] + i
        table = as_i64(pixels + i * IN * 8)
        line_inside = (iy >= 0) & (iy < height)
        start = x + ((image * height + iy) * width + left) * channels
        for j in range(IN):
            inside = line_inside & (left + j >= 0) & (left + j < width)
            table[j] = start + j * channels if inside else pad


@helper
def split(tiles, panels, nr, threads, thread):  # type: ignore[no-untyped-def]
    """(first tile, end, first panel, end) of a thread: the cheaper of shares of either."""
    by_tiles = max((tiles + threads - 1) // threads, FEW_TILES) * (panels * nr + INPUT_COLUMNS)
    by_panels = max(tiles, FEW_TILES) * ((panels + threads - 1) // threads * nr + INPUT_COLUMNS)
    if by_tiles <= by_panels:
        return tiles * thread // threads, tiles * (thread + 1) // threads, 0, panels
    return 0, tiles, panels * thread // threads, panels * (thread + 1) // threads


def make_kernel(spec: WinogradSpec, epilogue: str) -> Kernel:
    """The kernel of a table row; its closure holds the tiles' constants."""
    tile = spec.tile
    nr, full_nv, lanes, per_vector = tile.nr, tile.nv, tile.lanes, spec.channels
    itemsize = 1 if epilogue == "u8" else 4
    finds = itemsize == 4
    mr, heights, widths = tile.mr, tile.heights, tile.widths
    run_tile = tiles(tile, "i32")
    transform_input = input_transform(lanes, spec.features)
    transform_output = output_transform(lanes, spec.features, epilogue)

    @helper
    def multiply(  # type: ignore[no-untyped-def]
        rows, row_step, inputs, count, pairs, panel, bias, sums, sums_step, nv
    ):
        """`count` rows times one position of a panel, in tiles as even as their number allows.

        All but the first, which waits for weights itself, fetch those of the next position.
        """
        ahead = nv * lanes * pairs * 4
        parts = (count + mr - 1) // mr
        first = 0
        while first < count:
            m = (count - first + parts - 1) // parts
            height = mr
            for lower in heights:
                if lower >= m:
                    height = lower
            # as many tiles of m rows as leave whole ones of m - 1, or of m
            some = parts if parts * m == count - first else count - first - parts * (m - 1)
            ramp = rows
            if height != m:
                # rows behind the last repeat it
                some = 1
                ramp = rows + RAMP_NBYTES
                for r in range(height):
                    as_i64(ramp)[r] = min(r, m - 1) * row_step
            run_tile(height, nv, ramp, 0, rows + 2 * RAMP_NBYTES, inputs + first * row_step,
                     m * row_step, some, 1, pairs, panel, ahead if first > 0 else 0, bias, 0,
                     sums + first * sums_step, sums_step, m, nv * lanes, 0)  # fmt: skip
            first += some * m
            parts -= some

    def winograd(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        threads = min(threads, row[MAX_THREADS])
        if thread >= threads:
            return 0
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        panels0 = operand(row, PANELS, arena, constants)
        zeros = operand(row, BIAS, arena, constants)
        columns0 = operand(row, COLUMNS, arena, constants)
        pad = operand(row, PAD, arena, constants)
        limits = operand(row, LIMITS, arena, constants) + thread * row[LIMITS_STEP]
        if finds and is_no_record(row[LIMITS_STEP], limits):
            return NO_RECORD
        channels, n, block = row[CHANNELS], row[N], row[BLOCK]
        out_height, out_width = row[OUT_HEIGHT], row[OUT_WIDTH]
        pairs = (channels + 1) // 2
        vectors = (channels + per_vector - 1) // per_vector
        row_step = inputs_nbytes(channels, per_vector)
        step = position_nbytes(block, channels, per_vector)
        sums_step = sums_nbytes(nr)
        inputs = operand(row, SCRATCH, arena, constants)
        inputs += thread * scratch_nbytes(block, channels, per_vector, nr)
        sums = inputs + POSITIONS * step
        pixels = sums + block * sums_step
        rows = pixels + PIXELS_NBYTES
        put_ramp(rows, 0, row_step)
        as_i64(rows + 2 * RAMP_NBYTES)[0] = 0  # the offset of the only tap
        pixel = n * itemsize
        tile_count = (
            row[BATCH] * ((out_height + OUT - 1) // OUT) * ((out_width + OUT - 1) // OUT)
        )
        first_tile, end_tile, first_panel, end_panel = split(
            tile_count, (n + nr - 1) // nr, nr, threads, thread
        )
        for start in range(first_tile, end_tile, block):
            count = min(block, end_tile - start)
            first_image, first_oy, first_ox = place_tile(row, start)
            image, oy, ox = first_image, first_oy, first_ox
            for t in range(count):
                point_at_pixels(row, x, pad, image, oy, ox, pixels)
                transform_input(pixels, inputs + t * row_step, step, vectors)
                image, oy, ox = next_tile(row, image, oy, ox)
            for p in range(first_panel, end_panel):
                column = p * nr
                valid = min(nr, n - column)
                width_nv = full_nv
                for narrower in widths:
                    if narrower * lanes >= valid:
                        width_nv = narrower
                width = width_nv * lanes
                panel = panels0 + column * POSITIONS * pairs * 4
                for position in range(POSITIONS):
                    bias = zeros
                    if position == BIAS_POSITION:
                        bias = zeros + (nr + column) * 4
                    multiply(rows, row_step, inputs + position * step, count, pairs, panel, bias,
                             sums + position * width * 4, sums_step, width_nv)  # fmt: skip
                    panel += width * pairs * 4
                image, oy, ox = first_image, first_oy, first_ox
                for t in range(count):
                    lines, m = min(OUT, out_height - oy), min(OUT, out_width - ox)
                    out = y + ((image * out_height + oy) * out_width + ox) * pixel
                    out += column * itemsize
                    for c in range(0, valid, lanes):
                        transform_output(
                            sums + t * sums_step + c * 4, width * 4, columns0 + (column + c) * 16,
                            out + c * itemsize, pixel, out_width * pixel, lines, m,
                            min(lanes, valid - c), limits,
                        )  # fmt: skip
                    image, oy, ox = next_tile(row, image, oy, ox)
        return 0

    def extents(row: Mapping[str, int]) -> list[Extent]:
        return winograd_extents(spec, epilogue, row)

    return kernel(
        spec.kernel_name(epilogue),
        FIELDS,
        extents,
        family="winograd",
        features=spec.features,
        preconditions={"max_scaled": 2**31},
    )(winograd)


KERNELS_BY_ROW: dict[tuple[WinogradSpec, str], Kernel] = {
    (spec, epilogue): make_kernel(spec, epilogue) for spec in WINOGRAD for epilogue in EPILOGUES
}
