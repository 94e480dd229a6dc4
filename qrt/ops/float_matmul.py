"""MatMul and Gemm of float32 (ONNX, opset 1 to 13): alpha * a @ b + beta * c.

A chain of products and sums per output, in the order of k: the same bits for any number of threads
and on every CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node, Value
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import Extent, kernel, slots
from qrt.ops.float_tiles import COLUMNS, block_of
from qrt.ops.nests import Nest, collapse, element_strides, reach
from qrt.ops.spec import Array, Lowering, Operand, OpSpec
from qrt.simd.memory import operand, row_f32
from qrt.simd.scalar import share

# strides in elements; columns of b and of y are contiguous, so are rows of y
FIELDS = (
    "a", "b", "c", "y", "n0", "n1", "a_stride0", "a_stride1", "b_stride0", "b_stride1",
    "m", "n", "k", "a_row", "a_k", "b_k", "c_row", "c_step", "alpha", "beta",
)  # fmt: skip
(
    A, B, C, Y, N0, N1, A0, A1, B0, B1, M, N, K, A_ROW, A_K, B_K, C_ROW, C_STEP, ALPHA, BETA,
) = slots(FIELDS)  # fmt: skip
BATCH_RANK = 2


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
    a, b = node.required(0), node.required(1)
    _check_dtypes(node, (a, b))
    a_shape, b_shape = a.static_shape, b.static_shape
    batch = np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    a_batch, b_batch = (_batch_strides(v, batch) for v in (a, b))
    nest = collapse(batch, a_batch, b_batch).padded(BATCH_RANK)
    m = a_shape[-2] if len(a_shape) > 1 else 1
    n = b_shape[-1] if len(b_shape) > 1 else 1
    k = a_shape[-1]
    sizes: dict[str, Any] = {"m": m, "n": n, "k": k}
    sizes |= nest.fields("n", "a_stride", "b_stride")
    _emit(node, program, program.operand(a), program.operand(b), sizes, a_row=k, a_k=1)


def parse_gemm(node: Node) -> tuple[float, float, bool, bool]:
    """(alpha, beta, transA, transB)."""
    attrs = AttrReader(node, ("broadcast",) if node.version < 7 else ())
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
    b_place = program.operand(b) if not trans_b else _transposed(program, b)
    more: dict[str, Any] = {}
    if c is not None:
        shape = (1,) * (2 - len(c.static_shape)) + c.static_shape
        if np.broadcast_shapes(shape, (m, n)) != (m, n):
            raise ModelError(f"c of {list(c.static_shape)} does not broadcast to {[m, n]}")
        more = {
            "c": program.operand(c),
            "c_row": shape[1] if shape[0] > 1 else 0,
            "c_step": 1 if shape[1] > 1 else 0,
            "beta": np.float32(beta),
        }
    batch = Nest((), ((), ())).padded(BATCH_RANK).fields("n", "a_stride", "b_stride")
    steps = {"a_row": 1, "a_k": columns} if trans_a else {"a_row": columns, "a_k": 1}
    sizes = {"m": m, "n": n, "k": k, **batch}
    _emit(
        node, program, program.operand(a), b_place, sizes, alpha=np.float32(alpha), **steps, **more
    )


def _transposed(program: Lowering, b: Value) -> Operand:
    data = b.data
    if data is None:
        raise UnsupportedError("Gemm with transB needs a constant b")
    return program.packed((id(data), "transposed"), lambda: np.ascontiguousarray(data.T))


def _emit(
    node: Node, program: Lowering, a: Operand, b: Operand, sizes: Mapping[str, int], **more: Any
) -> None:
    y = node.outputs[0]
    if math.prod(y.static_shape) == 0:
        return
    defaults = {"c": None, "c_row": 0, "c_step": 0, "alpha": np.float32(1), "beta": np.float32(0)}
    fields = {**defaults, **more}
    if fields["c"] is None:
        fields["c"] = program.constant(np.zeros(1, np.float32))
    program.emit(
        matmul_kernel, a=a, b=b, y=program.operand(y), **sizes, b_k=sizes["n"], **fields
    )


def _check_dtypes(node: Node, values: Sequence[Value]) -> None:
    for value in values:
        if value.dtype != np.float32:
            raise UnsupportedError(f"{node.op} of {value.dtype} is not supported, only float32")


def _batch_strides(value: Value, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Element strides of the batch axes, 0 where they repeat."""
    own, strides = value.static_shape[:-2], element_strides(value)
    lead = len(batch) - len(own)
    return (0,) * lead + tuple(
        0 if size == 1 else stride for size, stride in zip(own, strides, strict=False)
    )


def extents(row: Mapping[str, int]) -> list[Extent]:
    m, n, k = row["m"], row["n"], row["k"]
    batch = [row["n0"], row["n1"]]
    found = []
    for name, sizes, strides in (
        ("a", [*batch, m, k], ["a_stride0", "a_stride1", "a_row", "a_k"]),
        ("b", [*batch, k, n], ["b_stride0", "b_stride1", "b_k"]),
        ("c", [m, n], ["c_row", "c_step"]),
    ):
        steps = [row[s] for s in strides] + ([1] if name == "b" else [])
        low, high = reach(sizes, steps)
        found.append(Extent(name, 4 * (high - low), start=4 * low))
    if row["c_step"] not in (0, 1):
        raise ValueError(f"c_step must be 0 or 1, got {row['c_step']}")
    return [*found, Extent("y", 4 * math.prod([*batch, m, n]), writes=True)]


@kernel("matmul_f32", FIELDS, extents, family="matmul_f32")
def matmul_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    a = operand(row, A, arena, constants)
    b = operand(row, B, arena, constants)
    c = operand(row, C, arena, constants)
    y = operand(row, Y, arena, constants)
    m, n, k = row[M], row[N], row[K]
    a_row, a_k, b_k = 4 * row[A_ROW], 4 * row[A_K], 4 * row[B_K]
    c_row, c_step = 4 * row[C_ROW], row[C_STEP]
    alpha, beta = row_f32(row, ALPHA), row_f32(row, BETA)
    batches = row[N0] * row[N1]
    # split what there is most of: whole products, rows, or columns
    p0, p1 = np.int64(0), batches
    m0, m1 = np.int64(0), m
    n0, n1 = np.int64(0), n
    if batches >= threads:
        p0, p1 = share(batches, thread, threads, 1)
    elif m >= 8 * threads:
        m0, m1 = share(m, thread, threads, 4)
    else:
        n0, n1 = share(n, thread, threads, COLUMNS)
    for p in range(p0, p1):
        at_a = a + 4 * (p // row[N1] * row[A0] + p % row[N1] * row[A1]) + m0 * a_row
        at_b = b + 4 * (p // row[N1] * row[B0] + p % row[N1] * row[B1] + n0)
        at_y = y + 4 * ((p * m + m0) * n + n0)
        at_c = c + m0 * c_row + 4 * n0 * c_step
        block_of(
            at_a, a_row, a_k, at_b, b_k, k, at_y, 4 * n, m1 - m0, n1 - n0,
            at_c, c_row, c_step, alpha, beta,
        )  # fmt: skip
    return 0


MATMUL = OpSpec("MatMul", "", infer_matmul, reference_matmul, lower_matmul)
GEMM = OpSpec("Gemm", "", infer_gemm, reference_gemm, lower_gemm)
