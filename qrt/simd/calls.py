"""Calls by address: of the kernels that rows name, and of those that a kernel calls itself."""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import intrinsic


@intrinsic
def call_kernel(
    typingctx: Any, address: Any, row: Any, arena: Any, constants: Any, thread: Any, threads: Any
) -> Any:
    """Call the kernel at `address` with `row` (an address too); returns its status."""
    from llvmlite import ir
    from numba import types

    word = types.int64
    byte_pointer = types.CPointer(types.uint8)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64, i8p = ir.IntType(64), ir.IntType(8).as_pointer()
        signature_ll = ir.FunctionType(i64, [i64.as_pointer(), i8p, i8p, i64, i64])
        fn = builder.inttoptr(args[0], signature_ll.as_pointer())
        row_pointer = builder.inttoptr(args[1], i64.as_pointer())
        return builder.call(fn, [row_pointer, *args[2:]])

    return word(word, word, byte_pointer, byte_pointer, word, word), codegen
