"""A target: what LLVM is told about the CPU that will run a kernel."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

# feature name of qrt -> LLVM features it stands for; order is from old to new
X86_FEATURES: dict[str, tuple[str, ...]] = {
    "sse41": ("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"),
    "avx2": ("avx", "avx2", "bmi", "bmi2", "lzcnt"),
    "fma": ("fma",),
    "f16c": ("f16c",),
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"),
    "avx512vnni": ("avx512vnni",),
    "avx512vbmi": ("avx512vbmi",),
    "avxvnni": ("avxvnni",),
}
ARM_FEATURES: dict[str, tuple[str, ...]] = {
    "neon": ("neon",),
    "dotprod": ("dotprod",),
    "i8mm": ("i8mm",),
}

# the CPU model gives LLVM its cost tables only; features are always spelled out
_X86_MODELS = (
    ("avx512vnni", "cascadelake"),
    ("avx512", "skylake-avx512"),
    ("avx2", "haswell"),
)


@dataclass(frozen=True)
class Target:
    """Triple, CPU model and LLVM feature string; equal targets give equal code."""

    triple: str
    cpu: str
    features: str

    def machine(self) -> Any:
        """llvmlite TargetMachine that emits position-independent objects for this target."""
        import llvmlite.binding as llvm

        initialize_llvm()
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, reloc="pic", codemodel="default"
        )


def target_for(features: frozenset[str]) -> Target:
    """The target of this machine's architecture restricted to `features` (qrt names)."""
    import llvmlite.binding as llvm

    if platform.machine() in ("x86_64", "AMD64"):
        table, cpu = X86_FEATURES, "x86-64"
        for feature, model in _X86_MODELS:
            if feature in features:
                cpu = model
                break
    elif platform.machine() in ("aarch64", "arm64"):
        table, cpu = ARM_FEATURES, "generic"
    else:
        table, cpu = {}, ""
    flags = [
        ("+" if name in features else "-") + flag for name, flags in table.items() for flag in flags
    ]
    if "avx512" in features:
        flags.append("-prefer-256-bit")  # LLVM picks 256-bit vectors on such CPUs otherwise
    return Target(llvm.get_process_triple(), cpu, ",".join(flags))


def initialize_llvm() -> None:
    """Make the native target known to LLVM; harmless when repeated."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
