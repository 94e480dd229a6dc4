"""qrt.Chain: element-wise operators that follow each other, block by block in one pass over memory.

A block of every tensor stays in L1 while the steps of the chain (`chain_steps`) run over it, so
what lies between two operators is never in memory. Inputs are float32 of any broadcasting that
three loops walk, or uint8 in full; the output is float32, or uint8 where a Quantize ends the chain.
A `ranged` chain of float32 has its range for a second output (`gemm/ranges.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.gemm.ranges import PARTS, RECORD_NBYTES, clear_ranges, ranges_nbytes, widen_range_by
from qrt.ir import Node, Value
from qrt.jit.bounds import TABLE
from qrt.jit.declare import Extent, helper, kernel, slots
from qrt.ops import chain_steps as steps
from qrt.ops.chain_steps import (
    DEQUANTIZE,
    FIRST_REGISTER,
    FUNCTIONS,
    INPUTS,
    NUMBERS_AT,
    OUTPUT,
    PLACES,
    QUANTIZE,
    QUANTIZE_KERNELS,
    REGISTERS,
    STEP_NBYTES,
    STEPS,
    Step,
    assemble,
    functions_of,
)
from qrt.ops.dispatch import best_kernel
from qrt.ops.nests import Nest, broadcast_strides, collapse, memory_order
from qrt.ops.product import more_results
from qrt.ops.product import results as with_range
from qrt.ops.quantizing import division_records
from qrt.ops.sizes import product, within
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.calls import call_kernel
from qrt.simd.memory import as_f32, as_i32, as_i64, as_u8, operand
from qrt.simd.scalar import share, sub32
from qrt.simd.vectors import copy_bytes

BLOCK = 512  # elements: eleven blocks of float32 are 22 KiB of a 32 KiB L1
GRAIN = 8  # blocks; below this a second thread costs more than it saves
RANK = 3
BUFFERS = INPUTS + REGISTERS
# of a thread: where places are, where codes are, the row of the present step, buffers
CODES_AT, STEP_ROW_AT = 8 * PLACES, 16 * PLACES
BUFFERS_AT = STEP_ROW_AT + 8 * steps.ROW_WORDS
SCRATCH_NBYTES = BUFFERS_AT + 4 * BLOCK * BUFFERS
NO_FUNCTION = 3  # the status of a chain whose program asks for a function that its row lacks
STRIDES = ("outer", "row", "step")  # of an input, in elements, from loop to loop
FUNCTION_FIELDS = tuple(f"f{i}" for i in range(FUNCTIONS))
FIELDS = (
    "y",
    "scratch",
    "program",
    "steps",
    "inputs",
    "bytes",  # bit i: input i is uint8, in full
    "codes",  # 1: y is uint8
    "outer",
    "rows",
    "inner",
    "max_threads",
    "ranged",  # 1: `ranges` has a record per thread, else it is nothing
    "ranges",
    "quantize",  # the kernel that ends a chain of uint8
    *FUNCTION_FIELDS,  # the kernels that steps name by number
    *(f"x{i}" for i in range(INPUTS)),
    *(f"x{i}_{name}" for i in range(INPUTS) for name in STRIDES),
)
(
    Y, SCRATCH, PROGRAM, N_STEPS, N_INPUTS, BYTES, CODES, OUTER, ROWS, INNER, MAX_THREADS,
    RANGED, RANGES, QUANTIZE_FIELD, F0, *_,
) = slots(FIELDS)  # fmt: skip
A, B, TO, N, NUMBERS = steps.A, steps.B, steps.Y, steps.N, steps.NUMBERS
X0 = F0 + FUNCTIONS
S0 = X0 + INPUTS


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    steps: tuple[Step, ...] = node.attrs["steps"]
    last = steps[-1]
    shape = np.broadcast_shapes(*(v.static_shape for v in node.inputs if v is not None))
    dtype = np.float32 if last.name != "Quantize" else np.uint8
    return [(shape, np.dtype(dtype)), *more_results(node)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    """Each operator's own reference, one after the other."""
    from qrt.ops import OPS

    results: list[Array] = []
    for step in node.attrs["steps"]:
        given = [inputs[ref] if ref >= 0 else results[~ref] for ref in step.refs]
        rest = [None if v is None else v.data for v in step.node.inputs[len(given) :]]
        reference_of = OPS[step.node.domain, step.node.op].reference
        assert reference_of is not None
        results.append(reference_of(step.node, [*given, *rest])[0])
    return with_range(node, results[-1])


def nest_of(y: Value, inputs: Sequence[Value]) -> Nest | None:
    """Three loops over the memory of y, with the steps of the inputs; None when it needs more."""
    shape, order = y.static_shape, memory_order(y)
    strides = [broadcast_strides(v, shape) for v in inputs]
    own = [0] * len(shape)
    step = 1
    for axis in reversed(order):
        own[axis] = step
        step *= shape[axis]
    nest = collapse([shape[a] for a in order], *([s[a] for a in order] for s in (own, *strides)))
    if len(nest.sizes) > RANK or any(s and s[-1] > 1 for s in nest.strides[1:]):
        return None
    return Nest(nest.sizes, nest.strides[1:]).padded(RANK)


def lower(node: Node, program: Lowering) -> None:
    given: tuple[Step, ...] = node.attrs["steps"]
    y = node.outputs[0]
    inputs = [node.required(i) for i in range(len(node.inputs))]
    nest, table = nest_of(y, inputs), assemble(given)
    if nest is None or table is None or len(inputs) > INPUTS:
        raise UnsupportedError("a chain needs more loops, registers or inputs than there are")
    if nest.count == 0:
        return
    fields: dict[str, Any] = dict.fromkeys(FIELDS[FIELDS.index("x0") :], 0)
    fields |= dict.fromkeys(("quantize", *FUNCTION_FIELDS))
    fields |= {f"f{i}": STEPS[name] for i, name in enumerate(functions_of(given))}
    last = given[-1].qparams if given[-1].name == "Quantize" else None
    if last is not None:
        _, facts = division_records(last)
        fields["quantize"] = best_kernel(QUANTIZE_KERNELS, program.features, facts)
    for i, strides in enumerate(nest.strides):
        fields |= {f"x{i}_{name}": s for name, s in zip(STRIDES, strides, strict=True)}
    program.note(" ".join(step.node.op for step in given))
    threads, ranged = program.threads(), len(node.outputs) > 1
    if ranged:
        threads = min(threads, PARTS)
    fields |= {f"x{i}": program.operand(v) for i, v in enumerate(inputs)}
    program.emit(
        chain,
        **fields,
        y=program.operand(y),
        scratch=program.scratch(threads * SCRATCH_NBYTES),
        program=program.constant(table),
        steps=len(given),
        inputs=len(inputs),
        bytes=sum(int(v.dtype == np.uint8) << i for i, v in enumerate(inputs)),
        codes=int(last is not None),
        outer=nest.sizes[0],
        rows=nest.sizes[1],
        inner=nest.sizes[2],
        max_threads=threads,
        ranged=int(ranged),
        ranges=program.operand(node.outputs[1]) if ranged else 0,
    )


def extents(row: Mapping[str, int]) -> list[Extent]:
    """Inputs as far as their steps reach, bytes in full; y in full."""
    sizes = [row["outer"], row["rows"], row["inner"]]
    total = product(row, "outer", "rows", "inner")
    within(row, "inputs", 0, INPUTS)
    within(row, "codes", 0, 1)
    within(row, "ranged", 0, 1)
    found = [
        Extent("y", total * (1 if row["codes"] else 4), writes=True),
        Extent("scratch", SCRATCH_NBYTES * product(row, "max_threads"), writes=True),
        Extent("program", STEP_NBYTES * product(row, "steps")),
    ]
    if row["ranged"]:
        found.append(Extent("ranges", ranges_nbytes(row["max_threads"]), writes=True))
    for i in range(row["inputs"]):
        strides = [row[f"x{i}_{name}"] for name in STRIDES]
        if min(strides) < 0 or strides[2] > 1:
            raise ValueError(f"steps of x{i} must be 0 or more, the last 0 or 1, got {strides}")
        reach = sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) + 1 if total else 0
        found.append(Extent(f"x{i}", total if row["bytes"] >> i & 1 else 4 * reach))
    return found


@helper
def _fill(target, source, n, step):  # type: ignore[no-untyped-def]
    """n float32, the same one again and again with step 0."""
    if step == 0:
        out = as_f32(target)
        value = as_f32(source)[0]
        for i in range(n):
            out[i] = value
    else:
        copy_bytes(source, target, 4 * n)


@helper
def _dequantize(a, y, n, numbers):  # type: ignore[no-untyped-def]
    q = as_u8(a)
    out = as_f32(y)
    scale = as_f32(numbers)[0]
    zero_point = as_i32(numbers)[5]
    for i in range(n):
        out[i] = np.float32(sub32(np.int32(q[i]), zero_point)) * scale


@kernel(
    "chain_f32",
    FIELDS,
    extents,
    calls={**dict.fromkeys(FUNCTION_FIELDS, "chain_step"), "quantize": "chain_quantize"},
)
def chain(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    threads = min(threads, row[MAX_THREADS])
    if thread >= threads:
        return 0
    ranges = operand(row, RANGES, arena, constants)
    if row[RANGED] != 0:
        clear_ranges(ranges, row[MAX_THREADS], thread, threads)
    rows, inner, inputs = row[ROWS], row[INNER], row[N_INPUTS]
    total = row[OUTER] * rows
    if total * inner == 0:
        return 0
    chunk = min(inner, BLOCK)
    # whole rows to a block, or a part of one
    height = BLOCK // inner if inner < BLOCK else np.int64(1)
    width = (inner + chunk - 1) // chunk
    y = operand(row, Y, arena, constants)
    y_itemsize = 1 if row[CODES] != 0 else 4
    scratch = operand(row, SCRATCH, arena, constants) + thread * SCRATCH_NBYTES
    places = as_i64(scratch)
    codes = as_i64(scratch + CODES_AT)
    step_row = scratch + STEP_ROW_AT
    step = as_i64(step_row)
    buffers = scratch + BUFFERS_AT
    # whatever the program says, it reads and writes inside of these
    for i in range(PLACES):
        places[i] = buffers + 4 * BLOCK * min(i, BUFFERS - 1)
        codes[i] = places[i]
    step[TABLE] = row[TABLE]  # with QRT_BOUNDS=check: what the row may touch, its steps may
    program = operand(row, PROGRAM, arena, constants)
    start, stop = share((total + height - 1) // height * width, thread, threads, GRAIN)
    there = np.int64(0)  # bit i: input i is the same in every block
    for i in range(inputs):
        apart = row[S0 + 3 * i] | row[S0 + 3 * i + 1]
        last = row[S0 + 3 * i + 2]
        if apart == 0 and (row[BYTES] >> i) & 1 == 0 and (last == 0 or inner <= BLOCK // 2):
            source = operand(row, X0 + i, arena, constants)
            for j in range(min(height, total)):
                _fill(places[i] + 4 * j * inner, source, chunk, last)
            there |= np.int64(1) << i
    for block in range(start, stop):
        r = block // width * height
        c = block % width * chunk
        count = min(height, total - r)
        columns = min(chunk, inner - c)
        n = count * columns
        at = r * inner + c
        for i in range(inputs):
            if (there >> i) & 1 != 0:
                continue
            source = operand(row, X0 + i, arena, constants)
            outer_step = row[S0 + 3 * i]
            row_step = row[S0 + 3 * i + 1]
            last = row[S0 + 3 * i + 2]
            if (row[BYTES] >> i) & 1 != 0:
                codes[i] = source + at
                continue
            dense = last == 1 and (rows == 1 or row_step == inner)
            if dense and (row[OUTER] == 1 or outer_step == rows * inner):
                places[i] = source + 4 * at
                continue
            if count == 1 and last == 1:
                places[i] = source + 4 * (r // rows * outer_step + r % rows * row_step + c)
                continue
            target = buffers + 4 * BLOCK * i
            places[i] = target
            for j in range(r, r + count):
                from_ = source + 4 * (j // rows * outer_step + j % rows * row_step + c * last)
                _fill(target, from_, columns, last)
                target += 4 * columns
        out = y + at * y_itemsize
        step[N] = n
        for s in range(row[N_STEPS]):
            words = as_i32(program + s * STEP_NBYTES)
            numbers = program + s * STEP_NBYTES + NUMBERS_AT
            code = words[0]
            to = places[FIRST_REGISTER + (words[1] - FIRST_REGISTER) % REGISTERS]
            if words[1] == OUTPUT and row[CODES] == 0:
                to = out
            if code == DEQUANTIZE:
                _dequantize(codes[words[2] & (PLACES - 1)], to, n, numbers)
                continue
            function = row[F0 + (code & (FUNCTIONS - 1))]
            if code == QUANTIZE:
                function = row[QUANTIZE_FIELD]
                to = out
            if function == 0 or (code == QUANTIZE and row[CODES] == 0):
                return NO_FUNCTION
            step[A] = places[words[2] & (PLACES - 1)]
            step[B] = places[words[3] & (PLACES - 1)]
            step[TO] = to
            step[NUMBERS] = numbers
            status = call_kernel(function, step_row, arena, constants, 0, 1)
            if status != 0:
                return status
        if row[RANGED] != 0 and row[CODES] == 0:
            widen_range_by(ranges + thread * RECORD_NBYTES, out, n)
    return 0


SPEC = OpSpec("Chain", "qrt", infer, reference, lower, layout="any")
