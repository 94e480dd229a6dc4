"""qrt.Chain: element-wise operators that follow each other, block by block in one pass over memory.

A block of every tensor stays in L1 while the steps of the chain (`chain_steps`) run over it, so
what lies between two operators is never in memory. Inputs are float32 of any broadcasting that
three loops walk, or uint8 in full; the output is float32, or uint8 where a Quantize ends the chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node, Value
from qrt.jit.declare import Extent, Kernel, helper, kernel, slots
from qrt.ops.chain_steps import (
    DEQUANTIZE,
    FIRST_REGISTER,
    INPUTS,
    NUMBERS_AT,
    OUTPUT,
    PLACES,
    QUANTIZE,
    REGISTERS,
    STEP_NBYTES,
    Step,
    assemble,
    run_function,
)
from qrt.ops.dispatch import best_kernel
from qrt.ops.nests import Nest, broadcast_strides, collapse, memory_order
from qrt.ops.quantizing import FACTORS, QUANTIZERS, Quantizer, declare_span, division_records
from qrt.ops.sizes import product, within
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.memory import as_f32, as_i32, as_i64, as_u8, operand
from qrt.simd.scalar import share, sub32
from qrt.simd.vectors import copy_bytes

BLOCK = 512  # elements: eleven blocks of float32 are 22 KiB of a 32 KiB L1
GRAIN = 8  # blocks; below this a second thread costs more than it saves
RANK = 3
BUFFERS = INPUTS + REGISTERS
SCRATCH_NBYTES = 8 * PLACES + 4 * BLOCK * BUFFERS  # of a thread
STEPS = ("outer", "row", "step")  # of an input, in elements, from loop to loop
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
    *(f"x{i}" for i in range(INPUTS)),
    *(f"x{i}_{name}" for i in range(INPUTS) for name in STEPS),
)
(
    Y, SCRATCH, PROGRAM, N_STEPS, N_INPUTS, BYTES, CODES, OUTER, ROWS, INNER, MAX_THREADS,
    X0, _1, _2, _3, _4, _5, S0, *_,
) = slots(FIELDS)  # fmt: skip


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    steps: tuple[Step, ...] = node.attrs["steps"]
    last = steps[-1]
    shape = np.broadcast_shapes(*(v.static_shape for v in node.inputs if v is not None))
    dtype = np.float32 if last.name != "Quantize" else np.uint8
    return [(shape, np.dtype(dtype))]


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
    return [results[-1]]


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
    steps: tuple[Step, ...] = node.attrs["steps"]
    y = node.outputs[0]
    inputs = [node.required(i) for i in range(len(node.inputs))]
    nest, table = nest_of(y, inputs), assemble(steps)
    if nest is None or table is None or len(inputs) > INPUTS:
        raise UnsupportedError("a chain needs more loops, registers or inputs than there are")
    if nest.count == 0:
        return
    facts = {FACTORS: 1}
    last = steps[-1].qparams if steps[-1].name == "Quantize" else None
    if last is not None:
        _, facts = division_records(last)
    fields: dict[str, Any] = dict.fromkeys(FIELDS[FIELDS.index("x0") :], 0)
    for i, strides in enumerate(nest.strides):
        fields |= {f"x{i}_{name}": s for name, s in zip(STEPS, strides, strict=True)}
    program.note(" ".join(step.node.op for step in steps))
    threads = program.threads()
    fields |= {f"x{i}": program.operand(v) for i, v in enumerate(inputs)}
    program.emit(
        best_kernel(KERNELS, program.features, facts),
        **fields,
        y=program.operand(y),
        scratch=program.scratch(threads * SCRATCH_NBYTES),
        program=program.constant(table),
        steps=len(steps),
        inputs=len(inputs),
        bytes=sum(int(v.dtype == np.uint8) << i for i, v in enumerate(inputs)),
        codes=int(last is not None),
        outer=nest.sizes[0],
        rows=nest.sizes[1],
        inner=nest.sizes[2],
        max_threads=threads,
    )


def extents(row: Mapping[str, int]) -> list[Extent]:
    """Inputs as far as their steps reach, bytes in full; y in full."""
    sizes = [row["outer"], row["rows"], row["inner"]]
    total = product(row, "outer", "rows", "inner")
    within(row, "inputs", 0, INPUTS)
    within(row, "codes", 0, 1)
    found = [
        Extent("y", total * (1 if row["codes"] else 4), writes=True),
        Extent("scratch", SCRATCH_NBYTES * product(row, "max_threads"), writes=True),
        Extent("program", STEP_NBYTES * product(row, "steps")),
    ]
    for i in range(row["inputs"]):
        steps = [row[f"x{i}_{name}"] for name in STEPS]
        if min(steps) < 0 or steps[2] > 1:
            raise ValueError(f"steps of x{i} must be 0 or more, the last 0 or 1, got {steps}")
        reach = sum((n - 1) * s for n, s in zip(sizes, steps, strict=True)) + 1 if total else 0
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


def _declare(quantizer: Quantizer) -> Kernel:
    quantize = declare_span(quantizer)

    @kernel(
        quantizer.name("chain_f32"),
        FIELDS,
        extents,
        family="chain_f32",
        features=quantizer.features,
        preconditions=quantizer.preconditions,
    )
    def chain(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        threads = min(threads, row[MAX_THREADS])
        if thread >= threads:
            return 0
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
        buffers = scratch + 8 * PLACES
        # whatever the program says, it reads and writes inside of these
        for i in range(PLACES):
            places[i] = buffers + 4 * BLOCK * min(i, BUFFERS - 1)
        program = operand(row, PROGRAM, arena, constants)
        start, stop = share((total + height - 1) // height * width, thread, threads, GRAIN)
        there = np.int64(0)  # bit i: input i is the same in every block
        for i in range(inputs):
            apart = row[S0 + 3 * i] | row[S0 + 3 * i + 1]
            step = row[S0 + 3 * i + 2]
            if apart == 0 and (row[BYTES] >> i) & 1 == 0 and (step == 0 or inner <= BLOCK // 2):
                source = operand(row, X0 + i, arena, constants)
                for j in range(min(height, total)):
                    _fill(places[i] + 4 * j * inner, source, chunk, step)
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
                step = row[S0 + 3 * i + 2]
                if (row[BYTES] >> i) & 1 != 0:
                    places[i] = source + at
                    continue
                dense = step == 1 and (rows == 1 or row_step == inner)
                if dense and (row[OUTER] == 1 or outer_step == rows * inner):
                    places[i] = source + 4 * at
                    continue
                if count == 1 and step == 1:
                    places[i] = source + 4 * (r // rows * outer_step + r % rows * row_step + c)
                    continue
                target = buffers + 4 * BLOCK * i
                places[i] = target
                for j in range(r, r + count):
                    from_ = source + 4 * (j // rows * outer_step + j % rows * row_step + c * step)
                    _fill(target, from_, columns, step)
                    target += 4 * columns
            out = y + at * y_itemsize
            for s in range(row[N_STEPS]):
                words = as_i32(program + s * STEP_NBYTES)
                numbers = program + s * STEP_NBYTES + NUMBERS_AT
                code = words[0]
                a = places[words[2] & (PLACES - 1)]
                b = places[words[3] & (PLACES - 1)]
                to = places[FIRST_REGISTER + (words[1] - FIRST_REGISTER) % REGISTERS]
                if words[1] == OUTPUT and row[CODES] == 0:
                    to = out
                if code == QUANTIZE:
                    if row[CODES] != 0:
                        quantize(a, out, n, numbers)
                elif code == DEQUANTIZE:
                    _dequantize(a, to, n, numbers)
                else:
                    run_function(code, a, b, to, n, numbers)
        return 0

    return chain


KERNELS = tuple(_declare(quantizer) for quantizer in QUANTIZERS)

SPEC = OpSpec("Chain", "qrt", infer, reference, lower, layout="any")
