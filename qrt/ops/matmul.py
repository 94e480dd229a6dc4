"""qrt.MatMul: u8 activations times s8 weights (QLinearMatMul, opset 10; QGemm; QDQ)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ops.product import finish, lower_product, read_product
from qrt.ops.spec import Array, Lowering, OpSpec


def _shapes(node: Node) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shapes of x and w with both axes there, and of the batch; raises ModelError."""
    x, w = node.required(0).static_shape, node.required(1).static_shape
    if not x or not w:
        raise ModelError(f"{node.where}: operands must not be scalars, got {list(x)}, {list(w)}")
    x2 = (1, *x) if len(x) == 1 else x
    w2 = (*w, 1) if len(w) == 1 else w
    if x2[-1] != w2[-2]:
        raise ModelError(
            f"{node.where}: the last axis of x must equal the last but one of w,"
            f" got {list(x)} and {list(w)}"
        )
    try:
        batch = np.broadcast_shapes(x2[:-2], w2[:-2])
    except ValueError:
        raise ModelError(
            f"{node.where}: batch axes do not broadcast: {list(x)} and {list(w)}"
        ) from None
    return x2, w2, batch


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x2, w2, batch = _shapes(node)
    x, w = node.required(0).static_shape, node.required(1).static_shape
    shape = batch
    if len(x) > 1:
        shape = (*shape, x2[-2])
    if len(w) > 1:
        shape = (*shape, w2[-1])
    y = node.attrs["y"]
    return [(shape, np.dtype(np.float32) if y is None else y.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    x, w = inputs[0], inputs[1]
    assert x is not None and w is not None
    (shape, _), *_rest = infer(node)
    x2, w2, _ = _shapes(node)
    product = read_product(node, w2[-1])
    xs = x.reshape(x2).astype(np.int64) - int(product.x.zero_point)
    ws = w.reshape(w2).astype(np.int64) - product.w_zero_point
    acc = np.matmul(xs, ws)
    return [finish(acc, product, (1,) * (acc.ndim - 1) + (w2[-1],)).reshape(shape)]


def lower(node: Node, program: Lowering) -> None:
    x2, w2, batch = _shapes(node)
    w = node.required(1).data
    assert w is not None
    product = read_product(node, w2[-1])
    x, y = program.operand(node.required(0)), program.operand(node.outputs[0])
    itemsize = 1 if product.y is not None else 4
    weights = w.reshape(w2)
    if all(d == 1 for d in w2[:-2]):
        # one matrix: all rows of the batch are one product
        m = int(np.prod(x2[:-1]))
        jobs = [(0, weights.reshape(w2[-2:]), 0)]
    else:
        m = x2[-2]
        xi = np.broadcast_to(np.arange(int(np.prod(x2[:-2]))).reshape(x2[:-2]), batch).reshape(-1)
        flat = weights.reshape(-1, *w2[-2:])
        wi = np.broadcast_to(np.arange(len(flat)).reshape(w2[:-2]), batch).reshape(-1)
        jobs = [(int(i), flat[j], int(j)) for i, j in zip(xi, wi, strict=True)]
    for number, (x_index, matrix, w_index) in enumerate(jobs):
        n, k = matrix.shape[1], matrix.shape[0]
        geometry = {
            "batch": 1,
            "height": 1,
            "width": m,
            "out_height": 1,
            "out_width": m,
            "kernel_h": 1,
            "kernel_w": 1,
            "stride_h": 1,
            "stride_w": 1,
            "pad_h": 0,
            "pad_w": 0,
            "dilation_h": 1,
            "dilation_w": 1,
            "x_pixel": k,
            "x_row": 0,
            "x_image": 0,
            "x_group": 0,
            "y_pixel": n * itemsize,
        }
        packed = np.ascontiguousarray(matrix.T)[:, None, :]
        lower_product(
            node,
            program,
            packed,
            (id(w), "matmul", w_index),
            product,
            1,
            geometry,
            x.at(x_index * m * k),
            y.at(number * m * n * itemsize),
        )


SPEC = OpSpec("MatMul", "qrt", infer, reference, lower, layout="row_major")
