"""Generated functions as assembly of a CPU that need not be this one."""

from __future__ import annotations

from collections.abc import Iterable

from llvmlite import ir

from qrt.jit.assembly import assembly as optimised_assembly
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
    return optimised_assembly(module, target_for(frozenset(features), arch))
