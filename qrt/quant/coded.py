"""Constants kept as codes: integers of 2 to 16 bits or small floats, a scale for every block.

Source: ONNX DequantizeLinear, opset 10 to 28: real = (float32(code) - zero_point) * scale, each
rounded. Blocks are any boxes: one scale in all, one per index of an axis, or blocks along an axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from qrt.quant.affine import Array
from qrt.quant.nbits import pack_bits, unpack_bits


@dataclass(frozen=True)
class SmallFloat:
    """A float of 4 or 8 bits: sign, exponent with `bias`, `mantissa` bits."""

    bits: int
    mantissa: int
    bias: int


SMALL_FLOATS = {
    "float4_e2m1fn": SmallFloat(4, 1, 1),
    "float8_e4m3fn": SmallFloat(8, 3, 7),
    "float8_e4m3fnuz": SmallFloat(8, 3, 8),
    "float8_e5m2": SmallFloat(8, 2, 15),
    "float8_e5m2fnuz": SmallFloat(8, 2, 16),
}
INTEGERS = {
    "int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Coded:
    """A float32 constant of `shape` as codes.

    `packed` uint8 holds `bits` of each in C order, lowest bits first; signed integers are raised by
    half of their range. `scale` float32, and `zero_point` of its shape (None: `usual` everywhere),
    have for each axis 1 element or one for every `blocks[axis]` indices. `kind` is None for
    integers.
    """

    shape: tuple[int, ...]
    packed: Array
    bits: int
    kind: SmallFloat | None
    scale: Array
    zero_point: Array | None
    usual: int
    blocks: tuple[int, ...]

    def codes(self) -> Array:
        """uint8, or uint16 where they have 16 bits, of `shape`."""
        count = math.prod(self.shape)
        if self.bits == 16:
            return self.packed.view("<u2").reshape(self.shape)
        return unpack_bits(self.packed, self.bits)[:count].reshape(self.shape)

    def floats(self) -> Array:
        """The elements, kept: only what cannot read codes asks for them."""
        return self._elements

    @cached_property
    def _elements(self) -> Array:
        zero: Array = np.full((), self.usual, np.float32)
        if self.zero_point is not None:
            zero = self._spread(self.zero_point)
        if self.kind is None:
            real = self.codes().astype(np.float32)
        else:
            real = small_floats(self.kind)[self.codes()]
        made: Array = (real - zero) * self._spread(self.scale)
        return made

    @cached_property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        zeros = 0 if self.zero_point is None else self.zero_point.nbytes
        return self.packed.nbytes + self.scale.nbytes + zeros

    def transposed(self, order: tuple[int, ...]) -> Coded:
        """Its axes in `order`."""
        codes = self.codes().transpose(order)
        zeros = None if self.zero_point is None else self.zero_point.transpose(order)
        return replace(
            self,
            shape=codes.shape,
            packed=_packed(codes, self.bits),
            scale=self.scale.transpose(order),
            zero_point=zeros,
            blocks=tuple(self.blocks[a] for a in order),
        )

    def reshaped(self, shape: tuple[int, ...]) -> Coded | None:
        """In `shape`, where that has other axes of 1 only, else None."""
        if [n for n in shape if n != 1] != [n for n in self.shape if n != 1]:
            return None
        own = iter([a for a, n in enumerate(self.shape) if n != 1])
        sources = [None if n == 1 else next(own) for n in shape]
        sizes = [1 if a is None else self.scale.shape[a] for a in sources]
        zeros = None if self.zero_point is None else self.zero_point.reshape(sizes)
        blocks = tuple(1 if a is None else self.blocks[a] for a in sources)
        scale = self.scale.reshape(sizes)
        return replace(self, shape=shape, scale=scale, zero_point=zeros, blocks=blocks)

    def _spread(self, parameter: Array) -> Array:
        """A scale or zero point for each element, as it broadcasts."""
        for axis, (size, block) in enumerate(zip(self.shape, self.blocks, strict=True)):
            parameter = spread_blocks(parameter, axis, size, block)
        return parameter


def spread_blocks(parameter: Array, axis: int, size: int, block: int) -> Array:
    """One for each of `size` indices of `axis`, of one for every `block`; 1 element stays 1."""
    if block == 1 or parameter.shape[axis] == 1:
        return parameter
    return np.repeat(parameter, block, axis).take(range(size), axis)


def small_floats(kind: SmallFloat) -> Array:
    """The float32 of every code, by its bits; what a type keeps for infinity and NaN counts too."""
    codes = np.arange(1 << kind.bits)
    sign = np.where(codes >> kind.bits - 1, -1.0, 1.0)
    magnitude = codes & (1 << kind.bits - 1) - 1
    exponent, fraction = magnitude >> kind.mantissa, magnitude & (1 << kind.mantissa) - 1
    significand = fraction + np.where(exponent > 0, 1 << kind.mantissa, 0)
    power = np.maximum(exponent, 1) - kind.bias - kind.mantissa
    found: Array = (sign * np.ldexp(significand.astype(np.float64), power)).astype(np.float32)
    return found


def code_constant(
    data: Array,
    scale: Array,
    zero_point: Array | None,
    axis: int,
    block: int = 0,
    name: str = "",
) -> Coded | None:
    """`data` of a type of SMALL_FLOATS or INTEGERS, called `name` where it is widened, and its
    float32 parameters as ONNX has them: one, a vector along `axis`, or as many axes as `data` with
    blocks of `block` along `axis`.

    None for other types, for infinities and NaN, and for scalars.
    """
    name = name or data.dtype.name
    kind = SMALL_FLOATS.get(name)
    if (kind is None and name not in INTEGERS) or not data.size or not data.ndim:
        return None
    if scale.dtype != np.float32:
        return None
    zeros: Array | None = None
    usual = 0
    if kind is not None:
        bits, codes = kind.bits, np.ascontiguousarray(data).view(np.uint8)
        if not np.isfinite(data.astype(np.float32)).all() or _any(zero_point):
            return None
    else:
        bits = INTEGERS[name]
        usual = 0 if name.startswith("u") else 1 << bits - 1
        codes = (data.astype(np.int32) + usual).astype(np.uint16 if bits == 16 else np.uint8)
        if zero_point is not None and _any(zero_point):
            zeros = zero_point.astype(np.float32) + np.float32(usual)
    blocks, shape = data.shape, (1,) * data.ndim
    if block:
        blocks = tuple(block if a == axis else 1 for a in range(data.ndim))
        shape = scale.shape
    elif scale.size > 1:
        blocks = tuple(1 if a == axis else n for a, n in enumerate(data.shape))
        shape = tuple(n if a == axis else 1 for a, n in enumerate(data.shape))
    if zeros is not None:
        zeros = np.broadcast_to(zeros.reshape(-1), math.prod(shape)).reshape(shape)
    packed = _packed(codes, bits)
    return Coded(data.shape, packed, bits, kind, scale.reshape(shape), zeros, usual, blocks)


def _any(zero_point: Array | None) -> bool:
    return zero_point is not None and bool(zero_point.astype(np.float32).any())


def _packed(codes: Array, bits: int) -> Array:
    """uint8 (nbytes,) of unsigned codes."""
    flat = np.ascontiguousarray(codes).reshape(-1)
    if bits == 16:
        return flat.astype("<u2").view(np.uint8)
    return pack_bits(np.pad(flat, (0, -flat.size % (8 // bits))), bits)
