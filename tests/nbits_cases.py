"""Nodes and models of few-bit weights for tests: drawn numbers, forced rows of the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from contract import nbits
from kernel_harness import new_value
from onnx import TensorProto, helper, numpy_helper

from qrt.gemm.nbits_table import NBitsTile, select_nbits
from qrt.ir import Node, Value
from qrt.ops import matmul_nbits

Array = np.ndarray[Any, Any]
F = np.float32
ZERO_POINTS = ("usual", "u8", "f32")


@dataclass(frozen=True)
class Drawn:
    """Weights as MatMulNBits has them: packed (n, blocks, block * bits / 8), the rest (n, blocks);
    `q` are the weights one by one."""

    packed: Array
    scales: Array
    zero_points: Array | None
    bias: Array | None
    bits: int
    block: int
    k: int

    @property
    def q(self) -> Array:
        """int64 (n, blocks, block)."""
        n, blocks, _ = self.packed.shape
        flat = nbits.unpacked(self.packed.reshape(n, -1), self.bits, blocks * self.block)
        return flat.reshape(n, blocks, self.block)

    def want(self, x: Array, *, integers: bool) -> Array:
        """What the contract says."""
        return nbits.product(
            x, self.q, self.scales, self.zero_points, self.bits, self.bias, integers=integers
        )

    def node(self, m: int, *, integers: bool) -> Node:
        """qrt.MatMulNBits of a variable x (m, k)."""
        values: list[Value | None] = [new_value("x", F, (m, self.k))]
        for name, data in (
            ("packed", self.packed), ("scales", self.scales), ("zero_points", self.zero_points),
            ("bias", self.bias),
        ):  # fmt: skip
            some = None if data is None else new_value(name, data.dtype, data.shape, None, data)
            values.append(some)
        attrs = {"bits": self.bits, "k": self.k, "integers": integers}
        return Node("MatMulNBits", values, [new_value("y", F)], attrs, "qrt", version=1)

    def model(self, m: int, level: int, g_idx: Array | None = None) -> onnx.ModelProto:
        """com.microsoft MatMulNBits of x (m, k)."""
        n, blocks, _ = self.packed.shape
        arrays: dict[str, Array | None] = {
            "B": self.packed,
            "scales": self.scales.reshape(-1),
            "zero_points": self.zero_points,
            "g_idx": g_idx,
            "bias": self.bias,
        }
        if self.zero_points is not None and self.zero_points.dtype == np.uint8:
            nbytes = -(-blocks * self.bits // 8)
            padded = np.zeros((n, nbytes * 8 // self.bits), np.uint8)
            padded[:, :blocks] = self.zero_points
            digits = padded[..., None] >> np.arange(self.bits, dtype=np.uint8) & 1
            packed = np.packbits(digits.reshape(n, -1), axis=-1, bitorder="little")
            arrays["zero_points"] = packed.reshape(-1)
        names = [name if array is not None else "" for name, array in arrays.items()]
        while not names[-1]:
            names.pop()
        node = helper.make_node(
            "MatMulNBits", ["x", *names], ["y"], "product", domain="com.microsoft", K=self.k, N=n,
            bits=self.bits, block_size=self.block, accuracy_level=level,
        )  # fmt: skip
        given = [numpy_helper.from_array(a, name) for name, a in arrays.items() if a is not None]
        return model_of([node], (m, self.k), (m, n), given)


def model_of(
    nodes: list[onnx.NodeProto],
    x: tuple[int, ...],
    y: tuple[int, ...],
    constants: list[onnx.TensorProto],
    opset: int = 21,
) -> onnx.ModelProto:
    """A model from x to y, both float32."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", x), ("y", y))
    ]
    graph = helper.make_graph(nodes, "nbits", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def draw(
    rng: np.random.Generator,
    n: int,
    k: int,
    bits: int,
    block: int,
    zero_points: str = "usual",
    *,
    bias: bool = True,
) -> Drawn:
    """Random weights with zero points of a kind of ZERO_POINTS."""
    blocks = -(-k // block)
    packed = rng.integers(0, 256, (n, blocks, block * bits // 8), dtype=np.uint8)
    scales = (rng.random((n, blocks)) + 0.1).astype(F) / F(2**bits)
    points: Array | None = None
    if zero_points == "u8":
        points = rng.integers(0, 2**bits, (n, blocks), dtype=np.uint8)
    elif zero_points == "f32":
        points = (rng.random((n, blocks)) * 2**bits).astype(F)
    added = rng.standard_normal(n).astype(F) if bias else None
    return Drawn(packed, scales, points, added, bits, block, k)


def rows(rng: np.random.Generator, m: int, k: int) -> Array:
    """Activations (m, k) of very different sizes, block by block and row by row."""
    x = rng.standard_normal((m, k)) * 2.0 ** rng.integers(-8, 9, (m, 1))
    x[:, : k // 3] *= 2.0 ** rng.integers(-8, 9)
    return x.astype(F)


@contextmanager
def forced(tile: NBitsTile) -> Iterator[None]:
    """Lowering takes `tile` where features allow it, and all threads."""

    def choose(types: str, bits: int, features: frozenset[str]) -> NBitsTile:
        fits = (types, bits) == (tile.types, tile.bits) and set(tile.features) <= features
        return tile if fits else select_nbits(types, bits, features)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul_nbits, "select_nbits", choose)
        patch.setattr(matmul_nbits, "THREAD_MACS", 0)
        yield
