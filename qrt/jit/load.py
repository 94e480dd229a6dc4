"""Load objects into this process and give the addresses of their kernels."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Any

from qrt.errors import CompileError
from qrt.jit.build import Progress, build_objects
from qrt.jit.declare import Kernel
from qrt.jit.target import Target, initialize_llvm

_lock = threading.Lock()
_addresses: dict[tuple[Target, str], int] = {}
_engines: list[Any] = []  # keeps the code of every address alive


def kernel_addresses(
    kernels: Iterable[Kernel], target: Target, progress: Progress | None = None
) -> dict[str, int]:
    """Address by name of each kernel for `target`; compiled and loaded once per process."""
    kernels = {k.name: k for k in kernels}.values()
    with _lock:
        missing = [k for k in kernels if (target, k.name) not in _addresses]
        if missing:
            objects = build_objects(missing, target, progress)
            _load(objects, target)
        return {k.name: _addresses[target, k.name] for k in kernels}


def _load(objects: dict[str, bytes], target: Target) -> None:
    import llvmlite.binding as llvm

    initialize_llvm()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target.machine())
    for name, body in objects.items():
        try:
            engine.add_object_file(llvm.ObjectFileRef.from_data(body))
        except RuntimeError as error:
            raise CompileError(f"kernel {name!r} does not load: {error}") from error
    engine.finalize_object()
    _engines.append(engine)
    for name in objects:
        address = engine.get_function_address(name)
        if not address:
            raise CompileError(f"kernel {name!r} has no address after loading")
        _addresses[target, name] = address


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # whoever held it does not exist in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
