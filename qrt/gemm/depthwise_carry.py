"""One output row of a depthwise convolution whose interleaved columns stay in registers.

For kernels of up to R rows (one dot group) and a kernel width that fits the registers: the columns
that the next pixel needs too are carried to it, so every column is loaded and interleaved once.

    pixel 0:  c0 c1 c2          stride 1 carries c1 c2, loads c3
    pixel 1:     c1 c2 c3       stride 2 carries c2,    loads c3 c4
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from qrt.gemm.depthwise_tile import DepthwiseDot
from qrt.gemm.tile import I8, I32, I64, const, load

ARGUMENTS = (
    "p0", "p1", "p2", "p3",  # the row's first pixel in each row of x, or the pad
    "s0", "s1", "s2", "s3",  # bytes from pixel to pixel, 0 at the pad
    "pad",
    "before",  # columns of padding on the left
    "inside",  # columns inside the image
    "width",  # outputs
    "weights",
    "columns",
    "out",
    "ldc",
    "n",
    "limits",
)  # fmt: skip


def build_carry_row(
    module: Any, name: str, dot: DepthwiseDot, kernel_w: int, stride: int, epilogue: Any
) -> Any:
    """Function over ARGUMENTS: all outputs of one row and one channel block."""
    fnty = ir.FunctionType(ir.VoidType(), [I64] * len(ARGUMENTS))
    fn = ir.Function(module, fnty, name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    arg = dict(zip(ARGUMENTS, fn.args, strict=True))
    nbytes = 4 * dot.lanes
    vec = ir.VectorType(I32, dot.lanes)
    items = ir.VectorType(dot.item, nbytes // (dot.item.width // 8))
    carried = kernel_w - stride

    entry, loop, end = (fn.append_basic_block(n) for n in ("entry", "loop", "end"))
    b = ir.IRBuilder(entry)
    starts = [arg[f"p{r}"] for r in range(dot.rows)]
    steps = [arg[f"s{r}"] for r in range(dot.rows)]

    def column(b: Any, j: Any) -> list[Any]:
        """The interleaved vectors of column j."""
        at = b.sub(j, arg["before"])
        is_inside = b.icmp_unsigned("<", at, arg["inside"])
        rows = []
        for start, step in zip(starts, steps, strict=True):
            address = b.select(is_inside, b.add(start, b.mul(at, step)), arg["pad"])
            rows.append(load(b, address, ir.VectorType(I8, nbytes), 1))
        return dot.interleave(b, rows)

    bias = [load(b, b.add(arg["columns"], const(nbytes * v)), vec) for v in range(4)]
    weights = [
        [
            load(b, b.add(arg["weights"], const(nbytes * (4 * kx + v))), items, dot.align)
            for v in range(4)
        ]
        for kx in range(kernel_w)
    ]
    first = [column(b, const(j)) for j in range(carried)]
    before_loop = b.block
    b.cbranch(b.icmp_signed(">", arg["width"], const(0)), loop, end)

    b = ir.IRBuilder(loop)
    ox = b.phi(I64)
    out = b.phi(I64)
    kept = [[b.phi(items) for _ in range(4)] for _ in range(carried)]
    j0 = b.add(b.mul(ox, const(stride)), const(carried))
    fresh = [column(b, b.add(j0, const(i))) for i in range(stride)]
    window = kept + fresh
    acc = list(bias)
    for x, w in zip(window, weights, strict=True):
        acc = [dot.multiply(b, a, xv, wv) for a, xv, wv in zip(acc, x, w, strict=True)]
    epilogue(b, fn, {**arg, "out": out, "m": const(1)}, [acc], dot.lanes)
    ox_next = b.add(ox, const(1))
    out_next = b.add(out, arg["ldc"])
    after = b.block
    b.cbranch(b.icmp_signed("<", ox_next, arg["width"]), loop, end)
    for phi, initial, following in (
        (ox, const(0), ox_next),
        (out, arg["out"], out_next),
        *(
            (kept[c][v], first[c][v], window[c + stride][v])
            for c in range(carried)
            for v in range(4)
        ),
    ):
        phi.add_incoming(initial, before_loop)
        phi.add_incoming(following, after)
    ir.IRBuilder(end).ret_void()
    return fn
