"""Depthwise convolution, channels last: the loops around its tiles, and the scalar row.

For every output row and channel block, the input rows under it are interleaved once into scratch
(in L1), pads included; then tiles of pixels walk the kernel's columns. Weights are int16 in the
scalar and vpmaddwd rows, so that a weight zero point is simply subtracted at pack time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.gemm.depthwise_calls import carry_row, interleave_row, row_tiles, tall_row
from qrt.gemm.depthwise_order import carries, carries_tall
from qrt.gemm.depthwise_rows import (
    BATCH,
    CHANNELS,
    COLUMNS,
    DILATION_H,
    DILATION_W,
    FIELDS,
    HEIGHT,
    KERNEL_H,
    KERNEL_W,
    LIMITS,
    LIMITS_STEP,
    MAX_THREADS,
    OUT_HEIGHT,
    OUT_WIDTH,
    PAD,
    PAD_H,
    PAD_W,
    SCRATCH,
    SCRATCH_NBYTES,
    STRIDE_H,
    STRIDE_W,
    WEIGHTS,
    WIDTH,
    X,
    Y,
    depthwise_extents,
)  # fmt: skip
from qrt.gemm.depthwise_table import DEPTHWISE, DEPTHWISE_CODES, DepthwiseSpec
from qrt.gemm.ranges import NO_RECORD, is_no_record, quotient_code, widen_range
from qrt.gemm.ranges import RUN as RANGE_RUN
from qrt.gemm.ranges import SCALE as RANGE_SCALE
from qrt.gemm.table import CODES
from qrt.jit.declare import Extent, Kernel, kernel
from qrt.simd.memory import as_f32, as_i16, as_i32, as_u8, operand
from qrt.simd.scalar import add32, mul32, quantize_u8


def make_kernel(spec: DepthwiseSpec) -> Kernel:
    """The depthwise kernel of a generated family."""
    rows = spec.rows
    quads = rows == 4
    wide_lanes, slim_lanes = spec.lanes[0], spec.lanes[-1]
    wide_interleave = interleave_row(spec, wide_lanes)
    slim_interleave = interleave_row(spec, slim_lanes)
    wide_tiles = row_tiles(spec, wide_lanes)
    slim_tiles = row_tiles(spec, slim_lanes)
    wide_carry1, wide_carry2, slim_carry1, slim_carry2 = (
        carry_row(spec, lanes, stride) if quads else wide_interleave
        for lanes in (wide_lanes, slim_lanes)
        for stride in (1, 2)
    )
    wide_tall1, wide_tall2, slim_tall1, slim_tall2 = (
        tall_row(spec, lanes, stride) if quads else wide_interleave
        for lanes in (wide_lanes, slim_lanes)
        for stride in (1, 2)
    )
    weight_nbytes = np.dtype(spec.weight_dtype).itemsize
    itemsize, column_size = spec.itemsize, spec.column_nbytes
    wide, slim = 4 * wide_lanes, 4 * slim_lanes
    twice = spec.epilogue == CODES  # the second time only where the first guessed wrong
    finds = itemsize == 4

    def depthwise(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        threads = min(threads, row[MAX_THREADS])
        if thread >= threads:
            return 0
        limits = operand(row, LIMITS, arena, constants) + thread * row[LIMITS_STEP]
        if twice and as_i32(limits)[RANGE_RUN] == 0:
            return 0
        if finds and is_no_record(row[LIMITS_STEP], limits):
            return NO_RECORD
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        weights0 = operand(row, WEIGHTS, arena, constants)
        columns0 = operand(row, COLUMNS, arena, constants)
        pad = operand(row, PAD, arena, constants)
        scratch = operand(row, SCRATCH, arena, constants) + thread * row[SCRATCH_NBYTES]
        channels = row[CHANNELS]
        ldc = channels * itemsize
        height, width = row[HEIGHT], row[WIDTH]
        out_height, out_width = row[OUT_HEIGHT], row[OUT_WIDTH]
        kernel_h, kernel_w = row[KERNEL_H], row[KERNEL_W]
        groups = (kernel_h + rows - 1) // rows
        stride_w, dilation_h, dilation_w = row[STRIDE_W], row[DILATION_H], row[DILATION_W]
        pad_w = row[PAD_W]
        # columns of scratch: from -pad_w on; first and last that lie inside the image
        total = (out_width - 1) * stride_w + (kernel_w - 1) * dilation_w + 1
        before = min(pad_w, total)
        inside = min(total - before, width)
        after = total - before - inside
        # nothing needs to lie in scratch
        carry = carries(rows, kernel_h, kernel_w, stride_w, dilation_w)
        tall = carries_tall(rows, kernel_h, kernel_w, stride_w, dilation_w)
        blocks_of_row = (channels + wide - 1) // wide
        units = row[BATCH] * out_height * blocks_of_row
        first = units * thread // threads
        # counted on from here: divisions in the loop cost as much as a short row
        line = first // blocks_of_row
        block = first - line * blocks_of_row - 1
        image = line // out_height
        oy = line - image * out_height
        for _ in range(first, units * (thread + 1) // threads):
            block += 1
            if block == blocks_of_row:
                block = 0
                line += 1
                oy += 1
                if oy == out_height:
                    oy = 0
                    image += 1
            c0 = block * wide
            valid = min(wide, channels - c0)
            is_slim = valid <= slim and slim < wide
            lanes = slim_lanes if is_slim else wide_lanes
            vector_nbytes = 4 * lanes
            column_nbytes = groups * 4 * vector_nbytes
            iy0 = oy * row[STRIDE_H] - row[PAD_H]
            weights = weights0 + c0 * groups * rows * kernel_w * weight_nbytes
            columns = columns0 + c0 * column_size
            out = y + (line * out_width * channels + c0) * itemsize
            q0 = pad
            q1 = pad
            q2 = pad
            q3 = pad
            t0 = 0
            t1 = 0
            t2 = 0
            t3 = 0
            for g in range(groups):
                to = scratch + g * 4 * vector_nbytes
                p0 = pad
                p1 = pad
                p2 = pad
                p3 = pad
                s0 = 0
                s1 = 0
                s2 = 0
                s3 = 0
                for r in range(rows):
                    ky = g * rows + r
                    iy = iy0 + ky * dilation_h
                    if ky < kernel_h and iy >= 0 and iy < height:
                        p = x + ((image * height + iy) * width) * channels + c0
                        if r == 0:
                            p0, s0 = p, channels
                        elif r == 1:
                            p1, s1 = p, channels
                        elif r == 2:
                            p2, s2 = p, channels
                        else:
                            p3, s3 = p, channels
                if quads and tall:
                    if g == 0:
                        q0, q1, q2, q3 = p0, p1, p2, p3
                        t0, t1, t2, t3 = s0, s1, s2, s3
                    elif is_slim and stride_w == 1:
                        slim_tall1(q0, q1, q2, q3, p0, t0, t1, t2, t3, s0, pad, before, inside,
                                   out_width, weights, columns, out, ldc, valid,
                                   limits)  # fmt: skip
                    elif is_slim:
                        slim_tall2(q0, q1, q2, q3, p0, t0, t1, t2, t3, s0, pad, before, inside,
                                   out_width, weights, columns, out, ldc, valid,
                                   limits)  # fmt: skip
                    elif stride_w == 1:
                        wide_tall1(q0, q1, q2, q3, p0, t0, t1, t2, t3, s0, pad, before, inside,
                                   out_width, weights, columns, out, ldc, valid,
                                   limits)  # fmt: skip
                    else:
                        wide_tall2(q0, q1, q2, q3, p0, t0, t1, t2, t3, s0, pad, before, inside,
                                   out_width, weights, columns, out, ldc, valid,
                                   limits)  # fmt: skip
                    continue
                if quads and carry:
                    if is_slim and stride_w == 1:
                        slim_carry1(p0, p1, p2, p3, s0, s1, s2, s3, pad, before, inside, out_width,
                                    weights, columns, out, ldc, valid, limits)  # fmt: skip
                    elif is_slim:
                        slim_carry2(p0, p1, p2, p3, s0, s1, s2, s3, pad, before, inside, out_width,
                                    weights, columns, out, ldc, valid, limits)  # fmt: skip
                    elif stride_w == 1:
                        wide_carry1(p0, p1, p2, p3, s0, s1, s2, s3, pad, before, inside, out_width,
                                    weights, columns, out, ldc, valid, limits)  # fmt: skip
                    else:
                        wide_carry2(p0, p1, p2, p3, s0, s1, s2, s3, pad, before, inside, out_width,
                                    weights, columns, out, ldc, valid, limits)  # fmt: skip
                    continue
                if is_slim:
                    slim_interleave(pad, p0, p1, p2, p3, s0, s1, s2, s3, to, column_nbytes, before,
                                    inside, after)  # fmt: skip
                else:
                    wide_interleave(pad, p0, p1, p2, p3, s0, s1, s2, s3, to, column_nbytes, before,
                                    inside, after)  # fmt: skip
            if carry or tall:
                continue
            pixel_step = stride_w * column_nbytes
            tap_step = dilation_w * column_nbytes
            if is_slim:
                slim_tiles(row, scratch, pixel_step, tap_step, groups, weights, columns, out,
                           ldc, valid, limits)  # fmt: skip
            else:
                wide_tiles(row, scratch, pixel_step, tap_step, groups, weights, columns, out,
                           ldc, valid, limits)  # fmt: skip
        return 0

    def extents(row: Mapping[str, int]) -> list[Extent]:
        return depthwise_extents(spec, row)

    return kernel(
        spec.kernel_name,
        FIELDS,
        extents,
        family="depthwise",
        features=spec.features,
        preconditions={"max_scaled": 2**31} if spec.epilogue == "u8" else {},
    )(depthwise)


def _make_portable(spec: DepthwiseSpec) -> Kernel:
    """The scalar row: every output by itself."""
    narrow, twice = spec.epilogue == "u8", spec.epilogue == CODES

    def depthwise(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        threads = min(threads, row[MAX_THREADS])
        if thread >= threads:
            return 0
        limits_at = operand(row, LIMITS, arena, constants) + thread * row[LIMITS_STEP]
        limits = as_i32(limits_at)
        ranged = not narrow and limits[RANGE_RUN] != 0
        if twice and not ranged:
            return 0
        if ranged and is_no_record(row[LIMITS_STEP], limits_at):
            return NO_RECORD
        x = as_u8(operand(row, X, arena, constants))
        codes = as_u8(operand(row, Y, arena, constants))
        reals = as_f32(operand(row, Y, arena, constants))
        weights = as_i16(operand(row, WEIGHTS, arena, constants))
        bias = as_i32(operand(row, COLUMNS, arena, constants))
        channels = row[CHANNELS]
        multiplier = as_f32(operand(row, COLUMNS, arena, constants) + 4 * channels)
        float_bias = as_f32(operand(row, COLUMNS, arena, constants) + 12 * channels)
        pad_value = np.int32(as_u8(operand(row, PAD, arena, constants))[0])
        step = as_f32(limits_at)[RANGE_SCALE]
        zero_point = limits[0]
        low = np.float32(limits[1] - zero_point)
        high = np.float32(limits[2] - zero_point)
        lines = row[BATCH] * row[OUT_HEIGHT]
        for line in range(lines * thread // threads, lines * (thread + 1) // threads):
            image = line // row[OUT_HEIGHT]
            oy = line - image * row[OUT_HEIGHT]
            for ox in range(row[OUT_WIDTH]):
                out = (line * row[OUT_WIDTH] + ox) * channels
                for c in range(channels):
                    acc = bias[c]
                    for ky in range(row[KERNEL_H]):
                        iy = oy * row[STRIDE_H] - row[PAD_H] + ky * row[DILATION_H]
                        for kx in range(row[KERNEL_W]):
                            ix = ox * row[STRIDE_W] - row[PAD_W] + kx * row[DILATION_W]
                            value = pad_value
                            if iy >= 0 and iy < row[HEIGHT] and ix >= 0 and ix < row[WIDTH]:
                                at = ((image * row[HEIGHT] + iy) * row[WIDTH] + ix) * channels
                                value = np.int32(x[at + c])
                            w = np.int32(weights[(ky * row[KERNEL_W] + kx) * channels + c])
                            acc = add32(acc, mul32(value, w))
                    scaled = np.float32(acc) * multiplier[c]
                    if narrow:
                        codes[out + c] = quantize_u8(scaled, low, high, zero_point)
                        continue
                    real = np.float32(scaled + float_bias[c])
                    if ranged:
                        widen_range(limits_at, real)
                    if twice:
                        codes[out + c] = quotient_code(real, step)
                    else:
                        reals[out + c] = real
        return 0

    def extents(row: Mapping[str, int]) -> list[Extent]:
        return depthwise_extents(spec, row)

    return kernel(spec.kernel_name, FIELDS, extents, family="depthwise")(depthwise)


KERNELS_BY_SPEC: dict[DepthwiseSpec, Kernel] = {
    spec: _make_portable(spec) if spec.family == "portable" else make_kernel(spec)
    for spec in (*DEPTHWISE, *DEPTHWISE_CODES)
}
