"""Gather of rows of tables of few bits, which stay packed: com.microsoft GatherBlockQuantized, and
Gather behind a DequantizeLinear of int4 and kin, of 8 bits with a scale a row, or in blocks.
"""

from __future__ import annotations

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.channels import normalized_axis
from qrt.passes.recognise import movement
from qrt.passes.recognise.linear import NARROW
from qrt.passes.recognise.nbits_weights import Grouped, grouped
from qrt.passes.recognise.views import Blocked, Fixed, Plain, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.quant.affine import Array
from qrt.quant.nbits import unpack_bits

F32 = np.dtype(np.float32)
U8 = np.dtype(np.uint8)


def gather(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Gather of rows: from a packed table where there is one, else a movement."""
    table, axis = views[0], AttrReader(node).int("axis", 0)
    per_row = isinstance(table, Fixed) and (table.bits < 8 or table.qparams.axis == 0)
    constant = walk.array(node.input(1)) is not None
    if axis in (0, -2) and not constant and (per_row or isinstance(table, Blocked)):
        weights = grouped(table, 1, 8)
        if weights is not None:
            return _emit(walk, node, weights)
    return movement.move(walk, node, views)


def gather_block_quantized(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """GatherBlockQuantized (com.microsoft 1) of a constant table, float32 scales."""
    reader = AttrReader(node)
    bits, block = reader.int("bits", 4), reader.int("block_size", 128)
    gather_axis, quantize_axis = reader.int("gather_axis", 0), reader.int("quantize_axis", 1)
    reader.done()
    data, scales = walk.array(node.input(0)), walk.array(node.input(2))
    zero_points = walk.array(node.input(3))
    for name, i, array in (
        ("data", 0, data),
        ("scales", 2, scales),
        ("zero_points", 3, zero_points),
    ):
        if array is None and node.input(i) is not None:
            raise UnsupportedError(
                f"{name} must be constant, '{node.required(i).name}' is computed"
            )
    if data is None or scales is None or node.input(1) is None:
        raise ModelError("data, indices and scales are required")
    if block < 16 or block & block - 1 or block > 2**20:
        raise ModelError(f"block_size must be a power of two, 16 or more, got {block}")
    packed = data.dtype == U8
    if data.dtype.name in NARROW:
        bits = NARROW[data.dtype.name]
    elif not packed or bits not in (2, 4, 8):
        raise ModelError(f"data must be int4, uint4 or uint8 of 2, 4 or 8 bits, got {data.dtype}")
    if scales.dtype != F32:
        raise UnsupportedError(f"scales must be float32, got {scales.dtype}")
    if not data.ndim:
        raise ModelError("data must have axes, it is a scalar")
    gather_axis = normalized_axis(gather_axis, data.ndim)
    quantize_axis = normalized_axis(quantize_axis, data.ndim)
    if packed and (gather_axis != 0 or quantize_axis != data.ndim - 1):
        raise ModelError("data of uint8 is gathered along axis 0 and quantized along the last")
    q = unpack_bits(data, bits) if packed else data.astype(np.int16)
    blocks = list(q.shape)
    blocks[quantize_axis] = -(-blocks[quantize_axis] // block)
    if scales.shape != tuple(blocks):
        raise ModelError(f"scales must have shape {blocks}, got {list(scales.shape)}")
    zeros = _zero_points(zero_points, data.dtype, bits, tuple(blocks), packed)
    narrow = q.astype(np.uint8 if packed else np.int8)
    view = Blocked(narrow, scales, zeros, quantize_axis, block, bits)
    weights = grouped(view, 1, 8) if gather_axis == 0 else None
    if weights is not None:
        return _emit(walk, node, weights, indices=1)
    table = walk.constant(view.floats(), node.required(0))
    indices = walk.real(views[1], node.required(1))  # type: ignore[arg-type]
    out = walk.result(node.outputs[0], F32)
    attrs = {"axis": gather_axis}
    return Plain(walk.emit("Gather", [table, indices], attrs, out, node, "", 13))


def _zero_points(
    given: Array | None,
    dtype: np.dtype[np.generic],
    bits: int,
    shape: tuple[int, ...],
    packed: bool,
) -> Array:
    """One for every scale; the middle of packed bytes, 0 of int4 and kin, where none are given."""
    if given is None:
        return np.full(shape, 1 << bits - 1 if packed else 0, np.uint8 if packed else np.int8)
    if given.dtype != dtype:
        raise ModelError(f"zero_points must have the type of data, {dtype}, got {given.dtype}")
    if packed:
        given = unpack_bits(given, bits)[..., : shape[-1]]
    if given.shape != shape:
        raise ModelError(f"zero_points must have a value for each scale, {list(shape)},"
                         f" got {list(given.shape)}")  # fmt: skip
    return given.astype(np.uint8 if packed else np.int8)


def _emit(walk: Walk, node: Node, weights: Grouped, indices: int = 1) -> Outcome:
    like = node.required(0)
    arrays = (weights.packed, weights.scales, weights.zero_points)
    inputs = [None if a is None else walk.constant(a, like) for a in arrays]
    inputs.append(walk.real(walk.view(node.required(indices)), node.required(indices)))
    attrs = {"bits": weights.bits, "columns": weights.length}
    return Plain(walk.emit("GatherNBits", inputs, attrs, walk.result(node.outputs[0], F32), node))
