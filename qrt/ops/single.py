"""A node by itself, on Python values: what ends a stage (`qrt.passes.stages`) and has no subgraph.

Its inputs have the types and shapes that a run gives them; nothing about its outputs is promised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.errors import KernelError, MemoryLimitError, ModelError, QrtError, UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.domains import ONNX_DOMAINS
from qrt.ir.types import onnx_name
from qrt.ops.growth import check_growth
from qrt.ops.host_functions import own_function
from qrt.ops.one_node import Evaluator, first_line
from qrt.ops.sequences import FUNCTIONS

REFERENCE, PYTHON = "host: onnx.reference", "host: python"


class SingleFunction:
    """The function of one node; it keeps only evaluators, so threads may share it.

    Raises UnsupportedError for a node that onnx.reference does not run, either.
    """

    def __init__(self, node: Node, max_bytes: int | None = None) -> None:
        self.node = node
        self.max_bytes = max_bytes
        self._function = FUNCTIONS.get(node.op) if node.domain == "" else None
        own = self._function is not None or own_function(node) is not None
        self.kernel = PYTHON if own else REFERENCE
        self._evaluators: dict[tuple[Any, ...], Evaluator] = {}
        if node.domain not in ONNX_DOMAINS:
            raise UnsupportedError(
                f"{node.where}: operator {node.op} of domain {node.domain} is not supported"
            )
        if node.captures:
            raise UnsupportedError(
                f"{node.where}: a subgraph of {node.op} that reads values of the graph around it is"
                " not supported"
            )

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Values of the outputs; KernelError for whatever goes wrong, MemoryLimitError for results
        of more than `max_bytes`."""
        try:
            check_growth(self.node, inputs, self.max_bytes)
            if self._function is not None:
                return self._function(self.node, inputs)
            return [_plain(value) for value in self._evaluator(inputs)(inputs)]
        except QrtError as error:
            raise type(error)(f"{self.node.where}: {error}") from error
        except MemoryError as error:
            raise MemoryLimitError(f"{self.node.where}: {first_line(error)}") from error
        except Exception as error:  # whatever the reference or NumPy raises
            raise KernelError(f"{self.node.where}: {first_line(error)}") from error

    def _evaluator(self, inputs: Sequence[Any]) -> Evaluator:
        """The reference for inputs of these types; its functions depend on them."""
        key = tuple((v.dtype, v.ndim) if isinstance(v, np.ndarray) else None for v in inputs)
        evaluator = self._evaluators.get(key)
        if evaluator is None:
            node = self.node
            self._check_types(inputs)
            typed: list[Value | None] = [
                None if v is None else _typed(value, v)
                for v, value in zip(node.inputs, inputs, strict=True)
            ]
            twin = Node(
                node.op, typed, node.outputs, node.attrs, node.domain, node.name, node.index,
                node.version,
            )  # fmt: skip
            evaluator = self._evaluators[key] = Evaluator(twin)
        return evaluator

    def _check_types(self, inputs: Sequence[Any]) -> None:
        """Raise ModelError for a tensor whose type the operator does not take there."""
        from onnx import defs

        node = self.node
        formals = defs.get_schema(node.op, node.version, node.domain).inputs
        for i, value in enumerate(inputs):
            if not isinstance(value, np.ndarray) or not formals:
                continue
            formal = formals[min(i, len(formals) - 1)]
            name = f"tensor({onnx_name(value.dtype)})"
            if name not in formal.types and f"optional({name})" not in formal.types:
                raise ModelError(
                    f"input {i} ({formal.name}) must be {', '.join(sorted(formal.types)[:12])}, got"
                    f" {name}"
                )


def _typed(given: Any, value: Value) -> Value:
    if isinstance(given, np.ndarray):
        return Value(value.name, given.dtype, (None,) * given.ndim)
    return Value(value.name)


def _plain(value: Any) -> Any:
    """Scalars as arrays, strings as objects; lists and None as they are."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "US" else array
