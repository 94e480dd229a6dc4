"""Which row of a kernel table runs: the first whose features are there and which may run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qrt.jit.declare import Kernel


def best_kernel(
    table: Sequence[Kernel], features: frozenset[str], facts: Mapping[str, int] | None = None
) -> Kernel:
    """First kernel of `table` (fastest first, the portable one last) that `features` can run and
    whose preconditions are among `facts`."""
    known = (facts or {}).items()
    return next(k for k in table if k.features <= features and k.preconditions.items() <= known)
