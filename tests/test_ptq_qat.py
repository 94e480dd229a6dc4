"""Models trained with quantization keep their scales; recipes by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_harness import DATA, qrt_command
from onnx import TensorProto, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

import qrt
from qrt.api.recipes import NEEDED, RECIPES
from qrt.errors import InputError, ModelError, QuantizationError
from qrt.ptq.config import PRESET_TEXTS, PRESETS
from qrt.ptq.qoperator import to_qoperator

Array = np.ndarray[Any, Any]
FLOAT = DATA / "digits_fp32.onnx"
with np.load(DATA / "digits_test.npz") as _arrays:
    X = _arrays["x"][:, None].astype(np.float32) / np.float32(16)

# as frameworks export it: float weights behind pairs (per channel, per tensor before a Transpose,
# and clipped to fewer integers), float biases, a pair in front of the output
TRAINED = """<ir_version: 9, opset_import: ["" : 19]>
g (float[N, 3, 8, 8] x) => (float[N, 5] y)
<float s_x = {0.0173}, uint8 z_x = {117}, float s_c = {0.0311}, uint8 z_c = {0},
 float s_r = {0.0277}, uint8 z_r = {0}, float s_d = {0.0491}, uint8 z_d = {121},
 float s_v = {0.0071}, int8 z_v = {0}, float s_y = {0.0613}, uint8 z_y = {133},
 int8 low = {-7}, int8 high = {7}> {
  x_q = QuantizeLinear (x, s_x, z_x)
  x_r = DequantizeLinear (x_q, s_x, z_x)
  w_q = QuantizeLinear <axis = 0> (w, s_w, z_w)
  w_r = DequantizeLinear <axis = 0> (w_q, s_w, z_w)
  c = Conv <kernel_shape = [3, 3]> (x_r, w_r, b)
  r = Relu (c)
  r_q = QuantizeLinear (r, s_r, z_r)
  r_r = DequantizeLinear (r_q, s_r, z_r)
  u_q = QuantizeLinear (u, s_u, z_u)
  u_c = Clip (u_q, low, high)
  u_r = DequantizeLinear (u_c, s_u, z_u)
  d = Conv <kernel_shape = [6, 6]> (r_r, u_r)
  d_q = QuantizeLinear (d, s_d, z_d)
  d_r = DequantizeLinear (d_q, s_d, z_d)
  f = Flatten (d_r)
  v_q = QuantizeLinear (v, s_v, z_v)
  v_r = DequantizeLinear (v_q, s_v, z_v)
  v_t = Transpose <perm = [1, 0]> (v_r)
  m = MatMul (f, v_t)
  a = Add (m, e)
  y_q = QuantizeLinear (a, s_y, z_y)
  y = DequantizeLinear (y_q, s_y, z_y)
}"""


def trained() -> onnx.ModelProto:
    """The model of `TRAINED` with random weights."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(TRAINED)
    arrays = {
        "w": rng.standard_normal((8, 3, 3, 3)) / 4, "b": rng.standard_normal(8),
        "s_w": rng.uniform(0.004, 0.008, 8), "u": rng.standard_normal((16, 8, 6, 6)) / 12,
        "s_u": np.array(0.02), "v": rng.standard_normal((5, 16)) / 3, "e": rng.standard_normal(5),
    }  # fmt: skip
    zeros = {"z_w": np.zeros(8, np.int8), "z_u": np.array(0, np.int8)}
    for name, array in ({n: a.astype(np.float32) for n, a in arrays.items()} | zeros).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    """The initializers."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def grids(model: onnx.ModelProto) -> set[tuple[bytes, bytes, str]]:
    """Scale, zero point and its type of every pair with 8-bit integers."""
    arrays = constants(model)
    found = set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = arrays[node.input[1]]
            stored = arrays.get(node.input[0], np.zeros((), np.uint8))
            zero_point = np.zeros(scale.shape, stored.dtype)
            if len(node.input) > 2:
                zero_point = arrays[node.input[2]]
            if zero_point.dtype.itemsize == 1:
                found.add((scale.tobytes(), zero_point.tobytes(), str(zero_point.dtype)))
    return found


def test_trained_scales_are_kept_bit_for_bit() -> None:
    model = trained()
    made = qrt.import_qat(model)
    onnx.checker.check_model(made, full_check=True)
    assert grids(made) == grids(model)
    floats = {n: a for n, a in constants(made).items() if a.dtype == np.float32 and a.ndim > 1}
    assert not floats
    stored = [a for a in constants(made).values() if a.dtype == np.int8 and a.ndim == 4]
    given = constants(model)
    for name, limit in (("w", 127), ("u", 7)):
        scale = given[f"s_{name}"].reshape(-1, 1, 1, 1)
        want = np.clip(np.rint(given[name] / scale), -limit - (limit > 7), limit).astype(np.int8)
        assert any(np.array_equal(want, codes) for codes in stored), name
    x = np.random.default_rng(1).standard_normal((6, 3, 8, 8)).astype(np.float32)
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    (ours,) = qrt.load(made).run(None, {"x": x})
    # int32 biases may move a value over to the next step, here and there
    steps = np.rint((ours - want) / np.float32(0.0613))
    assert np.abs(steps).max() <= 1
    assert (steps != 0).mean() <= 0.1
    explained = qrt.load(made).explain()
    kernels = [k for row in explained.rows for k in row.kernels]
    assert len([k for k in kernels if k.startswith(("gemm_u8", "gemm_s8"))]) == 3, kernels


def test_what_training_left_out_is_completed_by_data() -> None:
    model = trained()
    # neither the first convolution's weights nor its result have a scale
    gone = {"w_q", "w_r", "r_q", "r_r"}
    nodes = [node for node in model.graph.node if node.output[0] not in gone]
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = {"w_r": "w", "r_r": "r"}.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    x = np.random.default_rng(1).standard_normal((30, 3, 8, 8)).astype(np.float32)
    with pytest.warns(UserWarning, match="1 activations .* 'r' among them"):
        plain = qrt.import_qat(model)
    assert grids(plain) == grids(model)
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    (same,) = qrt.load(plain).run(None, {"x": x})
    assert np.abs(same - want).max() <= 0.0614
    made = qrt.import_qat(model, x)
    onnx.checker.check_model(made, full_check=True)
    assert len(grids(made) - grids(model)) == 2
    assert grids(model) < grids(made)
    (ours,) = qrt.load(made).run(None, {"x": x})
    assert np.abs(ours - want).max() <= 0.1 * np.abs(want).max()


def test_what_training_read_unrounded_stays_so() -> None:
    # x is rounded in two ways, and read as it is; so is c, an output besides
    model = parser.parse_model("""<ir_version: 9, opset_import: ["" : 19]>
    g (float[2, 6] x) => (float[2, 6] y, float[2, 6] c)
    <float s = {0.05}, uint8 z = {128}, float t = {0.5}, float s_w = {0.01}, int8 z_w = {0}> {
      x_q = QuantizeLinear (x, s, z)  x_r = DequantizeLinear (x_q, s, z)
      x_p = QuantizeLinear (x, t, z)  x_c = DequantizeLinear (x_p, t, z)
      w_q = QuantizeLinear (w, s_w, z_w)  w_r = DequantizeLinear (w_q, s_w, z_w)
      c = MatMul (x_r, w_r)
      c_q = QuantizeLinear (c, t, z)  c_r = DequantizeLinear (c_q, t, z)
      a = Add (c_r, x)  b = Mul (a, x_c)  y = Add (b, c)
    }""")
    rng = np.random.default_rng(2)
    w = rng.standard_normal((6, 6)).astype(np.float32) / 2
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    x = rng.standard_normal((2, 6)).astype(np.float32)
    want = ReferenceEvaluator(model).run(None, {"x": x})
    made = qrt.import_qat(model)
    assert grids(made) == grids(model)
    assert "Identity" not in {node.op_type for node in made.graph.node}
    for got, real in zip(qrt.load(made).run(None, {"x": x}), want, strict=True):
        assert np.abs(got - real).max() <= 1e-5 * np.abs(real).max()


def test_trained_models_in_qoperator_form() -> None:
    made = qrt.import_qat(trained(), form="qoperator")
    assert [n.op_type for n in made.graph.node].count("QLinearConv") == 2
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    (want,) = qrt.load(qrt.import_qat(trained())).run(None, {"x": x})
    assert np.array_equal(qrt.load(made).run(None, {"x": x})[0], want)
    with pytest.raises(ModelError, match="no scales to import"):
        qrt.import_qat(FLOAT)


# the other presets are those of test_ptq.py
@pytest.mark.parametrize("recipe", ["static", *sorted(RECIPES.keys() - PRESETS.keys())])
def test_recipes_by_name(recipe: str, tmp_path: Path) -> None:
    assert PRESET_TEXTS.keys() == PRESETS.keys() <= RECIPES.keys()
    source, out, samples = tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "x.npy"
    onnx.save(trained() if recipe == "qat_import" else onnx.load(FLOAT), source)
    np.save(samples, X[:20])
    data = ["--data", samples] if RECIPES[recipe].data == NEEDED else []
    done = qrt_command("quantize", source, "--recipe", recipe, "-o", out, *data, "--json")
    assert done.code == 0, done.err
    assert done.json["file_nbytes_after"] == out.stat().st_size < source.stat().st_size
    made = qrt.quantize(source, recipe, X[:20] if data else None)
    assert made == onnx.load(out)
    kinds = {t.data_type for t in made.graph.initializer}
    assert kinds & {TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT16}


def test_recipes_say_what_they_want() -> None:
    for call, error, says in (
        (lambda: qrt.quantize(FLOAT, "best"), QuantizationError, "a recipe is one of static, x86"),
        (lambda: qrt.quantize(FLOAT, "x86"), InputError, "x86 needs calibration data"),
        (lambda: qrt.quantize(FLOAT, "float16", X), InputError, "takes no calibration data"),
        (lambda: qrt.quantize(FLOAT, "dynamic", bits=3), QuantizationError, "no option 'bits'"),
        (lambda: qrt.quantize(FLOAT, "static", X, form="qgemm"), QuantizationError, "form is one"),
    ):
        with pytest.raises(error) as raised:
            call()
        assert says in str(raised.value)


# the others are like these, and large
@pytest.mark.shared("[a-o]*_qdq*", "pcb_cnn_qdq", "resnet8_qdq")
@pytest.mark.filterwarnings("ignore:.* have no scale")
def test_real_networks_come_through_unchanged(shared_model: Path) -> None:
    """Scales as they were, and the same bits of the outputs, in QDQ and in QOperator form."""
    with np.load(shared_model.with_suffix(".npz")) as stored:
        inputs = {k.removeprefix("in:"): stored[k] for k in stored.files if k.startswith("in:")}
    want = qrt.load(shared_model).run(None, inputs)
    made = qrt.import_qat(shared_model)
    assert grids(made) == grids(onnx.load(shared_model))
    for form in (made, to_qoperator(made)):
        for got, real in zip(qrt.load(form).run(None, inputs), want, strict=True):
            assert np.array_equal(got, real)
