"""`qrt engines`: what runs quantized models here, and the preset to quantize them with."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from importlib import metadata

import qrt
from qrt.api.table import table
from qrt.cli.command import Command
from qrt.cli.screen import show, show_json
from qrt.jit.target import host_arch
from qrt.ptq.backends import BACKENDS
from qrt.ptq.config import PRESETS
from qrt.simd.features import active_features, detected_features, levels

# the preset for an architecture; others get the one without preferences
PRESET_OF = {"x86_64": "x86", "aarch64": "arm"}
assert set(PRESET_OF.values()) <= set(PRESETS)


@dataclass(frozen=True)
class Engine:
    """An engine of `backend` (see `qrt.ptq.backends`), qrt's once per level of CPU features.

    `lacks` are features that this CPU, or QRT_FEATURES, does not give; `version` None: it is not
    installed. `best` is set for one: qrt at the highest level that runs here.
    """

    name: str
    backend: str
    version: str | None
    features: tuple[str, ...]
    lacks: tuple[str, ...]
    integers: str
    preset: str
    best: bool = False

    @property
    def runs(self) -> bool:
        """True where it can run now."""
        return self.version is not None and not self.lacks

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        if self.version is None:
            here = "not installed"
        elif self.lacks:
            here = f"no, lacks {', '.join(self.lacks)}"
        else:
            here = "yes, the best" if self.best else "yes"
        return self.name, self.version or "", here, self.integers, self.preset

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        return {**asdict(self), "runs": self.runs}


HEADER = ("engine", "version", "runs here", "in integers", "preset")


def add_options(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(args: argparse.Namespace) -> int:
    """Print the table of engines, and what to do with it."""
    found = engines()
    best = next(engine for engine in found if engine.best)
    if args.json:
        show_json(
            {
                "cpu": cpu_text(),
                "engines": [engine.as_dict() for engine in found],
                "best": best.name,
                "preset": best.preset,
            }
        )
        return 0
    show(f"CPU: {cpu_text()}\n\n{table(HEADER, [engine.cells() for engine in found])}\n")
    show(f"best here: {best.name}; quantize for it with: qrt quantize --recipe {best.preset}")
    return 0


def engines() -> list[Engine]:
    """qrt's levels for this architecture, from old to new, then other engines."""
    preset = PRESET_OF.get(host_arch(), "static")
    active = active_features()
    found = []
    for name, backend in BACKENDS.items():
        version = qrt.__version__ if name == "qrt" else _version(name)
        rungs = levels() if name == "qrt" else {"": ()}
        for level, features in rungs.items():
            lacks = tuple(feature for feature in features if feature not in active)
            full = f"{name} {level}".strip()
            found.append(Engine(full, name, version, features, lacks, backend.integers, preset))
    own = [i for i, engine in enumerate(found) if engine.backend == "qrt" and engine.runs]
    best = max(own)  # the portable level always runs
    found[best] = replace(found[best], best=True)
    return found


def cpu_text() -> str:
    """The architecture, and the features that are used or could be."""
    active, detected = active_features(), detected_features()
    text = f"{host_arch()} with {', '.join(sorted(detected)) or 'no features that qrt knows'}"
    unused = detected - active
    return f"{text} (switched off: {', '.join(sorted(unused))})" if unused else text


def _version(package: str) -> str | None:
    """Of an installed package; nothing is imported for it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


COMMAND = Command(
    "engines",
    "list engines, and pick the best for this CPU",
    "Engines that models can be quantized for: qrt at each level of CPU features, and others that"
    " are installed; what each multiplies in integers, whether it runs here, and the preset to"
    " quantize with.",
    add_options,
    run,
)
