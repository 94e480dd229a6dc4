"""A digest of all that a kernel's code depends on: its own bytecode and what it can reach.

Functions are followed through globals and closures, those of Python, NumPy and numba by name only;
constants enter by value; modules that a function imports when it runs (generators of LLVM code) by
their source. So an edit of a helper recompiles the kernels that use it and no others.
"""

from __future__ import annotations

import hashlib
import sys
import types
from typing import Any

import llvmlite

from qrt.jit.compile_source import generator_bytes, source_bytes
from qrt.jit.declare import Declared, Kernel
from qrt.jit.target import Target


def kernel_digest(kernel: Kernel, target: Target) -> str:
    """Hex digest that names the object file of `kernel` for `target`."""
    h = hashlib.sha256()
    h.update(repr((kernel.name, target, sys.version_info[:2], llvmlite.__version__)).encode())
    h.update(source_bytes())
    _walk(kernel.fn, h, set())
    return h.hexdigest()[:32]


def _walk(value: Any, h: Any, seen: set[int]) -> None:
    if isinstance(value, (Declared, Kernel)):
        value = value.fn
    if isinstance(value, types.FunctionType):
        if id(value) in seen or (value.__module__ or "").partition(".")[0] in _FOREIGN:
            h.update(value.__qualname__.encode())
            return
        seen.add(id(value))
        _walk_code(value.__code__, h)
        for cell in value.__closure__ or ():
            _walk(cell.cell_contents, h, seen)
        for default in value.__defaults__ or ():
            _walk(default, h, seen)
        for name in sorted(_names(value.__code__)):
            if name in value.__globals__:
                h.update(name.encode())
                _walk(value.__globals__[name], h, seen)
    elif isinstance(value, types.ModuleType):
        h.update(value.__name__.encode())
    elif isinstance(value, (tuple, list)):
        for item in value:
            _walk(item, h, seen)
    elif isinstance(value, type):
        h.update(value.__qualname__.encode())
    else:
        text = repr(value)
        if " at 0x" in text:  # an object without a value of its own would never hit the cache
            raise TypeError(f"a kernel depends on {text}, which has no stable value")
        h.update(text.encode())


# functions of these are known by name: their version is in the key, or they are Python's own
_FOREIGN = {*sys.stdlib_module_names, "numpy", "numba", "llvmlite"} - {"__main__"}


def _walk_code(code: types.CodeType, h: Any) -> None:
    h.update(code.co_code)
    h.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    # what is imported inside a function stands in no global: a generator counts by its source
    for package in (name for name in code.co_names if name.startswith("qrt.")):
        for module in (package, *(f"{package}.{name}" for name in code.co_names)):
            h.update(generator_bytes(module))
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            _walk_code(const, h)
        elif isinstance(const, frozenset):
            h.update(repr(sorted(const, key=repr)).encode())
        else:
            h.update(repr(const).encode())


def _names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= _names(const)
    return names
