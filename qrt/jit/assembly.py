"""Assembly of generated functions, for tests and benches that judge them without running them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from qrt.jit.target import Target


def assembly(module: Any, target: Target) -> str:
    """The text of an llvmlite module for `target`, optimised as a kernel is."""
    import llvmlite.binding as llvm

    module.triple = target.triple
    for fn in module.functions:
        if not fn.is_declaration:
            fn.linkage = "external"
    machine = target.machine()
    parsed = llvm.parse_assembly(str(module))
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(parsed, builder)
    text: str = machine.emit_assembly(parsed)
    return text


def inner_loop(text: str, instruction: str) -> tuple[str, ...]:
    """The body of the single-block loop with the most lines that match `instruction`; () if none.

    The branch back is left out, and so are labels, directives and comments.
    """
    best: tuple[str, ...] = ()
    for label, body in re.findall(r"^(\.L\w+):[^\n]*\n((?:(?!^\.L|^\w).*\n)*)", text, re.M):
        lines = [re.split(r"//|\s# ", line)[0].rstrip() for line in body.splitlines()]
        lines = [line for line in lines if line.strip() and not line.strip().startswith(".")]
        ends = [i for i, line in enumerate(lines) if re.search(rf"\s[bj]\.?\w*\s.*{label}$", line)]
        if ends and count(lines[: ends[0]], instruction) > count(best, instruction):
            best = tuple(lines[: ends[0]])
    return best


def count(lines: Sequence[str], instruction: str) -> int:
    """How many lines match."""
    return sum(bool(re.search(instruction, line)) for line in lines)
