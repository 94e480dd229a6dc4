"""What this CPU and its system have (CPUID, XCR0, HWCAP), and what the user lets us use of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from qrt import knobs
from qrt.errors import QrtError
from qrt.jit.target import FEATURES, X86_FEATURES, host_arch
from qrt.simd.cpuid import Registers, cpuid, xgetbv

# a level is a name for a set of features, from old to new
X86_LEVELS: dict[str, tuple[str, ...]] = {
    "portable": (),
    "sse41": ("sse41",),
    "avx2": ("sse41", "avx2", "fma", "f16c"),
    "avxvnni": ("sse41", "avx2", "fma", "f16c", "avxvnni"),
    "avx512": ("sse41", "avx2", "fma", "f16c", "avx512"),
    "avx512vnni": ("sse41", "avx2", "fma", "f16c", "avx512", "avx512vnni"),
}
ARM_LEVELS: dict[str, tuple[str, ...]] = {
    "portable": (),
    "neon": ("neon",),
    "dotprod": ("neon", "dotprod"),
    "i8mm": ("neon", "dotprod", "i8mm"),
}
LEVELS: dict[str, dict[str, tuple[str, ...]]] = {"x86_64": X86_LEVELS, "aarch64": ARM_LEVELS}


class CpuidBit(NamedTuple):
    """Where CPUID says it, and the bits of XCR0 that must be set besides."""

    leaf: int
    subleaf: int
    register: str
    bit: int
    state: int = 0


# state that the operating system must save: XCR0's bits of SSE and AVX, and of AVX512's masks and
# registers (Intel's manual, volume 1, 13.3)
_YMM, _ZMM = 0x06, 0xE6
_OSXSAVE = CpuidBit(1, 0, "ecx", 27)
# LLVM's feature -> its bit (Intel's manual, volume 2, CPUID; AMD's, volume 3, appendix E);
# `X86_FEATURES` says which of them make a feature of ours
X86_BITS: dict[str, CpuidBit] = {
    "sse3": CpuidBit(1, 0, "ecx", 0),
    "ssse3": CpuidBit(1, 0, "ecx", 9),
    "sse4.1": CpuidBit(1, 0, "ecx", 19),
    "sse4.2": CpuidBit(1, 0, "ecx", 20),
    "popcnt": CpuidBit(1, 0, "ecx", 23),
    "fma": CpuidBit(1, 0, "ecx", 12, _YMM),
    "avx": CpuidBit(1, 0, "ecx", 28, _YMM),
    "f16c": CpuidBit(1, 0, "ecx", 29, _YMM),
    "bmi": CpuidBit(7, 0, "ebx", 3),
    "avx2": CpuidBit(7, 0, "ebx", 5, _YMM),
    "bmi2": CpuidBit(7, 0, "ebx", 8),
    "lzcnt": CpuidBit(0x80000001, 0, "ecx", 5),
    "avxvnni": CpuidBit(7, 1, "eax", 4, _YMM),
    "avx512f": CpuidBit(7, 0, "ebx", 16, _ZMM),
    "avx512dq": CpuidBit(7, 0, "ebx", 17, _ZMM),
    "avx512cd": CpuidBit(7, 0, "ebx", 28, _ZMM),
    "avx512bw": CpuidBit(7, 0, "ebx", 30, _ZMM),
    "avx512vl": CpuidBit(7, 0, "ebx", 31, _ZMM),
    "avx512vbmi": CpuidBit(7, 0, "ecx", 1, _ZMM),
    "avx512vnni": CpuidBit(7, 0, "ecx", 11, _ZMM),
}

# feature -> (entry of the auxiliary vector, bit), from Linux' uapi/asm/hwcap.h; LLVM's own list of
# a host's features has neither dotprod nor i8mm
_AT_HWCAP, _AT_HWCAP2 = 16, 26
ARM_BITS: dict[str, tuple[int, int]] = {
    "neon": (_AT_HWCAP, 1),
    "dotprod": (_AT_HWCAP, 20),
    "i8mm": (_AT_HWCAP2, 13),
}


def is_x86() -> bool:
    """True on x86-64."""
    return host_arch() == "x86_64"


def levels() -> dict[str, tuple[str, ...]]:
    """The levels of this machine's architecture, from old to new."""
    return LEVELS.get(host_arch(), {"portable": ()})


@cache
def detected_features() -> frozenset[str]:
    """The features this CPU and its operating system can run."""
    arch = host_arch()
    if arch == "x86_64":
        return x86_features(cpuid, xgetbv)
    if arch == "aarch64":
        words = {entry: _auxiliary(entry) for entry in (_AT_HWCAP, _AT_HWCAP2)}
        return arm_features(words[_AT_HWCAP], words[_AT_HWCAP2])
    return frozenset()


def arm_features(hwcap: int, hwcap2: int) -> frozenset[str]:
    """The features that the kernel's two words promise; NEON belongs to every AArch64 CPU."""
    words = {_AT_HWCAP: hwcap, _AT_HWCAP2: hwcap2}
    found = {name for name, (entry, bit) in ARM_BITS.items() if words[entry] >> bit & 1}
    return frozenset(found | {"neon"})


def _auxiliary(entry: int) -> int:
    """A word of the auxiliary vector that Linux gave this process; 0 where there is none."""
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (AttributeError, OSError, TypeError):
        return 0
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return int(getauxval(entry))


def x86_features(ask: Callable[[int, int], Registers], state: Callable[[], int]) -> frozenset[str]:
    """What CPUID's words (`ask`) promise and XCR0 (`state`) says the system saves.

    Never asks for a leaf that the CPU does not have, nor for XCR0 where it has no XGETBV.
    """
    highest = {0: ask(0, 0).eax, 0x80000000: ask(0x80000000, 0).eax}

    def is_set(place: CpuidBit) -> bool:
        if place.leaf > highest[place.leaf & 0x80000000]:
            return False
        # leaf 7 says in eax how many subleaves follow
        if place.subleaf and ask(place.leaf, 0).eax < place.subleaf:
            return False
        return bool(getattr(ask(place.leaf, place.subleaf), place.register) >> place.bit & 1)

    saved = state() if is_set(_OSXSAVE) else 0
    found = {
        flag
        for flag, place in X86_BITS.items()
        if saved & place.state == place.state and is_set(place)
    }
    return frozenset(name for name, flags in X86_FEATURES.items() if found.issuperset(flags))


def active_features(spec: str | None = None) -> frozenset[str]:
    """Features to use: `spec`, else `QRT_FEATURES`, else all that were detected.

    `spec` is a comma list: a level (`portable`, `avx2`, ...) first, then `+name` or `-name`; with
    no level the detected features are the start. Raises QrtError for an unknown name or for a
    feature that this CPU lacks.
    """
    text = (knobs.FEATURES.get() if spec is None else spec).strip()
    known_levels = levels()
    table = FEATURES.get(host_arch(), {})
    chosen = set(detected_features())
    for i, item in enumerate(filter(None, (part.strip() for part in text.split(",")))):
        name = item.lstrip("+-")
        if item[0] == "-" and name in table:
            chosen.discard(name)
        elif item[0] == "+" and name in table:
            chosen.add(name)
        elif i == 0 and item in known_levels:
            chosen = set(known_levels[item])
        else:
            known = ", ".join(known_levels) + "; +/- " + ", ".join(table)
            raise QrtError(f"features {text!r}: {item!r} is unknown, expected one of {known}")
    lacking = chosen - detected_features()
    if lacking:
        raise QrtError(
            f"features {text!r}: this CPU lacks {', '.join(sorted(lacking))}"
            f" (it has {', '.join(sorted(detected_features())) or 'the portable level only'})"
        )
    return frozenset(chosen)
