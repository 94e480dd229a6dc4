"""The steps of a chain: kernels of blocks by name, and the program that a chain's kernel reads.

Functions are those of the operators' own kernels, so a chain gives their bits. Each is a kernel of
its own that the chain calls by address, so that only those in use are compiled. A step is twelve
int32: which function, the places it writes and reads, and six numbers (alpha and beta, or a record
of `quantizing`). Places are the chain's inputs, registers, and the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.ir import Node, QParams
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.ops import float_binary, float_unary
from qrt.ops.quantizing import QUANTIZERS, RECORD, Quantizer, declare_span, division_records
from qrt.ops.spec import Array
from qrt.simd.memory import as_f32

INPUTS = 6  # a chain reads so many tensors
REGISTERS = 5  # blocks that live at once
PLACES = 16  # inputs, registers, unused ones, and the output
FIRST_REGISTER, OUTPUT = INPUTS, PLACES - 1
FUNCTIONS = 8  # different ones in a chain, a power of two
QUANTIZE, DEQUANTIZE = FUNCTIONS, FUNCTIONS + 1  # what a step says beside the number of a function
STEP_WORDS = 12
STEP_NBYTES = 4 * STEP_WORDS
NUMBERS_AT = 16  # bytes of a step in front of its numbers

# the row of a step's kernel, which the chain's kernel makes: addresses of blocks of n elements
FIELDS = ("a", "b", "y", "n", "numbers")
A, B, Y, N, NUMBERS = slots(FIELDS)
ROW_WORDS = NUMBERS + 1


@dataclass(frozen=True)
class Step:
    """One operator of a chain: `refs` are its operands, input i as i, the result of step j as
    ~j. `node` is the operator itself, its constants included."""

    node: Node
    name: str  # of STEPS, "Quantize" or "Dequantize"
    refs: tuple[int, ...]
    alpha: float = 0.0
    beta: float = 0.0
    qparams: QParams | None = None


def functions_of(steps: Sequence[Step]) -> list[str]:
    """The names of STEPS that `steps` use, each once."""
    return list(dict.fromkeys(step.name for step in steps if step.qparams is None))


def assemble(steps: Sequence[Step]) -> Array | None:
    """int32 (steps, 12), or None when there are more functions, or more results live at once, than
    a chain can have."""
    functions = functions_of(steps)
    if len(functions) > FUNCTIONS:
        return None
    last = {~ref: i for i, step in enumerate(steps) for ref in step.refs if ref < 0}
    free = list(range(FIRST_REGISTER + REGISTERS - 1, FIRST_REGISTER - 1, -1))
    place: dict[int, int] = {}
    table = np.zeros((len(steps), STEP_WORDS), np.int32)
    for i, step in enumerate(steps):
        if i + 1 == len(steps):
            target = OUTPUT
        elif not free:
            return None
        else:
            # not a place that the step reads: loops over two blocks that overlap are not vectors
            target = place[i] = free.pop()
        sources = [ref if ref >= 0 else place[~ref] for ref in step.refs]
        table[i, :4] = _code(step, functions), target, sources[0], sources[-1]
        table[i, 4 : 4 + len(RECORD)] = _numbers(step)
        for ref in set(step.refs):
            if ref < 0 and last[~ref] == i:
                free.append(place[~ref])
    return table


def _code(step: Step, functions: Sequence[str]) -> int:
    if step.qparams is None:
        return functions.index(step.name)
    return QUANTIZE if step.name == "Quantize" else DEQUANTIZE


def _numbers(step: Step) -> Array:
    if step.qparams is None:
        return np.array([step.alpha, step.beta, 0, 0, 0, 0], np.float32).view(np.int32)
    if step.name == "Quantize":
        records: Array = division_records(step.qparams)[0][0]
        return records
    numbers = np.zeros(len(RECORD), np.int32)
    numbers[:1] = np.asarray(step.qparams.scale, np.float32).reshape(1).view(np.int32)
    numbers[5] = int(step.qparams.zero_point)
    return numbers


def extents(row: Mapping[str, int]) -> list[Extent]:
    raise ValueError("a step of a chain is no row")


def _of_one(name: str, function: Callable[..., Any]) -> Kernel:
    @kernel(f"chain_step_{name}", FIELDS, extents, family="chain_step")
    def block(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = as_f32(row[A])
        out = as_f32(row[Y])
        numbers = as_f32(row[NUMBERS])
        alpha = numbers[0]
        beta = numbers[1]
        for i in range(row[N]):
            out[i] = function(x[i], alpha, beta)
        return 0

    return block


def _of_two(name: str, function: Callable[..., Any]) -> Kernel:
    @kernel(f"chain_step_{name}", FIELDS, extents, family="chain_step")
    def block(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        one = as_f32(row[A])
        other = as_f32(row[B])
        out = as_f32(row[Y])
        for i in range(row[N]):
            out[i] = function(one[i], other[i])
        return 0

    return block


def _quantize(quantizer: Quantizer) -> Kernel:
    quantize = declare_span(quantizer)

    @kernel(
        quantizer.name("chain_quantize"),
        FIELDS,
        extents,
        family="chain_quantize",
        features=quantizer.features,
        preconditions=quantizer.preconditions,
    )
    def block(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        quantize(row[A], row[Y], row[N], row[NUMBERS])
        return 0

    return block


STEPS: dict[str, Kernel] = {
    **{name: _of_one(name, f) for name, f in float_unary.scalar_functions().items()},
    **{op: _of_two(op.lower(), f) for op, f in float_binary.BINARY.items()},
}
QUANTIZE_KERNELS = tuple(_quantize(quantizer) for quantizer in QUANTIZERS)
