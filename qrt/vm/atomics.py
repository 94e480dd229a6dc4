"""Words that threads share: atomics, waiting, and the few libc calls of the interpreter.

All take int64 addresses; every atomic is sequentially consistent.
"""

from __future__ import annotations

from typing import Any

from qrt.jit.declare import intrinsic


def _word_pointer(builder: Any, address: Any) -> Any:
    from llvmlite import ir

    return builder.inttoptr(address, ir.IntType(64).as_pointer())


@intrinsic
def atomic_load(typingctx: Any, address: Any) -> Any:
    """The int64 at `address`."""
    from numba import types

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word_pointer(builder, args[0]), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx: Any, address: Any, value: Any) -> Any:
    """Store `value` at `address`; returns it."""
    from numba import types

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _word_pointer(builder, args[0]), "seq_cst", 8)
        return args[1]

    return types.int64(types.int64, types.int64), codegen


def _read_modify_write(name: str, operation: str, what: str) -> Any:
    def change(typingctx: Any, address: Any, value: Any) -> Any:
        from numba import types

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _word_pointer(builder, args[0])
            return builder.atomic_rmw(operation, pointer, args[1], "seq_cst")

        return types.int64(types.int64, types.int64), codegen

    change.__name__ = name
    change.__doc__ = f"{what}; returns the old value."
    return intrinsic(change)


atomic_add = _read_modify_write("atomic_add", "add", "Add `value` to the int64 at `address`")
atomic_swap = _read_modify_write("atomic_swap", "xchg", "Put `value` at `address`")


@intrinsic
def atomic_claim(typingctx: Any, address: Any, expected: Any, value: Any) -> Any:
    """Put `value` at `address` if it holds `expected`; returns 1 when it did, else 0."""
    from llvmlite import ir
    from numba import types

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _word_pointer(builder, args[0])
        both = builder.cmpxchg(pointer, args[1], args[2], "seq_cst", "seq_cst")
        return builder.zext(builder.extract_value(both, 1), ir.IntType(64))

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the core that this thread spins (x86 `pause`, ARM `yield`; nothing elsewhere)."""
    from llvmlite import ir
    from numba import types

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        triple = str(builder.module.triple)
        void, i32 = ir.VoidType(), ir.IntType(32)
        if triple.startswith(("x86_64", "i686")):
            hint = ir.FunctionType(void, [])
            builder.call(_external(builder, hint, "llvm.x86.sse2.pause"), [])
        elif triple.startswith(("aarch64", "arm64")):
            hint = ir.FunctionType(void, [i32])
            builder.call(_external(builder, hint, "llvm.aarch64.hint"), [i32(1)])
        return context.get_constant(types.int64, 0)

    return types.int64(), codegen


def _libc(name: str, parameters: int, what: str, *, wide: bool = False) -> Any:
    # int (or, if `wide`, long) name(void *, ...): every argument is passed as a whole register
    def call(typingctx: Any, *arguments: Any) -> Any:
        from llvmlite import ir
        from numba import types

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = ir.IntType(64)
            result = word if wide else ir.IntType(32)
            fn = _external(builder, ir.FunctionType(result, [word] * parameters), name)
            answer = builder.call(fn, list(args))
            return answer if wide else builder.sext(answer, word)

        return types.int64(*[types.int64] * parameters), codegen

    if parameters == 0:

        def typed(typingctx: Any) -> Any:
            return call(typingctx)
    elif parameters == 1:

        def typed(typingctx: Any, a: Any) -> Any:  # type: ignore[misc]
            return call(typingctx, a)
    elif parameters == 2:

        def typed(typingctx: Any, a: Any, b: Any) -> Any:  # type: ignore[misc]
            return call(typingctx, a, b)
    else:

        def typed(typingctx: Any, a: Any, b: Any, c: Any) -> Any:  # type: ignore[misc]
            return call(typingctx, a, b, c)

    typed.__name__ = name
    typed.__doc__ = what
    return intrinsic(typed)


sched_yield = _libc("sched_yield", 0, "Let another thread have this core.")
sched_getcpu = _libc("sched_getcpu", 0, "Number of the CPU that this thread runs on, or -1.")
sched_setaffinity = _libc(
    "sched_setaffinity", 3, "Let thread `a` (0: this one) run on the CPUs of `b` bytes at `c` only."
)
this_thread = _libc("pthread_self", 0, "What pthread functions call this thread.", wide=True)
getaffinity = _libc(
    "pthread_getaffinity_np", 3, "Write the CPUs of pthread `a` to the `b` bytes at `c`."
)
clock_gettime = _libc("clock_gettime", 2, "Write (seconds, ns) of clock `a` to address `b`.")
mutex_lock = _libc("pthread_mutex_lock", 1, "Lock the mutex at an address.")
mutex_unlock = _libc("pthread_mutex_unlock", 1, "Unlock the mutex at an address.")
cond_signal = _libc("pthread_cond_signal", 1, "Wake the thread that waits at a condition.")
cond_broadcast = _libc("pthread_cond_broadcast", 1, "Wake all threads that wait at a condition.")
cond_wait = _libc("pthread_cond_wait", 2, "Wait at condition `a`, mutex `b` given up meanwhile.")


def _external(builder: Any, function_type: Any, name: str) -> Any:
    from numba.core import cgutils

    return cgutils.get_or_insert_function(builder.module, function_type, name)
