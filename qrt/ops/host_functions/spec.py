"""What a host function is: an operator, the opsets it means, and how to make it for a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qrt.ir import Node
from qrt.ops.spec import Array, HostFunction

# evaluates a node as `onnx.reference` does; given to those that are a later operator in disguise
Reference = Callable[[Node], HostFunction]


@dataclass(frozen=True)
class HostFunctionSpec:
    """`op` of `domain` from opset `since` on, up to (not with) opset `until` (0: to the latest).

    `make(node, reference)` reads the attributes and gives the function of the node's inputs.
    """

    op: str
    make: Callable[[Node, Reference], HostFunction]
    since: int = 1
    until: int = 0
    domain: str = ""

    def means(self, version: int) -> bool:
        """True when the operator of this opset is meant."""
        return self.since <= version and not (self.until and version >= self.until)


def given(inputs: Sequence[Array | None], i: int) -> Array:
    """Input `i`, which is not optional."""
    array = inputs[i]
    assert array is not None
    return array
