"""AArch64 without an AArch64 machine: objects of the right kind, the right instructions, detection.

What the instructions compute is tested under emulation (`scripts/arm.py`).
"""

from __future__ import annotations

import re
import struct
from itertools import product

import numpy as np
import pytest
from cross import assembly, empty_module

from qrt.gemm.depthwise_table import DEPTHWISE
from qrt.gemm.depthwise_tile import DOTS
from qrt.gemm.depthwise_tile import build_tile as build_depthwise_tile
from qrt.gemm.depthwise_tile import builder_of as depthwise_builder
from qrt.gemm.dots import FAMILIES
from qrt.gemm.driver import PRODUCTS
from qrt.gemm.epilogue import BUILDERS
from qrt.gemm.table import FLOAT_TILES, TILES, TileSpec, select_tile
from qrt.gemm.tile import build_tile
from qrt.jit.build import build_objects
from qrt.jit.declare import KERNELS, Kernel
from qrt.jit.target import target_for
from qrt.simd.features import ARM_BITS, ARM_LEVELS, arm_features
from qrt.vm import native

EM_AARCH64 = 183
ARM_TILES = [t for t in TILES if "neon" in t.features]
ARM_FLOAT_TILES = [t for t in FLOAT_TILES if "neon" in t.features]
ARM_DEPTHWISE = [s for s in DEPTHWISE if "neon" in s.features]
INSTRUCTIONS = {"neon": ("smull", "smlsl2", "sadalp"), "dotprod": ("sdot",), "i8mm": ("usmmla",)}
LIBC = {"memset", "memcpy", "memmove", "sched_yield", "clock_gettime", "pthread_mutex_lock",
        "pthread_mutex_unlock", "pthread_cond_signal", "pthread_cond_broadcast",
        "pthread_cond_wait", "pthread_self", "pthread_getaffinity_np", "sched_getcpu",
        "sched_setaffinity"}  # fmt: skip


def machine_of(body: bytes) -> int:
    """e_machine of an ELF file."""
    assert body[:4] == b"\x7fELF"
    return int(struct.unpack_from("<H", body, 18)[0])


def some_kernels() -> list[Kernel]:
    """The interpreter, a kernel of plain loops, one of libm-free floats, and every product row."""
    products = [PRODUCTS[t, "u8"] for t in ARM_TILES if t.family == "neon"]
    sums = ("gemm_pixel_sums", "gemm_window_sums")
    names = ("vm_run", "vm_serve", "vm_stop", *sums, "softmax_f32")
    return [*products, *(KERNELS[n] for n in names if n in KERNELS)]


def test_objects_are_of_the_target() -> None:
    """This machine compiles for AArch64, whatever it is; nothing foreign is left undefined."""
    assert native
    target = target_for(frozenset(("neon",)), "aarch64")
    for name, body in build_objects(some_kernels(), target).items():
        assert machine_of(body) == EM_AARCH64, name
        assert undefined(body) <= LIBC, name


def undefined(body: bytes) -> set[str]:
    """Names that an ELF64 object expects from elsewhere."""
    (offset,) = struct.unpack_from("<Q", body, 40)
    size, count = struct.unpack_from("<HH", body, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", body, offset + i * size) for i in range(count)]
    found = set()
    for _, kind, _, _, start, nbytes, link, _, _, entry in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        strings = sections[link][4]
        for at in range(start + entry, start + nbytes, entry):
            name, _, _, section = struct.unpack_from("<IBBH", body, at)
            if section == 0:
                end = body.index(b"\0", strings + name)
                found.add(body[strings + name : end].decode())
    return found


def test_a_kernel_needs_no_feature_of_its_target() -> None:
    """Compiled for a CPU that lacks its instructions, a row carries what it needs: no abort."""
    rows = [PRODUCTS[t, "u8"] for t in ARM_TILES if t.family == "dotprod"]
    objects = build_objects(rows, target_for(frozenset(), "aarch64"))
    assert {machine_of(body) for body in objects.values()} == {EM_AARCH64}


@pytest.mark.parametrize("tile", ARM_TILES, ids=lambda t: t.kernel_name("u8"))
@pytest.mark.parametrize("epilogue", BUILDERS)
def test_tiles_use_their_instruction(tile: TileSpec, epilogue: str) -> None:
    dot = FAMILIES[tile.family]
    for mr, nv in product(tile.heights, tile.widths):
        module = empty_module("aarch64")
        build_tile(module, "tile", dot, mr, nv, BUILDERS[epilogue])
        text = assembly(module, ARM_LEVELS[tile.family])
        for instruction in INSTRUCTIONS[tile.family]:
            assert text.count(f"\t{instruction}\t") >= mr * nv * dot.block_groups, (mr, nv)
        if epilogue == "u8":
            assert "fcvtns" in text and "sqxtn" in text and "sqxtun" in text


@pytest.mark.parametrize("tile", ARM_FLOAT_TILES, ids=lambda t: t.kernel_name("f32"))
def test_float_tiles_multiply_by_element(tile: TileSpec) -> None:
    dot = FAMILIES[tile.family]
    for mr, nv in product(tile.heights, tile.widths):
        module = empty_module("aarch64")
        build_tile(module, "tile", dot, mr, nv, BUILDERS["f32"])
        found = re.findall(r"\tfmla\t.*\.s\[[0-3]\]", assembly(module, ARM_LEVELS["neon"]))
        assert len(found) >= mr * nv * dot.block_groups, (mr, nv)


@pytest.mark.parametrize("spec", ARM_DEPTHWISE, ids=lambda s: s.kernel_name)
def test_depthwise_tiles_use_their_instruction(spec: object) -> None:
    family = spec.family  # type: ignore[attr-defined]
    module = empty_module("aarch64")
    end = depthwise_builder(spec.epilogue, spec.features)
    build_depthwise_tile(module, "tile", DOTS[family, 4], 4, (3, 1), end)
    wanted = {"neon": "smlal", "dotprod": "sdot", "i8mm": "usdot"}[family]
    assert f"\t{wanted}\t" in assembly(module, ARM_LEVELS[family])


def test_no_tile_spills() -> None:
    """The widest dot product tiles keep sums, rows and weights in registers inside their loop."""
    mca = pytest.importorskip("bench.arm_mca")
    for tile in (*ARM_TILES, *ARM_FLOAT_TILES):
        if tile.family == "neon":
            continue
        level = "neon" if tile in ARM_FLOAT_TILES else tile.family
        target = target_for(frozenset(ARM_LEVELS[level]), "aarch64")
        loop = mca.gemm_loop(tile, tile.nv, target, tile.mr)
        assert loop.macs == tile.mr * tile.nr * 16 // tile.x_nbytes
        assert not [line for line in loop.lines if re.search(mca.MOVES, line)]


def test_the_newest_family_is_chosen() -> None:
    for level, family in (("portable", "portable"), *((v, v) for v in INSTRUCTIONS)):
        assert select_tile(100, 100, 100, frozenset(ARM_LEVELS[level])).family == family


def test_detection_reads_the_kernels_words() -> None:
    """Bits of HWCAP and HWCAP2, as Linux documents them; NEON is always there."""
    dotprod, i8mm = 1 << 20, 1 << 13
    assert arm_features(0, 0) == {"neon"}
    assert arm_features(dotprod, 0) == {"neon", "dotprod"}
    assert arm_features(dotprod, i8mm) == {"neon", "dotprod", "i8mm"}
    assert arm_features(i8mm, dotprod) == {"neon"}, "the words are not mixed up"
    assert set(ARM_BITS) == set(ARM_LEVELS["i8mm"])


def test_targets() -> None:
    """Floats keep their registers on the portable level; a missing feature becomes an attribute."""
    portable = target_for(frozenset(), "aarch64")
    assert portable.arch == "aarch64"
    assert "+neon" in portable.features and "-dotprod" in portable.features
    assert portable.attribute_for(("neon",)) == ""
    assert portable.attribute_for(("neon", "dotprod")).endswith("+dotprod")
    assert target_for(frozenset(("neon", "dotprod")), "aarch64").attribute_for(("dotprod",)) == ""


def test_differences_of_products_fit_words() -> None:
    """All x, w and x', w' at their limits: (x - 128) * w - (127 - x') * w' fits int16."""
    x, w = np.arange(256)[:, None], np.array([-128, 127])
    first, second = (x - 128) * w, (127 - x) * w
    assert first.max() - second.min() < 2**15
    assert first.min() - second.max() >= -(2**15)


def test_signed_activations_sum_to_the_same() -> None:
    """sum((x - 128) * w) + 128 * sum(w) is sum(x * w), also where int32 wraps on the way."""
    rng = np.random.default_rng(5)
    x = rng.integers(0, 256, 1000).astype(np.int64)
    w = rng.integers(-128, 128, 1000).astype(np.int64)
    assert ((x - 128) * w).sum() + 128 * w.sum() == (x * w).sum()
