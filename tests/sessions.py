"""Models through whole sessions, on every level of CPU features and number of threads, bit for bit.

`Cases` runs all of them and fails once, with the failures that look alike counted together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

import qrt
from qrt.simd.features import detected_features, levels
from tests.graphs.draw import Array
from tests.kernel_harness import chosen

THREADS = (1, 2)
LEFT_OUT = ("sse41", "avx512")  # levels whose code is close to another's

Model = onnx.ModelProto | bytes | Path


def feature_levels() -> list[str]:
    """The levels below what this CPU has, and that ("")."""
    have = detected_features()
    below = [name for name, needs in levels().items() if set(needs) < have]
    return chosen([name for name in below if name not in LEFT_OUT] + [""])


def run(
    model: Model, inputs: Mapping[str, Array], features: str = "", threads: int = 1
) -> dict[str, Array]:
    """All outputs by name."""
    session = qrt.load(model, threads=threads, features=features)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(inputs)), strict=True))


def named(features: str) -> str:
    """How a message calls a feature spec."""
    return features or "native"


def difference(expected: Array, got: Array) -> str:
    """What differs, in bits: dtype, shape or values; nothing when they are the same."""
    if expected.dtype != got.dtype or expected.shape != got.shape:
        return f"{expected.dtype}{list(expected.shape)} became {got.dtype}{list(got.shape)}"
    if expected.tobytes() == got.tobytes():
        return ""
    bits = f"u{expected.dtype.itemsize}"
    left, right = np.ascontiguousarray(expected), np.ascontiguousarray(got)
    apart = np.atleast_1d(left.view(bits) != right.view(bits)).reshape(-1)
    at = int(np.argmax(apart))
    gap = np.abs(expected.astype(np.float64) - got.astype(np.float64)).max()
    return (
        f"{expected.dtype}{list(expected.shape)}: {apart.sum()} of {apart.size} values, max {gap};"
        f" element {at} is {got.reshape(-1)[at]}, not {expected.reshape(-1)[at]}"
    )


def differences(expected: Mapping[str, Array], got: Mapping[str, Array]) -> str:
    """`difference` of the first output that has one."""
    if list(expected) != list(got):
        return f"outputs {list(expected)} became {list(got)}"
    for name, array in expected.items():
        what = difference(array, got[name])
        if what:
            return f"{name}: {what}"
    return ""


class Cases:
    """Runs all cases, fails once."""

    def __init__(self) -> None:
        """No cases yet."""
        self.count = 0
        self.failures: list[str] = []

    def check(self, case: str, what: str) -> None:
        """Count a case; `what` is wrong with it, or nothing."""
        self.count += 1
        if what:
            self.failures.append(f"{case}: {what}")

    def finish(self, title: str, at_least: int) -> None:
        """Print the count; fail for any failure and for fewer cases than `at_least`."""
        print(f"\n{title}: {self.count} cases, {len(self.failures)} failures")
        kinds = Counter(_kind(failure) for failure in self.failures)
        first = {_kind(failure): failure for failure in reversed(self.failures)}
        lines = [f"  {n} times, first {first[kind]}" for kind, n in kinds.most_common(8)]
        assert not self.failures, "\n".join(
            [f"{title}: {len(self.failures)} of {self.count} cases fail", *lines]
        )
        assert self.count >= at_least


def _kind(failure: str) -> str:
    """A failure without its names and numbers."""
    return re.sub(r"'[^']*'|-?[0-9][0-9.]*", "#", failure.partition(": ")[2])
