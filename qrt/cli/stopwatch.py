"""How long calls take."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

WARM_UP_RUNS = 3


@dataclass(frozen=True)
class Times:
    """Seconds over `runs` timed calls."""

    runs: int
    median: float
    min: float
    p90: float


def time_calls(call: Callable[[], Any], runs: int, seconds: float) -> Times:
    """Time `call` until `runs` or `seconds` are used up, whichever is first; once at least."""
    for _ in range(WARM_UP_RUNS):
        call()
    clock = time.perf_counter
    taken: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = clock() + seconds
        while len(taken) < runs:
            start = clock()
            call()
            stop = clock()
            taken.append(stop - start)
            if stop >= deadline:
                break
    finally:
        if collecting:
            gc.enable()
    median, p90 = np.percentile(taken, (50, 90))
    return Times(len(taken), float(median), min(taken), float(p90))
