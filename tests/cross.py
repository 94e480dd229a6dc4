"""Generated functions as assembly of a CPU that need not be this one."""

from __future__ import annotations

from collections.abc import Iterable

import llvmlite.binding as llvm
from llvmlite import ir

from qrt.jit.target import initialize_llvm, target_for


def empty_module(arch: str) -> ir.Module:
    """A module whose triple tells generators whose instructions they write."""
    initialize_llvm(foreign=True)
    module = ir.Module()
    module.triple = target_for(frozenset(), arch).triple
    return module


def assembly(module: ir.Module, features: Iterable[str]) -> str:
    """Assembly of `module` for a CPU of its architecture with `features` (qrt names)."""
    arch = str(module.triple).split("-")[0]
    machine = target_for(frozenset(features), arch).machine()
    for fn in module.functions:
        if not fn.is_declaration:
            fn.linkage = "external"
    parsed = llvm.parse_assembly(str(module))
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(parsed, builder)
    return str(machine.emit_assembly(parsed))
