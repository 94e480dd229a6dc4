"""Products with weights of few bits, which stay packed: com.microsoft MatMulNBits, and MatMul and
Gemm behind a DequantizeLinear of int4 and kin, or in blocks (opset 21 and later).

Equation: docs/machine.md "Few-bit weights". Where g_idx permutes groups, the inputs are gathered
into the order of their groups first: x @ w = x[order] @ w[order].
"""

from __future__ import annotations

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.gemm.nbits_table import BITS
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.passes.recognise.nbits_weights import Grouped, grouped
from qrt.passes.recognise.views import Fixed, Plain, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.quant.affine import Array
from qrt.quant.nbits import pack_bits, unpack_bits

F32 = np.dtype(np.float32)
INT8_ACTIVATIONS = 4  # accuracy_level
FEW = 4  # bits of weights with one scale a column that are worth unpacking for every product
INPUTS = ("A", "B", "scales", "zero_points", "g_idx", "bias")


def matmul_nbits(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """MatMulNBits (com.microsoft 1) with constant weights, of float32."""
    reader = AttrReader(node)
    k, n, block = (reader.int(name) for name in ("K", "N", "block_size"))
    bits, level = reader.int("bits", 4), reader.int("accuracy_level", 0)
    reader.done()
    for name, value in (("K", k), ("N", n)):
        if not 0 < value < 2**31:
            raise ModelError(f"{name} must be positive, got {value}")
    if bits not in BITS:
        raise ModelError(f"bits must be {', '.join(map(str, BITS))}, got {bits}")
    if block < 16 or block & block - 1 or block > 2**20:
        raise ModelError(f"block_size must be a power of two, 16 or more, got {block}")
    if not 0 <= level <= 4:
        raise ModelError(f"accuracy_level must be 0 to 4, got {level}")
    constants: dict[str, Array] = {}
    for i, name in enumerate(INPUTS[1:], 1):
        given = node.input(i)
        if given is not None:
            array = walk.array(given)
            if array is None:
                raise UnsupportedError(f"{name} must be constant, '{given.name}' is computed")
            constants[name] = array
    blocks = -(-k // block)
    packed = _shaped(constants, "B", np.dtype(np.uint8), (n, blocks, block * bits // 8))
    scales = _shaped(constants, "scales", F32, (n, blocks))
    zero_points = _zero_points(constants, n, blocks, bits)
    integers = level == INT8_ACTIVATIONS and (zero_points is None or zero_points.dtype != F32)
    bias = constants.get("bias")
    if bias is not None:
        bias = _shaped(constants, "bias", F32, (n,))
    x = walk.real(views[0], node.required(0))  # type: ignore[arg-type]
    if "g_idx" in constants:
        order = _group_order(constants["g_idx"], k, block, blocks)
        integers = False
        if order is not None:
            packed = _reordered(packed, order, bits)
            indices = walk.constant(order[:k], node.required(4))
            gathered = walk.result(node.outputs[0], F32, x.shape)
            x = walk.emit("Gather", [x, indices], {"axis": -1}, gathered, node, "", 13)
    return _emit(walk, node, x, Grouped(packed, scales, zero_points, bits, k), bias, integers)


def matmul(walk: Walk, node: Node, views: list[View | None]) -> Outcome | None:
    """MatMul by weights (k, n) of few bits; None for any other MatMul."""
    if isinstance(views[1], Fixed) and walk.quantized(views[0], node.required(0)) is not None:
        return None  # a product of integers
    weights = grouped(views[1], 0, FEW)
    if weights is None:
        return None
    x = walk.real(views[0], node.required(0))  # type: ignore[arg-type]
    return _emit(walk, node, x, weights, None, integers=False)


def gemm(walk: Walk, node: Node, views: list[View | None]) -> Outcome | None:
    """Gemm by weights of few bits, without alpha, transA and a computed c; None for any other."""
    if isinstance(views[1], Fixed) and walk.quantized(views[0], node.required(0)) is not None:
        return None
    attrs = AttrReader(node)
    trans_a, trans_b = attrs.bool("transA", False), attrs.bool("transB", False)
    alpha, beta = attrs.float("alpha", 1.0), np.float32(attrs.float("beta", 1.0))
    weights = grouped(views[1], 1 if trans_b else 0, FEW)
    if weights is None or trans_a or alpha != 1:
        return None
    bias = None
    if node.input(2) is not None:
        c = walk.array(node.input(2))
        n = weights.packed.shape[0]
        if c is None or c.dtype != F32 or c.size not in (1, n) or c.shape[-1:] not in ((n,), (1,)):
            return None
        bias = np.broadcast_to(beta * c.reshape(-1), n)
    attrs.done()
    x = walk.real(views[0], node.required(0))  # type: ignore[arg-type]
    return _emit(walk, node, x, weights, bias, integers=False)


def _emit(
    walk: Walk, node: Node, x: Value, weights: Grouped, bias: Array | None, integers: bool
) -> Outcome:
    like = node.required(1)
    inputs = [x] + [
        None if array is None else walk.constant(array, like)
        for array in (weights.packed, weights.scales, weights.zero_points, bias)
    ]
    attrs = {"bits": weights.bits, "k": weights.length, "integers": integers}
    out = walk.result(node.outputs[0], F32)
    return Plain(walk.emit("MatMulNBits", inputs, attrs, out, node))


def _shaped(
    constants: dict[str, Array], name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> Array:
    """A constant of this type with so many elements, as `shape`."""
    if name not in constants:
        raise ModelError(f"{name} is required, it is left out")
    array = constants[name]
    if array.dtype != dtype:
        raise ModelError(f"{name} must be {dtype}, got {array.dtype}")
    if array.size != np.prod(shape, dtype=np.int64):
        raise ModelError(
            f"{name} must have {'*'.join(map(str, shape))} elements, got shape {list(array.shape)}"
        )
    return array.reshape(shape)


def _zero_points(constants: dict[str, Array], n: int, blocks: int, bits: int) -> Array | None:
    """uint8 (n, blocks), unpacked, or float32; None: 2 ** (bits - 1) everywhere."""
    if "zero_points" not in constants:
        return None
    if constants["zero_points"].dtype == F32:
        return _shaped(constants, "zero_points", F32, (n, blocks))
    nbytes = -(-blocks * bits // 8)
    packed = _shaped(constants, "zero_points", np.dtype(np.uint8), (n, nbytes))
    found = np.ascontiguousarray(unpack_bits(packed, bits)[:, :blocks])
    return None if (found == 1 << bits - 1).all() else found


def _group_order(g_idx: Array, k: int, block: int, blocks: int) -> Array | None:
    """The inputs in the order of their groups, padding behind: int64 (blocks * block,).

    None where they are in order. Every group but the last must have `block` inputs.
    """
    if g_idx.dtype != np.int32:
        raise ModelError(f"g_idx must be int32, got {g_idx.dtype}")
    if g_idx.size not in (k, blocks * block):
        raise ModelError(f"g_idx must have K = {k} elements, got {g_idx.size}")
    group = g_idx.reshape(-1)[:k].astype(np.int64)
    if group.min() < 0 or group.max() >= blocks:
        bad = group[(group < 0) | (group >= blocks)][0]
        raise ModelError(f"g_idx must be within [0, {blocks - 1}], got {bad}")
    counts = np.bincount(group, minlength=blocks)
    if (counts[:-1] != block).any():
        first = int(np.flatnonzero(counts[:-1] != block)[0])
        raise ModelError(
            f"g_idx must give every group {block} inputs, group {first} has {counts[first]}"
        )
    order = np.argsort(group, kind="stable")
    if (order == np.arange(k)).all():
        return None
    return np.concatenate([order, np.arange(k, blocks * block)])


def _reordered(packed: Array, order: Array, bits: int) -> Array:
    """Weights with their inputs in `order`."""
    n, blocks, _ = packed.shape
    values = unpack_bits(packed.reshape(n, -1), bits)
    return pack_bits(values[:, order], bits).reshape(n, blocks, -1)
