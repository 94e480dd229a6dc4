"""The steps of a chain: float32 functions by name, and the program that a chain's kernel reads.

Functions are those of the operators' own kernels, so a chain gives their bits. A step is twelve
int32: what to do, the places it writes and reads, and six numbers (alpha and beta, or a record of
`quantizing`). Places are the chain's inputs, registers, and the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qrt.ir import Node, QParams
from qrt.jit.declare import helper
from qrt.ops import float_binary, float_unary
from qrt.ops.quantizing import RECORD, division_records
from qrt.ops.spec import Array
from qrt.simd.memory import as_f32

INPUTS = 6  # a chain reads so many tensors
REGISTERS = 5  # blocks that live at once
PLACES = 16  # inputs, registers, unused ones, and the output
FIRST_REGISTER, OUTPUT = INPUTS, PLACES - 1
STEP_WORDS = 12
STEP_NBYTES = 4 * STEP_WORDS
NUMBERS_AT = 16  # bytes of a step in front of its numbers

_UNARY = dict(float_unary.scalar_functions())
_BINARY = dict(float_binary.BINARY)
NAMES = (*_UNARY, *_BINARY)
QUANTIZE, DEQUANTIZE = len(NAMES), len(NAMES) + 1


@dataclass(frozen=True)
class Step:
    """One operator of a chain: `refs` are its operands, input i as i, the result of step j as
    ~j. `node` is the operator itself, its constants included."""

    node: Node
    name: str  # of NAMES, "Quantize" or "Dequantize"
    refs: tuple[int, ...]
    alpha: float = 0.0
    beta: float = 0.0
    qparams: QParams | None = None


def step_code(step: Step) -> int:
    """What the kernel calls the step's function."""
    if step.qparams is None:
        return NAMES.index(step.name)
    return QUANTIZE if step.name == "Quantize" else DEQUANTIZE


def assemble(steps: Sequence[Step]) -> Array | None:
    """int32 (steps, 12), or None when more results live at once than there are registers."""
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
        table[i, :4] = step_code(step), target, sources[0], sources[-1]
        table[i, 4 : 4 + len(RECORD)] = _numbers(step)
        for ref in set(step.refs):
            if ref < 0 and last[~ref] == i:
                free.append(place[~ref])
    return table


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


def _of_one(function: Callable[..., Any]) -> Any:
    @helper
    def block(a, b, y, n, numbers):  # type: ignore[no-untyped-def]
        x = as_f32(a)
        out = as_f32(y)
        alpha = as_f32(numbers)[0]
        beta = as_f32(numbers)[1]
        for i in range(n):
            out[i] = function(x[i], alpha, beta)

    return block


def _of_two(function: Callable[..., Any]) -> Any:
    @helper
    def block(a, b, y, n, numbers):  # type: ignore[no-untyped-def]
        one = as_f32(a)
        other = as_f32(b)
        out = as_f32(y)
        for i in range(n):
            out[i] = function(one[i], other[i])

    return block


def _choice(blocks: Sequence[Any], first: int) -> Any:
    """The helper of `blocks[code - first]`, by halving."""
    if len(blocks) == 1:
        only = blocks[0]

        @helper
        def run(code, a, b, y, n, numbers):  # type: ignore[no-untyped-def]
            only(a, b, y, n, numbers)

        return run
    middle = len(blocks) // 2
    low, high = _choice(blocks[:middle], first), _choice(blocks[middle:], first + middle)
    border = first + middle

    @helper
    def choose(code, a, b, y, n, numbers):  # type: ignore[no-untyped-def]
        if code < border:
            low(code, a, b, y, n, numbers)
        else:
            high(code, a, b, y, n, numbers)

    return choose


run_function = _choice(
    [*(_of_one(f) for f in _UNARY.values()), *(_of_two(f) for f in _BINARY.values())], 0
)
