"""qrt.MatMulNBits: float32 activations times weights of 2, 4 or 8 bits in blocks along k.

Sources: com.microsoft MatMulNBits; MatMul and Gemm behind a blocked DequantizeLinear (opset 21).
With `integers` the activations are quantized to int8 block by block, as accuracy_level 4 allows:
docs/machine.md "Few-bit weights".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.gemm.blocking import block_panels
from qrt.gemm.nbits_kernel import NBITS_PRODUCTS, quantize_rows_kernel
from qrt.gemm.nbits_pack import pack_bias, pack_by_block, pack_nbits
from qrt.gemm.nbits_table import NBitsTile, block_nbytes, select_nbits
from qrt.gemm.unpack import SLAB
from qrt.ir import Node, Value
from qrt.ops.float_products import (
    ITEMSIZE,
    NO_BIAS,
    Codes,
    lower_coded_float_product,
    matrix_geometry,
)
from qrt.ops.product_rows import THREAD_MACS
from qrt.ops.spec import Array, Lowering, Operand, OpSpec
from qrt.quant.nbits import dequantize_blocks, quantize_rows, unpack_bits
from qrt.simd.caches import cache_sizes

UNPACKED_ROWS = 40  # of float32, from which on panels are unpacked once, not for every tile of rows


@dataclass(frozen=True)
class NBits:
    """The constants of a node: packed (n, blocks, block * bits / 8) uint8, scales (n, blocks),
    zero points of the same shape or None, bias (n,); k inputs."""

    packed: Array
    scales: Array
    zero_points: Array | None
    bias: Array | None
    bits: int
    k: int
    integers: bool

    @property
    def n(self) -> int:
        """Output columns."""
        return int(self.packed.shape[0])

    @property
    def block(self) -> int:
        """Weights of a block."""
        return int(self.packed.shape[2]) * 8 // self.bits


def parse(node: Node) -> NBits:
    """What recognition has checked."""
    arrays = [None if v is None else v.data for v in node.inputs[1:]]
    packed, scales, zero_points, bias = (*arrays, None, None)[:4]
    assert packed is not None and scales is not None, node
    integers = bool(node.attrs["integers"])
    return NBits(packed, scales, zero_points, bias, node.attrs["bits"], node.attrs["k"], integers)


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x, w = node.required(0), parse(node)
    if not x.static_shape or x.static_shape[-1] != w.k:
        raise ModelError(
            f"the last axis of its input must be K = {w.k}, got {list(x.static_shape)}"
        )
    return [((*x.static_shape[:-1], w.n), np.dtype(np.float32))]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    """In float64, but for what is rounded to int8: the kernels' chains differ by their rounding."""
    x, w = inputs[0], parse(node)
    assert x is not None
    rows = x.reshape(-1, w.k)
    q = unpack_bits(w.packed, w.bits)
    weights = dequantize_blocks(q, w.scales, w.zero_points, w.bits).astype(np.float64)
    weights = weights.reshape(w.n, -1)
    if w.integers:
        codes, scales = quantize_rows(rows, w.block)
        real = codes.astype(np.float64) * scales[..., None]
        y = real.reshape(rows.shape[0], -1) @ weights.T
    else:
        y = rows.astype(np.float64) @ weights[:, : w.k].T
    if w.bias is not None:
        y = y + w.bias
    return [y.astype(np.float32).reshape(*x.shape[:-1], w.n)]


def lower(node: Node, program: Lowering) -> None:
    x, y, w = node.required(0), node.outputs[0], parse(node)
    if x.dtype != np.float32:
        raise UnsupportedError(f"activations must be float32, got {x.dtype}")
    m = math.prod(x.static_shape[:-1])
    if m == 0 or w.n == 0:
        return
    tile = select_nbits("s8" if w.integers else "f32", w.bits, program.features)
    blocks = w.packed.shape[1]
    activations: dict[str, Operand | int] = {
        "x": program.operand(x), "x_scales": 0, "x_sums": 0
    }  # fmt: skip
    if w.integers:
        activations = {
            field: program.operand(Value(f"{y.name}/{field}", np.dtype(dtype), shape))
            for field, dtype, shape in (
                ("x", np.int8, (m, blocks * w.block)),
                ("x_scales", np.float32, (m, blocks)),
                ("x_sums", np.int32, (m, blocks)),
            )
        }
        program.emit(
            quantize_rows_kernel,
            x=program.operand(x),
            q=activations["x"],
            scales=activations["x_scales"],
            sums=activations["x_sums"],
            m=m,
            k=w.k,
            block=w.block,
        )
    zero_points = w.zero_points
    if zero_points is not None:
        zero_points = zero_points.astype(np.uint8 if w.integers else np.float32)
    key = (id(w.packed), id(w.scales), "nbits", tile)
    bias = np.full(w.n, NO_BIAS) if w.bias is None else w.bias
    panel = blocks * block_nbytes(w.block, tile)
    panels = program.packed(key, lambda: pack_nbits(w.packed, w.scales, tile))
    zeros = None
    if zero_points is not None:
        zeros = program.constant(pack_by_block(zero_points, tile))
    if m >= UNPACKED_ROWS and not w.integers and tile.nr % SLAB == 0:
        geometry = matrix_geometry(m, w.k, (0, w.k), (0, w.n))
        codes = _codes(w, tile, panels, zeros)
        lower_coded_float_product(
            program, codes, geometry, program.operand(x), program.operand(y), bias=bias
        )
        return
    program.emit(
        NBITS_PRODUCTS[tile],
        **activations,
        y=program.operand(y),
        panels=panels,
        zero_points=0 if zeros is None else zeros,
        bias=program.constant(pack_bias(bias, tile)),
        has_zero_points=int(zero_points is not None),
        m=m,
        n=w.n,
        k=w.k,
        block=w.block,
        at_once=block_panels(panel, cache_sizes()),
        max_threads=program.threads() if m * w.n * w.k >= THREAD_MACS else 1,
    )


def _codes(w: NBits, tile: NBitsTile, panels: Operand, zeros: Operand | None) -> Codes:
    """The panels of `pack_nbits` as `unpack` reads them."""
    blocks, block = w.packed.shape[1], block_nbytes(w.block, tile)
    line = tile.nr * ITEMSIZE
    fields = {
        "taps": 1,
        "span": w.k,
        "bits": w.bits,
        "mantissa": 0,
        "bias": 0,
        "block": w.block,
        "tap_rows": 0,
        "splat": 0,
        "per_panel": tile.nr // SLAB,
        "code_group": 0,
        "code_panel": blocks * block,
        "code_step": line,
        "code_gap": line,
        "scale_group": 0,
        "scale_panel": blocks * block,
        "scale_row": block,
        "zero_group": 0,
        "zero_panel": blocks * line,
        "zero_row": line,
    }
    scales, usual = panels.at(block - line), 1 << w.bits - 1
    return Codes(panels, scales, zeros, 1, w.n, usual, fields)


SPEC = OpSpec("MatMulNBits", "qrt", infer, reference, lower)
