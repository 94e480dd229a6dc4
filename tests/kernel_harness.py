"""Run one lowered node on a NumPy arena: guard bytes around every tensor, junk everywhere else.

No program, no planner: operands are laid out one after the other, rows run in order, thread 0
then thread 1. `KernelError`s of a row fail the test.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qrt.ir import Node, Value
from qrt.jit.bounds import OUT_OF_BOUNDS, TABLE
from qrt.jit.declare import HEADER, KERNELS, Kernel
from qrt.jit.load import kernel_addresses
from qrt.jit.target import target_for
from qrt.ops.spec import OpSpec
from qrt.program.constants import aligned_bytes
from qrt.program.program import callee_slots
from qrt.program.touches import touches
from qrt.simd.features import active_features, detected_features, levels
from qrt.vm.bounds import bounds_block, refused_access

Array = np.ndarray[Any, Any]
Call = tuple[Kernel, Array, int, int]  # with its row, thread and number of threads
GUARD = 192  # bytes before and after every tensor
ALIGN = 64
ENTRY = ctypes.CFUNCTYPE(
    ctypes.c_int64, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2
)


def feature_levels() -> list[str]:
    """Feature specs that this CPU runs: the levels, and all it has ("")."""
    have = detected_features()
    return chosen([name for name, needs in levels().items() if set(needs) <= have] + [""])


def chosen(specs: list[str]) -> list[str]:
    """Those that QRT_TEST_LEVELS names (`native` for all features), or all."""
    named = os.environ.get("QRT_TEST_LEVELS", "").split(",")
    return [spec for spec in specs if (spec or "native") in named] if named != [""] else specs


@dataclass(frozen=True)
class Place:
    """An operand: `offset` bytes into the arena, or into the constants."""

    offset: int
    constant: bool = False

    def at(self, nbytes: int) -> Place:
        return Place(self.offset + nbytes, self.constant)

    @property
    def slot(self) -> int:
        return ~self.offset if self.constant else self.offset


@dataclass
class Bench:
    """A minimal `Lowering`: places for values and constants, and the rows that were emitted."""

    features: frozenset[str]
    most_threads: int = 2
    constants: bytearray = field(default_factory=bytearray)
    arena_nbytes: int = GUARD
    rows: list[tuple[Kernel, dict[str, int]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)
    kept: list[Value] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    scratches: list[tuple[int, int]] = field(default_factory=list)

    def _arena(self, nbytes: int) -> Place:
        start = -(-self.arena_nbytes // ALIGN) * ALIGN
        self.arena_nbytes = start + nbytes + GUARD
        self.spans.append((start, start + nbytes))
        return Place(start)

    def operand(self, value: Value) -> Place:
        if value.data is not None:
            order = value.layout or tuple(range(value.data.ndim))
            return self.constant(value.data.transpose(order))
        if id(value) not in self.places:
            self.kept.append(value)  # or another could have its id
            self.places[id(value)] = self._arena(value.nbytes)
        return self.places[id(value)]

    def constant(self, array: Array) -> Place:
        self.constants += bytes(-len(self.constants) % ALIGN + ALIGN)
        place = Place(len(self.constants), constant=True)
        self.constants += np.ascontiguousarray(array).tobytes()
        return place

    def packed(self, key: Hashable, make: Callable[[], Array]) -> Place:
        return self.constant(make())

    def scratch(self, nbytes: int) -> Place:
        place = self._arena(nbytes)
        self.scratches.append(self.spans[-1])
        return place

    def threads(self) -> int:
        return self.most_threads

    def alias(self, value: Value, of: Value) -> None:
        assert value.nbytes == of.nbytes
        self.places[id(value)] = self.operand(of)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def emit(self, kernel: Kernel, **fields: Any) -> None:
        assert set(fields) == set(kernel.fields), (kernel.name, fields.keys(), kernel.fields)
        assert kernel.features <= self.features, kernel.name
        row: dict[str, int] = {}
        for name in kernel.fields:
            v = fields[name]
            if name in kernel.calls:
                row[name] = -1 if v is None else callees(kernel.calls[name]).index(v)
            elif isinstance(v, (float, np.floating)):
                row[name] = int(np.float32(v).view(np.int32))
            else:
                row[name] = v.slot if isinstance(v, Place) else int(v)
        self.rows.append((kernel, row))

    def check_extents(self) -> None:
        """Every extent lies in one tensor of the arena, or in the constants; what a row writes
        overlaps nothing else that it touches."""
        for kernel, row in self.rows:
            extents = [e for e in kernel.extents(row) if e.nbytes and row[e.field] >= 0]
            for e, other in itertools.permutations(extents, 2):
                start, begin = row[e.field] + e.start, row[other.field] + other.start
                apart = start + e.nbytes <= begin or begin + other.nbytes <= start
                assert apart or not e.writes or e.field == other.field, (kernel.name, e, other)
            for e in kernel.extents(row):
                assert e.nbytes >= 0, (kernel.name, e)
                if e.nbytes == 0:
                    continue
                slot = row[e.field]
                if slot < 0:
                    assert not e.writes
                    assert ~slot + e.start >= 0, (kernel.name, e)
                    assert ~slot + e.start + e.nbytes <= len(self.constants), (kernel.name, e)
                    continue
                start, stop = slot + e.start, slot + e.start + e.nbytes
                inside = any(a <= start and stop <= b for a, b in self.spans)
                assert inside, (kernel.name, e, slot, self.spans)


def memory_image(array: Array, value: Value) -> Array:
    """The elements in the order of the value's layout, contiguous."""
    order = value.layout or tuple(range(array.ndim))
    return np.ascontiguousarray(array.transpose(order))


def logical_array(flat: Array, value: Value) -> Array:
    """The inverse of `memory_image`: the ONNX array of bytes in the value's layout."""
    shape = value.static_shape
    order = value.layout or tuple(range(len(shape)))
    inverse = [order.index(a) for a in range(len(order))]
    return flat.view(value.dtype).reshape([shape[a] for a in order]).transpose(inverse)


def run_node(
    spec: OpSpec,
    node: Node,
    inputs: Sequence[Array | None],
    features: str = "",
    threads: int = 1,
    seed: int = 0,
) -> list[Array]:
    """Lower `node` for `features`, run its rows on `inputs` (logical arrays) and return outputs.

    Output values get shape and dtype from `infer` unless they have them. Asserts that rows keep to
    their extents (declared ones, and guard bytes), and that no input changed.
    """
    for out, (shape, dtype) in zip(node.outputs, spec.infer(node), strict=True):
        out.shape, out.dtype = shape, np.dtype(dtype)
    bench = Bench(active_features(features), threads)
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.data is None and value not in node.outputs:
            bench.operand(value)
    assert spec.lower is not None
    spec.lower(node, bench)
    bench.check_extents()
    rng = np.random.default_rng(seed)
    arena = rng.integers(0, 256, bench.arena_nbytes + ALIGN, dtype=np.uint8)
    arena = arena[-arena.ctypes.data % ALIGN :][: bench.arena_nbytes]
    constants = aligned_bytes(len(bench.constants) + ALIGN)
    constants[: len(bench.constants)] = np.frombuffer(bytes(bench.constants), np.uint8)
    fed = []
    for value, array in zip(node.inputs, inputs, strict=True):
        if value is None or value.data is not None:
            continue
        assert array is not None and array.dtype == value.dtype, (value, array)
        image = memory_image(array, value).reshape(-1).view(np.uint8)
        at = bench.operand(value).offset
        arena[at : at + image.size] = image
        fed.append((at, image))
    before = arena.copy()
    run_rows(bench, arena, constants, threads)
    guarded = np.ones(arena.size, bool)
    for start, stop in bench.spans:
        guarded[start:stop] = False
    assert np.array_equal(arena[guarded], before[guarded]), "a row wrote outside its operands"
    for at, image in fed:
        assert np.array_equal(arena[at : at + image.size], image), "a row changed its input"
    outputs = []
    for value in node.outputs:
        place = bench.operand(value)
        memory = constants if place.constant else arena
        image = memory[place.offset : place.offset + value.nbytes]
        outputs.append(logical_array(image, value).copy())
    return outputs


def run_rows(bench: Bench, arena: Array, constants: Array, threads: int) -> None:
    """Every row once per thread, in order."""
    calls = []
    for kernel, fields in bench.rows:
        row = np.zeros(len(HEADER) + len(kernel.fields), np.int64)
        row[len(HEADER) :] = [fields[name] for name in kernel.fields]
        calls += [(kernel, row, thread, threads) for thread in range(threads)]
    run_calls(bench.features, calls, arena, constants, bench.scratches)


def callees(family: str) -> list[Kernel]:
    """The kernels that rows of the harness name by number."""
    return [kernel for kernel in KERNELS.values() if kernel.family == family]


def called_kernels(calls: Sequence[Call]) -> list[Kernel]:
    """The kernels of all calls, and those that they call by address."""
    found = {kernel.name: kernel for kernel, *_ in calls}
    for kernel, row, *_ in calls:
        for slot, family in callee_slots(kernel).items():
            if row[slot] >= 0:
                callee = callees(family)[row[slot]]
                found[callee.name] = callee
    return list(found.values())


def run_calls(
    features: frozenset[str],
    calls: Sequence[Call],
    arena: Array,
    constants: Array,
    scratches: Sequence[tuple[int, int]] = (),
) -> None:
    """Kernels compiled for `features`, one call after the other.

    `scripts/arm_plugin.py` has its own, which runs them on another CPU; of what is left in
    `scratches` (first byte, end) nothing is promised.
    """
    target = target_for(features)
    addresses = kernel_addresses(called_kernels(calls), target)
    for kernel, given, thread, threads in calls:
        row = given.copy()
        for slot, family in callee_slots(kernel).items():
            row[slot] = addresses[callees(family)[row[slot]].name] if row[slot] >= 0 else 0
        if target.bounds:  # QRT_BOUNDS=check
            bounds = bounds_block(touches(kernel, row.tolist()), row.nbytes)
            row[TABLE] = bounds.ctypes.data
        entry = ENTRY(addresses[kernel.name])
        status = entry(row.ctypes.data, arena.ctypes.data, constants.ctypes.data, thread, threads)
        refused = target.bounds and status == OUT_OF_BOUNDS
        why = refused_access(bounds, arena.size) if refused else ""
        assert status == 0, f"{kernel.name} returned {status} {why}"


def new_value(
    name: str,
    dtype: Any,
    shape: Sequence[int] | None = None,
    layout: tuple[int, ...] | None = None,
    data: Array | None = None,
) -> Value:
    """A Value for a test node."""
    return Value(name, np.dtype(dtype), None if shape is None else tuple(shape), data, layout)


def channels_last(rank: int) -> tuple[int, ...]:
    """The layout (N, spatial..., C)."""
    return (0, *range(2, rank), 1)
