"""Run a kernel's source in plain Python and record every byte that it touches.

Nothing is simulated but the machine: integers wrap at 64 bits, division by zero gives 0 (numba's
numpy error model), pointers record instead of loading, and a generated tile records what its
documented arguments say it reads and writes. `extents` can then be held against the truth, for rows
that no lowering would ever make.

Each operand lives on an island of its own, so that an address tells the operand it came from.
"""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qrt.gemm import (
    depthwise_carry,
    depthwise_tile,
    nbits_tile,
    ranges,
    tile,
    widen,
    winograd_tile,
)
from qrt.gemm.depthwise_order import TALL
from qrt.gemm.depthwise_table import DEPTHWISE, DEPTHWISE_CODES, DepthwiseSpec
from qrt.gemm.dots import FAMILIES
from qrt.gemm.nbits_table import NBitsTile, block_nbytes
from qrt.gemm.order import NARROW
from qrt.jit.declare import HEADER, Extent, Helper, Intrinsic, Kernel

ISLAND = 1 << 57  # bytes between operands: 39 slots fit into int64
SLACK = 64  # what a kernel may read behind an operand


class TooLong(Exception):
    """The kernel makes more steps than the trace allows."""


class Wrapped(int):
    """int64: every sum, difference and product wraps."""

    def _binary(operation: Callable[[int, int], int]) -> Any:  # type: ignore[misc]
        def method(self: int, other: int) -> Wrapped:
            return wrap(operation(int(self), int(other)))

        return method

    __add__ = __radd__ = _binary(lambda a, b: a + b)
    __mul__ = __rmul__ = _binary(lambda a, b: a * b)
    __sub__ = _binary(lambda a, b: a - b)
    __rsub__ = _binary(lambda a, b: b - a)
    __floordiv__ = _binary(lambda a, b: a // b if b else 0)
    __rfloordiv__ = _binary(lambda a, b: b // a if a else 0)

    def __neg__(self) -> Wrapped:
        return wrap(-int(self))


def wrap(value: int) -> Wrapped:
    """`value` modulo 2**64, as int64."""
    return Wrapped((value + 2**63) % 2**64 - 2**63)


@dataclass
class Trace:
    """Bytes that one thread touched: (slot, start, stop) of reads and of writes."""

    limit: int = 200_000
    reads: list[tuple[int, int, int]] = field(default_factory=list)
    writes: list[tuple[int, int, int]] = field(default_factory=list)
    words: dict[int, int] = field(default_factory=dict)
    steps: int = 0

    def step(self, count: int = 1) -> None:
        """Count steps; raises TooLong."""
        self.steps += count
        if self.steps > self.limit:
            raise TooLong

    def touch(self, address: int, nbytes: int, *, writes: bool = False) -> None:
        """Record nbytes at `address`."""
        self.step()
        slot, start = divmod(int(address) + ISLAND // 2, ISLAND)
        start -= ISLAND // 2
        (self.writes if writes else self.reads).append((slot, start, start + int(nbytes)))

    def counted(self, *args: int) -> Iterator[Wrapped]:
        """`range` that counts its steps."""
        for i in range(*(int(a) for a in args)):
            self.step()
            yield Wrapped(i)


@dataclass(frozen=True)
class Pointer:
    """A typed pointer that records; what was stored through one is read back, else 0."""

    trace: Trace
    address: int
    itemsize: int

    def __getitem__(self, i: int) -> Any:
        at = wrap(int(self.address) + int(i) * self.itemsize)
        self.trace.touch(at, self.itemsize)
        return Wrapped(self.trace.words.get(at, 0))

    def __setitem__(self, i: int, value: int) -> None:
        at = wrap(int(self.address) + int(i) * self.itemsize)
        self.trace.touch(at, self.itemsize, writes=True)
        self.trace.words[at] = int(value)


POINTERS = {
    f"as_{name}": np.dtype(name).itemsize
    for name in ("uint8", "int8", "uint16", "int16", "int32", "int64", "float32")
}


def trace_kernel(
    kernel: Kernel, row: Mapping[str, int], thread: int, threads: int, limit: int = 200_000
) -> Trace:
    """What `thread` of `threads` touches when it runs `row`; TooLong past `limit` steps."""
    trace = Trace(limit)
    if "limits_step" in kernel.fields and row["limits_step"]:  # a record that has something to do
        slot = len(HEADER) + kernel.fields.index("limits")
        trace.words[slot * ISLAND + thread * row["limits_step"] + 4 * ranges.RUN] = 1
    slots = [Wrapped(0)] * len(HEADER) + [Wrapped(row[name]) for name in kernel.fields]
    run = _Rebuilder(trace).function(kernel.fn)
    status = run(slots, None, None, Wrapped(thread), Wrapped(threads))
    assert status == 0, status
    return trace


class _Rebuilder:
    """Functions with their declared globals and closures replaced by Python that records."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._made: dict[int, Any] = {}

    def function(self, fn: Any) -> Any:
        found = dict(fn.__globals__)
        for name in fn.__code__.co_names:
            if name in found:
                found[name] = self.value(found[name])
        found["range"] = self.trace.counted
        cells = tuple(types.CellType(self.value(c.cell_contents)) for c in fn.__closure__ or ())
        return types.FunctionType(fn.__code__, found, fn.__name__, fn.__defaults__, cells)

    def value(self, value: Any) -> Any:
        if not isinstance(value, (Helper, Intrinsic)):
            return value
        if id(value) not in self._made:
            self._made[id(value)] = self._replacement(value)
        return self._made[id(value)]

    def _replacement(self, declared: Helper | Intrinsic) -> Any:
        name = declared.__name__
        trace = self.trace
        if name == "operand":
            return lambda row, slot, arena, constants: Wrapped(slot * ISLAND)
        if name in POINTERS:
            return lambda address: Pointer(trace, address, POINTERS[name])
        if name == "put_ramp":
            return lambda address, start, step: _ramp(trace, address, start, step)
        if name in ("add32", "sub32", "mul32", "fma_f32", "quantize_u8", "quotient_code"):
            return lambda *args: 0
        if isinstance(declared, Helper):
            return self.function(declared.fn)
        if name == "widen_pieces":
            return _widen(trace)
        if name in ("pack_quad_rows", "pack_quad_columns"):
            return _quad(trace)
        made = _enclosed(declared.fn)
        if name.startswith("tiles_nbits"):
            return _nbits_tile(trace, made["tile"])
        if "lane" in made:
            return _vector(trace, name, made["lane"], made.get("count", 16))
        if "build" in made:
            return lambda value: 0
        if "heights" in made:
            return _tile(trace, made["family"], made["heights"], made["widths"], made["epilogue"])
        if made.get("kind") == "interleave":
            return _interleave(trace, made["family"], made["lanes"])
        if made.get("kind") == "carry":
            return _carry_row(trace, _depthwise_spec(made), made["lanes"], *made["shape"])
        if name == "call_winograd_input":
            return _winograd_input(trace, made["lanes"])
        if name == "call_winograd_output":
            return _winograd_output(trace, made["lanes"], made["epilogue"])
        if made.get("kind") == "tile":
            return _depthwise_tile(trace, _depthwise_spec(made), made["lanes"])
        raise NotImplementedError(f"the trace does not know the intrinsic {name}")


def _limits(trace: Trace, limits: int, epilogue: str, lanes: int) -> None:
    """What an epilogue reads at `limits`, and the ends of a range that it widens there."""
    ends: tuple[int, ...] = ()
    if epilogue == "u8":
        trace.touch(limits, 12)
    elif epilogue == "f32":
        trace.touch(limits + 4 * ranges.RUN, 4)
        if trace.words.get(int(limits) + 4 * ranges.RUN):
            ends = ranges.LOW_AT, ranges.HIGH_AT
    elif epilogue == "codes":
        trace.touch(limits, 4 * len(ranges.HEADER))
        ends = (ranges.HIGH_AT,)
    for end in ends:
        trace.touch(limits + end, 4 * lanes)
        trace.touch(limits + end, 4 * lanes, writes=True)


def _vector(trace: Trace, name: str, lane: str, count: int) -> Any:
    """An intrinsic of `qrt.simd.vectors`: loads and stores are recorded, values are 0."""
    nbytes = int(lane[1:]) // 8 * count
    memory = name.partition("_")[0]

    def run(*args: int) -> int:
        if memory in ("load", "store"):
            trace.touch(args[0], nbytes, writes=memory == "store")
        return 0

    return run


def _quad(trace: Trace) -> Any:
    """The intrinsics of `qrt.simd.quads`."""

    def run(source: int, step: int, target: int, sums: int) -> int:
        for i in range(4):
            trace.touch(source + i * step, 4)
        trace.touch(target, 16, writes=True)
        return 0

    return run


def _ramp(trace: Trace, address: int, start: int, step: int) -> int:
    """`put_ramp`: one vector of eight int64."""
    pointer = Pointer(trace, address, 8)
    for i in range(8):
        pointer[i] = wrap(int(start) + i * int(step))
    return 0


def _enclosed(fn: Any) -> dict[str, Any]:
    """What a generated intrinsic was made with: the plain values in its nested closures."""
    found: dict[str, Any] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        value = cell.cell_contents
        if isinstance(value, types.FunctionType):
            found = _enclosed(value) | found
        else:
            found[name] = value
    return found


def _tile(
    trace: Trace, family: str, heights: tuple[int, ...], widths: tuple[int, ...], epilogue: str
) -> Any:
    """The generated tiles of a row of the table, by the contract in `qrt.gemm.tile`."""
    dot = FAMILIES[family]

    def run(mr: int, nv: int, *args: int) -> int:
        assert mr in heights and nv in widths, f"no tile is {mr} x {nv}"
        mr, nr = int(mr), int(nv) * dot.lanes
        a = dict(zip(tile.ARGUMENTS, (int(v) for v in args), strict=True))
        assert 1 <= a["m"] <= mr and 1 <= a["n"] <= nr, f"m {a['m']} n {a['n']} in a {mr}x{nr} tile"
        arrays = 1 + (epilogue != "i32") + (a["sums"] != 0)  # bias, multiplier, -w_zero_point
        trace.touch(a["columns"], 4 * nr * arrays)
        if epilogue in ("f32", "codes"):
            trace.touch(a["columns"] + 12 * nr, 4 * nr)
        _limits(trace, a["limits"], epilogue, dot.lanes)
        assert a["tiles"] >= 1 and (a["tiles"] == 1 or a["m"] == mr), "rows of a run are all valid"
        if a["taps"] * a["groups"]:
            trace.touch(a["panel"], a["taps"] * a["groups"] * nr * dot.weight_nbytes)
        itemsize = 1 if epilogue in NARROW else 4
        n = nr if epilogue == "i32" else a["n"]
        for i in trace.counted(a["tiles"]):
            if a["sums"]:
                trace.touch(a["sums"] + 4 * mr * i, 4 * mr)
            for tap in range(a["taps"] if a["groups"] else 0):
                place = wrap(a["offsets"] + 8 * tap)
                trace.touch(place, 8)
                start = a["base"] + i * a["tile_step"] + trace.words[place]
                for r in range(mr):
                    at = wrap(a["rows"] + tap * a["row_step"] + 8 * r)
                    trace.touch(at, 8)
                    trace.touch(start + trace.words[at], 4 * a["groups"])
            for r in range(a["m"]):
                out = a["out"] + (i * mr + r) * a["ldc"]
                trace.touch(out, n * itemsize, writes=True)
        return 0

    return run


def _nbits_tile(trace: Trace, spec: NBitsTile) -> Any:
    """The generated tiles of few-bit weights, by the contract in `qrt.gemm.nbits_tile`."""
    integers = spec.types == "s8"
    itemsize = 1 if integers else 4

    def run(height: int, *args: int) -> int:
        assert height in spec.heights, f"no tile has {height} rows"
        a = dict(zip(nbits_tile.ARGUMENTS, (int(v) for v in args), strict=True))
        assert 1 <= a["m"] <= height and 1 <= a["n"] <= spec.nr
        trace.touch(a["panel"], a["blocks"] * block_nbytes(a["block"], spec))
        trace.touch(a["bias"], 4 * spec.nr)
        if a["zero_points"]:
            trace.touch(a["zero_points"], a["blocks"] * spec.nr * itemsize)
        for r in range(a["m"]):
            count = a["blocks"] * a["block"] if integers else a["k"]
            trace.touch(a["x"] + r * a["x_step"], count * itemsize)
            if integers:
                trace.touch(a["x_scales"] + r * 4 * a["blocks"], 4 * a["blocks"])
                trace.touch(a["x_sums"] + r * 4 * a["blocks"], 4 * a["blocks"])
            trace.touch(a["out"] + r * a["ldc"], 4 * a["n"], writes=True)
        return 0

    return run


def _winograd_input(trace: Trace, lanes: int) -> Any:
    """A generated input transform, by the contract in `qrt.gemm.winograd_tile`."""

    def run(*args: int) -> int:
        a = dict(zip(winograd_tile.INPUT_ARGUMENTS, args, strict=True))
        for slot in range(36):
            at = wrap(a["pixels"] + 8 * slot)
            trace.touch(at, 8)
            trace.touch(trace.words[at], 2 * lanes * a["vectors"])
            trace.touch(a["to"] + slot * a["step"], 4 * lanes * a["vectors"], writes=True)
        return 0

    return run


def _winograd_output(trace: Trace, lanes: int, epilogue: str) -> Any:
    """A generated output transform, by the contract in `qrt.gemm.winograd_tile`."""
    itemsize = 1 if epilogue == "u8" else 4

    def run(*args: int) -> int:
        a = dict(zip(winograd_tile.OUTPUT_ARGUMENTS, args, strict=True))
        assert 1 <= a["lines"] <= 4 and 1 <= a["m"] <= 4 and 1 <= a["n"] <= lanes
        for slot in range(36):
            trace.touch(a["sums"] + slot * a["step"], 4 * lanes)
        if epilogue != "sums":
            trace.touch(a["columns"] + 4 * lanes, 4 * lanes)
            if epilogue == "f32":
                trace.touch(a["columns"] + 12 * lanes, 4 * lanes)
        _limits(trace, a["limits"], epilogue, lanes)
        for i in range(int(a["lines"])):
            for j in range(int(a["m"])):
                at = a["out"] + i * a["line"] + j * a["ldc"]
                trace.touch(at, a["n"] * itemsize, writes=True)
        return 0

    return run


def _widen(trace: Trace) -> Any:
    """The generated copy, by the contract in `qrt.gemm.widen`."""

    def run(
        table: int, step: int, offsets: int, base: int, taps: int, nbytes: int, out: int
    ) -> int:
        for tap in trace.counted(taps):
            slot, offset = wrap(table + tap * step), wrap(offsets + 8 * tap)
            trace.touch(slot, 8)
            trace.touch(offset, 8)
            whole = -(-int(nbytes) // widen.BLOCK) * widen.BLOCK
            trace.touch(base + trace.words[slot] + trace.words[offset], whole)
            trace.touch(out + tap * nbytes * 2, 2 * whole, writes=True)
        return 0

    return run


def _interleave(trace: Trace, family: str, lanes: int) -> Any:
    """A generated interleave, by the contract in `qrt.gemm.depthwise_tile.build_interleave`."""
    rows = next(s for s in DEPTHWISE if s.family == family).rows

    def run(*args: int) -> int:
        pointers, steps = args[:rows], args[rows : 2 * rows]
        scratch, scratch_step, count = args[2 * rows :]
        for i in trace.counted(count):
            for p, step in zip(pointers, steps, strict=True):
                trace.touch(p + i * step, 4 * lanes)
            trace.touch(scratch + i * scratch_step, 16 * lanes, writes=True)
        return 0

    return run


def _depthwise_spec(made: dict[str, Any]) -> DepthwiseSpec:
    row = (made["family"], made["epilogue"])
    return next(s for s in (*DEPTHWISE, *DEPTHWISE_CODES) if (s.family, s.epilogue) == row)


def _carry_row(
    trace: Trace, spec: DepthwiseSpec, lanes: int, kernel_w: int, stride: int
) -> Any:
    """A generated row, by the contract in `qrt.gemm.depthwise_carry.build_carry_row`."""

    rows = 5 if kernel_w == TALL else 4

    def run(*args: int) -> int:
        a = dict(zip(depthwise_carry.arguments(rows), args, strict=True))
        assert 1 <= a["n"] <= 4 * lanes
        trace.touch(a["columns"], 4 * spec.column_nbytes * lanes)
        _limits(trace, a["limits"], spec.epilogue, lanes)
        places = [*range(0, 2 * kernel_w, 2), 1, 3] if rows == 5 else range(kernel_w)
        for place in places:
            trace.touch(a["weights"] + place * 16 * lanes, 16 * lanes)
        for j in trace.counted(kernel_w - stride + a["width"] * stride):
            at = j - a["before"]
            for r in range(rows):
                inside = 0 <= at < a["inside"]
                trace.touch(a[f"p{r}"] + at * a[f"s{r}"] if inside else a["pad"], 4 * lanes)
        for ox in trace.counted(a["width"]):
            trace.touch(a["out"] + ox * a["ldc"], int(a["n"]) * spec.itemsize, writes=True)
        return 0

    return run


def _depthwise_tile(trace: Trace, spec: DepthwiseSpec, lanes: int) -> Any:
    """A generated depthwise tile, by the contract in `qrt.gemm.depthwise_tile.build_tile`."""

    def run(*args: int) -> int:
        a = dict(zip(depthwise_tile.ARGUMENTS, args, strict=True))
        assert 1 <= a["m"] <= spec.pixels and 1 <= a["n"] <= 4 * lanes
        groups = int(a["row_groups"])
        trace.touch(a["columns"], 4 * spec.column_nbytes * lanes)
        _limits(trace, a["limits"], spec.epilogue, lanes)
        trace.touch(a["weights"], int(a["kernel_w"]) * groups * 16 * lanes)
        for p in range(spec.pixels):
            for kx in trace.counted(a["kernel_w"]):
                at = a["scratch"] + p * a["pixel_step"] + kx * a["tap_step"]
                trace.touch(at, groups * 16 * lanes)
        for p in range(int(a["m"])):
            trace.touch(a["out"] + p * a["ldc"], int(a["n"]) * spec.itemsize, writes=True)
        return 0

    return run


def strays(trace: Trace, kernel: Kernel, extents: list[Extent]) -> list[str]:
    """Touches that `extents` do not cover: reads beyond the slack, writes beyond the operand."""
    bounds: dict[int, list[tuple[int, int, bool]]] = defaultdict(list)
    for e in extents:
        slot = len(HEADER) + kernel.fields.index(e.field)
        bounds[slot].append((e.start, e.start + e.nbytes, e.writes))
    found = []
    for what, touched in (("reads", trace.reads), ("writes", trace.writes)):
        for slot, start, stop in set(touched):
            if what == "reads":
                fits = any(low <= start and stop <= high + SLACK for low, high, _ in bounds[slot])
            else:
                fits = any(low <= start and stop <= high and w for low, high, w in bounds[slot])
            if not fits:
                inside = len(HEADER) <= slot < len(HEADER) + len(kernel.fields)
                name = kernel.fields[slot - len(HEADER)] if inside else f"slot {slot}"
                found.append(f"{what} {name}[{start}:{stop}], extents {bounds[slot]}")
    return sorted(found)


def touched(trace: Trace, kernel: Kernel, name: str, *, writes: bool = False) -> list[int]:
    """Every byte of operand `name` that was read or written, once per time, in order."""
    slot = len(HEADER) + kernel.fields.index(name)
    intervals = trace.writes if writes else trace.reads
    return sorted(b for s, start, stop in intervals if s == slot for b in range(start, stop))
