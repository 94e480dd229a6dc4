"""Which depthwise kernels run as whole rows that carry columns (`depthwise_carry`).

Asked where weights are packed and by the kernels, which must agree.
"""

from __future__ import annotations

from qrt.jit.declare import helper

TALL = 5  # rows and columns of a tall kernel


@helper
def carries(rows, kernel_h, kernel_w, stride_w, dilation_w):  # type: ignore[no-untyped-def]
    """True when a row function runs the kernel, in dot groups of `rows` rows."""
    return rows == 4 and kernel_h <= 4 and kernel_w == 3 and stride_w <= 2 and dilation_w == 1


@helper
def carries_tall(rows, kernel_h, kernel_w, stride_w, dilation_w):  # type: ignore[no-untyped-def]
    """True when a tall row function runs the kernel: its weights are packed for that."""
    square = kernel_h == TALL and kernel_w == TALL
    return rows == 4 and square and stride_w <= 2 and dilation_w == 1
