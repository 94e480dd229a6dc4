"""Float32 products, convolutions and depthwise convolutions: every row of the tables gives the bits
of the contract, whatever the sizes, the CPU and the number of threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product as combinations
from typing import Any

import numpy as np
import pytest
from contract import floats
from kernel_harness import channels_last, feature_levels, new_value, run_node
from operator_cases import constant
from product_cases import Tally, level_or_skip

from qrt.gemm.float_pack import FIELDS, float_pack_kernel
from qrt.gemm.table import FLOAT_TILES, TileSpec, select_tile
from qrt.ir import Node
from qrt.ops import float_conv, float_depthwise, float_matmul, float_products, product_rows
from qrt.ops.spec import OpSpec

Array = np.ndarray[Any, Any]
F = np.float32
TILES = [pytest.param(tile, id=tile.kernel_name("f32")) for tile in FLOAT_TILES]
KS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 31)


@contextmanager
def forced(tile: TileSpec | None) -> Iterator[None]:
    """Lowering takes `tile` where features allow it (None: its own choice), and all threads."""

    def choose(*args: Any) -> TileSpec:
        allowed = tile is not None and set(tile.features) <= args[3]
        return tile if allowed and tile is not None else select_tile(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(float_products, "select_tile", choose)
        patch.setattr(product_rows, "THREAD_MACS", 0)
        patch.setattr(float_depthwise, "THREAD_MACS", 0)
        yield


def draw(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """Values of a wide range, so that many sums are rounded close to a tie; some zeros."""
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 7, shape)
    return np.where(rng.random(shape) < 0.05, 0, values).astype(F)


def compare(tally: Tally, case: object, got: Array, want: Array) -> None:
    """Bit for bit; a NaN is a NaN, and the sign of zero counts."""
    nan = np.isnan(want) & np.isnan(got) if got.shape == want.shape else np.False_
    tally.compare(case, np.where(nan, F(0), got), np.where(nan, F(0), want))


def check(
    tally: Tally,
    case: object,
    spec: OpSpec,
    node: Node,
    arrays: Sequence[Array],
    want: Array,
    levels: Sequence[str],
    threads: Sequence[int] = (1,),
) -> None:
    """Run `node` on each level and number of threads."""
    given = [a if v is not None and v.data is None else None
             for a, v in zip(arrays, node.inputs, strict=True)]  # fmt: skip
    for level, count in combinations(levels, threads):
        label = (case, level or "all features", f"{count} threads")
        try:
            (got,) = run_node(spec, node, given, level, count)
        except AssertionError as error:
            tally.expect(label, False, str(error))
        else:
            compare(tally, label, got, want)


def matmul_node(a: Array, b: Array, *, computed: bool = False) -> Node:
    """MatMul of a variable a and a b that is constant or `computed`."""
    right = new_value("b", F, b.shape) if computed else constant(b, "b")
    values = [new_value("a", F, a.shape), right]
    return Node("MatMul", values, [new_value("y", F)], {}, version=13)


@pytest.mark.parametrize("computed", (False, True), ids=("constant", "computed"))
@pytest.mark.parametrize("tile", TILES)
def test_sizes(tile: TileSpec, computed: bool) -> None:
    level = level_or_skip(tile.features, tile.kernel_name("f32"))
    tally = Tally(tile.kernel_name("f32"), seed=801)
    rng = np.random.default_rng(tally.seed)
    ms = sorted({1, 2, 3, max(tile.mr - 1, 1), tile.mr, tile.mr + 1, 2 * tile.mr + 1, 23})
    ns = sorted({1, 2, 3, tile.nr - 1, tile.nr, tile.nr + 1, 2 * tile.nr + 1,
                 *(w * tile.lanes + d for w in tile.widths for d in (-1, 0, 1))})  # fmt: skip
    with forced(tile):
        for k in KS[::2] if computed else KS:
            a, b = draw(rng, (ms[-1], k)), draw(rng, (k, ns[-1]))
            want = floats.matmul(a, b)
            for m, n in combinations(ms, ns):
                x, w = a[:m], np.ascontiguousarray(b[:, :n])
                node = matmul_node(x, w, computed=computed)
                check(tally, (m, n, k), float_matmul.MATMUL, node, [x, w], want[:m, :n], [level])
    tally.finish()


@pytest.mark.parametrize("tile", TILES)
def test_threads_and_blocks(tile: TileSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 to 4 and more threads than work, blocks of one panel, of two, and of all."""
    level = level_or_skip(tile.features, tile.kernel_name("f32"))
    tally = Tally(tile.kernel_name("f32"), seed=802)
    rng = np.random.default_rng(tally.seed)
    k = 13
    sizes = [(2 * tile.mr + 1, 5 * tile.nr - 1), (7 * tile.mr + 3, 3), (1, 7 * tile.nr + 5)]
    with forced(tile):
        for (m, n), blocks, computed in combinations(sizes, (1, 2, 64), (False, True)):
            monkeypatch.setattr(product_rows, "block_panels", lambda *_, n=blocks: n)
            a, b = draw(rng, (m, k)), draw(rng, (k, n))
            check(
                tally, (m, n, blocks, computed), float_matmul.MATMUL,
                matmul_node(a, b, computed=computed), [a, b], floats.matmul(a, b), [level],
                (1, 2, 3, 4, 9),
            )  # fmt: skip
    tally.finish()


@pytest.mark.parametrize("tile", TILES)
def test_nasty_values(tile: TileSpec) -> None:
    """Subnormals, sums that overflow and come back, infinities and NaN."""
    level = level_or_skip(tile.features, tile.kernel_name("f32"))
    tally = Tally(tile.kernel_name("f32"), seed=803)
    rng = np.random.default_rng(tally.seed)
    m, n, k = tile.mr + 2, tile.nr + 3, 11
    kinds: dict[str, list[float]] = {
        "subnormal": [1e-45, -1e-45, 1e-38, -1.1754942e-38, 2**-75, -(2**-74), 0, -0.0],
        "huge": [3.4028235e38, -3.4028235e38, 1, -1, 2, 0.5, 1e30],
        "ties": [1, 1 + 2**-23, 2**-24, -(2**-24), 2**-12, 2**12 + 1, 2**24, 3],
        "special": [np.inf, -np.inf, np.nan, 0, -0.0, 1, -1],
    }
    with forced(tile):
        for kind, values in kinds.items():
            for trial in range(8):
                a, b = (rng.choice(np.array(values, F), s) for s in ((m, k), (k, n)))
                a[rng.random(a.shape) < 0.2 * (kind == "special")] = 1
                node = matmul_node(a, b)
                want = floats.matmul(a, b)
                check(tally, (kind, trial), float_matmul.MATMUL, node, [a, b], want, [level])
    tally.finish()


BATCHES = (
    ((7,), (7, 5)), ((5, 7), (7,)), ((7,), (7,)), ((2, 3, 5, 7), (7, 33)),
    ((2, 3, 5, 7), (3, 7, 33)), ((2, 1, 4, 8), (1, 3, 8, 40)), ((2, 1, 4, 8), (3, 8, 40)),
    ((4, 0), (0, 40)), ((0, 3), (3, 4)), ((2, 0, 5), (2, 5, 7)), ((2, 4, 3, 5), (2, 1, 5, 7)),
    ((3, 5), (4, 5, 7)), ((5,), (4, 5, 7)), ((2, 1, 2, 3, 5), (2, 3, 1, 5, 4)),
    ((2, 1, 3, 1, 2, 5), (1, 2, 1, 3, 5, 4)),
)  # fmt: skip


@pytest.mark.parametrize("computed", (False, True), ids=("constant", "computed"))
def test_batches(computed: bool) -> None:
    tally = Tally(f"batches, computed: {computed}", seed=804)
    rng = np.random.default_rng(tally.seed)
    with forced(None):
        for a_shape, b_shape in BATCHES:
            a, b = draw(rng, a_shape), draw(rng, b_shape)
            a2 = a if a.ndim > 1 else a[None]
            b2 = b if b.ndim > 1 else b[:, None]
            want = floats.matmul(a2, b2).reshape(np.matmul(a, b).shape)
            node = matmul_node(a, b, computed=computed)
            check(
                tally, (a_shape, b_shape), float_matmul.MATMUL, node, [a, b], want,
                feature_levels(), (1, 3),
            )  # fmt: skip
    tally.finish()


def test_gemm() -> None:
    """alpha, beta, both transpositions; c as a row, a column, a matrix, a scalar or nothing."""
    tally = Tally("Gemm", seed=805)
    rng = np.random.default_rng(tally.seed)
    shapes = (
        (1, 64, 100, (100,)), (5, 7, 9, (5, 1)), (33, 20, 40, (33, 40)), (8, 8, 8, ()),
        (4, 9, 32, None), (3, 4, 17, (1, 17)), (3, 0, 4, (4,)), (2, 3, 5, (1, 1)),
    )  # fmt: skip
    numbers = ((0.3, 1.7), (1.0, 1.0))
    with forced(None):
        for (m, k, n, shape), ta, tb, (alpha, beta), computed in combinations(
            shapes, (0, 1), (0, 1), numbers, (False, True)
        ):
            a, b = draw(rng, (k, m) if ta else (m, k)), draw(rng, (n, k) if tb else (k, n))
            arrays = [a, b]
            addend = None
            if shape is not None:
                c = draw(rng, shape)
                arrays.append(c)
                addend = np.float32(beta) * c
            values = [
                new_value(name, F, v.shape) if computed or name == "a" else constant(v, name)
                for name, v in zip("abc", arrays, strict=False)
            ]
            attrs = {"alpha": alpha, "beta": beta, "transA": ta, "transB": tb}
            node = Node("Gemm", values, [new_value("y", F)], attrs, version=13)
            want = floats.matmul(a.T if ta else a, b.T if tb else b, alpha, addend)
            check(
                tally, (m, k, n, shape, ta, tb, alpha, computed), float_matmul.GEMM, node, arrays,
                want, feature_levels(), (1, 2),
            )  # fmt: skip
    tally.finish()


# spatial sizes and attributes; kernels are 3 wide but where they say otherwise
GEOMETRIES: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((7, 9), (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((6, 5), (3, 3), {"pads": [1, 2, 0, 1], "dilations": [2, 1]}),
    ((11,), (3,), {"strides": [2], "pads": [1, 1]}),
    ((3, 3), (3, 3), {}),
    ((3, 14), (3, 3), {"pads": [1, 1, 1, 1]}),
    ((6, 19), (5, 5), {"pads": [2, 2, 2, 2]}),
    ((5, 21), (5, 5), {"strides": [1, 2], "pads": [2, 1, 2, 2]}),
    ((2, 23), (1, 3), {"strides": [1, 3], "dilations": [1, 4], "pads": [0, 9, 0, 2]}),
    ((1, 2), (3, 3), {"pads": [3, 4, 2, 5]}),
    ((9, 9), (7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    ((4, 4), (1, 1), {"strides": [1, 2]}),
)


def conv_cases(rng: np.random.Generator, channels: Sequence[tuple[int, int, int]]) -> Any:
    """(case, node, arrays, wanted bits) of every pair of channels and geometry."""
    pairs = combinations(channels, GEOMETRIES)
    for number, ((inputs, outputs, group), (spatial, kernel, attrs)) in enumerate(pairs):
        rank = len(spatial)
        x = draw(rng, (1 + number % 2, inputs, *spatial))
        arrays = [x, draw(rng, (outputs, inputs // group, *kernel)), draw(rng, (outputs,))]
        arrays = arrays[: 2 + (number // 2) % 2]
        layout = channels_last(x.ndim)
        node = Node(
            "Conv",
            [new_value("x", F, x.shape, layout), *(constant(a) for a in arrays[1:])],
            [new_value("y", F, layout=layout)],
            attrs | {"group": group},
            version=11,
        )
        want = floats.conv(
            x, arrays[1], arrays[2] if len(arrays) > 2 else None,
            attrs.get("strides", [1] * rank), attrs.get("pads", [0] * 2 * rank),
            attrs.get("dilations", [1] * rank), group,
        )  # fmt: skip
        yield (inputs, outputs, group, spatial, kernel, attrs), node, arrays, want


@pytest.mark.parametrize("tile", TILES)
def test_conv(tile: TileSpec) -> None:
    level = level_or_skip(tile.features, tile.kernel_name("f32"))
    tally = Tally(tile.kernel_name("f32"), seed=806)
    channels = ((3, 16, 1), (8, tile.nr + 5, 1), (5, 3, 1), (8, 16, 4), (6, 12, 6))
    with forced(tile):
        for case, node, arrays, want in conv_cases(np.random.default_rng(tally.seed), channels):
            check(tally, case, float_conv.SPEC, node, arrays, want, [level], (1, 2, 4))
    tally.finish()


@pytest.mark.parametrize("channels", (1, 2, 7, 8, 9, 15, 16, 17, 37, 64, 70))
def test_depthwise(channels: int) -> None:
    tally = Tally(f"depthwise, {channels} channels", seed=807)
    rng = np.random.default_rng(tally.seed)
    with forced(None):
        for case, node, arrays, want in conv_cases(rng, [(channels, channels, channels)]):
            check(tally, case, float_conv.SPEC, node, arrays, want, feature_levels(), (1, 2, 4))
    tally.finish()


def test_padding_reads_zeros() -> None:
    """An infinite weight makes NaN of the padding, in a product and in a depthwise convolution."""
    tally = Tally("padding", seed=808)
    for inputs, outputs, group in ((2, 3, 1), (16, 16, 16)):
        x = np.ones((1, inputs, 3, 9), F)
        w = np.full((outputs, inputs // group, 3, 3), F(-1))
        w[:, :, 0, 0] = np.inf
        layout = channels_last(4)
        attrs = {"pads": [1, 1, 1, 1], "group": group}
        values = [new_value("x", F, x.shape, layout), constant(w)]
        node = Node("Conv", values, [new_value("y", F, layout=layout)], attrs, version=11)
        want = floats.conv(x, w, None, (1, 1), (1, 1, 1, 1), (1, 1), group)
        assert np.isnan(want).any() and np.isinf(want).any()
        check(tally, group, float_conv.SPEC, node, [x, w], want, feature_levels())
    tally.finish()


def test_hostile_rows_of_packing_are_refused() -> None:
    row = {**dict.fromkeys(FIELDS, 1), "padded": 8, "nr": 8, "n": 5}
    assert float_pack_kernel.extents(row)
    for name in FIELDS[2:]:
        for value in (-1, 2**40):
            with pytest.raises(ValueError, match=name):
                float_pack_kernel.extents(row | {name: value})
    for change in ({"nr": 0}, {"n": 9}):
        with pytest.raises(ValueError, match="do not fit"):
            float_pack_kernel.extents(row | change)


def test_the_table_is_whole() -> None:
    """Every CPU has a row, names differ, and widths are what the driver knows."""
    assert any(not tile.features for tile in FLOAT_TILES)
    assert len({tile.kernel_name("f32") for tile in FLOAT_TILES}) == len(FLOAT_TILES)
    for tile in FLOAT_TILES:
        assert tile.widths[0] == tile.nv and list(tile.widths) == sorted(tile.widths, reverse=True)
        assert len(tile.widths) <= 3
