"""DepthToSpace (ONNX, opset 1 to 13) and SpaceToDepth: blocks of pixels to channels and back.

With blocks b, DepthToSpace reads channel (by, bx, c) in mode DCR or (c, by, bx) in mode CRD at
(h, w) and writes channel c at (h * b + by, w * b + bx); SpaceToDepth is the inverse of DCR.
"""

from __future__ import annotations

from collections.abc import Sequence

from qrt.errors import ModelError
from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.ops.movement import emit_move, itemsize_of
from qrt.ops.nests import element_strides, memory_order
from qrt.ops.spec import Array, Lowering, OpSpec


def parse(node: Node) -> tuple[int, str]:
    """(block size, mode), checked against the shape."""
    attrs = AttrReader(node)
    block = attrs.int("blocksize")
    spreads = node.op == "DepthToSpace"
    mode = attrs.string("mode", "DCR", ("DCR", "CRD")) if spreads else "DCR"
    attrs.done()
    shape = node.required(0).static_shape
    fits = len(shape) == 4 and block > 0
    if fits:
        sizes = shape[1:2] if spreads else shape[2:]
        fits = all(n % (block**2 if spreads else block) == 0 for n in sizes)
    if not fits:
        raise ModelError(f"blocksize {block} does not divide {list(shape)} (N, C, H, W)")
    return block, mode


def infer(node: Node) -> Sequence[tuple[tuple[int, ...], object]]:
    x, (b, _) = node.required(0), parse(node)
    n, c, h, w = x.static_shape
    if node.op == "DepthToSpace":
        return [((n, c // b**2, h * b, w * b), x.dtype)]
    return [((n, c * b**2, h // b, w // b), x.dtype)]


def reference(node: Node, inputs: Sequence[Array | None]) -> Sequence[Array]:
    (x,) = inputs
    assert x is not None
    b, mode = parse(node)
    n, c, h, w = x.shape
    if node.op == "SpaceToDepth":
        blocks = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
        return [blocks.reshape(n, c * b**2, h // b, w // b)]
    if mode == "DCR":
        blocks = x.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return [blocks.reshape(n, c // b**2, h * b, w * b)]


def lower(node: Node, program: Lowering) -> None:
    x, y = node.required(0), node.outputs[0]
    b, mode = parse(node)
    spreads = node.op == "DepthToSpace"
    deep, wide = (x, y) if spreads else (y, x)
    n, c, h, w = wide.static_shape
    h, w = h // b, w // b
    deep_n, deep_c, deep_h, deep_w = element_strides(deep)
    wide_n, wide_c, wide_h, wide_w = element_strides(wide)
    by, bx, channel = (b * c, c, 1) if mode == "DCR" else (b, 1, b * b)
    # logical axis of either tensor -> its loops (size, stride in the deep one, in the wide one)
    of_wide = {
        0: [(n, deep_n, wide_n)],
        1: [(c, channel * deep_c, wide_c)],
        2: [(h, deep_h, b * wide_h), (b, by * deep_c, wide_h)],
        3: [(w, deep_w, b * wide_w), (b, bx * deep_c, wide_w)],
    }
    if spreads:
        loops = [loop for a in memory_order(y) for loop in of_wide[a]]
    else:
        depth = [of_wide[2][1], of_wide[3][1], of_wide[1][0]]
        of_deep = {0: of_wide[0], 1: depth, 2: of_wide[2][:1], 3: of_wide[3][:1]}
        loops = [loop for a in memory_order(y) for loop in of_deep[a]]
    sizes = [loop[0] for loop in loops]
    in_deep, in_wide = ([loop[k] for loop in loops] for k in (1, 2))
    in_x, in_y = (in_deep, in_wide) if spreads else (in_wide, in_deep)
    emit_move(program, program.operand(x), program.operand(y), itemsize_of(x), sizes, in_x, in_y)


DEPTH_TO_SPACE = OpSpec("DepthToSpace", "", infer, reference, lower, layout="any")
SPACE_TO_DEPTH = OpSpec("SpaceToDepth", "", infer, reference, lower, layout="any")
