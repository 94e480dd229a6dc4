"""What a node makes of constants: the operators that shapes and constants are computed with.

FOLDS has the arithmetic, for every type; operators of qrt.ops, movement above all, have a
reference. Both decline (None) an output larger than MAX_NBYTES and a case they do not cover.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from qrt.errors import ModelError, QrtError, UnsupportedError, at_node
from qrt.ir import Node, Value
from qrt.ops import OPS
from qrt.ops.growth import check_growth
from qrt.quant import functions
from qrt.quant.affine import Array

# a constant larger than this, and than what it is made of, is computed while the model runs
MAX_NBYTES = 64 * 1024 * 1024

Inputs = Sequence[Array | None]
Fold = Callable[[Node, Inputs], "Array | None"]


def evaluate(node: Node, inputs: Inputs) -> list[Array] | None:
    """The outputs of `node` on constant inputs, or None when nobody knows or declines."""
    fold = FOLDS.get(node.op) if node.domain == "" else None
    try:
        check_growth(node, inputs, None)
        if fold is None:
            return _reference(node, inputs)
        with np.errstate(all="ignore"):
            result = fold(node, inputs)
    except QrtError as error:
        at_node(error, node.where)
    except ValueError as error:  # NumPy's, of shapes that do not fit
        raise ModelError(f"{node.where}: {error}") from error
    return None if result is None or result.nbytes > MAX_NBYTES else [np.asarray(result)]


def _reference(node: Node, inputs: Inputs) -> list[Array] | None:
    spec = OPS.get((node.domain, node.op))
    if spec is None or spec.reference is None:
        return None
    values = [None if a is None else Value("", a.dtype, a.shape, a) for a in inputs]
    twin = Node(
        node.op, list(values), node.outputs, node.attrs, node.domain, node.name, node.index,
        node.version,
    )  # fmt: skip
    try:
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in spec.infer(twin)]  # type: ignore[call-overload]
        if sum(sizes) > max(MAX_NBYTES, sum(a.nbytes for a in inputs if a is not None)):
            return None
        return [np.asarray(a) for a in spec.reference(twin, inputs)]
    except UnsupportedError:
        return None


def integers(node: Node, inputs: Inputs, i: int, attr: str) -> list[int] | None:
    """Input `i`, or the attribute that older opsets have in its place."""
    array = inputs[i] if i < len(inputs) else None
    if array is not None:
        return [int(v) for v in array.reshape(-1)]
    value = node.attrs.get(attr)
    return None if value is None else [int(v) for v in np.atleast_1d(value)]


def reshape_target(shape: Sequence[int], target: Sequence[int], allowzero: bool) -> tuple[int, ...]:
    """What Reshape makes of `shape`: 0 copies a length (unless allowzero), -1 is inferred."""
    sizes = [
        shape[i] if size == 0 and not allowzero and i < len(shape) else size
        for i, size in enumerate(target)
    ]
    if -1 in sizes:
        known = math.prod(s for s in sizes if s != -1)
        sizes[sizes.index(-1)] = math.prod(shape) // known if known else 0
    return tuple(sizes)


def _first(inputs: Inputs) -> Array:
    assert inputs[0] is not None
    return inputs[0]


def _constant_of_shape(node: Node, inputs: Inputs) -> Array | None:
    shape = integers(node, inputs, 0, "shape")
    value = np.asarray(node.attrs.get("value", np.zeros(1, np.float32)))
    assert shape is not None
    if math.prod(shape) * value.itemsize > MAX_NBYTES:
        return None
    return np.full(shape, value.reshape(-1)[0], value.dtype)


def _range(node: Node, inputs: Inputs) -> Array | None:
    start, limit, delta = (a.reshape(())[()] for a in inputs if a is not None)
    if delta == 0 or (limit - start) / delta * start.itemsize > MAX_NBYTES:
        return None
    count = max(math.ceil((limit - start) / delta), 0)
    return np.asarray(start + np.arange(count).astype(start.dtype) * delta, start.dtype)


def cast_dtype(node: Node) -> np.dtype[Any] | None:
    """What Cast makes; None where `to` names no type, which its `infer` refuses."""
    to = int(node.attrs["to"])
    known = to != onnx.TensorProto.UNDEFINED and to in onnx.TensorProto.DataType.values()
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(to)) if known else None


def _cast(node: Node, inputs: Inputs) -> Array | None:
    dtype, x = cast_dtype(node), _first(inputs)
    if dtype is None:
        return None
    plain = x.dtype.kind in "iufb" and dtype.kind in "iufb"
    return x.astype(dtype) if plain else None


def _reduce(function: Callable[..., Any]) -> Fold:
    def fold(node: Node, inputs: Inputs) -> Array | None:
        axes = integers(node, inputs, 1, "axes")
        if not axes and node.attrs.get("noop_with_empty_axes", 0):
            return _first(inputs)
        keep = bool(node.attrs.get("keepdims", 1))
        x = _first(inputs)
        result = function(x, axis=tuple(axes) if axes else None, keepdims=keep)
        return np.asarray(result).astype(x.dtype)

    return fold


def _unary(node: Node, inputs: Inputs) -> Array | None:
    x = _first(inputs)
    if x.dtype == np.float32:
        return functions.unary(node.op, x, node.attrs)
    exact: dict[str, Callable[[Array], Array]] = {
        "Abs": np.abs, "Neg": np.negative, "Sign": np.sign, "Relu": lambda a: np.maximum(a, 0)
    }  # fmt: skip
    return exact[node.op](x) if node.op in exact and x.dtype.kind in "iu" else None


def _binary(node: Node, inputs: Inputs) -> Array | None:
    """Float32 as tables compute it, integers as C does (division truncates)."""
    arrays = [a for a in inputs if a is not None]
    result = arrays[0]
    for other in arrays[1:]:
        if result.dtype != other.dtype:
            return None
        if result.dtype == np.float32:
            result = functions.binary(node.op, result, other)
        elif result.dtype.kind not in "iu" or node.op in ("PRelu", "Pow"):
            return None
        elif node.op == "Div":
            if (other == 0).any():
                return None
            quotient = np.abs(result) // np.abs(other) * np.sign(result) * np.sign(other)
            result = quotient.astype(result.dtype)
        else:
            result = functions.BINARY[node.op](result, other)
    return result


def _where(node: Node, inputs: Inputs) -> Array:
    condition, x, y = (np.asarray(a) for a in inputs)
    return np.where(condition, x, y)


def _compare(function: Callable[..., Any]) -> Fold:
    return lambda node, inputs: np.asarray(function(*inputs))


FOLDS: dict[str, Fold] = {
    **dict.fromkeys(functions.UNARY, _unary),
    **dict.fromkeys(functions.BINARY, _binary),
    "And": _compare(np.logical_and),
    "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "Equal": _compare(np.equal),
    "Greater": _compare(np.greater),
    "GreaterOrEqual": _compare(np.greater_equal),
    "Less": _compare(np.less),
    "LessOrEqual": _compare(np.less_equal),
    "Not": _compare(np.logical_not),
    "Or": _compare(np.logical_or),
    "Range": _range,
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Size": lambda node, inputs: np.array(_first(inputs).size, np.int64),
    "Where": _where,
}
