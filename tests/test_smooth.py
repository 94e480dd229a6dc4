"""SmoothQuant: wide channels of activations go into the weights, and the model stays the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import qrt
from qrt.api.quantization import run_float
from qrt.errors import QuantizationError
from qrt.ptq.config import QuantConfig
from qrt.ptq.prepare import prepare
from qrt.ptq.smooth import smooth_by_data, smoothing_scales

Array = np.ndarray[Any, Any]
# of a transformer: normalization in front of attention and of two linear layers
BEFORE = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[n,8,16] x, float[16] g1, float[16] s1, float[16] g2, float[16] s2, float[16,16] q,
       float[16,16] k, float[16,16] v, float[16,16] o, float[16,32] up, float[32] bias,
       float[32,16] down) => (float[n,8,16] y) {
    l = LayerNormalization (x, g1, s1)
    lq = MatMul (l, q)
    lk = MatMul (l, k)
    lv = MatMul (l, v)
    t = Transpose <perm=[0,2,1]> (lk)
    scores = MatMul (lq, t)
    p = Softmax (scores)
    c = MatMul (p, lv)
    co = MatMul (c, o)
    r = Add (x, co)
    m = LayerNormalization (r, g2, s2)
    mu = MatMul (m, up)
    mb = Add (mu, bias)
    a = Relu (mb)
    ad = MatMul (a, down)
    y = Add (r, ad)
}"""
# normalization behind the residual paths, which read it, too
BEHIND = BEFORE.replace("r = Add (x, co)", "r = Add (l, co)").replace("y = Add (r", "y = Add (m")
WIDE = (3, 11)  # channels of the normalizations that are wide


def _block(text: str, factor: float) -> onnx.ModelProto:
    """The block of `text`; what products read of two channels is `factor` times as wide, and their
    weights as much narrower, so that the products are the same for every factor."""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for value in model.graph.input[1:]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        scale = 0.1 if len(shape) == 1 else shape[0] ** -0.5
        arrays[value.name] = rng.normal(0, scale, shape)
    for g, s, readers in (("g1", "s1", "qkv"), ("g2", "s2", ("up",))):
        arrays[g] += 1
        for channel in WIDE:
            for name in (g, s):
                arrays[name][channel] *= factor
            for name in readers:
                arrays[name][channel] /= factor
    del model.graph.input[1:]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()
    )
    return model


X = np.random.default_rng(1).standard_normal((48, 8, 16)).astype(np.float32)
SEEN, UNSEEN = X[:24], X[24:]


def _sqnr(model: onnx.ModelProto, **options: Any) -> float:
    """Of the quantized block, in dB."""
    made = qrt.quantize_static(model, SEEN, QuantConfig(op_types=("MatMul",), **options))
    onnx.checker.check_model(made, full_check=True)
    (want,) = ReferenceEvaluator(model).run(None, {"x": UNSEEN})
    (got,) = qrt.load(made).run(None, {"x": UNSEEN})
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    (theirs,) = ort.InferenceSession(made.SerializeToString()).run(None, {"x": UNSEEN})
    error = float(((got - want) ** 2).sum())
    assert ((theirs - got) ** 2).sum() < 0.1 * error
    return 10 * float(np.log10((want**2).sum() / error))


def test_outliers_cost_nothing_where_they_are_smoothed() -> None:
    good, bad = _block(BEFORE, 1), _block(BEFORE, 40)
    assert _sqnr(bad) < _sqnr(good) - 10
    assert _sqnr(bad, smooth=0.5) > _sqnr(good) - 1


@pytest.mark.parametrize("text", [BEFORE, BEHIND])
def test_smoothed_models_are_the_same(text: str) -> None:
    model = _block(text, 40)
    draft = prepare(model)
    feeds = [{"x": x[None]} for x in SEEN]
    changed = smooth_by_data(draft, QuantConfig(smooth=0.5), feeds, run_float)
    assert len(changed) >= 2
    made = draft.model()
    (want,) = ReferenceEvaluator(model).run(None, {"x": UNSEEN})
    (got,) = ReferenceEvaluator(made).run(None, {"x": UNSEEN})
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    normal = sum(node.op_type == "LayerNormalization" for node in made.graph.node)
    assert normal == (2 if text == BEFORE else 4)


def test_what_gains_little_stays() -> None:
    model = _block(BEHIND, 1)
    draft = prepare(model)
    before = draft.model()
    feeds = [{"x": x[None]} for x in SEEN]
    changed = smooth_by_data(draft, QuantConfig(smooth=0.5), feeds, run_float)
    assert "LayerNormalization" not in {draft.producers()[name].op_type for name in changed}
    made = draft.model()
    assert len(made.graph.node) == len(before.graph.node)


def test_scales_are_those_of_the_paper() -> None:
    width, weights = np.array([4.0, 1.0, 0.0, 9.0]), np.array([1.0, 4.0, 2.0, 1.0])
    for alpha in (0.0, 0.5, 1.0):
        scales = smoothing_scales(width, weights, alpha)
        want = width[[0, 1, 3]] ** alpha / weights[[0, 1, 3]] ** (1 - alpha)
        ratio = scales[[0, 1, 3]] / want
        assert np.allclose(ratio, ratio[0])
        assert scales[2] == 1
    with pytest.raises(QuantizationError, match="between 0 and 1"):
        QuantConfig(smooth=1.5)
