"""The numeric contract of qrt in plain NumPy, independent of qrt: the oracle of its tests.

`evaluate(model, inputs)` gives the one right answer of a quantized ONNX model, whichever way it is
spelled. Read `values.py` first (the formulas of the contract), then one file per kind of operator.
Nothing here imports qrt, and nothing here is fast.
"""

from .evaluate import evaluate
from .values import UnsupportedError

__all__ = ["UnsupportedError", "evaluate"]
