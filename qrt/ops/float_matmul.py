"""MatMul and Gemm of float32 (ONNX, opset 1 to 13): alpha * a @ b + beta * c.

A chain of fused multiply-adds per output, in the order of k, then alpha and the sum, each rounded:
the same bits for any number of threads and on every CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.gemm.code_pack import Form
from qrt.ir import Deferred, Node, Value
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, kernel, slots
from qrt.ops.float_products import (
    ITEMSIZE,
    NO_BIAS,
    Codes,
    lower_coded_float_product,
    lower_computed_float_product,
    lower_float_product,
    matrix_geometry,
    packed_weights,
)
from qrt.ops.matrices import stack
from qrt.ops.movement import emit_move
from qrt.ops.nests import reach
from qrt.ops.spec import Array, Lowering, Operand, OpSpec
from qrt.simd.memory import as_f32, operand, row_f32
from qrt.simd.scalar import share


def infer_matmul(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    AttrReader(node).done()
    a, b = node.required(0).static_shape, node.required(1).static_shape
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else 0]:
        raise ModelError(f"inner sizes of {list(a)} and {list(b)} must be equal")
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = b[-1:] if len(b) > 1 else ()
    return [((*batch, *rows, *columns), node.required(0).dtype)]


def reference_matmul(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    a, b = inputs
    assert a is not None and b is not None
    wide = np.float64 if a.dtype.kind == "f" else a.dtype
    return [np.asarray(np.matmul(a.astype(wide), b.astype(wide))).astype(a.dtype)]


def lower_matmul(node: Node, program: Lowering) -> None:
    a, b, y = node.required(0), node.required(1), node.outputs[0]
    _check_dtypes(node, (a, b))
    if math.prod(y.static_shape) == 0:
        return
    size = stack(a, b, y)
    for job in size.jobs:
        # a product per job; the groups of one are the innermost axis of the batch
        a_at, b_at, y_at = job.at
        a_group, b_group, y_group = job.steps
        _emit(
            program,
            _Matrices(size.m, size.n, size.k, job.groups, (a_group, size.x_row),
                      (b_group, size.w_k, size.w_n), (y_group, size.y_row)),
            program.operand(a).at(a_at * ITEMSIZE),
            b,
            b_at,
            program.operand(y).at(y_at * ITEMSIZE),
            np.full(size.n, NO_BIAS),
        )  # fmt: skip


def parse_gemm(node: Node) -> tuple[float, float, bool, bool]:
    """(alpha, beta, transA, transB)."""
    attrs = AttrReader(node)
    found = (
        attrs.float("alpha", 1.0),
        attrs.float("beta", 1.0),
        attrs.bool("transA", False),
        attrs.bool("transB", False),
    )
    attrs.done()
    return found


def infer_gemm(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    _, _, trans_a, trans_b = parse_gemm(node)
    a, b = node.required(0).static_shape, node.required(1).static_shape
    if len(a) != 2 or len(b) != 2 or a[0 if trans_a else 1] != b[1 if trans_b else 0]:
        raise ModelError(f"Gemm of {list(a)} and {list(b)}: inner sizes must be equal")
    return [((a[1 if trans_a else 0], b[0 if trans_b else 1]), node.required(0).dtype)]


def reference_gemm(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    alpha, beta, trans_a, trans_b = parse_gemm(node)
    a, b = inputs[:2]
    assert a is not None and b is not None
    c = inputs[2] if len(inputs) > 2 else None
    a, b = (v.astype(np.float64).T if t else v for v, t in ((a, trans_a), (b, trans_b)))
    y = alpha * (a.astype(np.float64) @ b.astype(np.float64))
    if c is not None:
        y = y + beta * c.astype(np.float64)
    return [np.asarray(y, np.float32)]


def lower_gemm(node: Node, program: Lowering) -> None:
    a, b, c = node.required(0), node.required(1), node.input(2)
    _check_dtypes(node, (a, b) if c is None else (a, b, c))
    alpha, beta, trans_a, trans_b = parse_gemm(node)
    m, n = node.outputs[0].static_shape
    rows, columns = a.static_shape
    k = rows if trans_a else columns
    shape: tuple[int, ...] = ()
    if c is not None:
        shape = (1,) * (2 - len(c.static_shape)) + c.static_shape
        if np.broadcast_shapes(shape, (m, n)) != (m, n):
            raise ModelError(f"c of {list(c.static_shape)} does not broadcast to {[m, n]}")
    if m * n == 0:
        return
    source, y = program.operand(a), program.operand(node.outputs[0])
    if trans_a:
        source = program.scratch(m * k * ITEMSIZE)
        emit_move(program, program.operand(a), source, ITEMSIZE, (m, k), (1, m), (k, 1))
    bias = np.full(n, NO_BIAS)
    in_columns = c is not None and c.data is not None and shape[0] == 1
    if in_columns:
        assert c is not None and c.data is not None
        bias = np.broadcast_to(np.float32(beta) * c.data.reshape(-1), n)
    matrices = _Matrices(m, n, k, 1, (0, k), (0, 1, k) if trans_b else (0, n, 1), (0, n))
    _emit(program, matrices, source, b, 0, y, bias, alpha)
    if c is not None and not in_columns:
        program.emit(
            add_kernel,
            y=y,
            c=program.operand(c),
            m=m,
            n=n,
            c_row=shape[1] if shape[0] > 1 else 0,
            c_step=1 if shape[1] > 1 else 0,
            beta=np.float32(beta),
        )


@dataclass(frozen=True)
class _Matrices:
    """Sizes of `groups` products; steps count elements."""

    m: int
    n: int
    k: int
    groups: int
    a_steps: tuple[int, int]  # from group to group, row to row
    b_steps: tuple[int, int, int]  # from group to group, k to k, column to column
    y_steps: tuple[int, int]


def _emit(
    program: Lowering,
    size: _Matrices,
    a: Operand,
    b: Value,
    b_at: int,
    y: Operand,
    bias: Array,
    alpha: float = 1.0,
) -> None:
    """Emit the products of a and what lies from element `b_at` of b on."""
    geometry = matrix_geometry(size.m, size.k, size.a_steps, size.y_steps)
    steps, shape = size.b_steps, (size.groups, 1, size.k, size.n)
    if isinstance(b, Deferred) and len(b.static_shape) == 2 and size.groups == 1:
        square = size.k == size.n > 1
        turned = b.static_shape != (size.k, size.n) or (square and steps[1] == 1)
        form = Form(1, 0, 1) if turned else Form(1, 1, 0)
        pack = packed_weights(program, b, form)
        if pack is not None:
            codes = Codes.stored(program, pack)
            lower_coded_float_product(program, codes, geometry, a, y, bias=bias, alpha=alpha)
            return
    if not b.is_constant:
        lower_computed_float_product(
            program,
            program.operand(b).at(b_at * ITEMSIZE),
            (steps[0] * ITEMSIZE, steps[1] * ITEMSIZE, steps[2] * ITEMSIZE),
            (size.groups, size.k, size.n),
            geometry, a, y, bias=bias, alpha=alpha,
        )  # fmt: skip
        return
    assert b.data is not None
    flat = np.ascontiguousarray(b.data).reshape(-1)[b_at:]
    strides = [s * ITEMSIZE for s in (steps[0], 0, steps[1], steps[2])]
    w = np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)
    key = (b.identity, "float_matmul", b_at, steps, size.k, size.n)
    every = np.tile(bias, size.groups)
    lower_float_product(program, w, key, geometry, a, y, bias=every, alpha=alpha)


def _check_dtypes(node: Node, values: Sequence[Value]) -> None:
    for value in values:
        if value.dtype != np.float32:
            raise UnsupportedError(f"{node.op} of {value.dtype} is not supported, only float32")


ADD_FIELDS = ("y", "c", "m", "n", "c_row", "c_step", "beta")
Y, C, M, N, C_ROW, C_STEP, BETA = slots(ADD_FIELDS)


def add_extents(row: Mapping[str, int]) -> list[Extent]:
    """y in full, c as far as its strides (in elements) reach."""
    sizes = (row["m"], row["n"])
    low, high = reach(sizes, (row["c_row"], row["c_step"]))
    return [
        Extent("y", 4 * math.prod(sizes), writes=True),
        Extent("c", 4 * (high - low), start=4 * low),
    ]


@kernel("gemm_add_f32", ADD_FIELDS, add_extents, family="matmul_f32")
def add_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    """y += beta * c, rounded twice: for a c that is not one constant row."""
    y = operand(row, Y, arena, constants)
    c = operand(row, C, arena, constants)
    n, c_row, c_step = row[N], 4 * row[C_ROW], row[C_STEP]
    beta = row_f32(row, BETA)
    start, stop = share(row[M], thread, threads, 1)
    for i in range(start, stop):
        out = as_f32(y + 4 * i * n)
        other = as_f32(c + i * c_row)
        for j in range(n):
            out[j] += beta * other[j * c_step]
    return 0


MATMUL = OpSpec("MatMul", "", infer_matmul, reference_matmul, lower_matmul, layout="matrices")
GEMM = OpSpec("Gemm", "", infer_gemm, reference_gemm, lower_gemm)
