"""Addresses of kernels for a set of features, and the interpreter as something Python can call."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from qrt.errors import CompileError
from qrt.jit.build import Progress
from qrt.jit.declare import KERNELS, Kernel
from qrt.jit.load import kernel_addresses
from qrt.jit.target import target_for
from qrt.vm.interpreter import run_kernel, serve_kernel, stop_kernel

# a call through this type gives up the GIL for as long as the function runs
_PROTOTYPE = ctypes.CFUNCTYPE(
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
)
_MACHINE = (run_kernel, serve_kernel, stop_kernel)


@dataclass(frozen=True, eq=False)
class Machine:
    """The interpreter's functions: (block, arena, constants, thread, threads) -> int64."""

    run: Any
    serve: Any
    stop: Any


def addresses_for(
    names: Iterable[str], features: frozenset[str], progress: Progress | None = None
) -> dict[str, int]:
    """Address by name of each kernel; compiles what the cache lacks, the interpreter with it.

    Raises CompileError when a kernel needs a feature that is not among `features`.
    """
    kernels: list[Kernel] = [KERNELS[name] for name in names]
    for kernel in kernels:
        lacking = kernel.features - features
        if lacking:
            raise CompileError(
                f"kernel {kernel.name} needs {', '.join(sorted(lacking))}, which is not in use here"
            )
    # one request for all, so that one set of workers and one progress line serve it
    return kernel_addresses([*kernels, *_MACHINE], target_for(features), progress)


@cache
def machine(features: frozenset[str]) -> Machine:
    """The interpreter compiled for `features`."""
    found = kernel_addresses(_MACHINE, target_for(features))
    return Machine(*(_PROTOTYPE(found[kernel.name]) for kernel in _MACHINE))
