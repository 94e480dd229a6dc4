"""Inputs and outputs as a user sees them: name, shape, ONNX Runtime's type string."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.ir import Value
from qrt.ir.types import onnx_name


@dataclass(frozen=True)
class Argument:
    """An input or output of a model. `dims` is None when the rank is unknown."""

    name: str
    dtype: np.dtype[Any] | None
    dims: tuple[int | str | None, ...] | None
    container: str = ""  # the type of what is no tensor: seq(tensor(float))

    @classmethod
    def of(cls, value: Value) -> Argument:
        """The argument that `value` of a graph is."""
        return cls(value.name, value.dtype, value.shape, value.container)

    @property
    def shape(self) -> list[int | str | None]:
        """Dimensions: a number, a name for one that is bound at run time, None for any."""
        return list(self.dims or ())

    @property
    def type(self) -> str:
        """ONNX Runtime's spelling: tensor(float), seq(tensor(int64)), ..."""
        if self.container:
            return self.container
        return f"tensor({'undefined' if self.dtype is None else onnx_name(self.dtype)})"

    @property
    def is_static(self) -> bool:
        """True when every dimension of a tensor of numbers is a number."""
        if self.dtype is None or self.dtype.hasobject:
            return False
        return self.dims is not None and all(isinstance(dim, int) for dim in self.dims)

    @property
    def shown_shape(self) -> str:
        """The shape for messages: (N, 3, 224, 224)."""
        return "any shape" if self.dims is None else shown(self.dims)


def shown(dims: tuple[int | str | None, ...]) -> str:
    """A shape for messages."""
    return f"({', '.join('?' if d is None else str(d) for d in dims)})"
