"""One output row of a depthwise convolution whose interleaved columns stay in registers.

For kernels of up to R rows (one dot group) and a kernel width that fits the registers: the columns
that the next pixel needs too are carried to it, so every column is loaded and interleaved once.

    pixel 0:  c0 c1 c2          stride 1 carries c1 c2, loads c3
    pixel 1:     c1 c2 c3       stride 2 carries c2,    loads c3 c4

A kernel with one row more than a dot group holds (`TALL`, 5x5 with groups of four) would fill a
second group with three rows of zeros. Its last row is interleaved across columns instead: q(j)
holds the row's columns j to j + 3, so q(j) and the last byte of q(j + 1) are the five taps, two
dot products a vector in place of five:

    c(j) .. c(j+4)  five columns of four rows       q(j) q(j+1)  the fifth row

The weights of such a kernel lie where those of two groups would: the first group of each kernel
column as ever, those of q(j) and q(j + 1) in the second group of the first two columns.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from qrt.gemm.depthwise_order import TALL
from qrt.gemm.depthwise_tile import DepthwiseDot
from qrt.gemm.emit import I8, I32, I64, const, load


def arguments(rows: int) -> tuple[str, ...]:
    """The arguments of a row function over `rows` rows of x, all int64."""
    return (
        *(f"p{r}" for r in range(rows)),  # the row's first pixel in each row of x, or the pad
        *(f"s{r}" for r in range(rows)),  # bytes from pixel to pixel, 0 at the pad
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
    )


def build_carry_row(
    module: Any,
    name: str,
    dot: DepthwiseDot,
    kernel_w: int,
    stride: int,
    epilogue: Any,
) -> Any:
    """Function over `arguments`: all outputs of one row and one channel block.

    `kernel_w` is 3, or `TALL` for a tall kernel, whose function takes a fifth row.
    """
    tall = kernel_w == TALL
    count = dot.rows + tall
    names = arguments(count)
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * len(names)), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    arg = dict(zip(names, fn.args, strict=True))
    nbytes = 4 * dot.lanes
    vec = ir.VectorType(I32, dot.lanes)
    items = ir.VectorType(dot.item, nbytes // (dot.item.width // 8))
    carried = kernel_w - stride

    entry, loop, end = (fn.append_basic_block(n) for n in ("entry", "loop", "end"))
    b = ir.IRBuilder(entry)
    starts = [arg[f"p{r}"] for r in range(count)]
    steps = [arg[f"s{r}"] for r in range(count)]

    def column(b: Any, j: Any) -> tuple[list[Any], list[Any]]:
        """The interleaved vectors of column j; the bytes of the rows that are not in them."""
        at = b.sub(j, arg["before"])
        is_inside = b.icmp_unsigned("<", at, arg["inside"])
        rows = []
        for start, step in zip(starts, steps, strict=True):
            address = b.select(is_inside, b.add(start, b.mul(at, step)), arg["pad"])
            rows.append(load(b, address, ir.VectorType(I8, nbytes), 1))
        return dot.interleave(b, rows[: dot.rows]), rows[dot.rows :]

    def weight(b: Any, place: int, v: int) -> Any:
        return load(b, b.add(arg["weights"], const(nbytes * (4 * place + v))), items, dot.align)

    # a window is a list of (four vectors, four weight vectors' place) from its first column on
    places = [2 * kx if tall else kx for kx in range(kernel_w)] + ([1, 3] if tall else [])
    bias = [load(b, b.add(arg["columns"], const(nbytes * v)), vec) for v in range(4)]
    # 28 vectors of a tall kernel leave no register to carry columns in: loaded where they are used
    weights = [] if tall else [[weight(b, place, v) for v in range(4)] for place in places]
    first = [column(b, const(j)) for j in range(carried)]
    # at stride 1 the pixel before has made q(j + 1), the next pixel's q(j)
    first_quads = []
    if tall and stride == 1:
        first_quads = [dot.interleave(b, [bytes_[0] for _, bytes_ in first])]
    first_bytes = [bytes_[0] for _, bytes_ in first[-3:]] if tall else []
    before_loop = b.block
    b.cbranch(b.icmp_signed(">", arg["width"], const(0)), loop, end)

    b = ir.IRBuilder(loop)
    ox = b.phi(I64)
    out = b.phi(I64)
    kept = [[b.phi(items) for _ in range(4)] for _ in range(carried)]
    kept_quads = [[b.phi(items) for _ in range(4)] for _ in first_quads]
    kept_bytes = [b.phi(value.type) for value in first_bytes]
    j0 = b.add(b.mul(ox, const(stride)), const(carried))
    fresh = [column(b, b.add(j0, const(i))) for i in range(stride)]
    window = kept + [vectors for vectors, _ in fresh]
    row_bytes = kept_bytes + [bytes_[0] for _, bytes_ in fresh if bytes_]
    quads = kept_quads + [
        dot.interleave(b, row_bytes[i : i + 4]) for i in range(len(row_bytes) - 3)
    ]
    acc = list(bias)
    for i, (x, place) in enumerate(zip(window + quads, places, strict=True)):
        w = [weight(b, place, v) for v in range(4)] if tall else weights[i]
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
            (kept[c][v], first[c][0][v], window[c + stride][v])
            for c in range(carried)
            for v in range(4)
        ),
        *(
            (kept_quads[q][v], first_quads[q][v], quads[q + 1][v])
            for q in range(len(kept_quads))
            for v in range(4)
        ),
        *zip(kept_bytes, first_bytes, row_bytes[-3:] if tall else [], strict=True),
    ):
        phi.add_incoming(initial, before_loop)
        phi.add_incoming(following, after)
    ir.IRBuilder(end).ret_void()
    return fn
