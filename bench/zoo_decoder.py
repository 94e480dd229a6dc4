"""One block of a decoder with 4-bit weights, as onnxruntime's model builder writes Llama 3.2 1B.

SkipSimplifiedLayerNormalization, MatMulNBits for queries, keys and values, GroupQueryAttention with
rotary embedding over a cache of keys and values, MatMulNBits, SkipSimplifiedLayerNormalization, and
a gated MLP, whose sum with the residual is the next block's to compute. Weights are symmetric, in
blocks of 32, with accuracy_level 4.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bench.zoo_builder import checked_model

MS = "com.microsoft"
BLOCK, BITS, LEVEL = 32, 4, 4
EPSILON = 1e-5
THETA = 500_000.0  # of the rotary embedding


@dataclass(frozen=True)
class Size:
    """Of a block; the defaults are those of Llama 3.2 1B (Meta 2024)."""

    hidden: int = 2048
    heads: int = 32
    kv_heads: int = 8
    wide: int = 8192

    @property
    def head(self) -> int:
        """Numbers of one head."""
        return self.hidden // self.heads


def decoder_block(tokens: int, past: int, seed: int = 0, size: Size | None = None) -> ModelProto:
    """A block that reads `tokens` new tokens behind `past` ones: a prompt, or a step of one.

    Inputs hidden and residual (1, tokens, hidden), past_key and past_value (1, kv_heads, past,
    head); outputs hidden_out and residual_out, and the cache with the new tokens, present_key and
    present_value.
    """
    size = size or Size()
    b = _Builder(seed)
    shared = size.kv_heads * size.head
    x, residual = b.normalized("hidden", "residual", size.hidden)
    q, k, v = (b.product(x, size.hidden, width) for width in (size.hidden, shared, shared))
    angles = np.outer(np.arange(past + tokens), THETA ** -np.linspace(0, 1, size.head // 2, False))
    attended = b.node(
        "GroupQueryAttention",
        [
            q, k, v, "past_key", "past_value",
            b.constant(np.array([past + tokens - 1], np.int32)),
            b.constant(np.array(past + tokens, np.int32)),
            b.constant(np.cos(angles).astype(np.float32)),
            b.constant(np.sin(angles).astype(np.float32)),
        ],
        MS, outputs=("", "present_key", "present_value"), num_heads=size.heads,
        kv_num_heads=size.kv_heads, do_rotary=1, scale=float(size.head**-0.5),
    )[0]  # fmt: skip
    x = b.product(attended, size.hidden, size.hidden)
    x, residual = b.normalized(x, residual, size.hidden, "residual_out")
    gate, up = (b.product(x, size.hidden, size.wide) for _ in range(2))
    gate = b.node("Mul", [gate, b.node("Sigmoid", [gate])[0]])[0]
    b.product(b.node("Mul", [gate, up])[0], size.wide, size.hidden, "hidden_out")
    cache = (1, size.kv_heads, past, size.head)
    present = (1, size.kv_heads, past + tokens, size.head)
    hidden = (1, tokens, size.hidden)
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in group]
        for group in (
            (("hidden", hidden), ("residual", hidden), ("past_key", cache), ("past_value", cache)),
            (
                ("hidden_out", hidden),
                ("residual_out", hidden),
                ("present_key", present),
                ("present_value", present),
            ),
        )
    ]
    name = f"decoder_{past}_{tokens}"
    graph = helper.make_graph(b.nodes, name, *ends, initializer=b.constants)
    attention = 2 * size.hidden * tokens * (past + (tokens + 1) // 2)
    return checked_model(graph, tokens * b.weights + attention, MS)


class _Builder:
    """Nodes and constants so far; `weights` counts those of products."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.weights = 0
        self._rng = np.random.default_rng(seed)

    def constant(self, array: NDArray[Any]) -> str:
        """An initializer."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def normalized(self, x: str, residual: str, width: int, out: str = "") -> list[str]:
        """The normalized sum of both, and the sum itself, called `out`."""
        weights = self.constant(np.ones(width, np.float32))
        inputs, outputs = [x, residual, weights], ("", "-", "-", out)
        return self.node("SkipSimplifiedLayerNormalization", inputs, MS, outputs, epsilon=EPSILON)

    def node(
        self,
        op: str,
        inputs: list[str],
        domain: str = "",
        outputs: tuple[str, ...] = ("",),
        **attrs: Any,
    ) -> list[str]:
        """The outputs of a node: "" is given a name, "-" is left out."""
        count = len(self.nodes)
        names = [
            "" if given == "-" else given or f"n{count}_{i}" for i, given in enumerate(outputs)
        ]
        self.nodes.append(
            helper.make_node(op, inputs, names, f"{op}_{count}", domain=domain, **attrs)
        )
        return [name for name in names if name]

    def product(self, x: str, k: int, n: int, out: str = "") -> str:
        """x @ w of random weights that keep the size of what they multiply."""
        packed = self._rng.integers(0, 256, (n, k // BLOCK, BLOCK * BITS // 8), np.uint8)
        # of integers in [-8, 7] the root of the mean square is 4.6
        scales = (self._rng.uniform(0.5, 1.5, n * k // BLOCK) / (4.6 * np.sqrt(k))).astype(
            np.float32
        )
        self.weights += k * n
        inputs = [x, self.constant(packed), self.constant(scales)]
        attrs = {"K": k, "N": n, "bits": BITS, "block_size": BLOCK, "accuracy_level": LEVEL}
        return self.node("MatMulNBits", inputs, MS, (out,), **attrs)[0]
