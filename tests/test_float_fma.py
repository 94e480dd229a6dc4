"""A fused multiply-add has the same bits with and without the instruction: those of the contract.

The oracle itself is checked against exact fractions.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from contract.floats import fma
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_harness import ENTRY, feature_levels

from qrt.jit.declare import HEADER, Kernel
from qrt.jit.load import kernel_addresses
from qrt.jit.target import host_arch, target_for
from qrt.program.constants import aligned_bytes
from qrt.simd.features import active_features, detected_features
from qrt.simd.fma import has_fma
from tests.machine.fma_kernels import FIELDS, KERNELS

Array = np.ndarray[Any, Any]
F = np.float32
ONE_ULP = F(2**-23)
NASTY = np.array(
    [
        0, 1, 1 + ONE_ULP, 1 - ONE_ULP / 2, 3, 2**12 + 1, 2**-12, 2**24, 2**24 - 1, 2**-24, 2**-25,
        1.5, 0.1, np.pi, 2.0**-149, 2.0**-148, 3 * 2.0**-149, 2.0**-126, 2.0**-126 - 2.0**-149,
        2.0**-127, 2.0**-75, 2.0**-63, 1.5 * 2.0**-74, 2.0**63, 2.0**64, 2.0**127, 3.4028235e38,
        3.4028233e38, np.inf,
    ],
    F,
)  # fmt: skip


def rounded(exact: Fraction) -> Array:
    """The float32 nearest to a fraction that is not 0, even on ties, by whole numbers alone."""
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    step = max(exponent - 23, -149)
    whole = round(size / Fraction(2) ** step)  # Python rounds halves to even
    value = Fraction(whole) * Fraction(2) ** step
    found = F(np.inf) if value >= 2**128 else F(float(value))
    return np.array(found if exact > 0 else -found, F)


floats = st.integers(0, 2**32 - 1).map(lambda b: np.array(b, np.uint32).view(F))
near_ties = st.builds(
    lambda m, e, s: F(s * m) * F(2.0) ** F(e),
    st.sampled_from([1, 2**23 + 1, 2**24 - 1, 2**12 + 1, 2**23, 3 * 2**22]),
    st.integers(-100, 60),
    st.sampled_from([-1, 1]),
)
drawn = st.one_of(floats, near_ties, st.sampled_from([*NASTY, *-NASTY]))


@given(drawn, drawn, drawn)
@example(F(1 + ONE_ULP), F(1 + ONE_ULP), F(2.0**30))
def test_the_oracle_is_exact(x: Any, w: Any, acc: Any) -> None:
    got = fma(np.array(x, F), np.array(w, F), np.array(acc, F))
    if not np.isfinite([x, w, acc]).all():
        with np.errstate(all="ignore"):
            want = np.float64(x) * np.float64(w) + np.float64(acc)  # infinite or NaN: no rounding
        assert np.array_equal(got, want.astype(F), equal_nan=True)
        return
    exact = Fraction(float(x)) * Fraction(float(w)) + Fraction(float(acc))
    if exact == 0:
        assert got == 0
    else:
        assert got.view(np.uint32) == rounded(exact).view(np.uint32), (x, w, acc)


def triples() -> list[Array]:
    """All triples of nasty values, sums that end beside ties of float32, and random bits."""
    signed = np.concatenate([NASTY, -NASTY, np.array([np.nan], F)])
    grid = [g.reshape(-1) for g in np.meshgrid(signed, signed, signed, indexing="ij")]
    rng = np.random.default_rng(5)
    bits = [rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(F) for _ in range(3)]
    # products with all 48 bits, and an addend that leaves the tail of the product below a tie
    x, w = ((rng.integers(2**23, 2**24, 200_000) * 2.0**-23).astype(F) for _ in range(2))
    shift = rng.integers(20, 50, x.size)
    acc = ((rng.integers(2**23, 2**24, x.size) | 1) * 2.0 ** (shift - 23)).astype(F)
    low = (2.0 ** (rng.integers(-149, -100, x.size))).astype(F)
    halves = np.full(x.size, F(2.0**-24))
    ones = (rng.integers(2**23, 2**24, x.size) * 2.0**-23).astype(F)
    # ones + 2**-24 * (1 +- ulp): beside the tie, and at it
    beside = np.array([1 - ONE_ULP / 2, 1, 1 + ONE_ULP], F)[rng.integers(0, 3, x.size)]
    parts = (
        grid,
        bits,
        [x, w, acc * rng.choice(np.array([-1, 1], F), x.size)],
        [x, low, rng.permutation(low)],
        [halves, beside, ones],
    )
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    room = -joined[0].size % 16
    return [np.concatenate([column, np.zeros(room, F)]) for column in joined]


def without_fma() -> str:
    """All that this CPU has except the instruction."""
    return "-fma" if "fma" in detected_features() else ""


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_every_level_gives_the_bits_of_the_contract(kernel: Kernel) -> None:
    operands = triples()
    want = fma(*operands)
    with np.errstate(all="ignore"):
        twice = (operands[0].astype(np.float64) * operands[1] + operands[2]).astype(F)
    finite = np.isfinite(want)
    assert (twice[finite] != want[finite]).any(), "no triple tells one rounding from two"
    n, size = want.size, 4 * want.size
    wrong = []
    for spec in {*feature_levels(), without_fma()}:
        target = target_for(active_features(spec))
        entry = ENTRY(kernel_addresses([kernel], target)[kernel.name])
        arena = aligned_bytes(4 * size)
        for i, operand in enumerate(operands):
            arena[i * size : (i + 1) * size] = operand.view(np.uint8)
        row = np.array([0] * len(HEADER) + [*(i * size for i in range(len(FIELDS) - 1)), n])
        assert entry(row.ctypes.data, arena.ctypes.data, arena.ctypes.data, 0, 1) == 0
        got = arena[3 * size :].view(F)
        differs = (got.view(np.uint32) != want.view(np.uint32)) & ~(np.isnan(got) & np.isnan(want))
        if differs.any():
            i = int(np.argmax(differs))
            case = tuple(float(o[i]) for o in operands)
            wrong.append(
                f"{spec or 'all'} (instruction: {has_fma(target)}): {differs.sum()} of {n},"
                f" first {case}: {got[i]!r} instead of {want[i]!r}"
            )
    assert not wrong, wrong


def test_the_instruction_and_its_emulation_are_both_run() -> None:
    if host_arch() != "x86_64" or "fma" not in detected_features():
        pytest.skip("this CPU has only one of the two")
    ways = {has_fma(target_for(active_features(spec))) for spec in feature_levels()}
    assert ways == {True, False}
