"""Host operators: ONNX nodes without a native kernel, evaluated in Python on NumPy.

Their functions are those of `host_functions`, else `onnx.reference`'s. A node becomes one by its
domain (`make_host`). Its shapes are known before it
runs: ONNX infers them, or else the node is evaluated once on zeros. A node whose output shape
depends on the elements of its inputs is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.domains import ONNX_DOMAINS, host_domain
from qrt.ops.one_node import Evaluator, Result, check_types, first_line, inferred
from qrt.ops.spec import Array, Lowering

# the shape of their output is in the elements of their inputs, also where zeros do not show it
DATA_DEPENDENT = ("Compress", "ImageDecoder", "NonMaxSuppression", "NonZero", "Unique")
# two runs differ: not to be folded
RANDOM = (
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
)  # fmt: skip
# ONNX's inference refuses valid ones, or gives another shape than the operator
MISJUDGED = ("MeanVarianceNormalization", "STFT")
# a constant larger than this, and than what it is made of, is computed while the model runs
MAX_NBYTES = 64 * 1024 * 1024


def make_host(node: Node, why: str) -> None:
    """From here on `node`, of one of ONNX's domains, is a host operator; `why` has it no kernel."""
    assert node.domain in ONNX_DOMAINS, node
    check_types(node)
    node.domain = host_domain(node.domain)
    node.why = "; ".join(dict.fromkeys(filter(None, (node.why, why))))


def infer(node: Node) -> list[Result]:
    """Shape and dtype of each output. Raises UnsupportedError when only a run could tell."""
    if node.op in DATA_DEPENDENT:
        arrays = [None if value is None else value.data for value in node.inputs]
        if all(v is None or v.data is not None for v in node.inputs):
            return [(array.shape, array.dtype) for array in _evaluated(node, arrays)]
        raise UnsupportedError("the shape of its output depends on the elements of its inputs")
    results = [None] if node.op in MISJUDGED else inferred(node)
    known = [result for result in results if result is not None]
    if len(known) < len(results):
        known = _seen(node)
    for _, dtype in known:
        if dtype.hasobject or dtype.kind in "OSUT":
            raise UnsupportedError(f"its output is of {dtype}")
    return known


def has_function(node: Node) -> bool:
    """True when Python can evaluate the node, whatever its shapes turn out to be."""
    try:
        Evaluator(node)
    except UnsupportedError:
        return False
    return True


def folded(node: Node, results: Sequence[Result]) -> list[Array] | None:
    """The outputs of a node of constants alone, so that they are computed once; else None."""
    if node.op in RANDOM or not node.inputs:
        return None
    arrays = [None if value is None else value.data for value in node.inputs]
    if any(v is not None and v.data is None for v in node.inputs):
        return None
    nbytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in results)
    if nbytes > max(MAX_NBYTES, *(0 if a is None else a.nbytes for a in arrays)):
        return None
    return _evaluated(node, arrays)


def lower(node: Node, program: Lowering) -> None:
    """One row that calls the node's function."""
    evaluator = Evaluator(node)
    program.host(evaluator, node.inputs, node.outputs, own=evaluator.own)


def lower_refused(node: Node, program: Lowering, refusal: UnsupportedError) -> None:
    """`lower` for a node whose native form has just said that it does not run it.

    Raises UnsupportedError with both reasons when the reference cannot, either.
    """
    make_host(node, str(refusal))
    try:
        lower(node, program)
    except UnsupportedError as error:
        raise UnsupportedError(f"{refusal}; {error}") from error


def _seen(node: Node) -> list[Result]:
    """The outputs' shapes on zeros, when ones (where they can be run) give the same."""
    zeros, ones = (_shapes(node, fill) for fill in (0, 1))
    if isinstance(zeros, str):
        raise UnsupportedError(f"the shape of its output is not known before it runs ({zeros})")
    if not isinstance(ones, str) and ones != zeros:
        raise UnsupportedError("the shape of its output depends on the elements of its inputs")
    return zeros


def _shapes(node: Node, fill: int) -> list[Result] | str:
    try:
        arrays = _evaluated(node, [None if v is None else _filled(v, fill) for v in node.inputs])
    except UnsupportedError as error:
        return str(error)
    return [(array.shape, array.dtype) for array in arrays]


def _filled(value: Value, fill: int) -> Array:
    if value.data is not None:
        return value.data
    return np.full(value.static_shape, fill, value.dtype)


def _evaluated(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    try:
        return [np.asarray(array) for array in Evaluator(node)(arrays)]
    except UnsupportedError:
        raise
    except Exception as error:
        raise UnsupportedError(f"it cannot be run on the host: {first_line(error)}") from error
