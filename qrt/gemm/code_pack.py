"""Constants in codes as `unpack` reads them: panels of 16 columns, scales beside them.

The layout of the codes is that of `nbits_pack`; it does not depend on a tile, so one packing serves
every shape of a session. Scales and zero points are rows, one for every block along k, of a value
per column or, where blocks hold whole slabs of columns, of one per block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qrt.gemm.unpack import SLAB
from qrt.quant.affine import Array
from qrt.quant.coded import Coded, spread_blocks

ITEMSIZE = 4


@dataclass(frozen=True)
class Form:
    """Which axes of a constant are what in `groups` products: its columns (groups * n of them),
    the values of a tap, and the taps, whose order is that of the axes."""

    groups: int
    column: int
    value: int
    taps: tuple[int, ...] = ()


@dataclass(frozen=True)
class CodePack:
    """`coded` as `form` reads it: numbers now, bytes when somebody asks for them."""

    coded: Coded
    form: Form

    @property
    def n(self) -> int:
        """Columns of a group."""
        return self.coded.shape[self.form.column] // self.form.groups

    @property
    def k(self) -> int:
        """Values of a column."""
        return self._taps * self.coded.shape[self.form.value]

    @property
    def nbytes(self) -> int:
        """Bytes that stay."""
        parameters = self._sets * self._rows * self._row_nbytes
        codes = self.form.groups * self._slabs * self._steps * SLAB * ITEMSIZE
        return codes + parameters * (1 if self.coded.zero_point is None else 2)

    @property
    def fields(self) -> dict[str, int]:
        """Those of `unpack` that say how codes and scales lie."""
        coded, kind, value = self.coded, self.coded.kind, self.form.value
        panel = self._steps * SLAB * ITEMSIZE
        line = self._row_nbytes if self._splat else SLAB * ITEMSIZE
        steps = {
            "group": 0 if self._sets == 1 else self._rows * self._row_nbytes,
            "panel": 0 if self._splat else self._rows * line,
            "row": line,
        }
        return {
            "taps": self._taps,
            "span": coded.shape[value],
            "bits": coded.bits,
            "mantissa": 0 if kind is None else kind.mantissa,
            "bias": 0 if kind is None else kind.bias,
            "block": coded.shape[value] if self._blocks == 1 else coded.blocks[value],
            "tap_rows": self._blocks if self._own_taps else 0,
            "splat": max(1, -(-self._each // SLAB)) if self._splat else 0,
            "per_panel": 1,
            "code_group": self._slabs * panel,
            "code_panel": panel,
            "code_step": SLAB * ITEMSIZE,
            "code_gap": 0,
            **{f"{of}_{step}": by for of in ("scale", "zero") for step, by in steps.items()},
        }

    def codes(self) -> Array:
        """uint8 (nbytes,): dwords [group][slab][step][column]."""
        coded, form = self.coded, self.form
        order = (form.column, *form.taps, form.value)
        codes = coded.codes().transpose(order).reshape(form.groups, self.n, self.k)
        per_group = 32 // coded.bits
        whole = (form.groups, self._slabs * SLAB, self._steps * per_group)
        padded = np.zeros(whole, codes.dtype)
        padded[:, : self.n, : self.k] = codes
        split = padded.reshape(form.groups, self._slabs, SLAB, self._steps, per_group)
        dwords = np.zeros((form.groups, self._slabs, self._steps, SLAB), np.uint32)
        wide = 16 if coded.bits == 16 else 8
        for j in range(per_group):
            shift = np.uint32(j % (32 // wide) * wide + j // (32 // wide) * coded.bits)
            dwords |= split[..., j].transpose(0, 1, 3, 2).astype(np.uint32) << shift
        return dwords.reshape(-1).view(np.uint8)

    def parameter(self, parameter: Array) -> Array:
        """Scales or zero points: [group or one][row][block], or [..][slab][row][column]."""
        coded, form = self.coded, self.form
        if self._own_taps:
            for axis in form.taps:
                size = coded.shape[axis]
                parameter = spread_blocks(parameter, axis, size, coded.blocks[axis])
                shape = list(parameter.shape)
                shape[axis] = size
                parameter = np.broadcast_to(parameter, shape)
        if self._each == 1:
            columns = coded.shape[form.column]
            parameter = spread_blocks(parameter, form.column, columns, coded.blocks[form.column])
        found = parameter.transpose(form.column, *form.taps, form.value)
        found = found.reshape(self._sets, -1, self._rows).transpose(0, 2, 1)
        if self._splat:
            return np.ascontiguousarray(found)
        lanes = np.zeros((self._sets, self._rows, self._slabs * SLAB), np.float32)
        lanes[..., : self.n] = found
        split = lanes.reshape(self._sets, self._rows, self._slabs, SLAB)
        return np.ascontiguousarray(split.transpose(0, 2, 1, 3))

    @property
    def _taps(self) -> int:
        return math.prod(self.coded.shape[a] for a in self.form.taps)

    @property
    def _slabs(self) -> int:
        return -(-self.n // SLAB)

    @property
    def _steps(self) -> int:
        return -(-self.k * self.coded.bits // 32)

    @property
    def _sets(self) -> int:
        """Sets of scales: one for every group, or one that all share."""
        return 1 if self.coded.scale.shape[self.form.column] == 1 else self.form.groups

    @property
    def _own_taps(self) -> bool:
        return any(self.coded.scale.shape[a] > 1 for a in self.form.taps)

    @property
    def _blocks(self) -> int:
        """Blocks along a tap's values."""
        return int(self.coded.scale.shape[self.form.value])

    @property
    def _rows(self) -> int:
        return self._blocks * (self._taps if self._own_taps else 1)

    @property
    def _each(self) -> int:
        """Columns that share a scale: all, whole slabs, or one."""
        block = self.coded.blocks[self.form.column]
        if self.coded.scale.shape[self.form.column] == 1:
            return self.n
        fits = block % SLAB == 0 and (self.form.groups == 1 or self.n % block == 0)
        return block if fits else 1

    @property
    def _splat(self) -> bool:
        return self._each > 1 or self.n == 1

    @property
    def _row_nbytes(self) -> int:
        if self._splat:
            return -(-self.n // self._each) * ITEMSIZE
        return self._slabs * SLAB * ITEMSIZE
