"""A program as text: one line a row, operands by room and offset."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qrt.jit.declare import Kernel
from qrt.program.program import BARRIER, Binding, Program


def disassemble(program: Program) -> str:
    """The listing: sizes, bindings, then each row with its kernel, node and fields.

    `a+128` is byte 128 of the arena, `c+64` byte 64 of the constants; a barrier is a `|`.
    """
    lines = [
        f"program: {len(program.rows)} rows, {len(program.kernels)} kernels,"
        f" arena {program.arena_nbytes} bytes, constants {program.constants.nbytes} bytes,"
        f" up to {program.threads} threads"
    ]
    lines += [f"  in   {_binding(b)}" for b in program.inputs]
    lines += [f"  out  {_binding(b)}" for b in program.outputs]
    for i, row in enumerate(program.rows.tolist()):
        kernel = program.kernel(i)
        flag = "|" if row[BARRIER] else " "
        fields = _fields(kernel, program.fields(i))
        lines.append(f"{i:5} {flag} {kernel.name}  {fields}  ; {program.where(i)}")
    return "\n".join(lines) + "\n"


def _binding(binding: Binding) -> str:
    layout = "" if binding.layout is None else f" layout {binding.layout}"
    shape = "x".join(map(str, binding.shape)) or "scalar"
    return f"{binding.name}: {binding.dtype} {shape}{layout} at {_place(binding.offset)}"


def _fields(kernel: Kernel, values: Mapping[str, int]) -> str:
    # only extents know which fields are operands
    operands = {extent.field for extent in kernel.extents(values)}
    shown = [
        f"{name}={_place(value) if name in operands else _number(value)}"
        for name, value in values.items()
    ]
    return " ".join(shown)


def _place(offset: int) -> str:
    return f"a+{offset}" if offset >= 0 else f"c+{~offset}"


def _number(value: int) -> str:
    """An integer, or with it the float32 that its bits may be."""
    if 1 << 23 <= abs(value) < 1 << 31:
        return f"{value}({np.int32(value).view(np.float32):.6g})"
    return str(value)
