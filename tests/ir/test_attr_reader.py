"""AttrReader: typed values, required ones, and the refusal of what nobody reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qrt.errors import ModelError, UnsupportedError
from qrt.ir.attrs import AttrReader
from qrt.ir.graph import Node


def reader(*known: str, **attrs: Any) -> AttrReader:
    return AttrReader(Node("Op", [], [], attrs, name="n", index=3), known)


def test_values_and_defaults() -> None:
    array = np.zeros(3)
    r = reader(i=1, b=1, f=0.5, s="a", ii=[1, 2], ff=[0.5], ss=["a"], t=array)
    assert (r.int("i"), r.bool("b"), r.float("f"), r.string("s")) == (1, True, 0.5, "a")
    assert (r.ints("ii"), r.floats("ff"), r.strings("ss")) == ([1, 2], [0.5], ["a"])
    assert r.tensor("t") is array and r.has("i") and not r.has("j")
    r.done()
    r = reader()
    assert (r.int("i", 0), r.bool("b", True), r.float("f", 0.0)) == (0, True, 0.0)
    assert (r.string("s", ""), r.ints("ii", []), r.ints("jj", (1, 1))) == ("", [], [1, 1])
    r.done()


def test_a_list_is_a_copy() -> None:
    r = reader(pads=[1, 2])
    r.ints("pads")[0] = 7
    assert r.ints("pads") == [1, 2]


BAD: dict[str, tuple[Callable[[AttrReader], Any], Any, str]] = {
    "int": (lambda r: r.int("a"), 1.0, "must be an int, got 1.0"),
    "int of bool": (lambda r: r.int("a"), True, "must be an int, got True"),
    "int of list": (lambda r: r.int("a"), [1], r"must be an int, got \[1\]"),
    "int of string": (lambda r: r.int("a"), "1", "must be an int, got '1'"),
    "int of tensor": (lambda r: r.int("a"), np.zeros((2, 3)), r"a tensor float64\[2, 3\]"),
    "bool": (lambda r: r.bool("a"), 2, "must be 0 or 1, got 2"),
    "float": (lambda r: r.float("a"), 1, "must be a float, got 1"),
    "string": (lambda r: r.string("a"), 1, "must be a string, got 1"),
    "ints": (lambda r: r.ints("a"), 1, "must be a list of ints, got 1"),
    "ints of floats": (lambda r: r.ints("a"), [1.0], "must be a list of ints"),
    "ints of string": (lambda r: r.ints("a"), "ab", "must be a list of ints, got 'ab'"),
    "length": (lambda r: r.ints("a", length=2), [1], r"must be a list of 2 ints, got \[1\]"),
    "floats": (lambda r: r.floats("a"), [1], "must be a list of floats"),
    "strings": (lambda r: r.strings("a"), [1], "must be a list of strings"),
    "strings of string": (lambda r: r.strings("a"), "ab", "must be a list of strings"),
    "tensor": (lambda r: r.tensor("a"), 1, "must be a tensor, got 1"),
    "long": (lambda r: r.int("a"), "x" * 1000, "xxx\\.\\.\\.$"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_type(name: str) -> None:
    read, value, says = BAD[name]
    with pytest.raises(ModelError, match=says) as caught:
        read(reader(a=value))
    assert str(caught.value).startswith("Op 'n' (#3): attribute 'a' must be ")


def test_required() -> None:
    r = reader()
    for read in (r.int, r.bool, r.float, r.string, r.ints, r.floats, r.strings, r.tensor):
        with pytest.raises(ModelError, match="attribute 'a' is required, it is missing"):
            read("a")


def test_choices() -> None:
    assert reader(mode="a").string("mode", choices=("a", "b")) == "a"
    with pytest.raises(UnsupportedError, match="mode='c' is not supported, only 'a', 'b'"):
        reader(mode="c").string("mode", choices=("a", "b"))


def test_done_refuses_by_name() -> None:
    r = reader("note", axis=1, other=2, more=3, note=4)
    r.int("axis")
    with pytest.raises(UnsupportedError) as caught:
        r.done()
    assert str(caught.value) == (
        "Op 'n' (#3): attributes 'other', 'more' not supported, only axis, note"
    )
    with pytest.raises(UnsupportedError, match="attribute 'a' not supported, only none"):
        reader(a=1).done()
