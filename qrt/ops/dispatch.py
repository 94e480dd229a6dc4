"""Which row of a kernel table runs: the first whose features are there."""

from __future__ import annotations

from collections.abc import Sequence

from qrt.jit.declare import Kernel


def best_kernel(table: Sequence[Kernel], features: frozenset[str]) -> Kernel:
    """First kernel of `table` (fastest first, the portable one last) that `features` can run."""
    return next(k for k in table if k.features <= features)
