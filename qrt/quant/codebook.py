"""Non-uniform quantization: each value becomes the index of the nearest entry of a small table.

Entries come from k-means (Han et al. 2015, "Deep Compression", section 3), are those of NF4
(Dettmers et al. 2023, appendix E), powers of two (Zhou et al. 2017, INQ) or sums of them (Li et al.
2020, additive powers of two). Back is a lookup; in an ONNX graph that is Gather of the table by
the indices, and a Mul by the scale (`gather_nodes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from qrt.errors import QuantizationError
from qrt.quant.affine import Array
from qrt.quant.choose import checked_axis, checked_real, positive_scale, ranges
from qrt.quant.packing import pack, packed_nbytes

MAX_ENTRIES = 1 << 16
# quantiles of a standard normal distribution, scaled to [-1, 1], with an exact 0
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class CodebookArray:
    """Indices `q` into `entries` (n,) float32, sorted; real = entries[q] * scale.

    `scale` is float32 (), or one per block of `block_size` along `axis` in the rank of q.
    """

    q: Array
    entries: Array
    scale: Array
    axis: int | None = None
    block_size: int | None = None

    def dequantize(self) -> Array:
        """The real values, float32."""
        return np.asarray(self.entries[self.q] * self._spread_scale(), np.float32)

    @property
    def bits(self) -> int:
        """Bits of one index."""
        return max(1, int(len(self.entries) - 1).bit_length())

    @property
    def nbytes(self) -> int:
        """Bytes when packed: indices, table, and scales that are not all 1."""
        scales = 4 * self.scale.size if (self.scale != 1).any() else 0
        return packed_nbytes(self.q.size, self.bits) + 4 * self.entries.size + scales

    def packed(self) -> Array:
        """The indices as a stream of bits, uint8."""
        return pack(self.q, self.bits)

    def clipped(self, x: Array) -> Array:
        """True where `x` lies beyond the ends of the table."""
        scale = self._spread_scale()
        slack = 1e-6 * np.abs(self.entries).max(initial=0) * scale
        low, high = self.entries[0] * scale - slack, self.entries[-1] * scale + slack
        return np.asarray((x < low) | (x > high))

    def _spread_scale(self) -> Array:
        if self.axis is None or self.block_size is None:
            return self.scale
        repeated = np.repeat(self.scale, self.block_size, self.axis)
        return repeated.take(np.arange(self.q.shape[self.axis]), self.axis)


def kmeans(
    x: Any, entries: int = 16, *, weights: Any = None, iterations: int = 50
) -> CodebookArray:
    """The table of `entries` values whose squared error over `x` Lloyd's iterations make least.

    weights: how much each element's error counts, of the shape of x, not negative. Starts from
    evenly spaced quantiles, so the same x gives the same table. Fewer distinct values than entries
    give a table that holds them exactly.
    """
    real = checked_real(x)
    if not 1 <= entries <= MAX_ENTRIES:
        raise QuantizationError(f"a codebook has 1 to {MAX_ENTRIES} entries, got {entries}")
    values = real.reshape(-1).astype(np.float64)
    mass = np.ones(values.shape) if weights is None else _mass(weights, real.shape)
    # equal values are one value of more weight
    points, places = np.unique(values, return_inverse=True)
    mass = np.bincount(places.reshape(-1), mass, points.size)
    if points.size <= entries:
        return nearest(real, points if points.size else np.zeros(1))
    table = np.unique(points[np.linspace(0, points.size - 1, entries).astype(np.int64)])
    summed_mass = np.concatenate(([0.0], np.cumsum(mass)))
    summed = np.concatenate(([0.0], np.cumsum(mass * points)))
    for _ in range(iterations):
        # of sorted points each cluster is a run, its bounds halfway between the entries
        ends = np.searchsorted(points, (table[1:] + table[:-1]) / 2, side="right")
        bounds = np.concatenate(([0], ends, [points.size]))
        held = np.diff(summed_mass[bounds])
        moved = np.where(held > 0, np.diff(summed[bounds]) / np.where(held > 0, held, 1), table)
        moved = np.sort(moved)
        if np.array_equal(moved, table):
            break
        table = moved
    return nearest(real, table)


def nf4(x: Any, block_size: int | None = 64, *, axis: int = -1) -> CodebookArray:
    """NormalFloat 4: blocks along `axis`, each scaled by its largest magnitude; None: one block."""
    return nearest(x, NF4, scaled=True, axis=axis, block_size=block_size)


def powers_of_two(bits: int = 4) -> Array:
    """0 and +-2**-i for i from 0 on: 2**bits - 1 entries within [-1, 1], sorted."""
    _check_table_bits(bits)
    positive = 2.0 ** -np.arange((1 << bits - 1) - 1)
    return _both_signs(positive)


def additive_powers_of_two(bits: int = 4, terms: int = 2) -> Array:
    """Sums of `terms` powers of two, each of (bits - 1) / terms bits: within [-1, 1], sorted.

    Term i is 0 or 2**-(i + j * terms) for j = 0, 1, ...; entries are scaled so that the largest is
    1 (Li et al. 2020, equation 2).
    """
    _check_table_bits(bits)
    if terms < 1 or (bits - 1) % terms:
        raise QuantizationError(f"{bits - 1} bits beside the sign do not divide into {terms} terms")
    each = (1 << (bits - 1) // terms) - 1
    choices = [[0.0, *(2.0 ** -(i + j * terms) for j in range(each))] for i in range(terms)]
    sums = np.unique([sum(choice) for choice in product(*choices)])
    return _both_signs(sums[sums > 0] / sums.max())


def nearest(
    x: Any,
    table: Any,
    *,
    scaled: bool = False,
    axis: int | None = None,
    block_size: int | None = None,
) -> CodebookArray:
    """`x` by the nearest entries of `table`; of two equally near ones the lower.

    scaled: entries are for [-1, 1], and x is divided by its largest magnitude first: of all, or of
    each block of `block_size` along `axis`.
    """
    real = checked_real(x)
    entries = np.unique(checked_real(table).reshape(-1).astype(np.float32))
    if not entries.size:
        raise QuantizationError("a codebook needs at least one entry")
    scale = np.ones((), np.float32)
    if scaled and block_size is not None:
        if block_size < 1:
            raise QuantizationError(f"a block has at least 1 element, got {block_size}")
        axis = checked_axis(-1 if axis is None else axis, real)
        low, high = ranges(real, axis, block_size)
        scale = positive_scale(np.maximum(-low, high))
    else:
        axis = block_size = None
        if scaled:
            low, high = ranges(real, None, None)
            scale = positive_scale(np.maximum(-low, high))
    empty = CodebookArray(np.zeros(real.shape, np.uint8), entries, scale, axis, block_size)
    stretched = real / empty._spread_scale()
    middles = (entries[1:].astype(np.float64) + entries[:-1]) / 2
    q = np.searchsorted(middles, stretched, side="left")
    dtype = np.uint8 if entries.size <= 256 else np.uint16
    return CodebookArray(q.astype(dtype), entries, scale, axis, block_size)


def gather_nodes(codebook: CodebookArray, name: str) -> tuple[list[Any], list[Any]]:
    """(nodes, initializers) of ONNX, opset 13, that make the real values as tensor `name`.

    Gather(table, indices), then Mul by the scale where that is not 1, its blocks repeated as they
    are: the axis is split in blocks before and joined after. Only whole blocks can be written so.
    """
    from onnx import helper, numpy_helper

    arrays = {f"{name}_table": codebook.entries}
    shape, axis, size = codebook.q.shape, codebook.axis, codebook.block_size
    indices = codebook.q.astype(np.int32)
    scale = codebook.scale
    if axis is not None and size is not None:
        if shape[axis] % size:
            raise QuantizationError(
                f"blocks of {size} do not fill axis {axis} of {shape[axis]} elements"
            )
        split = (*shape[:axis], shape[axis] // size, size, *shape[axis + 1 :])
        indices, scale = indices.reshape(split), np.expand_dims(scale, axis + 1)
    arrays[f"{name}_indices"] = indices
    steps = [("Gather", [f"{name}_table", f"{name}_indices"])]
    if (scale != 1).any():
        arrays[f"{name}_scale"] = scale
        steps.append(("Mul", ["", f"{name}_scale"]))
    if indices.shape != shape:
        arrays[f"{name}_shape"] = np.array(shape, np.int64)
        steps.append(("Reshape", ["", f"{name}_shape"]))
    nodes, last = [], ""
    for number, (op, inputs) in enumerate(steps):
        out = name if number == len(steps) - 1 else f"{name}_{op.lower()}"
        nodes.append(helper.make_node(op, [v or last for v in inputs], [out], f"{name}_{op}"))
        last = out
    return nodes, [numpy_helper.from_array(a, n) for n, a in arrays.items()]


def _both_signs(positive: Array) -> Array:
    return np.unique(np.concatenate((-positive, [0.0], positive))).astype(np.float32)


def _check_table_bits(bits: int) -> None:
    if not 2 <= bits <= 8:
        raise QuantizationError(f"tables of powers of two have 2 to 8 bits, got {bits}")


def _mass(weights: Any, shape: tuple[int, ...]) -> Array:
    mass = checked_real(weights)
    if mass.shape != shape or (mass < 0).any():
        raise QuantizationError(
            f"weights must not be negative and have the shape {list(shape)}, got"
            f" {list(mass.shape)}{' with negative ones' if (mass < 0).any() else ''}"
        )
    return mass.reshape(-1).astype(np.float64)
