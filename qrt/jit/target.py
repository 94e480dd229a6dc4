"""A target: what LLVM is told about the CPU that will run a kernel."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from qrt import knobs

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
# what every CPU of an architecture has is never switched off, or floats have no registers
_BASELINE = frozenset(("neon",))

FEATURES: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": X86_FEATURES,
    "aarch64": ARM_FEATURES,
}

# the CPU model gives LLVM its cost tables only; features are always spelled out
_X86_MODELS = (
    ("avx512vnni", "cascadelake"),
    ("avx512", "skylake-avx512"),
    ("avx2", "haswell"),
)


@dataclass(frozen=True)
class Target:
    """Triple, CPU model and LLVM feature string; equal targets give equal code.

    With `bounds`, kernels check every address (`jit.bounds`).
    """

    triple: str
    cpu: str
    features: str
    bounds: bool = False

    @property
    def arch(self) -> str:
        """Architecture: the first part of the triple."""
        return self.triple.split("-")[0]

    def machine(self) -> Any:
        """llvmlite TargetMachine that emits position-independent objects for this target."""
        import llvmlite.binding as llvm

        initialize_llvm(foreign=self.arch != host_arch())
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, reloc="pic", codemodel="default"
        )

    def attribute_for(self, features: tuple[str, ...]) -> str:
        """The function attribute of code that needs `features` (qrt names); "" when all are there.

        LLVM takes such an attribute in place of the machine's features, so it repeats them.
        """
        have = self.features.split(",")
        needed = [f"+{flag}" for name in features for flag in FEATURES[self.arch][name]]
        if set(needed) <= set(have):
            return ""
        return ",".join([*filter(None, have), *needed])


def host_arch() -> str:
    """This machine's architecture as a triple spells it: x86_64, aarch64, or what Python says."""
    machine = platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def target_for(features: frozenset[str], arch: str | None = None) -> Target:
    """The target of `arch` (default: this machine's) restricted to `features` (qrt names)."""
    import llvmlite.binding as llvm

    arch = arch or host_arch()
    table = FEATURES.get(arch, {})
    cpu = "generic" if arch == "aarch64" else ""
    if arch == "x86_64":
        cpu = next((model for feature, model in _X86_MODELS if feature in features), "x86-64")
    flags = [
        ("+" if name in features or name in _BASELINE else "-") + flag
        for name, flags in table.items()
        for flag in flags
    ]
    if "avx512" in features:
        flags.append("-prefer-256-bit")  # LLVM picks 256-bit vectors on such CPUs otherwise
    triple = llvm.get_process_triple() if arch == host_arch() else f"{arch}-unknown-linux-gnu"
    return Target(triple, cpu, ",".join(flags), knobs.BOUNDS.get() == "check")


def initialize_llvm(foreign: bool = False) -> None:
    """Make the native target known to LLVM, all of them for a foreign one; may be repeated."""
    import llvmlite.binding as llvm

    if foreign:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    else:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
