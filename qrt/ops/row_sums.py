"""The rows that sum what every output of a product sees: its pixels, then its windows."""

from __future__ import annotations

from qrt.gemm.extents import GEOMETRY
from qrt.gemm.row_sums import line_nbytes, pixel_sums_kernel, window_sums_kernel
from qrt.ops.spec import Lowering, Operand


def lower_row_sums(
    program: Lowering, fields: dict[str, int], x: Operand, pad: Operand
) -> Operand | int:
    """Emit the rows and return where the sums are, int32 (groups, outputs).

    `fields` are the product's: geometry, steps of x, `channels`, `groups` and `max_threads`;
    `pad` is a row of zero points of x.
    """
    height, step_h = _pixels(fields, "height", "h")
    width, step_w = _pixels(fields, "width", "w")
    images = fields["batch"] * fields["groups"]
    counts = {name: fields[name] for name in ("channels", "groups", "max_threads")}
    pixels: Operand | int = 0
    if height * width:  # else the windows see nothing but pads
        pixels = program.scratch(4 * images * height * width)
        program.emit(
            pixel_sums_kernel,
            **counts,
            x=x,
            y=pixels,
            batch=fields["batch"],
            height=height,
            width=width,
            x_pixel=fields["x_pixel"] * step_w,
            x_row=fields["x_row"] * step_h,
            x_image=fields["x_image"],
            x_group=fields["x_group"],
        )
    if _is_pointwise(fields, "height", "h") and _is_pointwise(fields, "width", "w"):
        return pixels
    windows = {name: fields[name] for name in GEOMETRY}
    windows |= {"height": height, "width": width}
    windows |= {"stride_h": fields["stride_h"] // step_h, "stride_w": fields["stride_w"] // step_w}
    sums = program.scratch(4 * images * fields["out_height"] * fields["out_width"])
    program.emit(
        window_sums_kernel,
        **(windows | counts),
        x=pixels,
        y=sums,
        pad=pad,
        rows=program.scratch(fields["max_threads"] * line_nbytes(windows)),
    )
    return sums


def _is_pointwise(fields: dict[str, int], size: str, axis: str) -> bool:
    """True where every output sees one pixel of this axis, and no pad."""
    last = (fields[f"out_{size}"] - 1) * fields[f"stride_{axis}"]
    return fields[f"kernel_{axis}"] == 1 and not fields[f"pad_{axis}"] and last < fields[size]


def _pixels(fields: dict[str, int], size: str, axis: str) -> tuple[int, int]:
    """(count, step) of the pixels along an axis that are summed: no more than outputs may read,
    for what lies behind the last of them need not hold `channels` more bytes."""
    out, stride = fields[f"out_{size}"], fields[f"stride_{axis}"]
    if _is_pointwise(fields, size, axis):
        return out, stride
    reach = (fields[f"kernel_{axis}"] - 1) * fields[f"dilation_{axis}"]
    last = (out - 1) * stride - fields[f"pad_{axis}"] + reach
    return max(min(fields[size], last + 1), 0), 1
