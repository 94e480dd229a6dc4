"""CategoryMapper (ai.onnx.ml 1): strings to integers or back, by two lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.host_functions.spec import HostFunctionSpec, Reference, given
from qrt.ops.spec import Array, HostFunction


def make(node: Node, reference: Reference) -> HostFunction:
    attrs = AttrReader(node)
    strings, integers = attrs.strings("cats_strings"), attrs.ints("cats_int64s")
    if len(strings) != len(integers):
        raise ModelError(f"cats_strings has {len(strings)} elements, cats_int64s {len(integers)}")
    other_string = attrs.string("default_string", "_Unused")
    other_integer = attrs.int("default_int64", -1)
    to_integer = dict(zip(strings, integers, strict=True))
    to_string = dict(zip(integers, strings, strict=True))

    def function(inputs: Sequence[Array | None]) -> list[Any]:
        x = given(inputs, 0)
        if x.dtype.kind in "OSU":
            found: list[Any] = [to_integer.get(s, other_integer) for s in x.reshape(-1).tolist()]
            return [np.array(found, np.int64).reshape(x.shape)]
        found = [to_string.get(i, other_string) for i in x.reshape(-1).tolist()]
        return [np.array(found, object).reshape(x.shape)]

    return function


SPEC = HostFunctionSpec("CategoryMapper", make, domain="ai.onnx.ml")
