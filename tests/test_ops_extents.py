"""Rows of hostile numbers: `extents` refuses them or covers all that the kernel may touch."""

from __future__ import annotations

import numpy as np
import pytest

from qrt.jit.declare import KERNELS, Kernel
from qrt.ops import OPS, masked_softmax

assert OPS
SIZE_FIELDS = (
    "n", "n0", "n1", "n2", "n3", "n4", "outer", "channels", "inner", "rows", "nbytes", "count",
    "batch", "ih", "iw", "oh", "ow", "r0", "m", "k", "p", "q",
)  # fmt: skip
LEAST = {"masked_softmax": masked_softmax.FEWEST}  # kernel -> the sizes it begins with, if not 1
CALLED = {family for k in KERNELS.values() for family in k.calls.values()}  # they are no rows
OURS = sorted(
    (
        k
        for k in KERNELS.values()
        if k.fn.__module__.startswith("qrt.ops.") and k.family not in CALLED
    ),
    key=lambda k: k.name,
)


def _row(kernel: Kernel, value: int) -> dict[str, int]:
    row = dict.fromkeys(kernel.fields, value)
    suffix = kernel.name.removeprefix("index_copy_")
    return row | {"nbytes": int(suffix)} if suffix.isdigit() else row


@pytest.mark.parametrize("kernel", OURS, ids=lambda k: k.name)
def test_negative_sizes_are_refused(kernel: Kernel) -> None:
    for name in SIZE_FIELDS:
        if name not in kernel.fields:
            continue
        row = _row(kernel, 1) | {name: -3}
        try:
            extents = kernel.extents(row)
        except ValueError:
            continue
        # not refused by name: then some operand must need an impossible number of bytes
        assert any(e.nbytes < 0 for e in extents), (kernel.name, name, extents)


@pytest.mark.parametrize("kernel", OURS, ids=lambda k: k.name)
def test_extents_grow_with_sizes(kernel: Kernel) -> None:
    """Fields that are operands get an extent each, and a larger size never touches less."""
    rng = np.random.default_rng(0)
    row = _row(kernel, LEAST.get(kernel.name.split("_f32")[0], 1))
    small = {e.field: e.nbytes for e in kernel.extents(row)}
    assert small or kernel.name == "jump", kernel.name
    for name in SIZE_FIELDS:
        if name not in kernel.fields:
            continue
        try:
            large = kernel.extents(row | {name: int(rng.integers(2, 1000))})
        except ValueError:
            continue
        for extent in large:
            assert extent.nbytes >= small[extent.field], (kernel.name, name, extent)
