"""Lay u8 images out with their pads: (N, H, W, C) to (N, top + H + bottom, left + W + right, C)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qrt.ir import Value
from qrt.jit.declare import Extent, kernel, slots
from qrt.ops.spec import Lowering, Operand
from qrt.simd.memory import as_u8, operand

if TYPE_CHECKING:
    from qrt.ops.conv import Geometry

FIELDS = ("x", "y", "fill", "images", "height", "width", "top", "left", "bottom", "right", "pixel")
X, Y, FILL, IMAGES, HEIGHT, WIDTH, TOP, LEFT, BOTTOM, RIGHT, PIXEL = slots(FIELDS)


def lower_pad_pixels(program: Lowering, x: Value, g: Geometry, fill: Operand) -> Operand:
    """Emit the row and return where the padded images are; `fill` is the byte of the pads."""
    top, left, bottom, right = g.pads
    height, width = g.size
    y = program.scratch(g.batch * (height + top + bottom) * (width + left + right) * g.channels)
    program.emit(
        pad_pixels_kernel,
        x=program.operand(x),
        y=y,
        fill=fill,
        images=g.batch,
        height=height,
        width=width,
        top=top,
        left=left,
        bottom=bottom,
        right=right,
        pixel=g.channels,
    )
    return y


def extents(row: Mapping[str, int]) -> list[Extent]:
    """x in full, y in full, one byte that fills."""
    for name in FIELDS[3:]:
        if not 0 <= row[name] < 2**40:
            raise ValueError(f"{name} must not be negative, got {row[name]}")
    height = row["height"] + row["top"] + row["bottom"]
    width = row["width"] + row["left"] + row["right"]
    return [
        Extent("x", row["images"] * row["height"] * row["width"] * row["pixel"]),
        Extent("y", row["images"] * height * width * row["pixel"], writes=True),
        Extent("fill", 1),
    ]


@kernel("pad_pixels_u8", FIELDS, extents, family="pad")
def pad_pixels_kernel(row, arena, constants, thread, threads):  # type: ignore[no-untyped-def]
    x = as_u8(operand(row, X, arena, constants))
    y = as_u8(operand(row, Y, arena, constants))
    height, width, pixel = row[HEIGHT], row[WIDTH], row[PIXEL]
    top, left = row[TOP], row[LEFT]
    out_height = height + top + row[BOTTOM]
    line = (width + left + row[RIGHT]) * pixel
    fill = as_u8(operand(row, FILL, arena, constants))[0]
    if line == 0:
        return 0
    lines = row[IMAGES] * out_height
    for i in range(lines * thread // threads, lines * (thread + 1) // threads):
        image = i // out_height
        iy = i - image * out_height - top
        out = i * line
        if iy < 0 or iy >= height:
            for j in range(line):
                y[out + j] = fill
        else:
            source = (image * height + iy) * width * pixel
            for j in range(left * pixel):
                y[out + j] = fill
            for j in range(width * pixel):
                y[out + left * pixel + j] = x[source + j]
            for j in range((left + width) * pixel, line):
                y[out + j] = fill
    return 0
