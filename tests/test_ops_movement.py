"""Operators that move elements: every layout, item size and shape comes out as NumPy has it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from kernel_harness import new_value, run_node
from operator_cases import NHWC, Cases, codes, constant, onnx_outputs

from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node
from qrt.ops import (
    concat,
    copy,
    depth_to_space,
    expand,
    gather,
    pad,
    reshape,
    split,
    transpose,
)
from qrt.ops import (
    slice as slice_,
)

Array = np.ndarray[Any, Any]
LAYOUTS = (None, NHWC, (3, 1, 0, 2), (2, 3, 0, 1))


def test_copy() -> None:
    shapes = (
        (2, 3, 35, 7), (1, 64, 17, 9), (2, 35, 17, 16), (2, 8, 3, 3), (1, 1, 5, 1), (0, 3, 2, 2),
        (1, 2, 40, 50), (1, 3, 17, 19), (1, 16, 16, 16), (1, 17, 4, 5), (1, 1, 1, 1),
    )  # fmt: skip
    with Cases("Copy") as cases:
        for dtype in (np.uint8, np.uint16, np.float32, np.int64, np.bool_):
            for shape, before, after in itertools.product(shapes, LAYOUTS, LAYOUTS):
                # a ramp: a wrong permutation can be read off the failure
                x = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
                node = Node(
                    "Copy",
                    [new_value("x", dtype, shape, before)],
                    [new_value("y", dtype, layout=after)],
                    {},
                    "qrt",
                )
                specs = ["portable", ""] if dtype in (np.uint8, np.float32) else [""]
                cases.node((dtype, shape, before, after), copy.SPEC, node, [x], [x], specs=specs)


def _node(
    op: str,
    version: int,
    attrs: dict[str, Any],
    x: Array,
    rest: list[Any],
    layout: Any,
    outputs: int,
) -> Node:
    values = [new_value("x", x.dtype, x.shape, layout)]
    values += [None if r is None else constant(r) for r in rest]
    outs = [new_value(f"y{i}", x.dtype, layout=layout) for i in range(outputs)]
    return Node(op, values, outs, attrs, version=version)


# (spec, version, attrs, further constant inputs, outputs) on a (2, 6, 5, 8) input
MOVES: list[tuple[Any, int, dict[str, Any], list[Any], int]] = [
    (slice_.SPEC, 13, {}, [[1, -3], [100, -1], [1, 3]], 1),
    (slice_.SPEC, 13, {}, [[-1, 5], [-1000, 0], [2, 1], [-1, -2]], 1),
    (slice_.SPEC, 13, {}, [[3], [3], [2]], 1),
    (slice_.SPEC, 13, {}, [[0, 1], [2, 4]], 1),
    (split.SPEC, 13, {"axis": 1}, [[1, 2, 3]], 3),
    (split.SPEC, 13, {"axis": 1}, [[0, 6]], 2),
    (split.SPEC, 13, {"axis": -1}, [], 2),
    (split.SPEC, 18, {"axis": 3, "num_outputs": 3}, [], 3),
    (expand.TILE, 13, {}, [[1, 2, 3, 1]], 1),
    (expand.TILE, 13, {}, [[1, 0, 3, 1]], 1),
    (depth_to_space.SPACE_TO_DEPTH, 13, {"blocksize": 1}, [], 1),
    (transpose.SPEC, 13, {"perm": [0, 1, 2, 3]}, [], 1),
]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "int64"])
def test_moves(dtype: str) -> None:
    rng = np.random.default_rng(1)
    x = codes(rng, (2, 6, 5, 8)).astype(dtype)
    with Cases("moves") as cases:
        for (spec, version, attrs, given, outputs), layout in itertools.product(
            MOVES, (None, NHWC)
        ):
            rest = [np.array(r, np.int64) for r in given]
            want = onnx_outputs(spec.op, version, attrs, [x, *rest], outputs)
            node = _node(spec.op, version, attrs, x, rest, layout, outputs)
            case = (spec.op, attrs, given, layout)
            cases.node(case, spec, node, [x, *rest], want, specs=[""])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "int64"])
def test_pad(dtype: str) -> None:
    rng = np.random.default_rng(2)
    x = codes(rng, (2, 6, 5, 8)).astype(dtype)
    fill = np.array(7, dtype)
    with Cases("Pad") as cases:
        for mode, layout in itertools.product(pad.MODES, (None, NHWC)):
            for pads in ([0, 0, 1, 2, 0, 0, 3, 1], [1, 2, 0, 0, 0, 1, 0, 4], [0] * 8):
                attrs = {"mode": mode}
                rest = [np.array(pads, np.int64), fill]
                widths = list(zip(pads[:4], pads[4:], strict=True))
                more = {"constant_values": 7} if mode == "constant" else {}
                wide: Any = [(0, 0)] * 4 if mode != "constant" and pads[0] else widths
                rest[0] = np.array([w[0] for w in wide] + [w[1] for w in wide], np.int64)
                want = np.pad(x, wide, mode, **more)  # type: ignore[call-overload]
                node = _node("Pad", 19, attrs, x, rest, layout, 1)
                cases.node((mode, pads, layout), pad.SPEC, node, [x, *rest], [want], specs=[""])
        for layout in (None, NHWC):  # negative pads crop, axes name some
            rest = [np.array([2, -1, -1, 3], np.int64), fill, np.array([1, -1], np.int64)]
            want = np.pad(x, [(0, 0), (2, 0), (0, 0), (0, 3)], constant_values=7)
            node = _node("Pad", 19, {}, x, rest, layout, 1)
            want = want[:, :-1, :, 1:]
            cases.node(("crop", layout), pad.SPEC, node, [x, *rest], [want], specs=[""])


def test_depth_to_space() -> None:
    rng = np.random.default_rng(3)
    deep = codes(rng, (2, 12, 3, 5))
    wide = codes(rng, (2, 3, 4, 6))
    with Cases("DepthToSpace") as cases:
        for layout in (None, NHWC):
            for mode in ("DCR", "CRD"):
                attrs = {"blocksize": 2, "mode": mode}
                want = onnx_outputs("DepthToSpace", 13, attrs, [deep])
                node = _node("DepthToSpace", 13, attrs, deep, [], layout, 1)
                spec = depth_to_space.DEPTH_TO_SPACE
                cases.node((mode, layout), spec, node, [deep], want, specs=[""])
            want = onnx_outputs("SpaceToDepth", 13, {"blocksize": 2}, [wide])
            node = _node("SpaceToDepth", 13, {"blocksize": 2}, wide, [], layout, 1)
            cases.node(layout, depth_to_space.SPACE_TO_DEPTH, node, [wide], want, specs=[""])


def test_expand_and_gather() -> None:
    rng = np.random.default_rng(4)
    x = codes(rng, (2, 6, 5, 8))
    with Cases("Expand, Gather") as cases:
        for part, target in ((x[:, :1], [3, 1, 6, 1, 8]), (x[:1, :, :1], [2, 6, 4, 1])):
            rest = [np.array(target, np.int64)]
            want = onnx_outputs("Expand", 13, {}, [part, *rest])
            node = _node("Expand", 13, {}, part, rest, None, 1)
            cases.node(target, expand.EXPAND, node, [part, *rest], want, specs=[""])
        for index, axis in itertools.product(([0], [[0, -1], [1, 1]], 1, []), (0, 1, -1)):
            for dtype in (np.int32, np.int64):
                rest = [np.array(index, dtype)]
                want = [np.take(x, rest[0], axis)]
                node = _node("Gather", 13, {"axis": axis}, x, rest, None, 1)
                case = (index, axis, dtype)
                cases.node((case, "constant"), gather.SPEC, node, [x, *rest], want, specs=[""])
                node.inputs[1].data = None  # type: ignore[union-attr]
                cases.node((case, "data"), gather.SPEC, node, [x, *rest], want, specs=[""])


def test_gather_answers_a_bad_index_with_a_status() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for bad in (3, -4, 2**40, -(2**62)):
        values = [new_value("x", x.dtype, x.shape), new_value("i", np.int64, (2,))]
        node = Node("Gather", values, [new_value("y", x.dtype)], {}, version=13)
        with pytest.raises(AssertionError, match="returned 1"):
            run_node(gather.SPEC, node, [x, np.array([0, bad])])


@pytest.mark.parametrize("tables", [False, True], ids=["plain", "tables"])
def test_concat(tables: bool) -> None:
    rng = np.random.default_rng(5)
    with Cases("Concat") as cases:
        for dtype, axis, layout in itertools.product(
            (np.uint8, np.float32), (0, 1, -1, 2), (None, NHWC)
        ):
            if tables and dtype != np.uint8:
                continue
            parts = []
            for length in (3, 1, 0, 70):
                shape = [2, 5, 4, 6]
                shape[axis] = length
                parts.append(codes(rng, shape).astype(dtype))
            random = [rng.permutation(256).astype(np.uint8) for _ in range(3)]
            given: list[Any] = [None, *random] if tables else [None] * 4
            want = np.concatenate(
                [p if t is None else t[p] for p, t in zip(parts, given, strict=True)], axis
            )
            node = Node(
                "Concat",
                [new_value(f"x{i}", dtype, p.shape, layout) for i, p in enumerate(parts)],
                [new_value("y", dtype, layout=layout)],
                {"axis": axis, "tables": given} if tables else {"axis": axis},
                "qrt" if tables else "",
                version=13,
            )
            spec = concat.SPEC if tables else concat.ONNX_SPEC
            cases.node((dtype, axis, layout), spec, node, parts, [want])


def test_transpose_only_renames() -> None:
    rng = np.random.default_rng(6)
    x = codes(rng, (2, 3, 5, 7))
    with Cases("Transpose") as cases:
        for perm, layout in itertools.product(itertools.permutations(range(4)), LAYOUTS):
            value = new_value("x", x.dtype, x.shape, layout)
            node = Node("Transpose", [value], [new_value("y", x.dtype)], {"perm": list(perm)})
            node.outputs[0].layout = transpose.output_layout(node)
            want = [x.transpose(perm)]
            cases.node((perm, layout), transpose.SPEC, node, [x], want, specs=[""])


RESHAPES: list[tuple[str, int, dict[str, Any], list[Any], tuple[int, ...]]] = [
    ("Reshape", 13, {}, [[0, -1]], (2, 12)),
    ("Reshape", 13, {}, [[3, 1, -1, 2]], (3, 1, 4, 2)),
    ("Flatten", 13, {}, [], (2, 12)),
    ("Flatten", 13, {"axis": -1}, [], (6, 4)),
    ("Flatten", 13, {"axis": 3}, [], (24, 1)),
    ("Unsqueeze", 13, {}, [[0, -1]], (1, 2, 3, 4, 1)),
    ("Unsqueeze", 11, {"axes": [1]}, [], (2, 1, 3, 4)),
    ("Identity", 13, {}, [], (2, 3, 4)),
    ("Dropout", 13, {"ratio": 0.5}, [], (2, 3, 4)),
]


def test_reshapes() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    specs = {s.op: s for s in reshape.SPECS}
    with Cases("reshapes") as cases:
        for op, version, attrs, given, shape in RESHAPES:
            rest = [np.array(r, np.int64) for r in given]
            node = _node(op, version, attrs, x, rest, None, 1)
            want = [x.reshape(shape)]
            cases.node((op, attrs, given), specs[op], node, [x, *rest], want, specs=[""])
        y = x.reshape(2, 1, 12, 1)
        for given in ([], [[1]], [[-1, 1]]):
            rest = [np.array(r, np.int64) for r in given]
            node = _node("Squeeze", 13, {}, y, rest, None, 1)
            want = onnx_outputs("Squeeze", 13, {}, [y, *rest])
            cases.node(("Squeeze", given), specs["Squeeze"], node, [y, *rest], want, specs=[""])


def test_what_is_refused() -> None:
    x = np.zeros((2, 3, 4), np.float32)
    specs = {s.op: s for s in reshape.SPECS}
    for spec, attrs, rest, error, words in (
        (specs["Reshape"], {}, [[5, -1]], ModelError, "does not divide"),
        (specs["Reshape"], {}, [[-1, -1]], ModelError, "at most one -1"),
        (specs["Squeeze"], {}, [[1]], ModelError, "must have size 1"),
        (specs["Flatten"], {"axis": 4}, [], ModelError, "axis must be within"),
        (slice_.SPEC, {}, [[0], [1], [0], [0]], ModelError, "no step may be 0"),
        (split.SPEC, {}, [[1, 2]], ModelError, "lengths that add up to 2"),
        (transpose.SPEC, {"perm": [0, 0, 1]}, [], ModelError, "permutation of 3 axes"),
        (pad.SPEC, {"mode": "mirror"}, [[0] * 6], UnsupportedError, "mode='mirror'"),
        (gather.SPEC, {"axis": 7}, [[0]], ModelError, "axis must be within"),
    ):
        arrays = [np.array(r, np.int64) for r in rest]
        node = _node(spec.op, 13, attrs, x, arrays, None, 2 if spec is split.SPEC else 1)
        with pytest.raises(error, match=words):
            spec.infer(node)
    node = _node("Reshape", 13, {}, x, [np.array([24])], None, 1)
    node.inputs[1].data = None  # type: ignore[union-attr]
    with pytest.raises(UnsupportedError, match="must be constant"):
        specs["Reshape"].infer(node)
