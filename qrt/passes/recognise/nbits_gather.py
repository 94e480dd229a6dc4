"""Gather of rows of tables that stay codes: com.microsoft GatherBlockQuantized, and Gather behind a
DequantizeLinear of any type but 8 bits with one scale in all or one a column.
"""

from __future__ import annotations

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.ops.channels import normalized_axis
from qrt.passes.recognise import movement
from qrt.passes.recognise.linear import NARROW
from qrt.passes.recognise.views import Blocked, Fixed, Kept, Plain, View
from qrt.passes.recognise.walk import Outcome, Walk
from qrt.quant.affine import Array
from qrt.quant.nbits import unpack_bits

F32 = np.dtype(np.float32)
U8 = np.dtype(np.uint8)


def gather(walk: Walk, node: Node, views: list[View | None]) -> Outcome:
    """Gather of rows: from a packed table where there is one, else a movement."""
    table, axis = views[0], AttrReader(node).int("axis", 0)
    constant = walk.array(node.input(1)) is not None
    if isinstance(table, (Fixed, Blocked, Kept)) and axis in (0, -2) and not constant:
        # one scale in all is left to movement: codes move, and are dequantized behind
        bytes_ = isinstance(table, Fixed) and table.bits == 8 and table.qparams.axis != 0
        coded = None if bytes_ else table.coded()
        if coded is not None and len(coded.shape) == 2:
            return _emit(walk, node, walk.deferred(coded, node.required(0)), 0)
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
    narrow = q.astype(_wide(data.dtype))
    view = Blocked(narrow, scales, zeros, quantize_axis, block, bits)
    return _emit(walk, node, view.real(walk, node.required(0)), gather_axis)


def _zero_points(
    given: Array | None,
    dtype: np.dtype[np.generic],
    bits: int,
    shape: tuple[int, ...],
    packed: bool,
) -> Array:
    """One for every scale; the middle of packed bytes, 0 of int4 and kin, where none are given."""
    if given is None:
        return np.full(shape, 1 << bits - 1 if packed else 0, _wide(dtype))
    if given.dtype != dtype:
        raise ModelError(f"zero_points must have the type of data, {dtype}, got {given.dtype}")
    if packed:
        given = unpack_bits(given, bits)[..., : shape[-1]]
    if given.shape != shape:
        raise ModelError(f"zero_points must have a value for each scale, {list(shape)},"
                         f" got {list(given.shape)}")  # fmt: skip
    return given.astype(_wide(dtype))


def _wide(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """The byte that holds integers of a narrow type."""
    return np.dtype(np.uint8 if dtype.name.startswith("u") else np.int8)


def _emit(walk: Walk, node: Node, table: Value, axis: int) -> Outcome:
    indices = walk.real(walk.view(node.required(1)), node.required(1))
    out = walk.result(node.outputs[0], F32)
    return Plain(walk.emit("Gather", [table, indices], {"axis": axis}, out, node, "", 13))
