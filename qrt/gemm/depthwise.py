"""Depthwise convolution, channels last: the loops around its tiles, and the scalar row.

For every output row and channel block, the input rows under it are interleaved once into scratch
(in L1), pads included; then tiles of pixels walk the kernel's columns. Weights are int16 in the
scalar and vpmaddwd rows, so that a weight zero point is simply subtracted at pack time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.gemm.extents import check_alignment
from qrt.gemm.order import column_order
from qrt.jit.declare import Extent, Kernel, helper, intrinsic, kernel, slots
from qrt.simd.memory import as_f32, as_i16, as_i32, as_u8, operand
from qrt.simd.scalar import add32, mul32, quantize_u8

Array = np.ndarray[Any, Any]

FIELDS = (
    "x",
    "y",
    "weights",
    "columns",
    "pad",
    "limits",
    "scratch",  # scratch_nbytes per thread
    "scratch_nbytes",
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
    "channels",
    "max_threads",
)
(
    X, Y, WEIGHTS, COLUMNS, PAD, LIMITS, SCRATCH, SCRATCH_NBYTES, BATCH, HEIGHT, WIDTH, OUT_HEIGHT,
    OUT_WIDTH, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H, DILATION_W,
    CHANNELS, MAX_THREADS,
) = slots(FIELDS)  # fmt: skip


@dataclass(frozen=True)
class DepthwiseSpec:
    """A family: rows per dot group, lanes of its blocks (widest first), pixels per tile."""

    family: str
    rows: int
    lanes: tuple[int, ...]
    pixels: int
    weight_dtype: type
    features: tuple[str, ...]

    @property
    def kernel_name(self) -> str:
        """Id of the kernel."""
        return f"depthwise_u8s8_{self.family}"


# 4 pixels x 4 vectors of sums + 4 of weights + 1: 21 of 32 registers (AVX512); 2 x 4 + 4 + 1 of 16
DEPTHWISE: tuple[DepthwiseSpec, ...] = (
    DepthwiseSpec("vnni", 4, (16, 8), 4, np.int8, ("avx512", "avx512vnni")),
    DepthwiseSpec("madd", 2, (8,), 2, np.int16, ("avx2",)),
    DepthwiseSpec("portable", 1, (1,), 1, np.int16, ()),
)


def blocks(channels: int, spec: DepthwiseSpec) -> list[int]:
    """Lanes of each block of 4 * lanes channels."""
    widest, narrowest = spec.lanes[0], spec.lanes[-1]
    full, rest = divmod(channels, 4 * widest)
    last = ([narrowest] if rest <= 4 * narrowest else [widest]) if rest else []
    return [widest] * full + last


def pack_depthwise(w: Array, spec: DepthwiseSpec) -> Array:
    """Pack w (channels, kh, kw), zero points subtracted. Returns uint8 (nbytes,)."""
    channels, kh, kw = w.shape
    if spec.family == "portable":
        return np.ascontiguousarray(w.transpose(1, 2, 0)).astype(np.int16).reshape(-1).view(np.uint8)
    groups = -(-kh // spec.rows)
    parts = []
    c0 = 0
    for lanes in blocks(channels, spec):
        order = np.array(column_order(4, lanes, "u8")) + c0
        block = np.zeros((4 * lanes, groups * spec.rows, kw), spec.weight_dtype)
        valid = order < channels
        block[valid, :kh] = w[order[valid]]
        block = block.reshape(4 * lanes, groups, spec.rows, kw).transpose(3, 1, 0, 2)
        parts.append(np.ascontiguousarray(block).reshape(-1).view(np.uint8))
        c0 += 4 * lanes
    return np.concatenate(parts)


def pack_depthwise_columns(
    channels: int, spec: DepthwiseSpec, bias: Array, multiplier: Array
) -> Array:
    """Per block: bias int32 and multiplier float32 in the block's channel order, as uint8."""
    arrays = (
        np.broadcast_to(bias, channels).astype(np.int32),
        np.broadcast_to(multiplier, channels).astype(np.float32).view(np.int32),
    )
    if spec.family == "portable":
        return np.concatenate(arrays).view(np.uint8)
    parts = []
    c0 = 0
    for lanes in blocks(channels, spec):
        order = np.array(column_order(4, lanes, "u8")) + c0
        valid = order < channels
        for array in arrays:
            block = np.zeros(4 * lanes, np.int32)
            block[valid] = array[order[valid]]
            parts.append(block)
        c0 += 4 * lanes
    return np.concatenate(parts).view(np.uint8)


def scratch_nbytes(row: Mapping[str, int], spec: DepthwiseSpec) -> int:
    """Bytes of scratch that one thread needs."""
    if spec.family == "portable":
        return 0
    groups = -(-row["kernel_h"] // spec.rows)
    # the last tile may compute pixels that are not stored
    pixels = row["out_width"] + spec.pixels
    columns = pixels * row["stride_w"] + (row["kernel_w"] - 1) * row["dilation_w"] + 1
    return columns * groups * 16 * spec.lanes[0]


def _extents(spec: DepthwiseSpec, row: Mapping[str, int]) -> list[Extent]:
    for name in FIELDS[8:]:
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
            raise ValueError(f"scratch_nbytes must be a multiple of 64, got {row['scratch_nbytes']}")
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
        Extent("y", pixels * channels, writes=True),
        Extent("weights", weights),
        Extent("columns", 8 * padded),
        Extent("pad", 64),
        Extent("limits", 16),
        Extent("scratch", row["max_threads"] * row["scratch_nbytes"], writes=True),
    ]


def _codegen(kind: str, family: str, lanes: int, pixels: int, shape: tuple[int, int]) -> Any:
    """Numba codegen that calls a generated function of depthwise_tile.py."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        from llvmlite import ir

        from qrt.gemm import depthwise_tile
        from qrt.gemm.depthwise_carry import build_carry_row
        from qrt.gemm.epilogue import BUILDERS

        name = f"qrt_depthwise_{kind}_{family}_{lanes}_{shape[0]}x{shape[1]}"
        fn = builder.module.globals.get(name)
        dot = depthwise_tile.DOTS[family, lanes]
        if fn is None and kind == "carry":
            fn = build_carry_row(builder.module, name, dot, *shape, BUILDERS["u8"])
        elif fn is None and kind == "interleave":
            fn = depthwise_tile.build_interleave(builder.module, name, dot)
        elif fn is None:
            fn = depthwise_tile.build_tile(
                builder.module, name, dot, pixels, shape, BUILDERS["u8"]
            )
        builder.call(fn, args)
        return ir.Constant(ir.IntType(64), 0)

    return codegen


def _signature(count: int) -> Any:
    from numba import types

    return types.int64(*[types.int64] * count)


def _interleave(family: str, rows: int, lanes: int) -> Any:
    """Intrinsic (pointer per row, step per row, scratch, scratch_step, count) -> 0."""
    codegen = _codegen("interleave", family, lanes, 0, (0, 0))
    if rows == 4:

        def quads(typingctx, p0, p1, p2, p3, s0, s1, s2, s3, to, step, count):  # type: ignore[no-untyped-def]
            return _signature(11), codegen

        return intrinsic(quads)

    def pairs(typingctx, p0, p1, s0, s1, to, step, count):  # type: ignore[no-untyped-def]
        return _signature(7), codegen

    return intrinsic(pairs)


def _carry_row(family: str, lanes: int, stride: int) -> Any:
    """Intrinsic over `depthwise_carry.ARGUMENTS` -> 0, for kernels 3 wide."""
    codegen = _codegen("carry", family, lanes, 0, (3, stride))

    def carry_row(  # type: ignore[no-untyped-def]
        typingctx, p0, p1, p2, p3, s0, s1, s2, s3, pad, before, inside, width, weights, columns,
        out, ldc, n, limits
    ):  # fmt: skip
        return _signature(18), codegen

    return intrinsic(carry_row)


def _tile(family: str, lanes: int, pixels: int, shape: tuple[int, int]) -> Any:
    """Intrinsic over `depthwise_tile.ARGUMENTS` -> 0."""
    codegen = _codegen("tile", family, lanes, pixels, shape)

    def tile(  # type: ignore[no-untyped-def]
        typingctx, scratch, pixel_step, tap_step, kernel_w, row_groups, weights, columns, out, ldc,
        m, n, limits
    ):  # fmt: skip
        return _signature(12), codegen

    return intrinsic(tile)


def _row_tile(family: str, lanes: int, pixels: int, shape: tuple[int, int]) -> Any:
    """Helper that runs the tile over one output row."""
    tile = _tile(family, lanes, pixels, shape)

    def run(  # type: ignore[no-untyped-def]
        scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out, channels, width,
        valid, limits
    ):  # fmt: skip
        for ox in range(0, width, pixels):
            tile(scratch + ox * pixel_step, pixel_step, tap_step, kernel_w, groups, weights,
                 columns, out + ox * channels, channels, min(pixels, width - ox), valid, limits)  # fmt: skip
        return 0

    return helper(run)


# (kernel_w, stride_w) with tiles of their own, at dilation 1; any other runs the tile (0, 0)
SHAPES = ((3, 1), (3, 2), (5, 1), (5, 2))


def _any_row_tile(family: str, lanes: int, pixels: int) -> Any:
    """Helper that runs the right tile over one output row."""
    tile31, tile32, tile51, tile52 = (_row_tile(family, lanes, pixels, s) for s in SHAPES)
    general = _row_tile(family, lanes, pixels, (0, 0))

    def run(  # type: ignore[no-untyped-def]
        row, scratch, pixel_step, tap_step, groups, weights, columns, out, channels, valid, limits
    ):
        width, kernel_w, stride = row[OUT_WIDTH], row[KERNEL_W], row[STRIDE_W]
        dense = row[DILATION_W] == 1
        if dense and kernel_w == 3 and stride == 1:
            tile31(scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out,
                   channels, width, valid, limits)  # fmt: skip
        elif dense and kernel_w == 3 and stride == 2:
            tile32(scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out,
                   channels, width, valid, limits)  # fmt: skip
        elif dense and kernel_w == 5 and stride == 1:
            tile51(scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out,
                   channels, width, valid, limits)  # fmt: skip
        elif dense and kernel_w == 5 and stride == 2:
            tile52(scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out,
                   channels, width, valid, limits)  # fmt: skip
        else:
            general(scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out,
                    channels, width, valid, limits)  # fmt: skip
        return 0

    return helper(run)


def make_kernel(spec: DepthwiseSpec) -> Kernel:
    """The depthwise kernel of a generated family."""
    rows = spec.rows
    quads = rows == 4
    pixels = spec.pixels
    wide_lanes, slim_lanes = spec.lanes[0], spec.lanes[-1]
    wide_interleave = _interleave(spec.family, rows, wide_lanes)
    slim_interleave = _interleave(spec.family, rows, slim_lanes)
    wide_tiles = _any_row_tile(spec.family, wide_lanes, pixels)
    slim_tiles = _any_row_tile(spec.family, slim_lanes, pixels)
    wide_carry1, wide_carry2, slim_carry1, slim_carry2 = (
        _carry_row(spec.family, lanes, stride) if quads else wide_interleave
        for lanes in (wide_lanes, slim_lanes)
        for stride in (1, 2)
    )
    itemsize = np.dtype(spec.weight_dtype).itemsize
    wide, slim = 4 * wide_lanes, 4 * slim_lanes

    def depthwise(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        threads = min(threads, row[MAX_THREADS])
        if thread >= threads:
            return 0
        x = operand(row, X, arena, constants)
        y = operand(row, Y, arena, constants)
        weights0 = operand(row, WEIGHTS, arena, constants)
        columns0 = operand(row, COLUMNS, arena, constants)
        pad = operand(row, PAD, arena, constants)
        limits = operand(row, LIMITS, arena, constants)
        scratch = operand(row, SCRATCH, arena, constants) + thread * row[SCRATCH_NBYTES]
        channels = row[CHANNELS]
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
        # one dot group of rows, three columns: nothing needs to lie in scratch
        carry = quads and groups == 1 and kernel_w == 3 and dilation_w == 1 and stride_w <= 2
        blocks_of_row = (channels + wide - 1) // wide
        units = row[BATCH] * out_height * blocks_of_row
        for unit in range(units * thread // threads, units * (thread + 1) // threads):
            line = unit // blocks_of_row
            block = unit - line * blocks_of_row
            image = line // out_height
            oy = line - image * out_height
            c0 = block * wide
            valid = min(wide, channels - c0)
            is_slim = valid <= slim and slim < wide
            lanes = slim_lanes if is_slim else wide_lanes
            vector_nbytes = 4 * lanes
            column_nbytes = groups * 4 * vector_nbytes
            iy0 = oy * row[STRIDE_H] - row[PAD_H]
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
                    if ky < kernel_h and 0 <= iy and iy < height:
                        p = x + ((image * height + iy) * width) * channels + c0
                        if r == 0:
                            p0, s0 = p, channels
                        elif r == 1:
                            p1, s1 = p, channels
                        elif r == 2:
                            p2, s2 = p, channels
                        else:
                            p3, s3 = p, channels
                if quads and carry:
                    weights = weights0 + c0 * rows * kernel_w * itemsize
                    columns = columns0 + c0 * 8
                    out = y + line * out_width * channels + c0
                    if is_slim and stride_w == 1:
                        slim_carry1(p0, p1, p2, p3, s0, s1, s2, s3, pad, before, inside, out_width,
                                    weights, columns, out, channels, valid, limits)  # fmt: skip
                    elif is_slim:
                        slim_carry2(p0, p1, p2, p3, s0, s1, s2, s3, pad, before, inside, out_width,
                                    weights, columns, out, channels, valid, limits)  # fmt: skip
                    elif stride_w == 1:
                        wide_carry1(p0, p1, p2, p3, s0, s1, s2, s3, pad, before, inside, out_width,
                                    weights, columns, out, channels, valid, limits)  # fmt: skip
                    else:
                        wide_carry2(p0, p1, p2, p3, s0, s1, s2, s3, pad, before, inside, out_width,
                                    weights, columns, out, channels, valid, limits)  # fmt: skip
                    continue
                middle = to + before * column_nbytes
                end = middle + inside * column_nbytes
                if quads:
                    if is_slim:
                        slim_interleave(pad, pad, pad, pad, 0, 0, 0, 0, to, column_nbytes, before)
                        slim_interleave(p0, p1, p2, p3, s0, s1, s2, s3, middle, column_nbytes, inside)
                        slim_interleave(pad, pad, pad, pad, 0, 0, 0, 0, end, column_nbytes, after)
                    else:
                        wide_interleave(pad, pad, pad, pad, 0, 0, 0, 0, to, column_nbytes, before)
                        wide_interleave(p0, p1, p2, p3, s0, s1, s2, s3, middle, column_nbytes, inside)
                        wide_interleave(pad, pad, pad, pad, 0, 0, 0, 0, end, column_nbytes, after)
                else:
                    wide_interleave(pad, pad, 0, 0, to, column_nbytes, before)
                    wide_interleave(p0, p1, s0, s1, middle, column_nbytes, inside)
                    wide_interleave(pad, pad, 0, 0, end, column_nbytes, after)
            if carry:
                continue
            weights = weights0 + c0 * groups * rows * kernel_w * itemsize
            columns = columns0 + c0 * 8
            pixel_step = stride_w * column_nbytes
            tap_step = dilation_w * column_nbytes
            out = y + line * out_width * channels + c0
            if is_slim:
                slim_tiles(row, scratch, pixel_step, tap_step, groups, weights, columns, out,
                           channels, valid, limits)  # fmt: skip
            else:
                wide_tiles(row, scratch, pixel_step, tap_step, groups, weights, columns, out,
                           channels, valid, limits)  # fmt: skip
        return 0

    def extents(row: Mapping[str, int]) -> list[Extent]:
        return _extents(spec, row)

    return kernel(
        spec.kernel_name,
        FIELDS,
        extents,
        family="depthwise",
        features=spec.features,
        preconditions={"max_scaled": 2**31},
    )(depthwise)


def _make_portable(spec: DepthwiseSpec) -> Kernel:
    """The scalar row: every output by itself."""

    def depthwise(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        threads = min(threads, row[MAX_THREADS])
        if thread >= threads:
            return 0
        x = as_u8(operand(row, X, arena, constants))
        y = as_u8(operand(row, Y, arena, constants))
        weights = as_i16(operand(row, WEIGHTS, arena, constants))
        bias = as_i32(operand(row, COLUMNS, arena, constants))
        channels = row[CHANNELS]
        multiplier = as_f32(operand(row, COLUMNS, arena, constants) + 4 * channels)
        pad_value = np.int32(as_u8(operand(row, PAD, arena, constants))[0])
        limits = as_i32(operand(row, LIMITS, arena, constants))
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
                            if 0 <= iy and iy < row[HEIGHT] and 0 <= ix and ix < row[WIDTH]:
                                at = ((image * row[HEIGHT] + iy) * row[WIDTH] + ix) * channels
                                value = np.int32(x[at + c])
                            w = np.int32(weights[(ky * row[KERNEL_W] + kx) * channels + c])
                            acc = add32(acc, mul32(value, w))
                    y[out + c] = quantize_u8(
                        np.float32(acc) * multiplier[c], low, high, zero_point
                    )
        return 0

    def extents(row: Mapping[str, int]) -> list[Extent]:
        return _extents(spec, row)

    return kernel(spec.kernel_name, FIELDS, extents, family="depthwise")(depthwise)


KERNELS_BY_SPEC: dict[DepthwiseSpec, Kernel] = {
    spec: _make_portable(spec) if spec.family == "portable" else make_kernel(spec)
    for spec in DEPTHWISE
}
