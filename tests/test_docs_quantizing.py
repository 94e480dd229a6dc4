"""docs/quantizing_models.md: its examples run, its tables are those of the code."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from qrt.api.recipes import RECIPES
from qrt.ptq.backends import BACKENDS
from qrt.ptq.observers import OBSERVERS
from qrt.ptq.qoperator import TARGETS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "quantizing_models.md"
TEXT = PAGE.read_text()


def rows(header: str) -> list[tuple[str, ...]]:
    """The rows of the table whose header starts so, without backquotes."""
    table = re.search(rf"^\| {header} \|.*\n\|[-|: ]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert table, header
    lines = table[1].replace("`", "").splitlines()
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def test_the_examples() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 5
    assert not result.failed


def test_the_tables() -> None:
    recipes = [(name, recipe.data, recipe.what) for name, recipe in RECIPES.items()]
    assert [row[:3] for row in rows("recipe")] == recipes
    assert [row[0] for row in rows("observer")] == list(OBSERVERS)
    assert rows("engine") == [(name, engine.integers) for name, engine in BACKENDS.items()]
    operators = {op: (name, domain or "ai.onnx") for op, (domain, name) in TARGETS.items()}
    assert {row[0]: row[1:] for row in rows("operator")} == operators


def test_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (PAGE.parent / link).is_file(), link
