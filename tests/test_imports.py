"""The rooms of qrt and who may import whom, read from the sources; and what an import costs.

Imports inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qrt

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "qrt"

# a room may import itself, every room to the right of its group, and what all may use
ORDER = (
    ("backend", "cli"),
    ("bench",),
    ("api",),
    ("export", "ptq", "vm"),
    ("program", "passes", "loader"),
    ("ops",),
    ("gemm",),
    ("simd",),
    ("jit",),
)
FOR_ALL = ("ir", "quant", "errors", "knobs", "files")
# the package itself: what `import qrt` gives, and `python -m qrt`
TOP = {"__init__": ("api", "errors"), "__main__": ("cli",)}
# rooms that may use the package as its users do
USERS = ("cli",)

RIVAL = Path("bench/rival.py")  # the only file of the package that may import onnxruntime

LAZY = ("numba", "onnx", "onnxruntime", "scipy")  # what `import qrt` leaves alone


def allowed(room: str) -> set[str]:
    """The rooms that `room` may import."""
    if room in TOP:
        return set(TOP[room])
    if room in FOR_ALL:
        return set(FOR_ALL)
    level = next(i for i, group in enumerate(ORDER) if room in group)
    right = {other for group in ORDER[level + 1 :] for other in group}
    return right | {room} | set(FOR_ALL) | ({"__init__"} if room in USERS else set())


def room_of(module: str) -> str:
    """`qrt.ops.conv` -> ops; `qrt` and names that its `__init__` defines -> __init__."""
    parts = module.split(".")
    if len(parts) < 2:
        return "__init__"
    first = parts[1]
    there = (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").is_file()
    return first if there else "__init__"


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of qrt in a file."""
    package = ["qrt", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            # `from qrt import knobs` imports a room, `from qrt.ir import Graph` a name
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and _is_import_call(node.func):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def _is_import_call(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


def sources() -> list[Path]:
    """All Python files of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def test_every_room_is_in_the_order() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in sources()}
    known = {room for group in ORDER for room in group} | set(FOR_ALL) | set(TOP)
    assert rooms <= known, f"rooms that have no place in the order: {sorted(rooms - known)}"


def test_imports_go_only_to_the_right() -> None:
    wrong = []
    for path in sources():
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for line, module in imported_modules(path):
            if module.split(".")[0] != "qrt":
                continue
            target = room_of(module)
            if target not in allowed(room):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} imports {target} ({module})")
    assert not wrong, f"{len(wrong)} imports against the order:\n" + "\n".join(wrong)


def test_only_the_rival_imports_onnxruntime() -> None:
    importing = {
        path.relative_to(PACKAGE)
        for path in sources()
        for _, module in imported_modules(path)
        if module.split(".")[0] == "onnxruntime"
    }
    assert importing == {RIVAL}


@pytest.mark.parametrize(
    ("room", "target", "fine"),
    [
        ("cli", "api", True),
        ("cli", "__init__", True),
        ("cli", "bench", True),
        ("bench", "api", True),
        ("bench", "cli", False),
        ("api", "bench", False),
        ("api", "vm", True),
        ("api", "__init__", False),
        ("vm", "export", False),
        ("vm", "program", True),
        ("loader", "passes", False),
        ("ops", "gemm", True),
        ("gemm", "ops", False),
        ("jit", "simd", False),
        ("jit", "knobs", True),
        ("ir", "quant", True),
        ("ir", "ops", False),
        ("__init__", "cli", False),
    ],
)
def test_the_order_itself(room: str, target: str, fine: bool) -> None:
    assert (target in allowed(room)) == fine


def test_import_of_qrt_is_light(tmp_path: Path) -> None:
    code = f"import sys, qrt; print([m for m in {LAZY!r} if m in sys.modules])"
    assert run_python(code, tmp_path) == "[]"


def test_import_of_the_command_line_is_light(tmp_path: Path) -> None:
    code = f"import sys, qrt.cli; print([m for m in {LAZY!r} if m in sys.modules])"
    assert run_python(code, tmp_path) == "[]"


def run_python(code: str, folder: Path) -> str:
    """What `code` prints in a new process that finds the same qrt."""
    path = os.pathsep.join([str(Path(qrt.__file__).parent.parent), *filter(None, sys.path)])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# absolute folders that only exist where somebody develops, and hosts of package indexes
LOCAL = re.compile(
    r"/(?:work|root|farm|mnt|scratch)/|/home/\w|/Users/\w|/tmp/w\b|/opt/w\b"
    r"|pypi\.org|pythonhosted\.org|anaconda\.org|index-url|(?:https?|file)://[^\s/]*/simple"
)
# results of tools, as .gitignore has them
IGNORED = ("build", "dist", ".git", "__pycache__")


def test_nothing_names_this_machine_or_an_index() -> None:
    found = []
    for path in committed_files():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue  # a model or an archive
        for number, line in enumerate(lines, 1):
            match = LOCAL.search(line)
            if match:
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found, "\n".join(found)


def committed_files() -> Iterator[Path]:
    """The files of the repository except tests; by name, because git need not be there."""
    tool_folders = {"tests", *IGNORED}
    for top in sorted(ROOT.iterdir()):
        hidden = top.name.startswith(".") and top.name not in (".ci", ".gitignore")
        if hidden or top.name in tool_folders or top.name.endswith(".egg-info"):
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not set(path.parts) & {"__pycache__"}:
                yield path


def test_the_package_is_whole() -> None:
    """The qrt that is tested (installed, under tox) has every file of the checkout's."""
    there = Path(qrt.__file__).parent
    files = {p.relative_to(PACKAGE) for p in PACKAGE.rglob("*") if p.is_file()}
    missing = sorted(
        str(file)
        for file in files
        if "__pycache__" not in file.parts and not (there / file).is_file()
    )
    assert not missing, f"{there} lacks {missing}"
    if os.environ.get("TOX_ENV_NAME"):
        assert there != PACKAGE, "tox must test the installed package"
