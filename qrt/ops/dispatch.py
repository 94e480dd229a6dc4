"""Which row of a kernel table runs: that of a type, or the first whose features are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qrt.errors import UnsupportedError
from qrt.jit.declare import Kernel


def kernel_of(kernels: Mapping[str, Kernel], dtype: object, what: str) -> Kernel:
    """The kernel for elements of `dtype`; UnsupportedError ("`what` int8 is not supported")."""
    name = np.dtype(dtype).name  # type: ignore[call-overload]
    if name not in kernels:
        raise UnsupportedError(f"{what} {name} is not supported, only {', '.join(kernels)}")
    return kernels[name]


def usable_kernel(
    table: Sequence[Kernel], features: frozenset[str], facts: Mapping[str, int] | None = None
) -> Kernel | None:
    """First kernel of `table` (fastest first) that `features` can run and whose preconditions are
    among `facts`, or None."""
    known = (facts or {}).items()
    fitting = (k for k in table if k.features <= features and k.preconditions.items() <= known)
    return next(fitting, None)


def best_kernel(
    table: Sequence[Kernel], features: frozenset[str], facts: Mapping[str, int] | None = None
) -> Kernel:
    """The same of a table whose last kernel, the portable one, always fits."""
    kernel = usable_kernel(table, features, facts)
    assert kernel is not None, table
    return kernel
