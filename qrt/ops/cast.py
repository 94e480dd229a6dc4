"""Cast (ONNX, opset 6 to 25) between float32, int8 to int64, uint8, uint16 and bool.

Float to integer truncates; what does not fit is undefined in ONNX. Anything not zero is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, Kernel, kernel, slots
from qrt.ops.sizes import product
from qrt.ops.spec import Array, Lowering, OpSpec
from qrt.simd.memory import as_f32, as_i8, as_i16, as_i32, as_i64, as_u8, as_u16, operand
from qrt.simd.scalar import share

FIELDS = ("x", "y", "n")
X, Y, N = slots(FIELDS)
GRAIN = 4096  # elements; below this a second thread costs more than it saves

# ONNX TensorProto.DataType; bool is stored as a byte of 0 or 1
DTYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
          9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64"}  # fmt: skip
_ITEMS = {
    "float32": as_f32, "uint8": as_u8, "int8": as_i8, "uint16": as_u16, "int16": as_i16,
    "int32": as_i32, "int64": as_i64, "bool": as_u8,
}  # fmt: skip


def parse(node: Node) -> np.dtype[Any]:
    """The output's dtype."""
    attrs = AttrReader(node, ("saturate", "round_mode"))
    to = attrs.int("to")
    attrs.done()
    if to not in DTYPES:
        raise UnsupportedError(f"to={to} is not supported, only {sorted(DTYPES)}")
    return np.dtype(DTYPES[to])


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    return [(node.required(0).static_shape, parse(node))]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    with np.errstate(all="ignore"):
        return [x.astype(parse(node))]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    source, target = np.dtype(x.dtype).name, parse(node).name
    if source == target:
        program.alias(y, x)
        return
    if (source, target) not in KERNELS:
        raise UnsupportedError(
            f"Cast from {source} to {target} is not supported, only between {', '.join(_ITEMS)}"
        )
    program.emit(
        KERNELS[source, target],
        x=program.operand(x),
        y=program.operand(y),
        n=int(np.prod(x.static_shape)),
    )


def _declare(source: str, target: str) -> Kernel:
    as_in, as_out = _ITEMS[source], _ITEMS[target]
    to_bool = target == "bool"
    to_float = target == "float32"
    from_float = source == "float32"
    sizes = np.dtype(source).itemsize, np.dtype(target).itemsize

    def extents(row: Mapping[str, int]) -> list[Extent]:
        n = product(row, "n")
        return [Extent("x", sizes[0] * n), Extent("y", sizes[1] * n, writes=True)]

    @kernel(f"cast_{source}_{target}", FIELDS, extents, family="cast")
    def cast(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
        x = as_in(operand(row, X, arena, constants))
        y = as_out(operand(row, Y, arena, constants))
        start, stop = share(row[N], thread, threads, GRAIN)
        for i in range(start, stop):
            if to_bool:
                y[i] = np.uint8(1) if x[i] != 0 else np.uint8(0)
            elif to_float:
                y[i] = np.float32(x[i])
            elif from_float:
                y[i] = np.int64(x[i])
            else:
                y[i] = x[i]
        return 0

    return cast


KERNELS = {(s, t): _declare(s, t) for s in _ITEMS for t in _ITEMS if s != t}

SPEC = OpSpec("Cast", "", infer, reference, lower, layout="any")
