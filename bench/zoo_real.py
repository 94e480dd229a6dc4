"""The networks of the zoo before quantization: float32 weights, clamps as nodes of their own."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.zoo_builder import FOLDED, QdqBuilder, StoredQParams, Tensor
from bench.zoo_float import FloatArray

ONE = StoredQParams(np.float32(1), "", "")


class RealBuilder(QdqBuilder):
    """The same calls as `QdqBuilder`, the float model of the same seed."""

    def _clamped(self, name: str, y: FloatArray, act: str) -> Tensor:
        low, high = FOLDED[act]
        y = np.clip(y, low, high)
        if not act:
            return self._quantized(name, y)
        out = f"{name}_{act}"
        limits = ["", ""] if act == "Relu" else [
            self._initializer(f"{out}_{which}", np.array(value, np.float32))
            for which, value in (("low", low), ("high", high))
        ]  # fmt: skip
        op = "Relu" if act == "Relu" else "Clip"
        self._node(op, [name, *filter(None, limits)], [out], {}, out)
        return self._quantized(out, y)

    def _quantized(
        self, name: str, sample: FloatArray, qparams: StoredQParams | None = None
    ) -> Tensor:
        return Tensor(name, sample, ONE)

    def _uint8_qparams(self, name: str, low: float, high: float) -> StoredQParams:
        return ONE

    def _weight(self, name: str, w: FloatArray) -> tuple[str, NDArray[np.float32]]:
        return self._initializer(name, w.astype(np.float32)), np.ones(1, np.float32)

    def _bias(self, name: str, bias: FloatArray, scale: NDArray[Any]) -> str:
        return self._initializer(name, bias.astype(np.float32))
