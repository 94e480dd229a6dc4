"""What this CPU has (CPUID), and what the user lets us use of it."""

from __future__ import annotations

import platform
from functools import cache

from qrt import knobs
from qrt.errors import QrtError
from qrt.jit.target import ARM_FEATURES, X86_FEATURES, initialize_llvm

# a level is a name for a set of features, from old to new
X86_LEVELS: dict[str, tuple[str, ...]] = {
    "portable": (),
    "sse41": ("sse41",),
    "avx2": ("sse41", "avx2", "fma", "f16c"),
    "avx512": ("sse41", "avx2", "fma", "f16c", "avx512"),
    "avx512vnni": ("sse41", "avx2", "fma", "f16c", "avx512", "avx512vnni"),
}
ARM_LEVELS: dict[str, tuple[str, ...]] = {
    "portable": ("neon",),
    "dotprod": ("neon", "dotprod"),
    "i8mm": ("neon", "dotprod", "i8mm"),
}


def is_x86() -> bool:
    """True on x86-64."""
    return platform.machine() in ("x86_64", "AMD64")


@cache
def detected_features() -> frozenset[str]:
    """The features this CPU and its operating system can run."""
    import llvmlite.binding as llvm

    if not is_x86():
        return frozenset(("neon",)) if platform.machine() in ("aarch64", "arm64") else frozenset()
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
    levels = X86_LEVELS if is_x86() else ARM_LEVELS
    table = X86_FEATURES if is_x86() else ARM_FEATURES
    chosen = set(detected_features())
    for i, item in enumerate(filter(None, (part.strip() for part in text.split(",")))):
        name = item.lstrip("+-")
        if item[0] == "-" and name in table:
            chosen.discard(name)
        elif item[0] == "+" and name in table:
            chosen.add(name)
        elif i == 0 and item in levels:
            chosen = set(levels[item])
        else:
            known = ", ".join(levels) + "; +/- " + ", ".join(table)
            raise QrtError(f"features {text!r}: {item!r} is unknown, expected one of {known}")
    lacking = chosen - detected_features()
    if lacking:
        raise QrtError(
            f"features {text!r}: this CPU lacks {', '.join(sorted(lacking))}"
            f" (it has {', '.join(sorted(detected_features())) or 'the portable level only'})"
        )
    return frozenset(chosen)
