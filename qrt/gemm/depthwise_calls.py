"""Generated depthwise functions as functions that kernels call."""

from __future__ import annotations

from typing import Any

from qrt.gemm.depthwise_order import TALL
from qrt.gemm.depthwise_rows import DILATION_W, KERNEL_W, OUT_WIDTH, STRIDE_W
from qrt.gemm.depthwise_table import DepthwiseSpec
from qrt.jit.declare import helper, intrinsic


def _codegen(
    kind: str, spec: DepthwiseSpec, lanes: int, shape: tuple[int, int] = (0, 0)
) -> Any:
    """Numba codegen that calls a generated function of depthwise_tile.py."""
    family, pixels, epilogue = spec.family, spec.pixels, spec.epilogue

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        from llvmlite import ir

        from qrt.gemm import depthwise_tile
        from qrt.gemm.depthwise_carry import build_carry_row
        from qrt.gemm.emit import need_features

        name = f"qrt_depthwise_{kind}_{family}_{lanes}_{shape[0]}x{shape[1]}"
        fn = builder.module.globals.get(name)
        dot = depthwise_tile.DOTS[family, lanes]
        end = depthwise_tile.builder_of(epilogue, dot.features)
        if fn is None and kind == "carry":
            fn = build_carry_row(builder.module, name, dot, *shape, end)
        elif fn is None and kind == "interleave":
            fn = depthwise_tile.build_interleave(builder.module, name, dot)
        elif fn is None:
            fn = depthwise_tile.build_tile(builder.module, name, dot, pixels, shape, end)
        need_features(context, fn, dot.features)
        builder.call(fn, args)
        return ir.Constant(ir.IntType(64), 0)

    return codegen


def _signature(count: int) -> Any:
    from numba import types

    return types.int64(*[types.int64] * count)


def interleave_row(spec: DepthwiseSpec, lanes: int) -> Any:
    """Helper that interleaves one row group: pads, the columns inside the image, pads.

    (pad, pointer and step of four rows, scratch, scratch_step, before, inside, after) -> 0; a
    family of pairs looks at the first two rows.
    """
    codegen = _codegen("interleave", spec, lanes)

    def call_quads(  # type: ignore[no-untyped-def]
        typingctx, p0, p1, p2, p3, s0, s1, s2, s3, to, step, count
    ):
        return _signature(11), codegen

    def call_pairs(typingctx, p0, p1, s0, s1, to, step, count):  # type: ignore[no-untyped-def]
        return _signature(7), codegen

    if spec.rows == 4:
        quads = intrinsic(call_quads)

        def run_quads(  # type: ignore[no-untyped-def]
            pad, p0, p1, p2, p3, s0, s1, s2, s3, to, step, before, inside, after
        ):
            quads(pad, pad, pad, pad, 0, 0, 0, 0, to, step, before)
            to += before * step
            quads(p0, p1, p2, p3, s0, s1, s2, s3, to, step, inside)
            quads(pad, pad, pad, pad, 0, 0, 0, 0, to + inside * step, step, after)
            return 0

        return helper(run_quads)
    pairs = intrinsic(call_pairs)

    def run_pairs(  # type: ignore[no-untyped-def]
        pad, p0, p1, p2, p3, s0, s1, s2, s3, to, step, before, inside, after
    ):
        pairs(pad, pad, 0, 0, to, step, before)
        to += before * step
        pairs(p0, p1, s0, s1, to, step, inside)
        pairs(pad, pad, 0, 0, to + inside * step, step, after)
        return 0

    return helper(run_pairs)


def tall_row(spec: DepthwiseSpec, lanes: int, stride: int) -> Any:
    """Intrinsic over `depthwise_carry.arguments(5)` -> 0, for tall kernels."""
    codegen = _codegen("carry", spec, lanes, (TALL, stride))

    def call_tall_row(  # type: ignore[no-untyped-def]
        typingctx, p0, p1, p2, p3, p4, s0, s1, s2, s3, s4, pad, before, inside, width, weights,
        columns, out, ldc, n, limits
    ):  # fmt: skip
        return _signature(20), codegen

    return intrinsic(call_tall_row)


def carry_row(spec: DepthwiseSpec, lanes: int, stride: int) -> Any:
    """Intrinsic over `depthwise_carry.arguments(4)` -> 0, for kernels 3 wide."""
    codegen = _codegen("carry", spec, lanes, (3, stride))

    def call_carry_row(  # type: ignore[no-untyped-def]
        typingctx, p0, p1, p2, p3, s0, s1, s2, s3, pad, before, inside, width, weights, columns,
        out, ldc, n, limits
    ):  # fmt: skip
        return _signature(18), codegen

    return intrinsic(call_carry_row)


def _tile(spec: DepthwiseSpec, lanes: int, shape: tuple[int, int]) -> Any:
    """Intrinsic over `depthwise_tile.ARGUMENTS` -> 0."""
    codegen = _codegen("tile", spec, lanes, shape)

    def tile(  # type: ignore[no-untyped-def]
        typingctx, scratch, pixel_step, tap_step, kernel_w, row_groups, weights, columns, out, ldc,
        m, n, limits
    ):  # fmt: skip
        return _signature(12), codegen

    return intrinsic(tile)


def _row_tile(spec: DepthwiseSpec, lanes: int, shape: tuple[int, int]) -> Any:
    """Helper that runs the tile over one output row."""
    tile = _tile(spec, lanes, shape)
    pixels = spec.pixels

    def run(  # type: ignore[no-untyped-def]
        scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out, ldc, width, valid,
        limits
    ):  # fmt: skip
        for ox in range(0, width, pixels):
            at = scratch + ox * pixel_step
            m = min(pixels, width - ox)
            tile(at, pixel_step, tap_step, kernel_w, groups, weights, columns,
                 out + ox * ldc, ldc, m, valid, limits)  # fmt: skip
        return 0

    return helper(run)


# (kernel_w, stride_w) with tiles of their own, at dilation 1; any other runs the tile (0, 0)
SHAPES = ((3, 1), (3, 2), (5, 1), (5, 2))


def row_tiles(spec: DepthwiseSpec, lanes: int) -> Any:
    """Helper that runs the right tile over one output row."""
    tile31, tile32, tile51, tile52 = (_row_tile(spec, lanes, s) for s in SHAPES)
    general = _row_tile(spec, lanes, (0, 0))

    def run(  # type: ignore[no-untyped-def]
        row, scratch, pixel_step, tap_step, groups, weights, columns, out, ldc, valid, limits
    ):
        width, kernel_w, stride = row[OUT_WIDTH], row[KERNEL_W], row[STRIDE_W]
        dense = row[DILATION_W] == 1
        if dense and kernel_w == 3 and stride == 1:
            tile31(scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out,
                   ldc, width, valid, limits)  # fmt: skip
        elif dense and kernel_w == 3 and stride == 2:
            tile32(scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out,
                   ldc, width, valid, limits)  # fmt: skip
        elif dense and kernel_w == 5 and stride == 1:
            tile51(scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out,
                   ldc, width, valid, limits)  # fmt: skip
        elif dense and kernel_w == 5 and stride == 2:
            tile52(scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out,
                   ldc, width, valid, limits)  # fmt: skip
        else:
            general(scratch, pixel_step, tap_step, kernel_w, groups, weights, columns, out,
                    ldc, width, valid, limits)  # fmt: skip
        return 0

    return helper(run)
