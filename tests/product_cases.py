"""Nodes of products for tests: drawn numbers, an arithmetic of their own, and forced table rows.

The expected values here share nothing with `qrt.ops`: sums are float64 matrix products (exact below
2**53) over gathered windows, and rounding half to even is spelled out from floor.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import kernel_harness
import numpy as np
import pytest

from qrt.gemm.table import EPILOGUES, TILES, TileSpec, select_tile
from qrt.ir import Node, QParams, Value
from qrt.ops import conv, depthwise, matmul, product_rows, winograd
from qrt.program.constants import aligned_bytes
from qrt.program.places import SLACK
from qrt.simd.features import LEVELS, active_features, detected_features, levels

Array = np.ndarray[Any, Any]
U8, I8, I32, F32 = (np.dtype(t) for t in (np.uint8, np.int8, np.int32, np.float32))


@dataclass(frozen=True)
class Numbers:
    """The numbers of a product beside x and w; `y_scale` None means float32 output, or the sums."""

    scale: Array
    y_scale: float | None
    x_zero_point: int = 0
    y_zero_point: int = 0
    w_zero_point: Array | int = 0
    bias: Array | None = None
    float_bias: Array | None = None
    qmin: int = 0
    qmax: int = 255
    sums: bool = False

    def attrs(self) -> dict[str, Any]:
        """Attributes of the qrt operator."""
        y = None if self.y_scale is None else _qparams(self.y_scale, self.y_zero_point)
        return {
            "x": _qparams(0.5, self.x_zero_point),
            "w_zero_point": self.w_zero_point,
            "scale": self.scale,
            "y": y,
            "qmin": self.qmin,
            "qmax": self.qmax,
            "sums": self.sums,
        }

    def finish(self, acc: Array, axis: int) -> Array:
        """Outputs for exact sums `acc` (float64 integers) with channels on `axis`."""
        shape = [1] * acc.ndim
        shape[axis] = -1

        def along(values: Any) -> Array:
            return np.broadcast_to(values, acc.shape[axis]).reshape(shape)

        if self.bias is not None:
            acc = acc + along(self.bias)
        assert not acc.size or np.abs(acc).max() < 2**31, "the test's own sums pass int32"
        if self.sums:
            return acc.astype(np.int32)
        floats = acc.astype(np.float32).astype(np.float64)
        if self.y_scale is None:
            scaled = _rounded(floats * along(self.scale).astype(np.float64))
            bias = 0.0 if self.float_bias is None else along(self.float_bias).astype(np.float64)
            return (scaled.astype(np.float64) + bias).astype(np.float32)
        multiplier = self.scale.astype(np.float32) / np.float32(self.y_scale)
        scaled = _rounded(floats * along(multiplier).astype(np.float64)).astype(np.float64)
        low = np.floor(scaled)
        above = scaled - low
        rounded = low + ((above > 0.5) | ((above == 0.5) & (low % 2 == 1)))
        clipped: Array = np.clip(rounded + self.y_zero_point, self.qmin, self.qmax)
        return clipped.astype(np.uint8)


def _qparams(scale: float, zero_point: int) -> QParams:
    return QParams(np.array(scale, np.float32), np.array(zero_point, np.uint8), U8)


def _rounded(exact: Array) -> Array:
    """float64 products of two float32 are exact: one rounding makes the float32 product."""
    return exact.astype(np.float32)


def draw_numbers(
    rng: np.random.Generator, n: int, k: int, epilogue: str, *, weight_zero_points: bool = False
) -> Numbers:
    """Per-channel numbers that spread the outputs of n channels of k products over uint8."""
    scale = (rng.random(n) + 0.5).astype(np.float32)
    return Numbers(
        scale=scale,
        y_scale=None if epilogue != "u8" else float(np.sqrt(max(k, 1)) * 110),
        x_zero_point=int(rng.integers(0, 256)),
        y_zero_point=int(rng.integers(0, 256)),
        w_zero_point=rng.integers(-128, 128, n).astype(np.int32) if weight_zero_points else 0,
        bias=rng.integers(-5000, 5000, n).astype(np.int32),
        float_bias=(rng.standard_normal(n) * 1e4).astype(np.float32),
        sums=epilogue == "sums",
    )


def matmul_node(x_shape: Sequence[int], w: Array, numbers: Numbers) -> Node:
    """qrt.MatMul of a variable x and a constant w."""
    node = Node("MatMul", [_variable("x", x_shape), *_constants(w, numbers)], [], numbers.attrs())
    return _finished(node, matmul.infer, None)


def conv_node(x_shape: Sequence[int], w: Array, numbers: Numbers, **geometry: Any) -> Node:
    """qrt.Conv of a variable x and a constant w; `geometry` is strides, pads, dilations, group."""
    layout = kernel_harness.channels_last(len(x_shape))
    x = _variable("x", x_shape, layout)
    attrs = numbers.attrs() | {k: v for k, v in geometry.items() if v is not None}
    return _finished(Node("Conv", [x, *_constants(w, numbers)], [], attrs), conv.infer, layout)


def _finished(node: Node, infer: Any, layout: tuple[int, ...] | None) -> Node:
    node.domain, node.name = "qrt", "tested"
    ((shape, dtype),) = infer(node)
    node.outputs = [Value("y", np.dtype(dtype), tuple(shape), layout=layout)]
    return node


def _variable(name: str, shape: Sequence[int], layout: tuple[int, ...] | None = None) -> Value:
    return Value(name, U8, tuple(shape), layout=layout)


def _constants(w: Array, numbers: Numbers) -> list[Value | None]:
    values: list[Value | None] = [Value("w", I8, w.shape, w)]
    for name, data in (("bias", numbers.bias), ("float_bias", numbers.float_bias)):
        values.append(None if data is None else Value(name, data.dtype, data.shape, data))
    return values


def matmul_sums(x: Array, w: Array, numbers: Numbers) -> Array:
    """Exact sums of x (..., m, k) and w (k, n) or (..., k, n), as float64."""
    real_w = w.astype(np.float64) - np.asarray(numbers.w_zero_point, np.float64)
    return (x.astype(np.float64) - numbers.x_zero_point) @ real_w


def conv_sums(
    x: Array,
    w: Array,
    numbers: Numbers,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    out: Sequence[int],
) -> Array:
    """Exact sums (batch, n, *out) by gathering the window of every output; float64."""
    rank = x.ndim - 2
    xs = x.astype(np.float64) - numbers.x_zero_point
    zero_points = np.broadcast_to(numbers.w_zero_point, w.shape[0])
    ws = w.astype(np.float64) - zero_points.reshape(-1, *(1,) * (rank + 1))
    for i in range(rank):
        axis = 2 + 2 * i  # (b, c, out0, k0, out1, k1): every gather splits the next axis in two
        at = np.arange(out[i])[:, None] * strides[i] + np.arange(w.shape[2 + i]) * dilations[i]
        at = at - pads[i]
        size = x.shape[2 + i]
        inside = (at >= 0) & (at < size)
        shape = [1] * (xs.ndim + 1)
        shape[axis : axis + 2] = at.shape
        if size:
            xs = np.take(xs, np.where(inside, at, 0), axis) * inside.reshape(shape)
        else:
            xs = np.zeros((*xs.shape[:axis], *at.shape, *xs.shape[axis + 1 :]))
    kernels = tuple(range(3, 3 + 2 * rank, 2))
    per_group = w.shape[0] // group
    parts = []
    for g in range(group):
        part = xs[:, g * w.shape[1] : (g + 1) * w.shape[1]]
        rows = ws[g * per_group : (g + 1) * per_group]
        summed = np.tensordot(rows, part, ((1, *range(2, 2 + rank)), (1, *kernels)))
        parts.append(np.moveaxis(summed, 1, 0))
    return np.concatenate(parts, 1)


def level_of(features: Sequence[str]) -> str:
    """The oldest level that has `features`: what a kernel declares must be enough to compile it."""
    tables = (levels(), *LEVELS.values())  # this architecture's first
    return next(name for t in tables for name, has in t.items() if set(features) <= set(has))


def runnable(features: Sequence[str], what: str) -> bool:
    """True when this CPU has `features` and they are not switched off; prints what is left out."""
    level = level_of(features)
    needs = {*features, *levels().get(level, ())}
    if needs <= active_features():
        return True
    why = "switched off" if needs <= detected_features() else "this CPU lacks them"
    print(f"left out: {what} needs {', '.join(sorted(needs - active_features()))} ({why})")
    return False


def level_or_skip(features: Sequence[str], what: str) -> str:
    """The oldest level with `features`; skips the test of `what` where this CPU lacks them."""
    if not runnable(features, what):
        pytest.skip(f"{what} cannot run here")
    return level_of(features)


@contextmanager
def forced(tile: TileSpec | None, *, threads_always: bool = False) -> Iterator[None]:
    """Make lowering take `tile` wherever features and preconditions allow it, None: its choice.

    Convolutions run directly.

    `threads_always` lets small products use all threads, as large ones do.
    """

    def choose(*args: Any) -> TileSpec:
        allowed = tile is not None and set(tile.features) <= args[-1]
        return tile if allowed and tile is not None else select_tile(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product_rows, "select_tile", choose)
        patch.setattr(winograd, "select_winograd", lambda *args: None)
        if threads_always:
            patch.setattr(product_rows, "THREAD_MACS", 0)
            patch.setattr(depthwise, "THREAD_MACS", 0)
        yield


class ProductBench(kernel_harness.Bench):
    """A `Bench` that knows packed weights, as a session does: one place per key."""

    def __init__(
        self,
        features: frozenset[str],
        threads: int = 1,
        store: dict[Hashable, Array] | None = None,
    ) -> None:
        super().__init__(features, threads)
        self.store = store

    def packed(self, key: Hashable, make: Callable[[], Array]) -> kernel_harness.Place:
        if self.store is None:
            return self.constant(make())
        return self.constant(self.store.setdefault(key, make()))


def run(
    node: Node,
    x: Array,
    features: str = "",
    threads: int = 1,
    seed: int = 0,
    store: dict[Hashable, Array] | None = None,
    outputs: int = 0,
) -> tuple[Any, tuple[str, ...]]:
    """Run `node` on `x` with guard bytes and a junk arena: its output, and the kernels that ran.

    `store` keeps packed weights by key from run to run. With `outputs` there is a list of as many;
    bytes that a row need not write are 0 there.
    """
    spec = conv.SPEC if node.op == "Conv" else matmul.SPEC
    assert spec.lower is not None
    bench = ProductBench(active_features(features), threads, store=store)
    ins = bench.operand(node.required(0))
    outs = [bench.operand(value) for value in node.outputs]
    spec.lower(node, bench)
    bench.check_extents()
    rng = np.random.default_rng(seed)
    arena = aligned_bytes(bench.arena_nbytes)
    arena[:] = rng.integers(0, 256, arena.size, dtype=np.uint8)
    constants = aligned_bytes(len(bench.constants) + SLACK)
    constants[: len(bench.constants)] = np.frombuffer(bench.constants, np.uint8)
    constants[len(bench.constants) :] = 255
    image = kernel_harness.memory_image(x, node.required(0)).reshape(-1)
    arena[ins.offset : ins.offset + image.size] = image
    for at, value in zip(outs[1:], node.outputs[1:], strict=True):
        arena[at.offset : at.offset + value.nbytes] = 0
    before = arena.copy()
    kernel_harness.run_rows(bench, arena, constants, threads)
    guarded = np.ones(arena.size, bool)
    for start, stop in bench.spans:
        guarded[start:stop] = False
    assert np.array_equal(arena[guarded], before[guarded]), f"{node} wrote outside its operands"
    assert np.array_equal(arena[ins.offset : ins.offset + image.size], image), "x was changed"
    found = [
        kernel_harness.logical_array(arena[at.offset : at.offset + value.nbytes], value).copy()
        for at, value in zip(outs, node.outputs, strict=True)
    ]
    return found if outputs else found[0], tuple(kernel.name for kernel, _ in bench.rows)


@dataclass
class Tally:
    """Runs all cases, then fails once: how many differ, and the first in full."""

    what: str
    seed: int
    cases: int = 0
    wrong: list[str] = field(default_factory=list)
    kernels: set[str] = field(default_factory=set)

    def compare(self, case: object, got: Array, want: Array, kernels: Sequence[str] = ()) -> None:
        """Count a case whose arrays must be equal bit for bit."""
        self.kernels.update(kernels)
        names = ", ".join(kernels)
        if got.shape != want.shape or got.dtype != want.dtype:
            problem = f"{got.dtype}{got.shape}, expected {want.dtype}{want.shape}"
        else:
            differ = got.view(_bits(got)) != want.view(_bits(want))
            if not differ.any():
                self.cases += 1
                return
            with np.errstate(invalid="ignore", over="ignore"):
                far = np.abs(got.astype(np.float64) - want.astype(np.float64))[differ].max()
            problem = f"{differ.sum()} of {got.size} values, max {far:g}"
        self.expect(case, False, f"{problem} [{names}]")

    def expect(self, case: object, holds: bool, problem: str) -> None:
        """Count a case that `holds`, or note its `problem`."""
        self.cases += 1
        if not holds:
            self.wrong.append(f"{case}: {problem}")

    def finish(self) -> None:
        """Fail when a case was wrong, or when there was none."""
        assert self.cases, f"{self.what}: no case ran"
        if self.wrong:
            pytest.fail(
                f"{self.what} (seed {self.seed}): {len(self.wrong)} of {self.cases} cases differ;"
                f" first {self.wrong[0]}"
            )


def _bits(array: Array) -> Any:
    return np.int32 if array.dtype == np.float32 else array.dtype


def tile_rows() -> list[tuple[TileSpec, str]]:
    """Every row of the table of products: tile and epilogue."""
    return [(tile, epilogue) for tile in TILES for epilogue in EPILOGUES]
