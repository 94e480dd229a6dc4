"""Time of every row, from stamps that the interpreter takes between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.vm.executor import Executor

Array = np.ndarray[Any, Any]


def time_rows(executor: Executor, inputs: Sequence[Array], runs: int, warm_up: int = 3) -> Array:
    """Nanoseconds of each row in each of `runs` runs: int64 (runs, rows).

    A row lasts until the next begins on the caller's thread, which includes waiting for the other
    threads at a barrier.
    """
    stamps = np.zeros((runs, len(executor.program.rows) + 1), np.int64)
    for i in range(-warm_up, runs):
        call, home = executor.take(inputs)
        try:
            call.stamp(stamps[max(i, 0)])
            failure = call.enter()
            if failure:
                executor.fail(failure)
        finally:
            call.stamp(None)
            home.append(call)
    return np.diff(stamps, axis=1)
