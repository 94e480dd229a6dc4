"""Detection by CPUID and XCR0: words recorded from CPUs, systems that save less, LLVM's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import llvmlite.binding as llvm
import pytest

from qrt.jit.target import X86_FEATURES
from qrt.simd.cpuid import Registers
from qrt.simd.features import (
    X86_BITS,
    X86_LEVELS,
    CpuidBit,
    active_features,
    detected_features,
    is_x86,
    x86_features,
)

Words = Mapping[tuple[int, int], tuple[int, int, int, int]]
SSE_ONLY, YMM, ZMM = 0x3, 0x7, 0xE7  # XCR0

SANDY_BRIDGE: Words = {
    (0, 0): (0x0D, 0x756E6547, 0x6C65746E, 0x49656E69),
    (1, 0): (0x000206A6, 0x00100800, 0x1F9AE3BF, 0xBFEBFBFF),
    (0x80000000, 0): (0x80000008, 0, 0, 0),
    (0x80000001, 0): (0, 0, 0x00000001, 0x28100800),
}
ZEN2: Words = {
    (0, 0): (0x10, 0x68747541, 0x444D4163, 0x69746E65),
    (1, 0): (0x00870F10, 0x00180800, 0x7ED8320B, 0x178BFBFF),
    (7, 0): (0x00000000, 0x219C91A9, 0x00400004, 0x00000000),
    (0x80000000, 0): (0x80000020, 0x68747541, 0x444D4163, 0x69746E65),
    (0x80000001, 0): (0x00870F10, 0x20000000, 0x75C237FF, 0x2FD3FBFF),
}
CASCADE_LAKE: Words = {
    (0, 0): (0x16, 0x756E6547, 0x6C65746E, 0x49656E69),
    (1, 0): (0x00050656, 0x12400800, 0x7FFEFBFF, 0xBFEBFBFF),
    (7, 0): (0x00000000, 0xD39FFFFB, 0x00000808, 0xBC000400),
    (0x80000000, 0): (0x80000008, 0, 0, 0),
    (0x80000001, 0): (0, 0, 0x00000121, 0x2C100800),
}
ALDER_LAKE: Words = {
    (0, 0): (0x20, 0x756E6547, 0x6C65746E, 0x49656E69),
    (1, 0): (0x00090672, 0x00800800, 0x7FFAFBFF, 0xBFEBFBFF),
    (7, 0): (0x00000001, 0x239CA7EB, 0x98C027AC, 0xFC1CC410),
    (7, 1): (0x00400810, 0, 0, 0),
    (0x80000000, 0): (0x80000008, 0, 0, 0),
    (0x80000001, 0): (0, 0, 0x00000121, 0x2C100000),
}
ZEN4: Words = {
    (0, 0): (0x1C, 0x68747541, 0x444D4163, 0x69746E65),
    (1, 0): (0x00A10F11, 0x00020800, 0xFFFA3203, 0x178BFBFF),
    (7, 0): (0x00000001, 0xF1BF07AB, 0x00405FC6, 0x00000010),
    (7, 1): (0x00000020, 0, 0, 0),
    (0x80000000, 0): (0x80000021, 0x68747541, 0x444D4163, 0x69746E65),
    (0x80000001, 0): (0x00A10F11, 0x40000000, 0x004003F3, 0x2FD3FBFF),
}
AVX2 = {"sse41", "avx2", "fma", "f16c"}
RECORDED: dict[str, tuple[Words, int, set[str]]] = {
    "Sandy Bridge": (SANDY_BRIDGE, YMM, {"sse41"}),
    "Zen 2": (ZEN2, YMM, AVX2),
    "Zen 2, YMM not enabled": (ZEN2, SSE_ONLY, {"sse41"}),
    "Cascade Lake": (CASCADE_LAKE, ZMM, AVX2 | {"avx512", "avx512vnni"}),
    "Cascade Lake, ZMM not enabled": (CASCADE_LAKE, YMM, AVX2),
    "Cascade Lake, masks without ZMM": (CASCADE_LAKE, 0x27, AVX2),
    "Alder Lake": (ALDER_LAKE, YMM, AVX2 | {"avxvnni"}),
    "Alder Lake, YMM not enabled": (ALDER_LAKE, SSE_ONLY, {"sse41"}),
    "Zen 4": (ZEN4, ZMM, AVX2 | {"avx512", "avx512vnni", "avx512vbmi"}),
}


def recorded(words: Words) -> Callable[[int, int], Registers]:
    """CPUID of a recorded CPU; fails where it is asked for a leaf that the CPU does not have."""

    def ask(leaf: int, subleaf: int) -> Registers:
        assert leaf <= words[leaf & 0x80000000, 0][0], f"leaf {leaf:#x} does not exist"
        return Registers(*words.get((leaf, subleaf), (0, 0, 0, 0)))

    return ask


def with_bit(words: Words, place: CpuidBit, value: bool) -> Words:
    leaf, subleaf, register, bit, _ = place
    present = Registers(*words[leaf, subleaf])
    word = getattr(present, register)
    word = word | 1 << bit if value else word & ~(1 << bit)
    return {**words, (leaf, subleaf): present._replace(**{register: word})}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_cpus(name: str) -> None:
    words, state, expected = RECORDED[name]
    assert x86_features(recorded(words), lambda: state) == expected


def test_no_xgetbv_no_wide_registers() -> None:
    """Without OSXSAVE the instruction itself would be illegal: it is not executed."""

    def state() -> int:
        raise AssertionError("XGETBV where the system does not allow it")

    words = with_bit(CASCADE_LAKE, CpuidBit(1, 0, "ecx", 27), False)
    assert x86_features(recorded(words), state) == {"sse41"}


@pytest.mark.parametrize("flag", X86_BITS)
def test_every_bit_counts(flag: str) -> None:
    """A CPU like Zen 4 with AVX-VNNI has all; without one bit, it lacks what that bit is part of.

    So AVX512 means F, BW, DQ, VL and CD together: a CPU (or hypervisor) that hides one has none.
    """
    words = with_bit(ZEN4, CpuidBit(7, 1, "eax", 4), True)
    assert x86_features(recorded(words), lambda: ZMM) == set(X86_FEATURES)
    words = with_bit(words, X86_BITS[flag], False)
    lost = {name for name, flags in X86_FEATURES.items() if flag in flags}
    assert lost
    assert x86_features(recorded(words), lambda: ZMM) == set(X86_FEATURES) - lost


def test_leaf_seven_without_subleaves() -> None:
    """What lies in a subleaf that the CPU does not announce is not looked at."""
    words = {**ALDER_LAKE, (7, 0): (0, *ALDER_LAKE[7, 0][1:])}
    assert x86_features(recorded(words), lambda: YMM) == AVX2


def test_tables_agree() -> None:
    """Every LLVM feature that a feature stands for has its bit; levels are made of features."""
    assert {flag for flags in X86_FEATURES.values() for flag in flags} == set(X86_BITS)
    assert {name for needs in X86_LEVELS.values() for name in needs} <= set(X86_FEATURES)


@pytest.mark.skipif(not is_x86(), reason="CPUID is x86's")
def test_llvm_agrees() -> None:
    """LLVM's own look at this CPU, which we do not use, finds the same."""
    host = llvm.get_host_cpu_features()
    theirs = {
        name for name, flags in X86_FEATURES.items() if all(host.get(flag, False) for flag in flags)
    }
    assert detected_features() == theirs


@pytest.mark.skipif(not is_x86(), reason="features of x86-64")
def test_features_are_switched_off_one_by_one() -> None:
    for name in X86_FEATURES:
        assert active_features(f"-{name}") == detected_features() - {name}
