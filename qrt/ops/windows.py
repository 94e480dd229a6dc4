"""Sliding windows of poolings and convolutions over one or two spatial axes, channels last.

One spatial axis is two with a height of 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.jit.declare import helper
from qrt.ops.sizes import within
from qrt.ops.spec import Array

MAX_ELEMENTS = 1 << 23  # elements of a window: sums of (q - zero_point) then fit int32
FIELDS = (
    "batch", "ih", "iw", "channels", "oh", "ow", "kh", "kw", "stride_h", "stride_w",
    "pad_top", "pad_left", "pad_bottom", "pad_right", "dilation_h", "dilation_w",
)  # fmt: skip


@dataclass(frozen=True)
class Windows:
    """Where the windows lie, per spatial axis; `counts` are the output sizes."""

    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    counts: tuple[int, ...]

    def fields(self, batch: int, channels: int) -> dict[str, int]:
        """Row fields `FIELDS`; UnsupportedError for more than two spatial axes."""
        if len(self.spatial) not in (1, 2):
            raise UnsupportedError(
                f"windows over {len(self.spatial)} spatial axes are not supported, only 1 or 2"
            )
        pairs = {"i": self.spatial, "o": self.counts, "k": self.kernel}
        fields = {"batch": batch, "channels": channels}
        for name, sizes in pairs.items():
            fields[f"{name}h"], fields[f"{name}w"] = _two(sizes, 1)
        fields["stride_h"], fields["stride_w"] = _two(self.strides, 1)
        fields["dilation_h"], fields["dilation_w"] = _two(self.dilations, 1)
        fields["pad_top"], fields["pad_left"] = _two(self.begins, 0)
        fields["pad_bottom"], fields["pad_right"] = _two(self.ends, 0)
        return fields

    def gather(self, x: Array, fill: float) -> Iterator[Array]:
        """Per tap in order, the element of (N, C, *counts) windows it reads, `fill` outside."""
        last = [
            (c - 1) * s + (k - 1) * d - b
            for c, s, k, d, b in zip(
                self.counts, self.strides, self.kernel, self.dilations, self.begins, strict=True
            )
        ]
        widths = [(0, 0), (0, 0)] + [
            (b, max(end + 1 - n, 0))
            for b, end, n in zip(self.begins, last, self.spatial, strict=True)
        ]
        padded = np.pad(x, widths, constant_values=fill)
        for tap in np.ndindex(self.kernel):
            index = [
                slice(k * d, k * d + (c - 1) * s + 1, s)
                for k, d, c, s in zip(tap, self.dilations, self.counts, self.strides, strict=True)
            ]
            yield padded[(slice(None), slice(None), *index)]

    def sizes(self, include_pad: bool) -> Array:
        """Elements per window, int64 `counts`. Pads count when `include_pad`; what a window of
        ceil_mode has beyond the pads never does."""
        total = np.ones((), np.int64)
        for n, c, s, k, d, b, e in zip(
            self.spatial, self.counts, self.strides, self.kernel, self.dilations,
            self.begins, self.ends, strict=True,
        ):  # fmt: skip
            positions = (np.arange(c) * s - b)[:, None] + np.arange(k) * d
            low, high = (-b, n + e) if include_pad else (0, n)
            inside = (positions >= low) & (positions < high)
            total = total[..., None] * inside.sum(axis=1)
        return total


# of a kernel, stride, dilation or pad; products of several stay inside int64
MAX_NUMBER = 2**20


def parse(node: Node) -> Windows:
    """Windows of a pooling (ONNX MaxPool, AveragePool; the qrt forms have the same attributes)."""
    spatial = node.required(0).static_shape[2:]
    attrs = AttrReader(node)
    kernel = tuple(attrs.ints("kernel_shape", length=len(spatial)))
    return resolve(node, spatial, kernel)


def resolve(node: Node, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> Windows:
    """Windows of `kernel` over `spatial` by strides, dilations, pads, auto_pad and ceil_mode."""
    rank = len(spatial)
    attrs = AttrReader(node)
    strides = tuple(attrs.ints("strides", (1,) * rank, rank))
    dilations = tuple(attrs.ints("dilations", (1,) * rank, rank))
    pads = attrs.ints("pads", (0,) * 2 * rank, 2 * rank)
    auto_pad = attrs.string("auto_pad", "NOTSET", ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"))
    ceil_mode = bool(node.attrs.get("ceil_mode", 0))
    check_numbers(kernel, strides, dilations, pads)
    begins, ends, counts = [], [], []
    for i, size in enumerate(spatial):
        extent = (kernel[i] - 1) * dilations[i] + 1
        begin, end = (pads[i], pads[i + rank]) if auto_pad == "NOTSET" else (0, 0)
        if auto_pad.startswith("SAME"):
            count = -(-size // strides[i])
            total = max((count - 1) * strides[i] + extent - size, 0)
            small, large = total // 2, total - total // 2
            begin, end = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        else:
            room = size + begin + end - extent
            # a kernel that is larger by less than a stride still gets one window, as in ONNX
            # Runtime, whose division truncates
            whole = -(-room // strides[i]) if ceil_mode or room < 0 else room // strides[i]
            count = whole + 1
            if ceil_mode and (count - 1) * strides[i] >= size + begin:
                count -= 1  # a window that would start in the end padding is ignored
        if count < 1:
            raise ModelError(f"kernel_shape {list(kernel)} does not fit into {list(spatial)}")
        begins.append(begin)
        ends.append(end)
        counts.append(count)
    return Windows(
        tuple(spatial), kernel, strides, dilations, tuple(begins), tuple(ends), tuple(counts)
    )


def check_numbers(
    kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> None:
    """Raise ModelError when a number of a window is out of range."""
    for name, numbers, least in (
        ("kernel_shape", kernel, 1), ("strides", strides, 1), ("dilations", dilations, 1),
        ("pads", pads, 0),
    ):  # fmt: skip
        if any(not least <= v <= MAX_NUMBER for v in numbers):
            raise ModelError(
                f"{name} must be between {least} and {MAX_NUMBER}, got {list(numbers)}"
            )


def output_shape(node: Node, windows: Windows) -> tuple[int, ...]:
    """(N, C, *counts)."""
    return (*node.required(0).static_shape[:2], *windows.counts)


def check_fields(row: Mapping[str, int]) -> tuple[int, int]:
    """Elements of x and y of a row with `FIELDS`; ValueError when the numbers make no windows.

    Kernels clip every tap to the input, so the numbers only have to be in range.
    """
    for name in ("batch", "ih", "iw", "channels", "oh", "ow"):
        within(row, name, 0, 1 << 40)
    for name in ("kh", "kw", "stride_h", "stride_w", "dilation_h", "dilation_w"):
        within(row, name, 1, 1 << 31)
    for name in ("pad_top", "pad_left", "pad_bottom", "pad_right"):
        within(row, name, 0, 1 << 31)
    outer = row["batch"] * row["channels"]
    return outer * row["ih"] * row["iw"], outer * row["oh"] * row["ow"]


def _two(numbers: tuple[int, ...], fill: int) -> tuple[int, int]:
    height, width = itertools.islice((*([fill] * (2 - len(numbers))), *numbers), 2)
    return height, width


@helper
def first_tap(begin, dilation):  # type: ignore[no-untyped-def]
    """First tap of a window that begins at `begin` whose position is not negative."""
    return 0 if begin >= 0 else (dilation - 1 - begin) // dilation


@helper
def stop_tap(begin, limit, kernel, dilation):  # type: ignore[no-untyped-def]
    """One past the last tap whose position is below `limit`; 0 when there is none."""
    room = limit - begin
    return 0 if room <= 0 else min(kernel, (room + dilation - 1) // dilation)
