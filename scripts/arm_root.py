"""Build a folder in which AArch64 Python runs under qemu-user, from Debian packages and wheels.

    python scripts/arm_root.py FOLDER

For Debian 12 on x86-64 with this Python's version in it: packages are fetched with a private apt
state (the system's own is only read for its sources and keys) and unpacked, never installed, qemu
too; wheels come from pip. Nothing in it needs numba: kernels arrive as object files. Takes half a
minute.
"""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
PACKAGES = (
    f"{PYTHON}-minimal",
    f"lib{PYTHON}-minimal",
    f"lib{PYTHON}-stdlib",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "libgomp1",
    "libexpat1",
    "zlib1g",
    "libssl3",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "libsqlite3-0",
    "libtinfo6",
    "libreadline8",
    "libncursesw6",
)
# the versions of this Python's own packages, so that caches agree; numba lends its version only
WHEELS = ("numpy", "onnx", "llvmlite", "ml_dtypes", "protobuf", "typing_extensions", "numba")
PLATFORMS = ("manylinux2014", "manylinux_2_26", "manylinux_2_27", "manylinux_2_28")
QEMU = "usr/bin/qemu-aarch64-static"
DONE = "complete"


class Unavailable(Exception):
    """Something that the folder needs cannot be had here."""


def main() -> int:
    """Build the folder named on the command line."""
    try:
        build_root(Path(sys.argv[1]).resolve())
    except Unavailable as reason:
        print(f"no AArch64 Python: {reason}")
        return 1
    return 0


def build_root(root: Path) -> None:
    """Fill `root` unless it is complete. Raises Unavailable with the reason."""
    if (root / DONE).exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not here")
    _unpack_packages("arm64", PACKAGES, root)
    _unpack_packages("amd64", ("qemu-user-static",), root / "qemu")
    install_wheels(root)
    (root / DONE).touch()


def command(root: Path, cpu: str, *arguments: str) -> list[str]:
    """The command line that runs AArch64 Python on an emulated `cpu`."""
    qemu, python = str(root / "qemu" / QEMU), str(root / "usr/bin" / PYTHON)
    return [qemu, "-L", str(root), "-cpu", cpu, python, *arguments]


def site_packages(root: Path) -> Path:
    """Where the wheels are: belongs on PYTHONPATH."""
    return root / "site-packages"


def _unpack_packages(architecture: str, packages: Sequence[str], target: Path) -> None:
    """Fetch packages of `architecture` with a private apt state, and unpack them into `target`."""
    apt = target / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    options = {
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
    }
    private = [f"-o{key}={value}" for key, value in options.items()]
    _run(["apt-get", *private, "update"], apt)
    _run(["apt-get", *private, "download", *packages], apt)
    for package in sorted(apt.glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(target)], apt)
    shutil.rmtree(apt)


def install_wheels(root: Path) -> None:
    """Fetch wheels for AArch64 into `site_packages(root)`. Raises Unavailable."""
    pins = [pin for name in WHEELS if (pin := _pin(name))]
    platforms = [part for name in PLATFORMS for part in ("--platform", f"{name}_aarch64")]
    target = site_packages(root)
    _run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:",
         "--no-compile", "--target", str(target), *platforms, *pins],
        root,
    )  # fmt: skip
    shutil.rmtree(target / "numba")  # its metadata stays: the version is part of a cache key
    # by this Python, of the same version, rather than by the emulated one at first import
    for folder in (target, root / "usr/lib" / PYTHON):
        compileall.compile_dir(folder, quiet=2, workers=os.cpu_count() or 1)


def _pin(name: str) -> str | None:
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        return None  # another version of a package may not need it


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        words = getattr(error, "stderr", None) or str(error)
        raise Unavailable(f"{' '.join(command[:3])}: {words.strip()[-500:]}") from error


if __name__ == "__main__":
    sys.exit(main())
