"""qrt.MatMul: u8 activations times s8 weights (QLinearMatMul, MatMulInteger, QGemm, QDQ)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ops.matrices import stack
from qrt.ops.product import finish, known, more_results, read_product, result_dtype, results
from qrt.ops.product_rows import Computed, lower_computed_product, lower_product
from qrt.ops.spec import Array, Lowering, OpSpec


def _shapes(node: Node) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shapes of x and w with both axes there, and of the batch; raises ModelError."""
    x, w = node.required(0).static_shape, node.required(1).static_shape
    if not x or not w:
        raise ModelError(f"operands must not be scalars, got {list(x)}, {list(w)}")
    x2 = (1, *x) if len(x) == 1 else x
    w2 = (*w, 1) if len(w) == 1 else w
    if x2[-1] != w2[-2]:
        raise ModelError(
            f"the last axis of x must equal the last but one of w, got {list(x)} and {list(w)}"
        )
    try:
        batch = np.broadcast_shapes(x2[:-2], w2[:-2])
    except ValueError:
        raise ModelError(f"batch axes do not broadcast: {list(x)} and {list(w)}") from None
    return x2, w2, batch


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x2, w2, batch = _shapes(node)
    x, w = node.required(0).static_shape, node.required(1).static_shape
    shape = batch
    if len(x) > 1:
        shape = (*shape, x2[-2])
    if len(w) > 1:
        shape = (*shape, w2[-1])
    return [(shape, result_dtype(node)), *more_results(node)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x, w = inputs[0], inputs[1]
    assert x is not None and w is not None
    (shape, _), *_ = infer(node)
    x2, w2, _ = _shapes(node)
    product = known(read_product(node, w2[-1]), inputs)
    xs = x.reshape(x2).astype(np.int64) - int(product.x.zero_point)
    ws = w.reshape(w2).astype(np.int64) - product.w_zero_point
    acc = np.matmul(xs, ws)
    return results(node, finish(acc, product, (1,) * (acc.ndim - 1) + (w2[-1],)).reshape(shape))


def lower(node: Node, program: Lowering) -> None:
    left, right, out = node.required(0), node.required(1), node.outputs[0]
    if 0 in out.static_shape:
        return
    size = stack(left, right, out)
    product = read_product(node, size.n)
    x, y = program.operand(left), program.operand(out)
    itemsize = product.itemsize
    geometry = _GEOMETRY | {
        "width": size.m, "out_width": size.m, "x_pixel": size.x_row,
        "y_pixel": size.y_row * itemsize,
    }  # fmt: skip
    matrices: dict[int, Array] = {}
    for job in size.jobs:
        for group in range(job.groups):
            x_at, w_at, y_at = (
                at + group * step for at, step in zip(job.at, job.steps, strict=True)
            )
            ends = x.at(x_at), y.at(y_at * itemsize)
            if right.data is None or product.w_zero_point_code is not None:
                w = Computed(program.operand(right).at(w_at), size.k, size.n, size.w_k, size.w_n)
                lower_computed_product(program, w, product, geometry, *ends)
                continue
            if w_at not in matrices:
                flat = np.ascontiguousarray(right.data).reshape(-1)[w_at:]
                matrix = flat[: size.k * size.n].reshape(size.k, size.n)
                matrices[w_at] = np.ascontiguousarray(matrix.T)[:, None, :]
            key = (id(right.data), "matmul", w_at)
            lower_product(program, matrices[w_at], key, product, 1, geometry, *ends)


# a matrix product is a 1x1 convolution over one line of pixels
_GEOMETRY = {
    "batch": 1, "height": 1, "out_height": 1, "kernel_h": 1, "kernel_w": 1, "stride_h": 1,
    "stride_w": 1, "pad_h": 0, "pad_w": 0, "dilation_h": 1, "dilation_w": 1, "x_row": 0,
    "x_image": 0, "x_group": 0,
}  # fmt: skip


SPEC = OpSpec("MatMul", "qrt", infer, reference, lower, layout="matrices")
