"""ONNX's own conformance suite (`onnx.backend.test`) on `qrt.backend`, compared strictly."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.backend.test.runner import Runner

from qrt.backend import Backend


class Suite(Runner):
    """ONNX's runner, which compares arrays within the case's rtol and atol.

    It takes strings of any type and lists that are longer than expected; this does not.
    """

    @classmethod
    def assert_similar_outputs(
        cls,
        ref_outputs: Sequence[Any],
        outputs: Sequence[Any],
        rtol: float,
        atol: float,
        model_dir: str | None = None,
    ) -> None:
        assert len(outputs) == len(ref_outputs)
        for expected, got in zip(ref_outputs, outputs, strict=True):
            _compare(expected, got)
            if expected is not None and not isinstance(expected, list):
                super().assert_similar_outputs([expected], [got], rtol, atol, model_dir)
            elif expected is not None:
                cls.assert_similar_outputs(expected, got, rtol, atol, model_dir)


def _compare(expected: Any, got: Any) -> None:
    """What the runner leaves out: kinds, lengths, and the types of strings."""
    if expected is None or isinstance(expected, list):
        assert type(got) is type(expected), f"expected {expected!r}, got {got!r}"
        return
    assert isinstance(got, np.ndarray), f"expected an array, got {type(got).__name__}"
    if expected.dtype.kind in "OSU":
        assert got.dtype == object, f"strings come as objects, got {got.dtype}"
        assert got.tolist() == expected.tolist()


def cases() -> dict[str, unittest.TestCase]:
    """Every case by its name, without what the runner appends for the device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy, about what cases compute
        classes = Suite(Backend).test_cases
    return {
        method.removesuffix("_cpu"): case(method)
        for case in classes.values()
        for method in dir(case)
        if method.startswith("test_") and method.endswith("_cpu")
    }
