"""On the emulated CPU: run the kernel calls that `arm_plugin.py` sends, until it closes the pipe.

First answers with the features that this CPU says it has; then every request of calls, arena and
constants with the arena after it, or with the words of what went wrong. Kernels come compiled from
the cache folder: a digest that differs here, where numba is not, is an error.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> int:
    """Serve."""
    import kernel_harness
    import numpy as np

    import qrt.gemm.limits
    import qrt.ops  # noqa: F401  (declares kernels)
    from qrt.jit.declare import KERNELS
    from qrt.program.constants import aligned_bytes
    from qrt.simd.features import detected_features

    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed must not come between the answers
    answer: object = sorted(detected_features())
    while True:
        pickle.dump(answer, answers)
        answers.flush()
        try:
            features, names, shares, rows, arena_bytes, constants_bytes = pickle.load(requests)
        except EOFError:
            return 0
        arena, constants = (_aligned(aligned_bytes, b) for b in (arena_bytes, constants_bytes))
        calls = [
            (KERNELS[name], np.frombuffer(row, np.int64), *share)
            for name, row, share in zip(names, rows, shares, strict=True)
        ]
        try:
            kernel_harness.run_calls(features, calls, arena, constants)
            answer = arena.tobytes()
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"


def _aligned(make, data):  # type: ignore[no-untyped-def]
    """A writable copy at a multiple of 64."""
    import numpy as np

    array = make(len(data))
    array[:] = np.frombuffer(data, np.uint8)
    return array


if __name__ == "__main__":
    sys.exit(main())
