"""Products by constants that stay codes: every type and every shape of blocks, the bits of the
contract on every level, and what `explain` is told."""

from __future__ import annotations

from itertools import product as combinations

import ml_dtypes
import numpy as np
import pytest
from kernel_harness import channels_last, new_value, run_node
from operator_cases import Cases, constant, levels, same

from qrt.ir import Deferred, Node, Value
from qrt.ops import float_conv, float_matmul, float_products, gather, gather_codes
from qrt.quant.coded import INTEGERS, SMALL_FLOATS, Coded, code_constant, small_floats
from tests.contract import floats

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
F = np.float32
TYPES = (*INTEGERS, *SMALL_FLOATS)


def draw(
    rng: np.random.Generator, shape: tuple[int, ...], name: str, axis: int | None, block: int,
    *, zero_points: bool = True,
) -> tuple[Coded, Array]:  # fmt: skip
    """Random codes with one scale (axis None), one per index (block 0) or in blocks, and what they
    stand for."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    sizes = list(shape)
    if axis is not None:
        sizes[axis] = -(-shape[axis] // block) if block else shape[axis]
    form = tuple(sizes) if block else () if axis is None else (shape[axis],)
    scale = np.asarray(rng.random(form) + 0.1, F)
    zeros: Array | None = None
    if name in SMALL_FLOATS:
        q = (rng.standard_normal(shape) * 2.0 ** rng.integers(-9, 3, shape)).astype(dtype)
        centered = q.astype(F)
    else:
        low = 0 if name.startswith("u") else -(1 << INTEGERS[name] - 1)
        q = rng.integers(low, low + (1 << INTEGERS[name]), shape).astype(dtype)
        zeros = rng.integers(low, low + (1 << INTEGERS[name]), form).astype(dtype)
        zeros = zeros if zero_points else None
        own = spread(zeros.astype(np.int64), shape, axis, block) if zero_points else 0
        centered = (q.astype(np.int64) - own).astype(F)
    coded = code_constant(q, scale, zeros, axis or 0, block)
    assert coded is not None
    return coded, centered * spread(scale, shape, axis, block)


def spread(parameter: Array, shape: tuple[int, ...], axis: int | None, block: int) -> Array:
    """One for every element."""
    if axis is None:
        return parameter
    index = np.arange(shape[axis]) // (block or 1)
    if block:
        return parameter.take(index, axis)
    return parameter.reshape([-1 if a == axis else 1 for a in range(len(shape))])


def check(
    cases: Cases, case: object, op: str, x: Array, w: Value, want: Array,
    attrs: dict[str, object], bias: Array | None = None,
) -> None:  # fmt: skip
    """All levels, one thread and two, give the bits of `want`."""
    spec = {"Conv": float_conv.SPEC, "MatMul": float_matmul.MATMUL, "Gemm": float_matmul.GEMM}[op]
    given = new_value("x", F, x.shape, channels_last(x.ndim) if op == "Conv" else None)
    inputs: list[Value | None] = [given, w]
    if bias is not None:
        inputs.append(constant(bias))
    for level, threads in combinations(levels(), (1, 2)):
        out = new_value("y", F, layout=channels_last(x.ndim) if op == "Conv" else None)
        node = Node(op, inputs, [out], dict(attrs), version=13)
        (got,) = run_node(spec, node, [x] + [None] * (len(inputs) - 1), level, threads)
        cases.check((case, level, threads), same(got, want))


@pytest.fixture(autouse=True)
def packed_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_products, "LEAST_NBYTES", 0)
    monkeypatch.setattr(float_products, "WORTH", np.inf)
    monkeypatch.setattr(float_products, "THREAD_MACS", 0)
    monkeypatch.setattr(gather_codes, "WORTH", np.inf)


@pytest.mark.parametrize("name", TYPES)
def test_matrices(name: str) -> None:
    """Blocks along k and along the columns, whole slabs of them or not; scales of rows, of columns,
    one in all; Gemm with its weights turned, alpha and a bias."""
    rng = np.random.default_rng(961)
    m, k, n = 3, 37, 70
    x, bias = rng.standard_normal((m, k)).astype(F), rng.standard_normal(n).astype(F)
    with Cases(name) as cases:
        for i, (axis, block) in enumerate(
            ((0, 16), (0, 5), (1, 16), (1, 32), (1, 5), (0, 0), (1, 0), (None, 0), (1, 99))
        ):
            coded, real = draw(rng, (k, n), name, axis, block, zero_points=i % 2 == 0)
            cases.check((axis, block), same(coded.floats(), real))
            w = Deferred("w", coded)
            check(cases, (axis, block), "MatMul", x, w, floats.matmul(x, real), {})
            if i % 3 == 0:
                turned = Deferred("w", coded.transposed((1, 0)))
                want = floats.matmul(x, real, 0.5, bias)
                check(cases, "Gemm", "Gemm", x, turned, want, {"transB": 1, "alpha": 0.5}, bias)


FORMS = (
    (1, (21, 10, 3, 2), 1, 4), (1, (21, 10, 3, 2), 0, 0), (1, (32, 3, 1, 1), 0, 16),
    (2, (38, 5, 3, 1), 1, 0), (3, (48, 4, 2, 2), 0, 16), (2, (24, 6, 2, 2), 0, 8),
    (1, (20, 6, 3, 3), 2, 2), (2, (20, 6, 1, 1), None, 0), (4, (8, 6, 1, 3), 3, 3),
)  # fmt: skip


@pytest.mark.parametrize("name", ("uint2", "int4", "uint16", "float8_e4m3fn"))
def test_convolutions(name: str) -> None:
    """Blocks along inputs, outputs and the kernel; groups that share scales, and that do not."""
    rng = np.random.default_rng(962)
    with Cases(name) as cases:
        for group, shape, axis, block in FORMS:
            coded, real = draw(rng, shape, name, axis, block)
            cases.check((shape, axis, block), same(coded.floats(), real))
            x = rng.standard_normal((1, shape[1] * group, 4, 5)).astype(F)
            bias = rng.standard_normal(shape[0]).astype(F)
            want = floats.conv(x, real, bias, (1, 1), (1, 1, 1, 1), (1, 1), group)
            attrs: dict[str, object] = {"pads": [1, 1, 1, 1], "group": group}
            w = Deferred("w", coded)
            check(cases, (group, shape, axis, block), "Conv", x, w, want, attrs, bias)


def test_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are unpacked in several parts: of columns, and of groups."""
    rng = np.random.default_rng(963)
    monkeypatch.setattr(float_products, "block_panels", lambda *_: 1)
    x = rng.standard_normal((7, 20)).astype(F)
    with Cases("parts") as cases:
        for axis, block in ((0, 16), (1, 64), (1, 48), (None, 0)):
            coded, real = draw(rng, (20, 333), "int4", axis, block)
            check(cases, axis, "MatMul", x, Deferred("w", coded), floats.matmul(x, real), {})
        coded, real = draw(rng, (40 * 5, 3, 1, 1), "uint4", 0, 0)
        image = rng.standard_normal((1, 120, 2, 2)).astype(F)
        want = floats.conv(image, real, None, (1, 1), (0,) * 4, (1, 1), 40)
        check(cases, "groups", "Conv", image, Deferred("w", coded), want, {"group": 40})


@pytest.mark.parametrize("name", TYPES)
def test_gather(name: str) -> None:
    """Rows of a table in blocks along either axis, of one scale a row, a column and in all; rows
    that begin within a byte."""
    rng = np.random.default_rng(965)
    with Cases(name) as cases:
        for i, (shape, axis, block) in enumerate((
            ((9, 96), 1, 32), ((9, 31), 1, 16), ((50, 33), 0, 16), ((9, 32), 0, 0), ((9, 32), 1, 0),
            ((9, 17), None, 0), ((9, 1), 0, 0),
        )):  # fmt: skip
            coded, real = draw(rng, shape, name, axis, block, zero_points=i % 2 == 0)
            dtype = (np.int32, np.int64)[i % 2]
            indices = rng.integers(-shape[0], shape[0], (2, 5)).astype(dtype)
            for level, threads in combinations(levels(), (1, 2)):
                values = [Deferred("t", coded), new_value("i", dtype, (2, 5))]
                node = Node("Gather", values, [new_value("y", F)], {"axis": 0}, version=13)
                (got,) = run_node(gather.SPEC, node, [None, indices], level, threads)
                cases.check((shape, axis, block, level, threads), same(got, real[indices]))


def test_small_floats() -> None:
    """The bits of ml_dtypes."""
    for name, kind in SMALL_FLOATS.items():
        theirs = np.arange(1 << kind.bits).astype(np.uint8)
        real = theirs.view(getattr(ml_dtypes, name)).astype(F)
        finite = np.isfinite(real)
        ours = small_floats(kind)
        assert finite.any() and np.array_equal(ours[finite].view(np.int32),
                                               real[finite].view(np.int32)), name  # fmt: skip


def test_reshaped() -> None:
    """Axes of 1 come and go, scales with them; anything else is no Coded."""
    coded, real = draw(np.random.default_rng(964), (6, 1, 8), "int4", 2, 4)
    for shape in ((6, 8), (1, 6, 8, 1), (6, 8, 1, 1)):
        moved = coded.reshaped(shape)
        assert moved is not None and np.array_equal(moved.floats(), real.reshape(shape))
    assert coded.reshaped((8, 6)) is None and coded.reshaped((48,)) is None
