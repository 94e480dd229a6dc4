"""Numba's options, once: what every kernel and helper is compiled with."""

from __future__ import annotations

from typing import Any

from numba import njit, types

__all__ = ["HELPER_OPTIONS", "KERNEL_SIGNATURE", "njit"]

# error_model numpy: no division-by-zero branch; boundscheck off: programs are verified instead.
# No wrapper: kernels are called by address, never from Python through numba.
HELPER_OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "boundscheck": False,
    "fastmath": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "nogil": True,
}

KERNEL_SIGNATURE = types.int64(
    types.CPointer(types.int64),
    types.CPointer(types.uint8),
    types.CPointer(types.uint8),
    types.int64,
    types.int64,
)
