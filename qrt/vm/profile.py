"""Time of every row, as the interpreter takes it between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.vm.executor import Executor

Array = np.ndarray[Any, Any]


def time_rows(executor: Executor, inputs: Sequence[Array], runs: int, warm_up: int = 3) -> Array:
    """Nanoseconds of each row in each of `runs` runs: int64 (runs, rows).

    A row lasts until the next begins on the caller's thread, which includes waiting for the other
    threads at a barrier; one that is jumped over takes no time.
    """
    times = np.zeros((runs, len(executor.program.rows)), np.int64)
    unread = np.zeros(len(executor.program.rows), np.int64)
    for i in range(-warm_up, runs):
        call, home = executor.take(inputs)
        try:
            call.time(times[i] if i >= 0 else unread)
            failure = call.enter()
            if failure:
                executor.fail(failure)
        finally:
            call.time(None)
            home.append(call)
    return times
