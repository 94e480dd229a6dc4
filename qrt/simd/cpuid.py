"""CPUID and XGETBV, asked by a few instructions of ours that LLVM assembles in this process."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

from qrt.jit.target import initialize_llvm


class Registers(NamedTuple):
    """What CPUID leaves behind, unsigned words."""

    eax: int
    ebx: int
    ecx: int
    edx: int


# one leaf into four words; XCR0's low word, which says what state the operating system saves
_SOURCE = """
define void @cpuid(i32 %leaf, i32 %subleaf, ptr %out) {
  %words = call { i32, i32, i32, i32 } asm sideeffect "cpuid",
    "={ax},={bx},={cx},={dx},0,2"(i32 %leaf, i32 %subleaf)
  %eax = extractvalue { i32, i32, i32, i32 } %words, 0
  %ebx = extractvalue { i32, i32, i32, i32 } %words, 1
  %ecx = extractvalue { i32, i32, i32, i32 } %words, 2
  %edx = extractvalue { i32, i32, i32, i32 } %words, 3
  %at1 = getelementptr i32, ptr %out, i32 1
  %at2 = getelementptr i32, ptr %out, i32 2
  %at3 = getelementptr i32, ptr %out, i32 3
  store i32 %eax, ptr %out
  store i32 %ebx, ptr %at1
  store i32 %ecx, ptr %at2
  store i32 %edx, ptr %at3
  ret void
}
define i32 @xgetbv() {
  %xcr0 = call { i32, i32 } asm sideeffect "xgetbv", "={ax},={dx},{cx}"(i32 0)
  %low = extractvalue { i32, i32 } %xcr0, 0
  ret i32 %low
}
"""


def cpuid(leaf: int, subleaf: int = 0) -> Registers:
    """One leaf of an x86 CPU; a leaf above the highest that it has is not to be asked for."""
    words = (ctypes.c_uint32 * 4)()
    _functions()[0](leaf, subleaf, words)
    return Registers(*words)


def xgetbv() -> int:
    """The low word of XCR0; needs CPUID's OSXSAVE."""
    return int(_functions()[1]())


@cache
def _functions() -> tuple[Any, Any, Any]:
    """The two functions, and the engine that owns their code."""
    import llvmlite.binding as llvm

    initialize_llvm()
    llvm.initialize_native_asmparser()
    # the oldest x86-64: code that asks what there is may need nothing
    machine = llvm.Target.from_default_triple().create_target_machine(cpu="x86-64", opt=0, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_SOURCE), machine)
    engine.finalize_object()
    ask = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
    return (
        ask(engine.get_function_address("cpuid")),
        ctypes.CFUNCTYPE(ctypes.c_uint32)(engine.get_function_address("xgetbv")),
        engine,
    )
