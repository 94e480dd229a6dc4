"""Gelu, LayerNormalization and RMSNormalization from their parts, as exporters spell them: what
becomes one operator, what does not, and that both give what onnx.reference gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import qrt
from tests.graphs.draw import Array
from tests.sessions import Cases

SHAPE = (2, 7, 48)
CONSTANTS = {
    "root2": np.float32(np.sqrt(2)),
    "rsqrt2": np.float32(np.sqrt(0.5)),
    "half": np.full((1, 1, 1), 0.5, np.float32),
    "two": np.float32(2),
    "three": np.float32(3),
    "one": np.float32(1),
    "minus_half": np.float32(-0.5),
    "cubic": np.float32(0.044715),
    "rate": np.float32(np.sqrt(2 / np.pi)),
    "wrong": np.float32(0.51),
    "eps": np.float32(1e-5),
    "gain": np.linspace(0.5, 1.5, SHAPE[-1], dtype=np.float32),
    "shift": np.linspace(-1, 1, SHAPE[-1], dtype=np.float32),
    "flat": np.full(1, 1.25, np.float32),
    "last": np.array([-1], np.int64),
    "rows": np.array([1], np.int64),
}
ERF = "t = Div(x, root2) e = Erf(t) a = Add(e, one) "
TANH = "a = Add(one, f) "
INNER = "c = Mul(cubic, p) s = Add(x, c) t = Mul(s, rate) f = Tanh(t) "
CENTER = "m = ReduceMean(x, last) d = Sub(x, m) "
SQUARES = "q = Pow(d, two) v = ReduceMean(q, last) w = Add(v, eps) r = Sqrt(w) "
AFFINE = "g = Mul(n, gain) y = Add(shift, g)"

# what the operator is, "" where the parts stay apart, and the nodes
SPELLINGS: dict[str, tuple[str, str]] = {
    "erf, halved last": ("Gelu", ERF + "b = Mul(x, a) y = Mul(b, half)"),
    "erf, x halved": ("Gelu", ERF + "b = Mul(half, x) y = Mul(b, a)"),
    "erf, sum halved": ("Gelu", ERF + "b = Div(a, two) y = Mul(b, x)"),
    "erf of a product": (
        "Gelu", "t = Mul(rsqrt2, x) e = Erf(t) a = Add(one, e) b = Mul(x, a) y = Mul(half, b)",
    ),
    "erf, of a product itself": (
        "Gelu", "z = Mul(x, x) t = Div(z, root2) e = Erf(t) a = Add(e, one) b = Mul(z, a)"
        " y = Mul(b, half)",
    ),
    "erf, by 0.51": ("", ERF + "b = Mul(x, a) y = Mul(b, wrong)"),
    "erf of x / 2": ("", ERF.replace("root2", "two") + "b = Mul(x, a) y = Mul(b, half)"),
    "erf, read twice": ("", ERF + "b = Mul(x, a) h = Mul(b, half) y = Add(h, e)"),
    "tanh, power": ("Gelu", "p = Pow(x, three) " + INNER + TANH + "b = Mul(half, x) y = Mul(b, a)"),
    "tanh, products": (
        "Gelu", "z = Mul(x, x) p = Mul(x, z) " + INNER + TANH + "b = Mul(x, a) y = Mul(b, half)",
    ),
    "tanh, factored": (
        "Gelu", "z = Mul(x, x) c = Mul(cubic, z) s = Add(c, one) h = Mul(x, rate) t = Mul(h, s)"
        " f = Tanh(t) " + TANH + "b = Mul(x, a) y = Mul(b, half)",
    ),
    "layer, power": ("LayerNormalization", CENTER + SQUARES + "n = Div(d, r) " + AFFINE),
    "layer, two differences": (
        "LayerNormalization", CENTER + "k = Sub(x, m) q = Mul(k, k) v = ReduceMean(q, last)"
        " w = Add(eps, v) r = Sqrt(w) i = Reciprocal(r) n = Mul(i, d) " + AFFINE,
    ),
    "layer, without bias": (
        "LayerNormalization", CENTER + SQUARES + "i = Div(one, r) n = Mul(d, i) y = Mul(gain, n)",
    ),
    "layer, bare": ("LayerNormalization", CENTER + SQUARES + "y = Div(d, r)"),
    "layer, one gain": (
        "LayerNormalization", CENTER + SQUARES + "n = Div(d, r) y = Mul(n, flat)",
    ),
    "layer, other axis": ("", CENTER + SQUARES.replace("last", "rows") + "y = Div(d, r)"),
    "layer, mean read": ("", CENTER + SQUARES + "n = Div(d, r) y = Add(n, m)"),
    "root mean square": (
        "RMSNormalization", "q = Mul(x, x) v = ReduceMean(q, last) w = Add(v, eps)"
        " i = Pow(w, minus_half) n = Mul(x, i) y = Mul(gain, n)",
    ),
    "root mean square, divided": (
        "RMSNormalization", "q = Pow(x, two) v = ReduceMean(q, last) w = Add(v, eps) r = Sqrt(w)"
        " y = Div(x, r)",
    ),
}  # fmt: skip


def _model(nodes: str) -> onnx.ModelProto:
    made = []
    for part in nodes.replace(") ", ");").split(";"):
        output, _, call = part.partition(" = ")
        op, _, operands = call.partition("(")
        made.append(onnx.helper.make_node(op, operands.rstrip(") ").split(", "), [output]))
    element = onnx.TensorProto.FLOAT
    read = {name for node in made for name in node.input}
    graph = onnx.helper.make_graph(
        made,
        "parts",
        [onnx.helper.make_tensor_value_info("x", element, ["batch", *SHAPE[1:]])],
        [onnx.helper.make_tensor_value_info("y", element, ["batch", *SHAPE[1:]])],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in CONSTANTS.items() if n in read],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])


def _input() -> Array:
    return (np.random.default_rng(0).standard_normal(SHAPE) * 2 + 0.5).astype(np.float32)


@pytest.mark.parametrize("family", ["Gelu", "Normalization"])
def test_parts(family: str) -> None:
    cases = Cases()
    x = _input()
    for name, (operator, nodes) in SPELLINGS.items():
        if ("Erf" in nodes or "Tanh" in nodes) != (family == "Gelu"):
            continue
        model = _model(nodes)
        (want,) = ReferenceEvaluator(model).run(None, {"x": x})
        session = qrt.load(model)
        (got,) = session.run(None, {"x": x})
        gap = np.abs(got - want).max() / np.abs(want).max()
        cases.check(name, f"{gap} apart" if gap > 1e-6 else None)
        ran = [op for row in session.explain() for op in (row.operator, *row.note.split())]
        fused = [op for op in ran if op in OPERATORS]
        wanted = [operator] if operator else []
        cases.check(f"{name}: operators", "" if fused == wanted else f"{fused}, not {wanted}")
    cases.finish(f"parts of {family}", at_least=16)


OPERATORS = {operator for operator, _ in SPELLINGS.values()}
