"""Numba's code generator for a target of ours: IR only, never machine code of this process.

Numba keeps one code generator in its CPU context and lets LLVM's JIT finalize whatever it compiles.
Ours knows triple, data layout and target machine of the `Target` and stops at optimized IR, so a
worker compiles for any architecture, and helpers are not compiled to machine code that nobody runs.
Imported by compile workers only (it needs numba, and is written against its private classes).
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import CPUCodegen, JITCodeLibrary
from numba.core.registry import cpu_target

from qrt.jit.target import Target


def use_target(target: Target) -> None:
    """Compile for `target` from now on; once per process, before anything is compiled."""
    context = cpu_target.target_context
    present = context.codegen()
    if isinstance(present, TargetCodegen):
        if present.target != target:
            raise ValueError(f"this process compiles for {present.target}, not for {target}")
        return
    context._internal_codegen = TargetCodegen(target)


class IRLibrary(JITCodeLibrary):  # type: ignore[misc]
    """A library that ends as an optimized LLVM module."""

    def get_pointer_to_function(self, name: str) -> int:
        """No address: nothing is loaded here."""
        self._ensure_finalized()
        return 0

    def _finalize_specific(self) -> None:
        pass


class _NoEngine:
    """Stands where numba keeps its JIT."""

    def _load_defined_symbols(self, module: Any) -> None:
        pass


class TargetCodegen(CPUCodegen):  # type: ignore[misc]
    """Optimizes with the cost tables of `target`; `target` is what intrinsics may ask for."""

    _library_class = IRLibrary

    def __init__(self, target: Target) -> None:
        self.target = target
        super().__init__("qrt")

    def _init(self, llvm_module: Any) -> None:
        self._tm_features = self.target.features
        self._tm = self.target.machine()
        self._engine: Any = _NoEngine()
        self._target_data = self._tm.target_data
        self._data_layout = str(self._target_data)
        self._loopvect = False
        self._opt_level = 0

    def _create_empty_module(self, name: str) -> Any:
        module = super()._create_empty_module(name)
        module.triple = self.target.triple
        return module

    def _get_host_cpu_name(self) -> str:
        return self.target.cpu

    def _add_module(self, module: Any) -> None:
        pass

    def set_env(self, name: str, env: Any) -> None:
        """No environment: kernels hold no Python objects."""
