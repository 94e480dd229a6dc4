"""A change of the code that generates kernels changes their cache keys.

Generators are imported inside functions (so that importing qrt costs no numba), where a walk over
globals and closures does not see them: an object compiled from the old source would be served for
the new one.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from product_cases import Tally

import qrt

PACKAGE = Path(qrt.__file__).parent
DIGESTS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import qrt.gemm.limits, qrt.ops
from qrt.jit.declare import KERNELS
from qrt.jit.digest import kernel_digest
from qrt.jit.target import Target
target = Target("x86_64-unknown-linux-gnu", "x86-64", "")
print(json.dumps({name: kernel_digest(k, target) for name, k in KERNELS.items()}))
"""


def generators() -> list[Path]:
    """Modules of qrt that `gemm` imports inside functions, and those that these import."""
    found: set[Path] = set()
    open_files = list((PACKAGE / "gemm").glob("*.py"))
    inside = True
    while open_files:
        reached: set[Path] = set()
        for path in open_files:
            tree = ast.parse(path.read_text())
            functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
            for root in functions if inside else [tree]:
                for node in ast.walk(root):
                    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qrt."):
                        reached |= set(module_files(node))
        open_files = sorted(reached - found)
        found |= reached
        inside = False
    return sorted(p for p in found if p.parent.name in ("gemm", "simd"))


def module_files(node: ast.ImportFrom) -> list[Path]:
    """The files that `from module import names` reads: the module's, or its submodules'."""
    base = PACKAGE.parent.joinpath(*(node.module or "").split("."))
    names = [base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)]
    return [p for p in names if p.is_file()]


def digests(root: Path) -> dict[str, str]:
    """Digest by kernel of the qrt in `root`, asked of a process of its own."""
    command = [sys.executable, "-c", DIGESTS, str(root)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60)
    assert answer.returncode == 0, answer.stderr[-2000:]
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def test_edits_of_generators(tmp_path: Path) -> None:
    """Every generator in turn: another constant in its functions, and no kernel keeps its key that
    the unedited source shares with it."""
    tally = Tally("cache keys after an edit", seed=0)
    edited = {"tile", "dots", "epilogue"} & {p.stem for p in generators()}
    assert edited == {"tile", "dots", "epilogue"}, generators()
    root = tmp_path / "tree"
    shutil.copytree(PACKAGE, root / "qrt", ignore=shutil.ignore_patterns("__pycache__"))
    before = digests(root)
    for path in generators():
        copy = root / "qrt" / path.relative_to(PACKAGE)
        source = copy.read_text()
        changed = re.sub(r"\bconst\((\d+)\)", r"const(\g<1> + 0)", source)
        changed = re.sub(r"(\n +)return ", r"\1_edited = 1\1return ", changed)
        if changed == source:
            continue
        copy.write_text(changed)
        after = digests(root)
        copy.write_text(source)
        same = [name for name in before if after[name] == before[name]]
        problem = f"changes the key of none of {len(before)} kernels"
        tally.expect(path.relative_to(PACKAGE), len(same) < len(before), problem)
        if path.stem in ("tile", "dots", "epilogue"):
            stale = [n for n in same if re.match(r"gemm_.*(vnni|madd)", n)]
            tally.expect(path.relative_to(PACKAGE), not stale, f"stale: {', '.join(stale)}")
    tally.finish()
