"""Build a folder in which AArch64 Python runs under qemu-user, from Debian packages and wheels.

    python scripts/arm_root.py FOLDER

For a Debian that has this Python's version (12 has 3.11): packages are fetched with a private apt
state (the system's own is only read for its sources and keys) and unpacked, never installed, qemu
too; wheels come from pip. Nothing in it needs numba: kernels arrive as object files. Takes half a
minute; a fetch that hangs is given up.
"""

from __future__ import annotations

import compileall
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
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
STALL = 20  # seconds without a byte after which a server counts as gone
PATIENCE = 180  # seconds for everything; on a good line it takes 15
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}  # its names of machines


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
    until = time.monotonic() + PATIENCE
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not here")
    _unpack_packages("arm64", PACKAGES, root, until)
    here = platform.machine()
    _unpack_packages(DEBIAN.get(here, here), ("qemu-user-static",), root / "qemu", until)
    install_wheels(root, until)
    (root / DONE).touch()


def command(root: Path, cpu: str, *arguments: str) -> list[str]:
    """The command line that runs AArch64 Python on an emulated `cpu`."""
    qemu, python = str(root / "qemu" / QEMU), str(root / "usr/bin" / PYTHON)
    return [qemu, "-L", str(root), "-cpu", cpu, python, *arguments]


def site_packages(root: Path) -> Path:
    """Where the wheels are: belongs on PYTHONPATH."""
    return root / "site-packages"


def _unpack_packages(
    architecture: str, packages: Sequence[str], target: Path, until: float
) -> None:
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
        "Acquire::Retries": 1,
        "Acquire::http::Timeout": STALL,
        "Acquire::https::Timeout": STALL,
    }
    private = [f"-o{key}={value}" for key, value in options.items()]
    _run(["apt-get", *private, "update"], apt, until)
    _run(["apt-get", *private, "download", *packages], apt, until)
    for package in sorted(apt.glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(target)], apt, until)
    shutil.rmtree(apt)


def install_wheels(root: Path, until: float) -> None:
    """Fetch wheels for AArch64 into `site_packages(root)`; by `until`, a time of
    `time.monotonic`. Raises Unavailable."""
    pins = [pin for name in WHEELS if (pin := _pin(name))]
    platforms = [part for name in PLATFORMS for part in ("--platform", f"{name}_aarch64")]
    target = site_packages(root)
    _run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:",
         "--no-compile", "--timeout", str(STALL), "--retries", "1", "--target", str(target),
         *platforms, *pins],
        root,
        until,
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


def _run(command: list[str], folder: Path, until: float) -> None:
    """Run to the end, which must come by `until`. Raises Unavailable with the command's words."""
    what = " ".join(command[:3])
    try:
        process = subprocess.Popen(
            command, cwd=folder, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise Unavailable(f"{what}: {error}") from error
    try:
        _, words = process.communicate(timeout=max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)  # with the children that hold its pipes
        process.communicate()
        raise Unavailable(f"{what}: not done in {PATIENCE} seconds, all in all") from error
    if process.returncode:
        raise Unavailable(f"{what}: {words.strip()[-500:]}")


if __name__ == "__main__":
    sys.exit(main())
