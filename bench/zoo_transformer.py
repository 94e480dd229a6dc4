"""MiniLM-L6 as exporters and quantizers write it: the transformer of the benchmark zoo.

The graph is PyTorch's ONNX export of BERT: shape arithmetic in front of every Reshape, an additive
mask, LayerNormalization, Gelu spelled by Erf. `FORMS` are what onnxruntime's quantizers make of it:

float    nothing
qdq      quantize_static of MatMul: both operands and the result of each product behind a
         QuantizeLinear and DequantizeLinear, weights int8 per channel; the rest float32
dynamic  quantize_dynamic: DynamicQuantizeLinear and MatMulInteger in front of weights, which are
         int8 per tensor, embeddings int8 behind Gather; attention's own products float32
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from bench.zoo_builder import QdqBuilder, StoredQParams, Tensor
from bench.zoo_float import FloatArray, portable, softmax

FORMS = ("float", "qdq", "dynamic")
EPSILON = 1e-12
NO_QPARAMS = StoredQParams(np.float32(1), "", "")


@dataclass(frozen=True)
class Size:
    """Of a BERT encoder; the defaults are those of all-MiniLM-L6-v2."""

    layers: int = 6
    hidden: int = 384
    heads: int = 12
    wide: int = 1536
    vocabulary: int = 30522
    positions: int = 512
    types: int = 2


def minilm(form: str, sequence: int, seed: int = 0, size: Size | None = None) -> ModelProto:
    """all-MiniLM-L6-v2 (Wang et al. 2020) of random weights for one text of `sequence` tokens.

    Inputs input_ids, attention_mask and token_type_ids (1, sequence) int64; output
    last_hidden_state (1, sequence, hidden).
    """
    size = size or Size()
    b = _Builder(f"minilm_{form}_{sequence}", form, sequence, seed, size)
    x = b.embed()
    mask = b.mask()
    for _ in range(size.layers):
        x = b.layer_norm(b.plus(b.attention(x, mask), x))
        wide = b.gelu(b.linear(x, size.wide))
        x = b.layer_norm(b.plus(b.linear(wide, size.hidden), x))
    return b.finish({"last_hidden_state": x})


@dataclass(frozen=True)
class _Weight:
    """Names of what a quantized weight is made of."""

    stored: str
    scale: str
    zero_point: str


class _Builder(QdqBuilder):
    """Samples have no batch axis: (sequence, hidden), or (heads, sequence, ...) inside attention.

    Unlike in the base, what a method returns is float: products quantize what they read.
    """

    def __init__(self, name: str, form: str, sequence: int, seed: int, size: Size) -> None:
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        super().__init__(name, seed=seed)
        self.form = form
        self.sequence = sequence
        self.size = size
        self._shared: dict[str, list[str]] = {}  # what DynamicQuantizeLinear made of a tensor
        self._pairs: dict[str, Tensor] = {}  # behind QuantizeLinear and DequantizeLinear
        self._scalars: dict[tuple[Any, ...], str] = {}
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            info = helper.make_tensor_value_info(name, TensorProto.INT64, (1, sequence))
            self._inputs.append(info)
        self._ids = self._rng.integers(0, size.types, sequence)

    def embed(self) -> Tensor:
        """Sum of the word, type and position embeddings, normalized."""
        shape = self._op("Shape", ["input_ids"])
        length = self._op("Gather", [shape, self._ints(1)], {"axis": 0})
        length = self._op("Unsqueeze", [length, self._ints([0])])
        ids = np.arange(self.size.positions, dtype=np.int64)[None]
        stored = self._initializer("position_ids", ids)
        positions = self._op("Slice", [stored, self._ints([0]), length, self._ints([1])])
        words = self._gather(self.size.vocabulary, "input_ids", self._ids)
        types = self._gather(self.size.types, "token_type_ids", self._ids)
        places = self._gather(self.size.positions, positions, np.arange(self.sequence))
        return self.layer_norm(self.plus(self.plus(words, types), places))

    def mask(self) -> Tensor:
        """0 where a token counts, the lowest float elsewhere: (1, 1, 1, sequence)."""
        x = "attention_mask"
        for axis in (1, 2):
            x = self._op("Unsqueeze", [x, self._ints([axis])])
        x = self._op("Cast", [x], {"to": TensorProto.FLOAT})
        x = self._op("Sub", [self._float(1.0), x])
        x = self._op("Mul", [x, self._float(float(np.finfo(np.float32).min))])
        return self._real(x, np.zeros((1, self.sequence)))

    def attention(self, x: Tensor, mask: Tensor) -> Tensor:
        """Multi-head self-attention with its output projection."""
        hidden = self.size.hidden
        size = hidden // self.size.heads
        q, k, v = (self._heads(self.linear(x, hidden), x) for _ in range(3))
        name = self._op("Transpose", [q.name], {"perm": [0, 2, 1, 3]})
        q = self._real(name, q.sample.transpose(1, 0, 2))
        name = self._op("Transpose", [k.name], {"perm": [0, 2, 3, 1]})
        k = self._real(name, k.sample.transpose(1, 2, 0))
        name = self._op("Transpose", [v.name], {"perm": [0, 2, 1, 3]})
        v = self._real(name, v.sample.transpose(1, 0, 2))
        scores = self._product(q, k)
        name = self._op("Div", [scores.name, self._float(float(np.sqrt(size)))])
        name = self._op("Add", [name, mask.name])
        weights = softmax(scores.sample / np.sqrt(size))
        name = self._op("Softmax", [name], {"axis": -1})
        y = self._product(self._real(name, weights), v)
        name = self._op("Transpose", [y.name], {"perm": [0, 2, 1, 3]})
        name = self._reshape(name, x, [hidden])
        merged = y.sample.transpose(1, 0, 2).reshape(self.sequence, hidden)
        return self.linear(self._real(name, merged), hidden)

    def linear(self, x: Tensor, width: int) -> Tensor:
        """x @ w + b, as MatMul and Add."""
        w = self._rng.normal(0, x.sample.shape[-1] ** -0.5, (x.sample.shape[-1], width))
        w = portable(w)
        bias = 0.1 * self._rng.standard_normal(width)
        y = x.sample @ w
        self.macs += y.size * len(w)
        if self.form == "dynamic":
            name = self._dynamic(x, w)
        elif self.form == "qdq":
            rhs = self._channel_weight(w)
            name = self._op("MatMul", [self._pair(x).name, rhs])
            name = self._pair(self._real(name, y)).name
        else:
            stored = self._initializer(self._fresh("weight"), w.astype(np.float32))
            name = self._op("MatMul", [x.name, stored])
        b_name = self._initializer(self._fresh("bias"), bias.astype(np.float32))
        return self._real(self._op("Add", [b_name, name]), y + bias)

    def plus(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b."""
        return self._real(self._op("Add", [a.name, b.name]), a.sample + b.sample)

    def layer_norm(self, x: Tensor) -> Tensor:
        """LayerNormalization over the last axis."""
        factor = self._rng.uniform(0.8, 1.2, self.size.hidden)
        bias = 0.1 * self._rng.standard_normal(self.size.hidden)
        names = [
            self._initializer(self._fresh(part), array.astype(np.float32))
            for part, array in (("factor", factor), ("shift", bias))
        ]
        attrs = {"axis": -1, "epsilon": EPSILON}
        name = self._op("LayerNormalization", [x.name, *names], attrs)
        centered = x.sample - x.sample.mean(-1, keepdims=True)
        deviation = np.sqrt(np.square(centered).mean(-1, keepdims=True) + EPSILON)
        return self._real(name, centered / deviation * factor + bias)

    def gelu(self, x: Tensor) -> Tensor:
        """x * (1 + erf(x / sqrt(2))) * 0.5, in five nodes."""
        t = self._op("Div", [x.name, self._float(float(np.sqrt(2)))])
        t = self._op("Erf", [t])
        t = self._op("Add", [t, self._float(1.0)])
        t = self._op("Mul", [x.name, t])
        t = self._op("Mul", [t, self._float(0.5)])
        # near enough for ranges
        inner = np.sqrt(2 / np.pi) * (x.sample + 0.044715 * x.sample**3)
        return self._real(t, 0.5 * x.sample * (1 + np.tanh(inner)))

    def _gather(self, count: int, ids: str, picked: NDArray[Any]) -> Tensor:
        table = portable(0.5 * self._rng.standard_normal((count, self.size.hidden)))
        if self.form == "dynamic":
            parts = self._tensor_weight(table)
            name = self._op("Gather", [parts.stored, ids])
            name = self._op("DequantizeLinear", [name, parts.scale, parts.zero_point])
        else:
            stored = self._initializer(self._fresh("table"), table.astype(np.float32))
            name = self._op("Gather", [stored, ids])
        return self._real(name, table[picked])

    def _heads(self, x: Tensor, like: Tensor) -> Tensor:
        """(sequence, hidden) to (sequence, heads, hidden / heads)."""
        heads = self.size.heads
        size = self.size.hidden // heads
        name = self._reshape(x.name, like, [heads, size])
        return self._real(name, x.sample.reshape(self.sequence, heads, size))

    def _reshape(self, name: str, like: Tensor, tail: Sequence[int]) -> str:
        """Reshape to the first two lengths of `like` and `tail`, which the file computes."""
        shape = self._op("Shape", [like.name])
        parts = []
        for axis in (0, 1):
            length = self._op("Gather", [shape, self._ints(axis)], {"axis": 0})
            parts.append(self._op("Unsqueeze", [length, self._ints([0])]))
        parts += [self._ints([n]) for n in tail]
        return self._op("Reshape", [name, self._op("Concat", parts, {"axis": 0})])

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        """MatMul of two activations."""
        y = a.sample @ b.sample
        self.macs += y.size * a.sample.shape[-1]
        if self.form != "qdq":
            return self._real(self._op("MatMul", [a.name, b.name]), y)
        name = self._op("MatMul", [self._pair(a).name, self._pair(b).name])
        return self._pair(self._real(name, y))

    def _pair(self, x: Tensor) -> Tensor:
        """`x` behind QuantizeLinear and DequantizeLinear; once."""
        if x.name not in self._pairs:
            self._pairs[x.name] = self._quantized(x.name, x.sample)
        return self._pairs[x.name]

    def _dynamic(self, x: Tensor, w: FloatArray) -> str:
        """x @ w as quantize_dynamic spells it; one DynamicQuantizeLinear for all readers of x."""
        if x.name not in self._shared:
            name = self._fresh("DynamicQuantizeLinear")
            outputs = [f"{name}_{part}" for part in ("y", "scale", "zero_point")]
            self._node("DynamicQuantizeLinear", [x.name], outputs, {}, name)
            self._shared[x.name] = outputs
        stored, scale, zero_point = self._shared[x.name]
        parts = self._tensor_weight(w)
        y = self._op("MatMulInteger", [stored, parts.stored, zero_point, parts.zero_point])
        y = self._op("Cast", [y], {"to": TensorProto.FLOAT})
        return self._op("Mul", [y, self._op("Mul", [scale, parts.scale])])

    def _tensor_weight(self, w: FloatArray) -> _Weight:
        """`w` as symmetric int8 with one scale."""
        name = self._fresh("quantized")
        scale = np.float32(portable(np.array(np.abs(w).max() / 127)))
        q = np.clip(np.round(w / scale), -127, 127).astype(np.int8)
        return _Weight(
            self._initializer(name, q),
            self._initializer(f"{name}_scale", np.array(scale)),
            self._initializer(f"{name}_zero_point", np.array(0, np.int8)),
        )

    def _channel_weight(self, w: FloatArray) -> str:
        """`w` (k, n) as symmetric int8 with a scale per column, behind a DequantizeLinear."""
        name = self._fresh("weight")
        scale = portable(np.abs(w).max(axis=0) / 127).astype(np.float32)
        q = np.clip(np.round(w / scale), -127, 127).astype(np.int8)
        parts = [
            self._initializer(f"{name}_quantized", q),
            self._initializer(f"{name}_scale", scale),
            self._initializer(f"{name}_zero_point", np.zeros(scale.shape, np.int8)),
        ]
        return self._op("DequantizeLinear", parts, {"axis": 1})

    def _op(self, op: str, inputs: Sequence[str], attrs: dict[str, Any] | None = None) -> str:
        """Add a node with one output; returns its name."""
        name = self._fresh(op)
        self._node(op, inputs, [name], attrs or {}, name)
        return name

    def _real(self, name: str, sample: FloatArray) -> Tensor:
        return Tensor(name, sample, NO_QPARAMS)

    def _ints(self, value: int | list[int]) -> str:
        return self._scalar(np.array(value, np.int64))

    def _float(self, value: float) -> str:
        return self._scalar(np.array(value, np.float32))

    def _scalar(self, array: NDArray[Any]) -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._scalars:
            self._scalars[key] = self._initializer(self._fresh("constant"), array)
        return self._scalars[key]
