"""The instructions of the x86-64 rows, also of those that this machine cannot run.

What they compute is tested where they run; AVX-VNNI's tile also as `vnni256vl`, which is the same
function in AVX512's encoding.
"""

from __future__ import annotations

import re
from itertools import product

import pytest
from cross import assembly, empty_module

from qrt.gemm.depthwise import KERNELS_BY_SPEC
from qrt.gemm.depthwise_carry import build_carry_row
from qrt.gemm.depthwise_table import DEPTHWISE, DepthwiseSpec
from qrt.gemm.depthwise_tile import DOTS, builder_of
from qrt.gemm.depthwise_tile import build_tile as build_depthwise_tile
from qrt.gemm.dots import FAMILIES
from qrt.gemm.driver import PRODUCTS
from qrt.gemm.epilogue import BUILDERS
from qrt.gemm.nbits_table import NBITS_TILES, NBitsTile
from qrt.gemm.nbits_tile import build as build_nbits
from qrt.gemm.table import TILES, TileSpec, select_tile
from qrt.gemm.tile import build_tile
from qrt.jit.build import build_objects
from qrt.jit.target import X86_FEATURES, target_for
from qrt.simd.features import X86_LEVELS

TILES_X86 = [t for t in TILES if t.features and set(t.features) <= set(X86_FEATURES)]
DEPTHWISE_X86 = [s for s in DEPTHWISE if s.features and set(s.features) <= set(X86_FEATURES)]
NBITS_X86 = [
    t for t in NBITS_TILES
    if t.types == "s8" and t.bits == 4 and t.features and "neon" not in t.features
]  # fmt: skip
# what each family multiplies with, as LLVM spells it, and the registers it does so in
INSTRUCTIONS = {
    "vnni512": ("\tvpdpbusd", "zmm"),
    "vnni256": ("{vex}\tvpdpbusd", "ymm"),
    "vnni256vl": ("\tvpdpbusd", "ymm"),
    "madd512": ("\tvpmaddwd", "zmm"),
    "madd256": ("\tvpmaddwd", "ymm"),
    "madd128": ("\tpmaddwd", "xmm"),
}
WIDER = {"xmm": ("ymm", "zmm"), "ymm": ("zmm",), "zmm": ()}
MAY_BE_WIDER = ("vnni256vl",)  # its CPUs store float rows by 512 bits


def check(text: str, family: str, least: int) -> None:
    """At least so many of the family's instructions, in its registers and in none wider."""
    mnemonic, register = INSTRUCTIONS[family]
    found = re.findall(rf"{re.escape(mnemonic)}\t.*%{register}\d+$", text, re.MULTILINE)
    assert len(found) >= least, f"{len(found)} of {mnemonic.strip()}, expected {least}"
    for wider in () if family in MAY_BE_WIDER else WIDER[register]:
        assert f"%{wider}" not in text
    if family == "vnni256":
        assert text.count("vpdpbusd") == text.count("{vex}\tvpdpbusd"), "an AVX512 encoding"
        assert not re.search(r"%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]", text), "an AVX512 register"


@pytest.mark.parametrize("tile", TILES_X86, ids=lambda t: t.kernel_name("u8"))
@pytest.mark.parametrize("epilogue", BUILDERS)
def test_tiles(tile: TileSpec, epilogue: str) -> None:
    for mr, nv in product(tile.heights, tile.widths):
        module = empty_module("x86_64")
        build_tile(module, "tile", FAMILIES[tile.family], mr, nv, BUILDERS[epilogue])
        check(assembly(module, tile.features), tile.family, mr * nv)


@pytest.mark.parametrize("tile", TILES_X86, ids=lambda t: t.kernel_name("u8"))
def test_sums_stay_in_registers(tile: TileSpec) -> None:
    """The loop over the groups of a full tile loads no sums and stores nothing."""
    module = empty_module("x86_64")
    build_tile(module, "tile", FAMILIES[tile.family], tile.mr, tile.nv, BUILDERS["u8"])
    lines = assembly(module, tile.features).splitlines()
    mnemonic = INSTRUCTIONS[tile.family][0]
    at = [i for i, line in enumerate(lines) if mnemonic in line]
    loop = lines[at[0] : at[-1]]
    assert not [line for line in loop if re.search(r"\(%r[sb]p\)", line)], "spills"


@pytest.mark.parametrize("tile", NBITS_X86, ids=lambda t: t.kernel_name)
def test_few_bit_tiles(tile: NBitsTile) -> None:
    """Two planes of four groups in a step of the loop, for every vector of sums."""
    for mr in tile.heights:
        module = empty_module("x86_64")
        build_nbits(module, "tile", tile.family, "s8", 4, tile.lanes, mr, tile.nv)
        check(assembly(module, tile.features), tile.family, 8 * mr * tile.nv)


@pytest.mark.parametrize("spec", DEPTHWISE_X86, ids=lambda s: s.kernel_name)
def test_depthwise(spec: DepthwiseSpec) -> None:
    for lanes in spec.lanes:
        if lanes != spec.lanes[0]:
            continue  # the last block of few channels is narrower than the family's registers
        for shape in ((3, 1), (0, 0)):
            module = empty_module("x86_64")
            dot = DOTS[spec.family, lanes]
            end = builder_of(spec.epilogue, spec.features)
            build_depthwise_tile(module, "tile", dot, spec.pixels, shape, end)
            check(assembly(module, spec.features), spec.family, 4 * spec.pixels)
        if spec.rows == 4:
            module = empty_module("x86_64")
            build_carry_row(module, "row", dot, 3, 1, builder_of(spec.epilogue, spec.features))
            check(assembly(module, spec.features), spec.family, 12)


def test_a_kernel_needs_no_feature_of_its_target() -> None:
    """Compiled for a CPU that lacks its instructions, a row carries what it needs: no abort."""
    rows = [PRODUCTS[t, "u8"] for t in TILES_X86 if t.family in ("vnni256", "madd128")]
    rows += [KERNELS_BY_SPEC[s] for s in DEPTHWISE_X86 if s.family == "vnni256"]
    assert len(build_objects(rows, target_for(frozenset(), "x86_64"))) == len(rows)


@pytest.mark.parametrize("level", [name for name in X86_LEVELS if name != "portable"])
def test_selection(level: str) -> None:
    """Every level takes the family made for it."""
    wanted = {
        "sse41": "madd128",
        "avx2": "madd256",
        "avxvnni": "vnni256",
        "avx512": "madd512",
        "avx512vnni": "vnni512",
    }[level]
    has = frozenset(X86_LEVELS[level])
    for m, n, groups in ((1, 8, 3), (7, 100, 16), (3136, 64, 144), (128, 3072, 192)):
        assert select_tile(m, n, groups, has).family == wanted
    assert next(s for s in DEPTHWISE if has.issuperset(s.features)).family == wanted
