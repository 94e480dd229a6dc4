"""Every environment variable that qrt reads, once."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Knob:
    """Name of an environment variable, its default and what it does."""

    name: str
    default: str
    meaning: str

    def get(self) -> str:
        """The variable's value, or the default."""
        return os.environ.get(self.name, self.default)


FEATURES = Knob(
    "QRT_FEATURES",
    "",
    "CPU features to use: a level (portable, avx2, avx512vnni, ...) and/or +name, -name;"
    " empty means all that this CPU has",
)
CACHE_DIR = Knob("QRT_CACHE_DIR", "", "folder of compiled kernels; empty means the user's cache")
THREADS = Knob("QRT_THREADS", "", "threads of a session that does not say; empty means one")
WINOGRAD = Knob(
    "QRT_WINOGRAD",
    "auto",
    "Winograd convolutions, whose weights take 8 times the bytes: auto where they should be faster,"
    " always wherever they are exact, never",
)
PROGRESS = Knob(
    "QRT_PROGRESS", "1", "0 hides the progress lines of the first compilation and of calibration"
)
JIT_WORKERS = Knob("QRT_JIT_WORKERS", "", "compiling processes; empty means one per usable core")
JIT_KEEP = Knob(
    "QRT_JIT_KEEP",
    "0",
    "1 keeps the compiling processes, 200 MB each, for the kernels that come next",
)
CACHE_SIZES = Knob(
    "QRT_CACHE_SIZES",
    "",
    "sizes of L1d, L2 and L3 that blocking goes by, such as 32K,1M,32M; empty means this CPU's",
)
MEASURE = Knob(
    "QRT_MEASURE",
    "0",
    "1 chooses between tiles of products by timing them, once per CPU, instead of a cost model",
)
BOUNDS = Knob(
    "QRT_BOUNDS",
    "",
    "check compiles kernels that refuse every address outside of their operands; far slower",
)
DEBUG = Knob("QRT_DEBUG", "0", "1 shows the traceback when a command of the command line fails")

KNOBS = (
    FEATURES, CACHE_DIR, THREADS, WINOGRAD, PROGRESS, JIT_WORKERS, JIT_KEEP, CACHE_SIZES, MEASURE,
    BOUNDS, DEBUG,
)  # fmt: skip
