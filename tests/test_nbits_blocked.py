"""DequantizeLinear of few bits in front of MatMul, Gemm, Conv and Gather, and GatherBlockQuantized:
weights stay packed where there is a kernel, and every answer is the definition's."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product as combinations
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from nbits_cases import Array, F, model_of
from onnx import TensorProto, helper, numpy_helper

import qrt
from qrt.errors import KernelError, QrtError
from qrt.quant.coded import Coded
from tests.contract import floats
from tests.rivals import FLOAT_TOLERANCE, onnxruntime_outputs, reference_outputs
from tests.sessions import THREADS, Cases, differences, feature_levels, named, run

OPSET = 25  # int2 and uint2
TYPES = ("int4", "uint4", "int2", "uint2", "int8", "uint8")


@dataclass(frozen=True)
class Table:
    """A quantized constant (rows, columns), its parameters, and what it stands for."""

    q: Array
    scale: Array
    zero_point: Array | None
    axis: int
    block: int

    @property
    def real(self) -> Array:
        """(float32(q) - zero_point) * scale, by definition."""

        def spread(parameter: Array) -> Array:
            if self.block:
                indices = np.arange(self.q.shape[self.axis]) // self.block
                return parameter.take(indices, self.axis)
            shape = [1, 1]
            shape[self.axis] = parameter.size
            return np.broadcast_to(parameter.reshape(shape), self.q.shape)

        zero = 0 if self.zero_point is None else spread(self.zero_point.astype(np.int64))
        return (self.q.astype(np.int64) - zero).astype(F) * spread(self.scale)

    def constants(self) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """DequantizeLinear of it into `w`."""
        given = [("q", self.q), ("s", self.scale)]
        if self.zero_point is not None:
            given.append(("z", self.zero_point))
        node = helper.make_node(
            "DequantizeLinear", [name for name, _ in given], ["w"], "dequantize",
            axis=self.axis, block_size=self.block,
        )  # fmt: skip
        return [node], [numpy_helper.from_array(array, name) for name, array in given]


def draw(
    rng: np.random.Generator, shape: tuple[int, int], name: str, axis: int, block: int,
    *, zero_points: bool,
) -> Table:  # fmt: skip
    """Integers of the type `name`; block 0: one scale for each index of `axis`."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    bits = int(name.removeprefix("u").removeprefix("int"))
    low = 0 if name.startswith("u") else -(1 << bits - 1)

    def integers(size: Any) -> Array:
        return rng.integers(low, low + (1 << bits), size).astype(dtype)

    parameters = list(shape)
    parameters[axis] = -(-shape[axis] // block) if block else shape[axis]
    size: Any = parameters if block else shape[axis]
    scale = (rng.random(size) + 0.1).astype(F)
    return Table(integers(shape), scale, integers(size) if zero_points else None, axis, block)


def check(
    cases: Cases, case: object, model: onnx.ModelProto, x: dict[str, Array], want: Array,
    kernels: tuple[str, ...],
) -> None:  # fmt: skip
    """All levels give the bits of `want`; some of `kernels` ran; ONNX's reference is near."""
    for features, threads in combinations(feature_levels(), THREADS):
        got = run(model, x, features, threads)
        cases.check((case, named(features), threads), differences({"y": want}, got))
    ran = " ".join(str(row.kernels) for row in qrt.load(model).explain())
    cases.check(case, "" if all(k in ran for k in kernels) else f"ran {ran}")
    theirs = reference_outputs(model, x)
    if theirs is not None:
        near = np.abs(theirs["y"] - want).max() <= FLOAT_TOLERANCE * np.abs(want).max()
        cases.check((case, "reference"), "" if near else "far from onnx.reference")


@pytest.mark.parametrize("name", TYPES)
def test_products(name: str) -> None:
    """MatMul, Gemm with its weights either way round, and MatMul of a Transpose."""
    rng = np.random.default_rng(930)
    cases = Cases()
    m, n, k = 5, 37, 75
    few = name not in ("int8", "uint8")
    for block, zero_points, op in combinations(
        (0, 16, 32), (False, True), ("MatMul", "Gemm", "Gemm transB", "Transpose")
    ):
        turned = op in ("Gemm transB", "Transpose")
        shape = (n, k) if turned else (k, n)
        # in blocks along k, or a scale for every column
        axis = (1 if turned else 0) if block else (0 if turned else 1)
        table = draw(rng, shape, name, axis, block, zero_points=zero_points)
        nodes, constants = table.constants()
        x = rng.standard_normal((m, k)).astype(F)
        w = table.real.T if turned else table.real
        bias = None
        if op.startswith("Gemm"):
            bias = rng.standard_normal(n).astype(F)
            constants.append(numpy_helper.from_array(bias, "c"))
            nodes.append(helper.make_node("Gemm", ["x", "w", "c"], ["y"], transB=int(turned)))
        else:
            if turned:
                nodes.append(helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]))
            nodes.append(helper.make_node("MatMul", ["x", "t" if turned else "w"], ["y"]))
        model = model_of(nodes, (m, k), (m, n), constants, OPSET)
        want = floats.matmul(x, np.ascontiguousarray(w), 1.0, bias)
        kernels = ("nbits_f32",) if few or block else ("gemm_f32",)
        check(cases, (op, block, zero_points), model, {"x": x}, want, kernels)
    cases.finish(name, at_least=100)


def check_packed(cases: Cases, case: object, model: onnx.ModelProto, most: float) -> None:
    """At most `most` of the bytes of its float weights, which nobody makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Coded, "floats", lambda _: pytest.fail(f"{case} was made floats"))
        explanation = qrt.load(model).explain()
    nbytes = explanation.constants_nbytes
    cases.check((case, "bytes"), "" if nbytes <= most else f"{nbytes} bytes, more than {most}")


def test_blocks_of_any_form_stay_packed() -> None:
    """Blocks along the columns, or of no multiple of 16; a Conv, its kernel in blocks or not, also
    where a Reshape made it of a matrix; Gemm with alpha, transA and a computed bias."""
    rng = np.random.default_rng(931)
    cases = Cases()
    k, n = 96, 160
    codes = k * n // 2
    x = rng.standard_normal((3, k)).astype(F)
    for block, axis in ((16, 1), (5, 0), (24, 0), (0, 0)):
        table = draw(rng, (k, n), "int4", axis, block, zero_points=True)
        nodes, constants = table.constants()
        nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"]))
        model = model_of(nodes, (3, k), (3, n), constants, OPSET)
        want = floats.matmul(x, table.real)
        check(cases, (block, axis), model, {"x": x}, want, ("gemm_unpack", "gemm_f32"))
        check_packed(cases, (block, axis), model, codes + 8 * table.scale.size + 4000)
    table = draw(rng, (k, n), "int4", 0, 32, zero_points=True)
    nodes, constants = table.constants()
    c = rng.standard_normal((3, n)).astype(F)
    nodes += [
        helper.make_node("Split", ["x", "widths"], ["c", "b"], axis=1),
        helper.make_node("Transpose", ["b"], ["a"], perm=[1, 0]),
        helper.make_node("Gemm", ["a", "w", "c"], ["y"], alpha=0.5, beta=2.0, transA=1),
    ]
    constants.append(numpy_helper.from_array(np.array([n, k]), "widths"))
    fed = np.concatenate([c, x], axis=1)
    model = model_of(nodes, fed.shape, (3, n), constants, OPSET)
    want = floats.matmul(x, table.real, 0.5) + F(2) * c
    check(cases, "Gemm", model, {"x": fed}, want, ("gemm_unpack", "gemm_f32"))
    for axis, block in ((1, 16), (0, 32), (0, 0)):
        table = draw(rng, (64, 128), "uint4", axis, block, zero_points=True)
        nodes, constants = table.constants()
        constants.append(numpy_helper.from_array(np.array([64, 128, 1, 1]), "shape"))
        nodes.append(helper.make_node("Reshape", ["w", "shape"], ["k"]))
        nodes.append(helper.make_node("Conv", ["x", "k"], ["y"]))
        image = rng.standard_normal((1, 128, 4, 3)).astype(F)
        kernel = table.real.reshape(64, 128, 1, 1)
        want = floats.conv(image, kernel, None, (1, 1), (0,) * 4, (1, 1), 1)
        model = model_of(nodes, image.shape, (1, 64, 4, 3), constants, OPSET)
        check(cases, ("conv", axis), model, {"x": image}, want, ("gemm_unpack", "gemm_f32"))
        check_packed(cases, ("conv", axis), model, 64 * 64 + 8 * table.scale.size + 4000)
    cases.finish("packed", at_least=30)


def test_what_is_not_worth_packing() -> None:
    """A table that is small, or whose scales are as many as its floats, is floats; `explain` says
    so."""
    rng = np.random.default_rng(936)
    cases = Cases()
    for k, block, why in ((16, 16, "are not worth packing"), (96, 2, "packed with their scales")):
        table = draw(rng, (k, 64), "int4", 0, block, zero_points=True)
        nodes, constants = table.constants()
        x = rng.standard_normal((3, k)).astype(F)
        gemm = helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5)
        model = model_of([*nodes, gemm], (3, k), (3, 64), constants, OPSET)
        want = floats.matmul(x, table.real, 0.5)
        check(cases, k, model, {"x": x}, want, ("gemm_f32",))
        notes = " ".join(row.note for row in qrt.load(model).explain())
        cases.check(k, "" if why in notes else f"explain says {notes!r}")
    cases.finish("floats", at_least=8)


OTHERS = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn",
          "int16", "uint16")  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_types_stay_packed(name: str) -> None:
    """Small floats and 16 bits, one scale a column or in blocks; nothing but the product runs."""
    rng = np.random.default_rng(935)
    cases = Cases()
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    bits = 4 if name.startswith("float4") else 16 if name.endswith("16") else 8
    for block in (0, 32):
        values = rng.standard_normal((128, 96)) * (1 if name.startswith("float") else 1000)
        q = np.abs(values).astype(dtype)
        scale = (rng.random((4, 96) if block else 96) + 0.1).astype(F)
        real = q.astype(F) * (np.repeat(scale, block, 0) if block else scale)
        nodes = [
            helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0 if block else 1,
                             block_size=block),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ]  # fmt: skip
        constants = [numpy_helper.from_array(q, "q"), numpy_helper.from_array(scale, "s")]
        model = model_of(nodes, (3, 128), (3, 96), constants, 23)
        x = rng.standard_normal((3, 128)).astype(F)
        check(cases, block, model, {"x": x}, floats.matmul(x, real), ("gemm_unpack", "gemm_f32"))
        check_packed(cases, block, model, q.size * bits // 8 + 4 * scale.size + 3000)
        rows = [row for row in qrt.load(model).explain() if row.kernels]
        cases.check(block, "" if len(rows) == 1 else f"{len(rows)} rows run")
    cases.finish(name, at_least=8)


def test_infinities_are_floats_at_build() -> None:
    """Codes of NaN and infinity, which no kernel knows: the definition, once."""
    rng = np.random.default_rng(937)
    q = np.abs(rng.standard_normal((128, 40))).astype(ml_dtypes.float8_e5m2)
    q[3, 4], q[5, 6] = np.inf, np.nan
    scale = np.ones(40, F)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    constants = [numpy_helper.from_array(q, "q"), numpy_helper.from_array(scale, "s")]
    x = np.ones((1, 128), F)
    (got,) = qrt.load(model_of(nodes, (1, 128), (1, 40), constants, 23)).run(None, {"x": x})
    assert np.isinf(got[0, 4]) and np.isnan(got[0, 6]) and np.isfinite(got[0, 7:]).all()


def test_small_floats_have_no_zero_point() -> None:
    one = np.ones((2, 96)).astype(ml_dtypes.float8_e4m3fn)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], "dq", axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    arrays = {"q": one.repeat(32, 0), "s": np.ones((2, 96), F), "z": one}
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    with pytest.raises(QrtError, match=r"'dq' \(#0\): the zero point of float8_e4m3fn must be 0"):
        qrt.load(model_of(nodes, (1, 64), (1, 96), constants, 23))


def gather_model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], dtype: Any,
                 count: int, columns: int) -> onnx.ModelProto:  # fmt: skip
    """From `i` (2, count) to y."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [
        helper.make_tensor_value_info("i", element, (2, count)),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, count, columns)),
    ]
    graph = helper.make_graph(nodes, "gather", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("name", TYPES)
def test_gather(name: str) -> None:
    rng = np.random.default_rng(932)
    cases = Cases()
    for block, zero_points, dtype in combinations((0, 16, 32), (False, True), (np.int32, np.int64)):
        table = draw(rng, (50, 40), name, 1 if block else 0, block, zero_points=zero_points)
        nodes, constants = table.constants()
        nodes.append(helper.make_node("Gather", ["w", "i"], ["y"], "gather"))
        model = gather_model(nodes, constants, dtype, 7, 40)
        indices = rng.integers(-50, 50, (2, 7)).astype(dtype)
        want = table.real[indices]
        check(cases, (block, zero_points), model, {"i": indices}, want, ("gather_codes",))
    cases.finish(name, at_least=30)


def block_quantized(
    data: Array, scales: Array, zero_points: Array | None, count: int, columns: int, **attrs: Any
) -> onnx.ModelProto:
    """GatherBlockQuantized 'gather' of indices `i` (2, count)."""
    given = [("d", data), ("s", scales)]
    names = ["d", "i", "s"]
    if zero_points is not None:
        given.append(("z", zero_points))
        names.append("z")
    node = helper.make_node(
        "GatherBlockQuantized", names, ["y"], "gather", domain="com.microsoft", **attrs
    )
    constants = [numpy_helper.from_array(array, name) for name, array in given]
    return gather_model([node], constants, np.int64, count, columns)


def test_gather_block_quantized() -> None:
    """int4, uint4 and packed bytes of 4 and 8 bits; ONNX Runtime agrees."""
    rng = np.random.default_rng(933)
    cases = Cases()
    indices = {"i": rng.integers(-50, 50, (2, 7))}
    compared = 0
    for kind, block, zeros in combinations(("int4", "uint4", 4, 8), (16, 64), (False, True)):
        columns = 96
        blocks = -(-columns // block)
        bits = kind if isinstance(kind, int) else 4
        scales = (rng.random((50, blocks)) + 0.1).astype(F)
        if isinstance(kind, int):
            data = rng.integers(0, 256, (50, columns * bits // 8), dtype=np.uint8)
            points = rng.integers(0, 256, (50, -(-blocks * bits // 8)), dtype=np.uint8)
            unpack = [data & 15, data >> 4] if bits == 4 else [data]
            q = np.stack(unpack, -1).reshape(50, columns).astype(np.int64)
            parts = [points & 15, points >> 4] if bits == 4 else [points]
            offsets = np.stack(parts, -1).reshape(50, -1)[:, :blocks].astype(np.int64)
            usual = 1 << bits - 1
        else:
            dtype = np.dtype(getattr(ml_dtypes, kind))
            low = -8 if kind == "int4" else 0
            q = rng.integers(low, low + 16, (50, columns))
            offsets = rng.integers(low, low + 16, (50, blocks))
            data, points, usual = q.astype(dtype), offsets.astype(dtype), 0
        if not zeros:
            offsets = np.full((50, blocks), usual)
        model = block_quantized(
            data, scales, points if zeros else None, 7, columns, block_size=block, bits=bits,
            gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        by_block = np.arange(columns) // block
        table = (q - offsets[:, by_block]).astype(F) * scales[:, by_block]
        want = table[indices["i"]]
        check(cases, (kind, block, zeros), model, indices, want, ("gather_codes",))
        theirs = onnxruntime_outputs(model, indices)
        if theirs is not None:
            compared += 1
            same = np.allclose(theirs["y"], want, rtol=1e-6, atol=1e-6)
            cases.check((kind, block, zeros, "onnxruntime"), "" if same else "differs")
    assert compared
    cases.finish("GatherBlockQuantized", at_least=40)


def test_other_axes() -> None:
    """int4 of three axes, gathered and quantized along any: floats at build."""
    rng = np.random.default_rng(934)
    cases = Cases()
    q = rng.integers(-8, 8, (6, 16, 32))
    indices = rng.integers(-6, 6, (2, 3))
    for gather_axis, quantize_axis in ((0, 1), (0, 2), (1, 2), (-3, -1)):
        blocks = [6, 16, 32]
        blocks[quantize_axis] = -(-blocks[quantize_axis] // 16)
        scales = (rng.random(blocks) + 0.1).astype(F)
        model = block_quantized(
            q.astype(ml_dtypes.int4), scales, None, 3, 1, block_size=16,
            gather_axis=gather_axis, quantize_axis=quantize_axis,
        )  # fmt: skip
        model.graph.output[0].type.tensor_type.ClearField("shape")
        by_block = np.arange(q.shape[quantize_axis]) // 16
        real = q.astype(F) * scales.take(by_block, quantize_axis)
        want = real.take(indices, gather_axis)
        got = run(model, {"i": indices})
        cases.check((gather_axis, quantize_axis), differences({"y": want}, got))
    cases.finish("axes", at_least=4)


S = np.ones((50, 2), F)
D = np.zeros((50, 16), np.uint8)
REFUSED: tuple[tuple[Array, Array, Array | None, dict[str, int], str], ...] = (
    (D, S, None, {"block_size": 0}, "block_size must be a power of two"),
    (D, S, None, {"block_size": 12}, "block_size must be a power of two"),
    (D, S[:, :1], None, {"block_size": 16}, "scales must have shape [50, 2]"),
    (D, S.astype(np.float64), None, {"block_size": 16}, "scales must be float32"),
    (D, S, None, {"block_size": 16, "bits": 3}, "data must be int4, uint4 or uint8"),
    (D.astype(np.int8), S, None, {"block_size": 16}, "data must be int4, uint4 or uint8"),
    (D, S, np.zeros((50, 2), np.int8), {"block_size": 16}, "zero_points must have the type"),
    (D, S, np.zeros((49, 1), np.uint8), {"block_size": 16}, "zero_points must have a value"),
    (D, S, None, {"block_size": 16, "gather_axis": 1}, "data of uint8 is gathered along axis 0"),
    (D, S, None, {"block_size": 16, "gather_axis": 5}, "axis must be within"),
)


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_bad_tables_are_refused(case: int) -> None:
    data, scales, zero_points, attrs, message = REFUSED[case]
    with pytest.raises(QrtError) as refusal:
        qrt.load(block_quantized(data, scales, zero_points, 7, 32, **attrs))
    assert message in str(refusal.value)
    assert "GatherBlockQuantized 'gather' (#0)" in str(refusal.value)


def test_bad_indices_end_the_run() -> None:
    session = qrt.load(block_quantized(D, S, None, 3, 32, block_size=16))
    for bad in (50, -51, 2**40, -(2**63)):
        with pytest.raises(KernelError, match="gather"):
            session.run(None, {"i": np.array([[0, 1, bad], [0, 0, 0]])})
