"""Product: weights on their grid beside the rows they multiply, the same form for all operators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from qrt.ir import QParams
from qrt.ptq.draft import Draft, attributes
from qrt.ptq.rows import Seen
from qrt.quant.affine import Array, spread_over


@dataclass(frozen=True)
class Product:
    """act(x w^T + bias) of each group, act clipping to [low, high].

    `w`, `scale`, `zero` float64 (groups, outputs, k); `bias` float64 (groups, outputs), which may
    change only where it is `free`.
    """

    w: Array
    scale: Array
    zero: Array
    qmin: int
    qmax: int
    bias: Array
    free: bool
    seen: Seen
    low: float
    high: float

    def nearest(self) -> Array:
        """Codes of the nearest values of the grid, float64."""
        codes: Array = np.clip(np.rint(self.w / self.scale) + self.zero, self.qmin, self.qmax)
        return codes

    def real(self, codes: Array) -> Array:
        """The weights that codes stand for, float64."""
        back: Array = (codes - self.zero) * self.scale
        return back

    def target(self) -> Array:
        """What the float product gives behind the clamp, float32 (groups, rows, outputs)."""
        return self._behind_clamp(self.seen.exact, self.w, self.bias)

    def error(self, codes: Array, bias: Array) -> float:
        """Mean squared error of these codes behind the clamp, on all rows."""
        off = self._behind_clamp(self.seen.quantized, self.real(codes), bias) - self.target()
        return float(np.square(off, dtype=np.float64).mean())

    def mean_bias(self, codes: Array) -> Array:
        """The bias that leaves the mean of each output as it is in float, before the clamp."""
        if not self.free:
            return self.bias
        exact = self.seen.exact.mean(axis=1, dtype=np.float64)
        quantized = self.seen.quantized.mean(axis=1, dtype=np.float64)
        kept = np.einsum("gok,gk->go", self.w, exact)
        now = np.einsum("gok,gk->go", self.real(codes), quantized)
        shifted: Array = self.bias + kept - now
        return shifted

    def _behind_clamp(self, x: Array, w: Array, bias: Array) -> Array:
        y = x @ w.astype(np.float32).transpose(0, 2, 1) + bias.astype(np.float32)[:, None]
        return np.asarray(np.clip(y, self.low, self.high))


def product_of(
    node: onnx.NodeProto,
    w: Array,
    q: QParams,
    bias: Array | None,
    seen: Seen,
    clamp: tuple[float, float],
    free: bool = True,
) -> Product:
    """A node's product; `w` and `q` lie as the node has them; see `bias_of`."""
    if bias is None:  # of what is not understood: none, and no clamp that it would move
        bias, free, clamp = np.zeros(len(as_rows(node, w))), False, (-np.inf, np.inf)
    groups = len(seen.exact)

    def grouped(array: Array) -> Array:
        rows = as_rows(node, np.broadcast_to(array, w.shape)).astype(np.float64)
        return rows.reshape(groups, len(rows) // groups, -1)

    return Product(
        grouped(w), grouped(spread_over(q.scale, w.shape, q)),
        grouped(spread_over(q.zero_point, w.shape, q)), q.qmin, q.qmax,
        bias.astype(np.float64).reshape(groups, -1), free, seen, *clamp,
    )  # fmt: skip


def as_rows(node: onnx.NodeProto, w: Array) -> Array:
    """Weights, or codes, as (outputs, k)."""
    return w.reshape(len(w), -1) if outputs_first(node) else w.T


def from_rows(node: onnx.NodeProto, rows: Array, shape: tuple[int, ...]) -> Array:
    """The other way: (groups, outputs, k) to the node's `shape`."""
    flat = rows.reshape(-1, rows.shape[-1])
    return np.ascontiguousarray(flat.reshape(shape) if outputs_first(node) else flat.T)


def outputs_first(node: onnx.NodeProto) -> bool:
    """True where axis 0 of the weights counts outputs."""
    return node.op_type == "Conv" or bool(attributes(node).get("transB", 0))


def bias_of(draft: Draft, node: onnx.NodeProto, outputs: int) -> Array | None:
    """The bias of a product, zeros where it has none yet; None where it cannot have another."""
    if node.op_type == "MatMul":
        return None
    if any(attributes(node).get(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return None
    name = node.input[2] if len(node.input) > 2 else ""
    if not name:
        return np.zeros(outputs, np.float32)
    bias = draft.arrays.get(name)
    return bias if bias is not None and bias.shape == (outputs,) else None


def give_bias(draft: Draft, node: onnx.NodeProto, bias: Array) -> Array:
    """Make `bias` that of a product; returned as it is stored, float32 (outputs,)."""
    stored = bias.reshape(-1).astype(np.float32)
    name = draft.constant(f"{node.output[0]}_corrected_bias", stored)
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)
    return np.asarray(stored)


def clamp_behind(
    draft: Draft, consumers: dict[str, list[onnx.NodeProto]], node: onnx.NodeProto
) -> tuple[float, float]:
    """(low, high) of the Relu or Clip that alone reads what a product gives."""
    free = (-np.inf, np.inf)
    users = consumers.get(node.output[0], [])
    if len(users) != 1 or node.output[0] in draft.outputs:
        return free
    (user,) = users
    if user.op_type == "Relu":
        return 0.0, np.inf
    if user.op_type != "Clip":
        return free
    ends = list(free)
    for i, name in enumerate(user.input[1:3]):
        if name and name not in draft.arrays:
            return free
        if name:
            ends[i] = float(draft.arrays[name].reshape(()))
    attrs = attributes(user)  # where opsets before 11 have them
    return float(attrs.get("min", ends[0])), float(attrs.get("max", ends[1]))
