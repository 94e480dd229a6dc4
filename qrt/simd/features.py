"""What this CPU has (CPUID, HWCAP), and what the user lets us use of it."""

from __future__ import annotations

import ctypes
from functools import cache

from qrt import knobs
from qrt.errors import QrtError
from qrt.jit.target import FEATURES, X86_FEATURES, host_arch, initialize_llvm

# a level is a name for a set of features, from old to new
X86_LEVELS: dict[str, tuple[str, ...]] = {
    "portable": (),
    "sse41": ("sse41",),
    "avx2": ("sse41", "avx2", "fma", "f16c"),
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
        return _x86_features()
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


def _x86_features() -> frozenset[str]:
    """By CPUID and XGETBV, which LLVM asks on x86."""
    import llvmlite.binding as llvm

    initialize_llvm()
    host = llvm.get_host_cpu_features()
    return frozenset(
        name for name, flags in X86_FEATURES.items() if all(host.get(flag, False) for flag in flags)
    )


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
