"""One ONNX node as the operators here read it: attributes and their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from .values import UnsupportedError


@dataclass(frozen=True)
class Node:
    """`opset` is the version of the node's own domain imported by the model."""

    op_type: str
    domain: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_proto(cls, proto: onnx.NodeProto, opsets: dict[str, int]) -> Node:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        opset = opsets.get(domain, 1)
        return cls(proto.op_type, domain, opset, tuple(proto.input), tuple(proto.output), attrs)

    def real(self, name: str, default: float) -> float:
        """A float attribute. Its value is a float32, the default's too, whatever is printed."""
        return float(np.float32(self.attrs.get(name, default)))

    def integer(self, name: str, default: int) -> int:
        return int(self.attrs.get(name, default))

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(i) for i in self.attrs.get(name, default))

    def text(self, name: str, default: str) -> str:
        value = self.attrs.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def refuse_unless(self, condition: bool, why: str) -> None:
        """Raise UnsupportedError, naming this node, unless `condition`."""
        if not condition:
            raise UnsupportedError(f"{self.op_type}: {why}")
