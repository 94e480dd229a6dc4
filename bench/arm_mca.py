"""Speed of the AArch64 micro-kernels on paper: their inner loops under llvm-mca, core by core.

    python bench/arm_mca.py [--asm] [--llvm-mca PATH]

Every tile of the table is compiled here for the core's features; its inner loop's cycles come from
LLVM's model of the core, beside those of a loop of nothing but the family's dot products: the
core's peak. Older llvm-mca (14 in Debian 12) lends neoverse-n1 and cortex-a76 the model of
cortex-a57; 16 and later know neoverse-n1, which is the core of cortex-a76.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

import llvmlite.binding as llvm
from llvmlite import ir

from qrt.gemm.depthwise_tile import DOTS
from qrt.gemm.depthwise_tile import build_tile as build_depthwise_tile
from qrt.gemm.dots import FAMILIES
from qrt.gemm.epilogue import BUILDERS
from qrt.gemm.table import FLOAT_TILES, TILES, TileSpec
from qrt.gemm.tile import KR, build_tile
from qrt.jit.target import Target, target_for

CORES: dict[str, tuple[str, ...]] = {
    "cortex-a53": ("neon",),
    "cortex-a72": ("neon",),
    "cortex-a55": ("neon", "dotprod"),
    "cortex-a76": ("neon", "dotprod"),
    "neoverse-n1": ("neon", "dotprod"),
    "neoverse-v1": ("neon", "dotprod", "i8mm"),
    "neoverse-n2": ("neon", "dotprod", "i8mm"),
}
# a loop of products alone: registers hold what they multiply, every sum has a register
PEAKS = {
    "neon": [
        *(f"smull v{12 + i}.8h, v24.8b, v25.8b" for i in range(12)),
        *(f"sadalp v{i}.4s, v{12 + i}.8h" for i in range(12)),
    ],
    "dotprod": [f"sdot v{i}.4s, v24.16b, v25.4b[{i % 4}]" for i in range(24)],
    "i8mm": [f"sudot v{i}.4s, v24.16b, v25.4b[{i % 4}]" for i in range(24)],
    "fmla": [f"fmla v{i}.4s, v24.4s, v25.s[{i % 4}]" for i in range(24)],
}
PEAK_MACS = {"neon": 12 * 8, "dotprod": 24 * 16, "i8mm": 24 * 16, "fmla": 24 * 4}
DOT = re.compile(r"\s(sdot|usdot|sudot|smull2?|smlal2?|fmla)\s")
MOVES = re.compile(r"\s(str|stp|ldr|ldp)\s.*\[sp")
ITERATIONS = 200
TILE_K = 256


@dataclass(frozen=True)
class Loop:
    """The body of an inner loop and the multiply-adds it does."""

    lines: tuple[str, ...]
    macs: int


def assembly(target: Target, module: Any) -> str:
    """AArch64 assembly of an llvmlite module, optimised as a kernel is."""
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


def inner_loop(text: str) -> tuple[str, ...]:
    """The single-block loop with the most dot products."""
    best: tuple[str, ...] = ()
    for label, body in re.findall(r"^(\.L\w+):[^\n]*\n((?:(?!^\.L|^\w).*\n)*)", text, re.M):
        lines = [line.split("//")[0].rstrip() for line in body.splitlines()]
        lines = [line for line in lines if line.strip() and not line.strip().startswith(".")]
        ends = [i for i, line in enumerate(lines) if re.search(rf"\sb\.?\w*\s.*{label}$", line)]
        if ends and _dots(lines[: ends[0]]) > _dots(best):
            best = tuple(lines[: ends[0]])
    return best


def _dots(lines: Any) -> int:
    return sum(bool(DOT.search(line)) for line in lines)


def gemm_loop(tile: TileSpec, nv: int, target: Target, mr: int) -> Loop:
    """The inner loop of an mr x nv tile."""
    module = ir.Module()
    module.triple = target.triple
    dot = FAMILIES[tile.family]
    epilogue = "f32" if tile.types == "f32" else "u8"
    build_tile(module, "tile", dot, mr, nv, BUILDERS[epilogue])
    macs = mr * nv * dot.lanes * KR // tile.x_nbytes * dot.block_groups
    return Loop(inner_loop(assembly(target, module)), macs)


def depthwise_loop(family: str, target: Target) -> Loop:
    """The loop of a 3-wide depthwise tile, stride 1: one group of kernel rows, 4 pixels."""
    module = ir.Module()
    module.triple = target.triple
    dot = DOTS[family, 4]
    build_depthwise_tile(module, "tile", dot, 4, (3, 1), BUILDERS["u8"])
    return Loop(inner_loop(assembly(target, module)), 4 * 16 * 3 * dot.rows)


def cycles(lines: Any, cpu: str, mca: str) -> float:
    """Cycles of one turn of a loop on `cpu`, by llvm-mca."""
    result = subprocess.run(
        [mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={cpu}", "-mattr=+dotprod,+i8mm",
         f"-iterations={ITERATIONS}", "-instruction-info=0", "-resource-pressure=0"],
        input="\n".join(lines) + "\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"Total Cycles:\s+(\d+)", result.stdout)
    if found is None:
        raise RuntimeError(f"{mca} says no cycles: {result.stdout[:200]}")
    return int(found[1]) / ITERATIONS


def find_mca() -> str | None:
    """The newest llvm-mca on the path."""
    names = [f"llvm-mca-{version}" for version in range(30, 13, -1)]
    return next(filter(None, map(shutil.which, [*names, "llvm-mca"])), None)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--asm", action="store_true", help="print the loops too")
    parser.add_argument("--llvm-mca", help="the program to use (default: the newest found)")
    arguments = parser.parse_args()
    mca = arguments.llvm_mca or find_mca()
    if mca is None:
        print("llvm-mca is not here (Debian: apt install llvm)")
        return 0
    version = subprocess.run([mca, "--version"], capture_output=True, text=True).stdout
    print("llvm-mca of", version.splitlines()[0])
    print(f"{'core':12} {'kernel':28} {'cycles/step':>11} {f'tile K={TILE_K}':>11} "
          f"{'MAC/cycle':>9} {'peak':>6} {'share':>6} {'spills':>6}")  # fmt: skip
    for core, features in CORES.items():
        target = target_for(frozenset(features), "aarch64")
        loops = {}
        for family in (features[-1], "fmla"):
            for tile in (t for t in (*TILES, *FLOAT_TILES) if t.family == family):
                for mr, nv in [(tile.mr, nv) for nv in tile.widths] + [(1, tile.nv)]:
                    name = f"gemm {family} {mr}x{nv * tile.lanes}"
                    loops[name] = family, gemm_loop(tile, nv, target, mr)
        depthwise = features[-1]
        loops[f"depthwise {depthwise} 3x3 s1"] = depthwise, depthwise_loop(depthwise, target)
        peaks = {name: PEAK_MACS[name] / cycles(PEAKS[name], core, mca)
                 for name in {family for family, _ in loops.values()}}  # fmt: skip
        for name, (family, loop) in loops.items():
            step = cycles(loop.lines, core, mca)
            rate, peak = loop.macs / step, peaks[family]
            values = KR // (4 if family == "fmla" else 1)  # of k in a dot group
            steps = TILE_K / values / FAMILIES[family].block_groups
            whole = f"{step * steps:11.0f}" if name.startswith("gemm") else " " * 11
            spills = sum(bool(MOVES.search(line)) for line in loop.lines)
            print(f"{core:12} {name:28} {step:11.1f} {whole} {rate:9.1f} {peak:6.1f} "
                  f"{rate / peak:6.1%} {spills:6}")  # fmt: skip
            if arguments.asm:
                print("\n".join(loop.lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
