"""Rows with one to three fields replaced by anything: refused, or every touch is still inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from kernel_trace import TooLong, strays, trace_kernel
from product_cases import Tally

from qrt.jit.declare import Kernel

MOST_NBYTES = 2**24  # no arena of a test is larger: verify refuses the row
Row = dict[str, int]


def check_corrupt_rows(
    kernel: Kernel,
    rows: Iterable[tuple[int, Row]],
    fields: Sequence[str],
    values: Sequence[int],
    tally: Tally,
    *,
    limit: int,
    repair: Callable[[Row, np.random.Generator], None] = lambda row, rng: None,
) -> None:
    """Damage each of `rows` (with its seed), and trace what `extents` lets pass.

    `repair` may mend what would otherwise be refused before the rest is looked at; `limit` is the
    number of steps that a trace takes at most.
    """
    refused = too_long = 0
    for seed, row in rows:
        rng = np.random.default_rng(seed + 1)
        for name in rng.choice(fields, rng.integers(1, 4), replace=False):
            row[name] = int(rng.choice(np.array(values, object)))
        repair(row, rng)
        try:
            extents = kernel.extents(row)
        except ValueError:
            refused += 1
            continue
        if any(e.nbytes > MOST_NBYTES for e in extents):
            refused += 1
            continue
        for thread in range(2):
            try:
                trace = trace_kernel(kernel, row, thread, 2, limit=limit)
            except TooLong:
                too_long += 1
                continue
            found = strays(trace, kernel, extents)
            tally.expect((seed, row), not found, f"{len(found)} strays, {found[:1]}")
    print(f"{refused} refused, {too_long} too long to trace, {tally.cases} traced")
    tally.finish()
