"""Random quantized ONNX graphs: small, deterministic in their seed, over the whole matrix of types.

rng = np.random.default_rng(seed)
model, inputs = random_graph(rng, spelling="qdq")     one to five operators
model, inputs = case(rng, "conv", spelling="qop")     a single one, see OPERATORS
model, inputs = conv_case(rng)                        the same by name
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx

from . import draw
from .builder import Builder, Real, Tensor
from .catalogue import DYNAMIC, OPERATORS, WEIGHTS
from .draw import Array

Case = tuple[onnx.ModelProto, dict[str, Array]]

SPELLINGS = ("qdq", "qop")
OPSETS = (12, 13, 17, 18, 19, 21)

__all__ = ["DYNAMIC", "OPERATORS", "SPELLINGS", "Case", "case", "random_graph"]


def random_graph(
    rng: np.random.Generator, spelling: str = "qdq", ops: Collection[str] | None = None
) -> Case:
    """One to five operators out of `ops` (names in OPERATORS, default all but the dynamic ones),
    each on a random tensor made so far. What no operator consumes is a graph output."""
    b = Builder(rng, spelling, draw.pick(rng, OPSETS))
    names = [n for n in OPERATORS if n not in DYNAMIC] if ops is None else list(ops)
    weights = np.array([WEIGHTS.get(name, 1) for name in names], np.float64)
    tensors = [b.input(_input_shape(rng, names))]
    loose: list[Tensor | Real] = list(tensors)
    steps = draw.integer(rng, 1, 5)
    for _ in range(50):
        x = tensors[-1] if draw.chance(rng, 0.7) else draw.pick(rng, tensors)
        name = str(rng.choice(names, p=weights / weights.sum()))
        if not OPERATORS[name].accepts(x, b.opset):
            continue
        y = OPERATORS[name].build(b, x)
        loose = [t for t in loose if t is not x] + [y]
        if isinstance(y, Tensor):
            tensors.append(y)
        steps -= 1
        if steps == 0:
            break
    return _finished(b, loose, spare=tensors[0])


def case(
    rng: np.random.Generator, name: str, spelling: str = "qdq", opset: int | None = None
) -> Case:
    """One operator, `name` in OPERATORS, on an input of random shape."""
    b = Builder(rng, spelling, draw.pick(rng, OPSETS) if opset is None else opset)
    x = b.input(_input_shape(rng, [name]))
    return _finished(b, [OPERATORS[name].build(b, x)], spare=x)


def conv_case(rng: np.random.Generator, spelling: str = "qdq") -> Case:
    return case(rng, "conv", spelling)


def matmul_case(rng: np.random.Generator, spelling: str = "qdq") -> Case:
    return case(rng, "matmul", spelling)


def gemm_case(rng: np.random.Generator, spelling: str = "qdq") -> Case:
    return case(rng, "gemm", spelling)


def add_case(rng: np.random.Generator, spelling: str = "qdq") -> Case:
    return case(rng, "add", spelling)


def mul_case(rng: np.random.Generator, spelling: str = "qdq") -> Case:
    return case(rng, "mul", spelling)


def concat_case(rng: np.random.Generator, spelling: str = "qdq") -> Case:
    return case(rng, "concat", spelling)


def average_pool_case(rng: np.random.Generator, spelling: str = "qdq") -> Case:
    return case(rng, "average_pool", spelling)


def max_pool_case(rng: np.random.Generator, spelling: str = "qdq") -> Case:
    return case(rng, "max_pool", spelling)


def softmax_case(rng: np.random.Generator, spelling: str = "qdq") -> Case:
    return case(rng, "softmax", spelling)


def unary_case(rng: np.random.Generator, spelling: str = "qdq") -> Case:
    return case(rng, "unary", spelling)


def _input_shape(rng: np.random.Generator, names: Sequence[str]) -> tuple[int, ...]:
    """N, C and one to three spatial axes where all of `names` take them, else fewer axes."""
    ranks = [(OPERATORS[name].min_rank, OPERATORS[name].max_rank) for name in names]
    lowest = max(low for low, _ in ranks) if len(names) == 1 else 3
    options = [r for r in (4, 4, 4, 4, 3, 3, 2, 2, 5) if r >= lowest]
    if len(names) == 1:
        options = [r for r in options if r <= ranks[0][1]]
    elif not any(low <= 4 <= high for low, high in ranks):
        options = [2]
    rank = draw.pick(rng, options)
    batch = draw.pick(rng, (1, 1, 2, 3))
    channels = draw.pick(rng, (1, 2, 3, 4, 5, 8, 12, 17))
    if rank == 2:
        return (draw.integer(rng, 1, 9), draw.pick(rng, (1, 3, 4, 7, 16, 33, 64, 100, 300)))
    largest = {3: 40, 4: 13, 5: 6}[rank]
    return (batch, channels, *(draw.integer(rng, 1, largest) for _ in range(rank - 2)))


def _finished(b: Builder, outputs: Sequence[Tensor | Real], spare: Tensor) -> Case:
    for y in outputs:
        if y is spare and len(outputs) > 1:
            continue  # an input nothing uses
        b.output(y)
    return b.model(), b.inputs
