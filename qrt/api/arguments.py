"""Inputs and outputs as a user sees them: name, shape, ONNX Runtime's type string."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.ir import Value

# numpy (and ml_dtypes) name -> ONNX's name where they differ
_ONNX_NAMES = {
    "float32": "float", "float64": "double", "object": "string", "str": "string",
    "float8_e4m3fn": "float8e4m3fn", "float8_e4m3fnuz": "float8e4m3fnuz",
    "float8_e5m2": "float8e5m2", "float8_e5m2fnuz": "float8e5m2fnuz",
    "float8_e8m0fnu": "float8e8m0", "float4_e2m1fn": "float4e2m1",
    "float6_e2m3fn": "float6e2m3", "float6_e3m2fn": "float6e3m2",
}  # fmt: skip


@dataclass(frozen=True)
class Argument:
    """An input or output of a model. `dims` is None when the rank is unknown."""

    name: str
    dtype: np.dtype[Any] | None
    dims: tuple[int | str | None, ...] | None

    @classmethod
    def of(cls, value: Value) -> Argument:
        """The argument that `value` of a graph is."""
        return cls(value.name, value.dtype, value.shape)

    @property
    def shape(self) -> list[int | str | None]:
        """Dimensions: a number, a name for one that is bound at run time, None for any."""
        return list(self.dims or ())

    @property
    def type(self) -> str:
        """ONNX Runtime's spelling: tensor(float), tensor(uint8), ..."""
        name = "undefined" if self.dtype is None else self.dtype.name
        return f"tensor({_ONNX_NAMES.get(name, name)})"

    @property
    def is_static(self) -> bool:
        """True when every dimension is a number."""
        return self.dims is not None and all(isinstance(dim, int) for dim in self.dims)

    @property
    def shown_shape(self) -> str:
        """The shape for messages: (N, 3, 224, 224)."""
        return "any shape" if self.dims is None else shown(self.dims)


def shown(dims: tuple[int | str | None, ...]) -> str:
    """A shape for messages."""
    return f"({', '.join('?' if d is None else str(d) for d in dims)})"
