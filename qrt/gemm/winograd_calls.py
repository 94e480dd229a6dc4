"""The generated transforms as functions that kernels call."""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import intrinsic


def input_transform(lanes: int, features: tuple[str, ...]) -> Any:
    """Intrinsic over `winograd_tile.INPUT_ARGUMENTS` -> 0."""

    def call_winograd_input(typingctx, pixels, to, step, vectors):  # type: ignore[no-untyped-def]
        from numba import types

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            from llvmlite import ir

            from qrt.gemm.emit import need_features
            from qrt.gemm.winograd_tile import build_input

            fn = build_input(builder.module, "qrt_winograd_input", lanes)
            need_features(context, fn, features)
            builder.call(fn, args)
            return ir.Constant(ir.IntType(64), 0)

        return types.int64(*[types.int64] * 4), codegen

    return intrinsic(call_winograd_input)


def output_transform(lanes: int, features: tuple[str, ...], epilogue: str) -> Any:
    """Intrinsic over `winograd_tile.OUTPUT_ARGUMENTS` -> 0."""

    def call_winograd_output(  # type: ignore[no-untyped-def]
        typingctx, sums, step, columns, out, ldc, line, lines, m, n, limits
    ):
        from numba import types

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            from llvmlite import ir

            from qrt.gemm.emit import need_features
            from qrt.gemm.epilogue import BUILDERS
            from qrt.gemm.winograd_tile import build_output

            fn = build_output(builder.module, "qrt_winograd_output", lanes, BUILDERS[epilogue])
            need_features(context, fn, features)
            builder.call(fn, args)
            return ir.Constant(ir.IntType(64), 0)

        return types.int64(*[types.int64] * 10), codegen

    return intrinsic(call_winograd_output)
