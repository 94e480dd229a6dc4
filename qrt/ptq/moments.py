"""What products read on the calibration data: the mean of each input, and how inputs go together.

A convolution is a product over its patches: (positions, input channels * taps) per group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from qrt.errors import InputError
from qrt.ptq.calibrate import Runner, with_outputs
from qrt.ptq.draft import Draft, attributes
from qrt.ptq.samples import Feeds
from qrt.quant.affine import Array

MOST_POSITIONS = 4096  # of one sample and group that count; of more every n-th


@dataclass
class Moments:
    """Of one product, per group: mean (groups, k) and x^T x (groups, k, k) over `count` rows."""

    total: Array
    squares: Array
    count: int = 0

    @property
    def mean(self) -> Array:
        """(groups, k): what each input is on average."""
        return np.asarray(self.total / max(self.count, 1))


def collect(
    draft: Draft,
    nodes: Sequence[onnx.NodeProto],
    feeds: Iterable[Feeds],
    runner: Runner,
    squares: bool = True,
) -> dict[str, Moments]:
    """Moments of products with constant weights, by the name of their output.

    Without `squares` only means are kept, and x^T x is empty. Raises InputError when there is no
    data.
    """
    wanted = [node for node in nodes if not attributes(node).get("transA", 0)]
    names = list(dict.fromkeys(node.input[0] for node in wanted))
    found: dict[str, Moments] = {}
    count = 0
    if not names:
        return found
    run = runner(with_outputs(draft, names))
    for feed in feeds:
        seen = {name: np.asarray(x, np.float64) for name, x in zip(names, run(feed), strict=True)}
        for node in wanted:
            rows = rows_of(node, seen[node.input[0]], draft.arrays[node.input[1]])
            if rows is None:
                continue
            kept = rows if squares else rows[:, :, :0]
            total, product = rows.sum(axis=1), kept.transpose(0, 2, 1) @ kept
            entry = found.setdefault(
                node.output[0], Moments(np.zeros_like(total), np.zeros_like(product))
            )
            entry.total += total
            entry.squares += product
            entry.count += rows.shape[1]
        count += 1
    if not count:
        raise InputError("the calibration data are empty: give at least one sample")
    return found


def rows_of(node: onnx.NodeProto, x: Array, w: Array) -> Array | None:
    """What the product multiplies: (groups, rows, k); None for a shape that is not understood."""
    if node.op_type != "Conv":
        return x.reshape(1, -1, x.shape[-1])
    rank = w.ndim - 2
    attrs = attributes(node)
    kernel, groups = w.shape[2:], attrs.get("group", 1)
    strides = attrs.get("strides", [1] * rank)
    dilations = attrs.get("dilations", [1] * rank)
    pads = attrs.get("pads", [0] * 2 * rank)
    auto = attrs.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same_pads(x.shape[2:], kernel, strides, dilations, auto == "SAME_UPPER")
    widths = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    padded = np.pad(x, widths)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    if any(size < need for size, need in zip(padded.shape[2:], reach, strict=True)):
        return None
    axes = tuple(range(2, 2 + rank))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)  # type: ignore[call-overload]
    index = (slice(None), slice(None), *(slice(None, None, s) for s in strides),
             *(slice(None, None, d) for d in dilations))  # fmt: skip
    windows = windows[index]
    n, channels = windows.shape[:2]
    positions = windows.shape[2 : 2 + rank]
    # (n, groups, channels of one, positions..., taps...) to (groups, rows, k)
    split = windows.reshape(n, groups, channels // groups, *positions, *kernel)
    order = (1, 0, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank))
    count = int(np.prod(positions)) * n
    rows = split.transpose(order).reshape(groups, count, -1)
    step = -(-count // MOST_POSITIONS)
    return np.ascontiguousarray(rows[:, ::step])


def _same_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    upper: bool,
) -> list[int]:
    """Pads of SAME_UPPER and SAME_LOWER: all begins, then all ends."""
    begins, ends = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if upper else large)
        ends.append(large if upper else small)
    return [*begins, *ends]
