"""Speed of the AArch64 micro-kernels on paper: their inner loops under llvm-mca, core by core.

    python bench/arm_mca.py [--asm] [--llvm-mca PATH]

Every tile of the tables is compiled here for the core's features; its inner loop's cycles come from
LLVM's model of the core, beside what its instructions take when nothing waits (`bound`) and a loop
of nothing but the family's dot products: the core's peak. `<` marks what is below 85 % of it. LLVM
(19) lends cortex-a76 the model of cortex-a57, three instructions a cycle; neoverse-n1 is the same
core and has a model of its own, which is used.

A second table has the cycles of streams of codes, 64 at a time: the portable row and NEON's. Their
loops are those of the objects that ship, so llvm-objdump must lie beside llvm-mca.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

from llvmlite import ir

import qrt.ops  # noqa: F401  (declares kernels)
from qrt.gemm.depthwise_table import DEPTHWISE
from qrt.gemm.depthwise_tile import DOTS
from qrt.gemm.depthwise_tile import build_tile as build_depthwise_tile
from qrt.gemm.dots import FAMILIES
from qrt.gemm.epilogue import BUILDERS
from qrt.gemm.table import FLOAT_TILES, TileSpec, candidates
from qrt.gemm.tile import build_tile
from qrt.jit.assembly import assembly, count, inner_loop
from qrt.jit.build import build_objects
from qrt.jit.declare import KERNELS, Kernel
from qrt.jit.target import Target, target_for
from qrt.simd.features import ARM_LEVELS

# what LLVM calls the model, and the newest families of the tables
CORES: dict[str, tuple[str, str]] = {
    "cortex-a53": ("cortex-a53", "neon"),
    "cortex-a72": ("cortex-a72", "neon"),
    "cortex-a55": ("cortex-a55", "dotprod"),
    "cortex-a76": ("neoverse-n1", "dotprod"),
    "neoverse-n1": ("neoverse-n1", "dotprod"),
    "neoverse-v1": ("neoverse-v1", "i8mm"),
    "neoverse-n2": ("neoverse-n2", "i8mm"),
}
BAR = 0.85
# a loop of products alone: registers hold what they multiply, every sum has a register
PEAKS = {
    "neon": [
        *(f"smull v{12 + i}.8h, v24.8b, v25.8b" for i in range(12)),
        *(f"smlsl2 v{12 + i}.8h, v24.16b, v25.16b" for i in range(12)),
        *(f"sadalp v{i}.4s, v{12 + i}.8h" for i in range(12)),
    ],
    "dotprod": [f"sdot v{i}.4s, v24.16b, v25.4b[{i % 4}]" for i in range(24)],
    "i8mm": [f"usmmla v{i}.4s, v24.16b, v25.16b" for i in range(24)],
    "usdot": [f"usdot v{i}.4s, v24.16b, v25.16b" for i in range(24)],
    "fmla": [f"fmla v{i}.4s, v24.4s, v25.s[{i % 4}]" for i in range(24)],
}
PEAK_MACS = {
    "neon": 24 * 8, "dotprod": 24 * 16, "i8mm": 24 * 32, "usdot": 24 * 16, "fmla": 24 * 4
}  # fmt: skip
# multiply-adds of one of a family's products
MACS = {name: PEAK_MACS[name] // count(PEAKS[name], "smull|smlsl|dot|mmla|fmla") for name in PEAKS}
DOT = r"\s(sdot|usdot|sudot|usmmla|smull2?|smlal2?|smlsl2?|fmla)\s"
MOVES = r"\s(str|stp|ldr|ldp)\s.*\[sp"
ITERATIONS = 200
TILE_K = 256


class Stream(NamedTuple):
    """A kernel, and those of its name that need NEON. Its loop is the one with the most lines that
    match `marker`; one turn of it moves as many elements of `nbytes` as its stores say, or its
    loads (`counted`)."""

    name: str
    marker: str
    nbytes: int = 1
    counted: str = "st"


STREAMS = (
    Stream("quantize_f32_u8", "sqxtn|fdiv"),
    Stream("quantize_columns_f32_u8", "sqxtn|fdiv"),
    Stream("dynamic_quantize_f32_u8", "fmla|fmul|fdiv"),
    Stream("requantize_s32_u8", "sqxtn|fcmgt"),
    Stream("dequantize_uint8_f32", "[su]cvtf", 4),
    Stream("lookup_u8", "strb|stu?r\\s+q"),
    Stream("lookup_u8_f32", "str\\s+[sw]", 4),
    Stream("add_u8", "sqxtn|fdiv"),
    Stream("mul_u8", "sqxtn|fdiv"),
    Stream("softmax_f32", "fmaxnm\\s+v", 4),
    Stream("softmax_u8_u8", "fdiv"),
    Stream("max_pool_u8", "umax"),
    Stream("average_pool_u8_u8", "uaddw", counted="ld"),
)
AT_ONCE = 64  # elements whose cycles are told
REGISTERS = {"q": 16, "d": 8, "x": 8, "s": 4, "w": 4, "h": 2, "b": 1}  # bytes


@dataclass(frozen=True)
class Loop:
    """The body of an inner loop and the multiply-adds it does."""

    lines: tuple[str, ...]
    macs: int


def gemm_loop(tile: TileSpec, nv: int, target: Target, mr: int) -> Loop:
    """The inner loop of an mr x nv tile."""
    module = ir.Module()
    module.triple = target.triple
    dot = FAMILIES[tile.family]
    build_tile(module, "tile", dot, mr, nv, BUILDERS["f32" if tile.types == "f32" else "u8"])
    lines = inner_loop(assembly(module, target), DOT)
    return Loop(lines, count(lines, DOT) * MACS[tile.family])


def depthwise_loop(family: str, target: Target) -> Loop:
    """The loop of a 3-wide depthwise tile, stride 1: one group of kernel rows, 4 pixels."""
    module = ir.Module()
    module.triple = target.triple
    dot = DOTS[family, 4]
    build_depthwise_tile(module, "tile", dot, 4, (3, 1), BUILDERS["u8"])
    return Loop(inner_loop(assembly(module, target), DOT), 4 * 16 * 3 * dot.rows)


def loops(features: frozenset[str]) -> Iterator[tuple[str, str, int, Loop]]:
    """Name, family, outputs of a tile (0 if K is no loop) and loop of the newest families' rows."""
    target = target_for(features, "aarch64")
    for tile in (*candidates(features), *candidates(features, FLOAT_TILES)):
        shapes = [(tile.mr, nv) for nv in tile.widths] + [(h, tile.nv) for h in tile.heights[1:]]
        for mr, nv in shapes:
            name = f"gemm {tile.family} {mr}x{nv * tile.lanes}"
            yield name, tile.family, mr * nv * tile.lanes, gemm_loop(tile, nv, target, mr)
    spec = next(s for s in DEPTHWISE if features.issuperset(s.features))
    product = "usdot" if spec.family == "i8mm" else spec.family  # one channel a lane: no matrix
    yield f"depthwise {spec.family} 3x3", product, 0, depthwise_loop(spec.family, target)


def streams(features: frozenset[str], objdump: str) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """Name and loop of every stream's rows, and how many elements a turn of it moves."""
    target = target_for(features, "aarch64")
    rows = [(stream, kernel) for stream in STREAMS for kernel in rows_of(stream, features)]
    objects = build_objects([kernel for _, kernel in rows], target)
    for stream, kernel in rows:
        lines = inner_loop(disassembly(objects[kernel.name], objdump), stream.marker)
        yield kernel.name, lines, moved_nbytes(lines, stream.counted) / stream.nbytes


def rows_of(stream: Stream, features: frozenset[str]) -> list[Kernel]:
    """The stream's kernels that run with `features`, the portable one last."""
    found = [k for k in KERNELS.values() if k.features <= features]
    named = [k for k in found if k.features and k.name.startswith(f"{stream.name}_")]
    return [*named, KERNELS[stream.name]]


def disassembly(body: bytes, objdump: str) -> str:
    """An object's code as the compiler would have printed it: labels where branches go."""
    with tempfile.NamedTemporaryFile(suffix=".o") as file:
        file.write(body)
        file.flush()
        text = subprocess.run(
            [objdump, "-d", "--no-show-raw-insn", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    code = re.findall(r"^ +([0-9a-f]+):\s+(.*)$", text, re.M)
    jump = re.compile(r"(.*\s)0x([0-9a-f]+) <.*>$")
    targets = {found[2] for _, line in code if (found := jump.match(line))}
    lines = []
    for address, line in code:
        lines += [f".L{address}:"] * (address in targets)
        lines.append("\t" + jump.sub(r"\1.L\2", line))
    return "\n".join(lines) + "\n"


def moved_nbytes(lines: tuple[str, ...], which: str) -> int:
    """Bytes that a loop's loads (`ld`) or stores (`st`) move, the stack's apart."""
    total = 0
    for line in lines:
        found = re.match(rf"\s+({which}\w+)\s+(.*?)\[(\w+)", line)
        if not found or found[3] == "sp":
            continue
        if found[1][-1] in "bh" and found[1] != "ldpsw":  # ldrb, strh: less than their register
            total += REGISTERS[found[1][-1]]
        else:
            total += sum(REGISTERS[kind] for kind in re.findall(r"\b([qdxswhb])\d+", found[2]))
    return total


def cycles(lines: Any, cpu: str, mca: str) -> tuple[float, float]:
    """Cycles of one turn of a loop on `cpu` by llvm-mca, and when nothing waits for anything."""
    result = subprocess.run(
        [mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={cpu}", "-mattr=+dotprod,+i8mm",
         f"-iterations={ITERATIONS}", "-instruction-info=0", "-resource-pressure=0"],
        input="\n".join(lines) + "\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    total = re.search(r"Total Cycles:\s+(\d+)", result.stdout)
    bound = re.search(r"Block RThroughput:\s+([\d.]+)", result.stdout)
    if total is None or bound is None:
        raise RuntimeError(f"{mca} says no cycles: {result.stdout[:200]}")
    return int(total[1]) / ITERATIONS, float(bound[1])


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
    print(f"{'core':12} {'kernel':24} {'cycles/step':>11} {'bound':>6} {f'tile K={TILE_K}':>11} "
          f"{'MAC/cycle':>9} {'peak':>6} {'share':>6}   {'spills':>6}")  # fmt: skip
    for core, (model, level) in CORES.items():
        features = frozenset(ARM_LEVELS[level])
        for name, family, outputs, loop in loops(features):
            peak = PEAK_MACS[family] / cycles(PEAKS[family], model, mca)[0]
            step, bound = cycles(loop.lines, model, mca)
            rate = loop.macs / step
            whole = f"{step * outputs * TILE_K / loop.macs:11.0f}" if outputs else " " * 11
            spills = count(loop.lines, MOVES)
            print(f"{core:12} {name:24} {step:11.1f} {bound:6.1f} {whole} {rate:9.1f} {peak:6.1f} "
                  f"{rate / peak:6.1%} {' <'[rate < BAR * peak]} {spills:6}")  # fmt: skip
            if arguments.asm:
                print("\n".join(loop.lines))
    objdump = mca.replace("llvm-mca", "llvm-objdump")
    if shutil.which(objdump) is None:
        print(f"{objdump} is not here: no streams")
        return 0
    print(f"\n{'core':12} {'kernel':32} {f'cycles/{AT_ONCE}':>9} {'bound':>6}")
    for core, (model, level) in CORES.items():
        for name, lines, elements in streams(frozenset(ARM_LEVELS[level]), objdump):
            turn = [value * AT_ONCE / elements for value in cycles(lines, model, mca)]
            print(f"{core:12} {name:32} {turn[0]:9.0f} {turn[1]:6.0f}")
            if arguments.asm:
                print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
