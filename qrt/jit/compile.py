"""Compile one declared kernel to a relocatable object, through numba's own optimiser.

Runs in a worker process that compiles for one target (`numba_codegen`), so numba vectorizes for
that target and no other.
"""

from __future__ import annotations

import llvmlite.binding as llvm

from qrt.jit.bounds import checked_ir
from qrt.jit.declare import Kernel
from qrt.jit.numba_codegen import use_target
from qrt.jit.numba_options import HELPER_OPTIONS, KERNEL_SIGNATURE, njit
from qrt.jit.target import Target

_EXCEPTION = "{i8*, i32, i8*, i8*, i32}"  # numba's, which no kernel raises
_WRAPPER = """
target triple = "{triple}"
declare i32 @"{native}"(i64*, {exception}**, i64*, i8*, i8*, i64, i64)
define i64 @"{name}"(i64* %row, i8* %arena, i8* %constants, i64 %thread, i64 %threads) {{
  %result = alloca i64
  %raised = alloca {exception}*
  store i64 0, i64* %result
  call i32 @"{native}"(i64* %result, {exception}** %raised,
      i64* %row, i8* %arena, i8* %constants, i64 %thread, i64 %threads)
  %status = load i64, i64* %result
  ret i64 %status
}}
"""


def compile_object(kernel: Kernel, target: Target) -> bytes:
    """Object file that defines exactly one global function, `kernel.name`."""
    use_target(target)
    dispatcher = njit(**HELPER_OPTIONS)(kernel.fn)
    dispatcher.compile(KERNEL_SIGNATURE)
    (compiled,) = dispatcher.overloads.values()
    module = llvm.parse_assembly(compiled.library.get_llvm_str())
    assert module.triple == target.triple, module.triple
    wrapper = _WRAPPER.format(
        triple=module.triple,
        native=compiled.fndesc.llvm_func_name,
        name=kernel.name,
        exception=_EXCEPTION,
    )
    module.link_in(llvm.parse_assembly(wrapper))
    for fn in module.functions:
        if not fn.is_declaration and fn.name != kernel.name:
            fn.linkage = "internal"
    for variable in module.global_variables:  # numba's environments, which no kernel uses
        if not variable.is_declaration:
            variable.linkage = "internal"
    machine = target.machine()
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    if target.bounds and kernel.family != "vm":  # the interpreter is given no operands
        module = llvm.parse_assembly(checked_ir(str(module), kernel.name))
        module.verify()
    return bytes(machine.emit_object(module))
