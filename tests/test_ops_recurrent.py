"""RNN, GRU, LSTM: ONNX's equations row by row, onnxruntime, and the same bits at every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from contract import recurrent as oracle
from kernel_harness import new_value
from onnx import helper, numpy_helper
from operator_cases import Cases, constant, levels, within
from rivals import onnxruntime_outputs

import qrt
from qrt.errors import ModelError, UnsupportedError
from qrt.ir import Node, Value
from qrt.ops import dynamic_lstm, recurrent
from qrt.ops.recurrent_activations import ACTIVATIONS

Array = np.ndarray[Any, Any]
BACKWARD = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
FUNCTIONS: dict[str, Any] = {
    "Tanh": np.tanh,
    "Sigmoid": oracle.sigmoid,
    "Relu": lambda x: np.maximum(x, 0),
    "Affine": lambda x: 0.7 * x + 0.1,
    "LeakyRelu": lambda x: np.where(x < 0, 0.3 * x, x),
    "ThresholdedRelu": lambda x: np.where(x > 0.3, x, 0),
    "ScaledTanh": lambda x: 0.7 * np.tanh(0.1 * x),
    "HardSigmoid": lambda x: np.clip(0.7 * x + 0.1, 0, 1),
    "Elu": lambda x: np.where(x < 0, 0.3 * (np.exp(x) - 1), x),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Softplus": lambda x: np.log1p(np.exp(x)),
}
# of one activation; those with two constants take 0.7 and 0.1
ALPHAS = {"Affine": 0.7, "ScaledTanh": 0.7, "HardSigmoid": 0.7, "LeakyRelu": 0.3,
          "ThresholdedRelu": 0.3, "Elu": 0.3}  # fmt: skip
BETAS = {"Affine": 0.1, "ScaledTanh": 0.1, "HardSigmoid": 0.1}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
SIZES = ((1, 1, 1, 1), (3, 1, 5, 17), (4, 3, 7, 8), (2, 5, 16, 33))  # steps, batch, inputs, hidden
CLOSE = within(2e-5, 2e-6)  # a few ulp a step, over four steps


class Case:
    """Random operands of one layer, as the operator lists them."""

    def __init__(
        self, op: str, size: tuple[int, int, int, int], direction: str, seed: int, full: bool
    ) -> None:
        self.op, self.direction = op, direction
        steps, batch, inputs, n = self.size = size
        d, gates = len(BACKWARD[direction]), GATES[op]
        rng = np.random.default_rng(seed)

        def normal(*shape: int) -> Array:
            return (rng.standard_normal(shape) * 0.5).astype(np.float32)

        self.x = normal(steps, batch, inputs)
        self.w, self.r = normal(d, gates * n, inputs), normal(d, gates * n, n)
        self.b = normal(d, 2 * gates * n) if full else None
        self.lens = rng.integers(0, steps + 1, batch).astype(np.int32) if full else None
        self.h0 = normal(d, batch, n) if full else None
        self.c0 = normal(d, batch, n) if full and op == "LSTM" else None
        self.p = normal(d, 3 * n) if full and op == "LSTM" else None

    def attrs(self, **more: Any) -> dict[str, Any]:
        return {"hidden_size": self.size[3], "direction": self.direction, **more}

    def operands(self) -> list[Array | None]:
        every = [self.x, self.w, self.r, self.b, self.lens, self.h0]
        return [*every, self.c0, self.p] if self.op == "LSTM" else every

    def node(self, attrs: dict[str, Any], computed: bool = False) -> tuple[Node, list[Any]]:
        """The node, and what is fed: W, R, B, P are constants unless `computed`."""
        values: list[Value | None] = []
        fed: list[Array | None] = []
        for i, array in enumerate(self.operands()):
            fixed = i in (1, 2, 3, 7) and not computed
            if array is None:
                values.append(None)
            elif fixed:
                values.append(constant(array))
            else:
                values.append(new_value(f"i{i}", array.dtype, array.shape))
            fed.append(array)
        outputs = [new_value(f"y{i}", np.float32) for i in range(3 if self.op == "LSTM" else 2)]
        return Node(self.op, values, outputs, attrs, version=14), fed

    def want(self, names: tuple[str, ...], **more: Any) -> list[Array]:
        found = oracle.run(
            self.op, self.x, self.w, self.r, b=self.b, lens=self.lens, h0=self.h0, c0=self.c0,
            p=self.p, backward=BACKWARD[self.direction],
            functions=tuple(FUNCTIONS[name] for name in names), **more,
        )  # fmt: skip
        return [v.astype(np.float32) for v in found[: 3 if self.op == "LSTM" else 2]]


@pytest.mark.parametrize("direction", BACKWARD)
@pytest.mark.parametrize("op", GATES)
def test_equations_on_every_level(op: str, direction: str) -> None:
    spec = next(s for s in recurrent.SPECS if s.op == op)
    names = DEFAULTS[op] * len(BACKWARD[direction])
    flag = {"GRU": "linear_before_reset", "LSTM": "input_forget"}.get(op)
    with Cases(f"{op} {direction}") as cases:
        for number, size in enumerate(SIZES):
            for full in (False, True):
                case = Case(op, size, direction, number, full)
                more: dict[str, Any] = {"clip": 0.75} if full else {}
                if flag and number % 2:
                    more[flag] = 1
                node, fed = case.node(case.attrs(**more), computed=number == 2)
                want = case.want(names, **more)
                cases.node((size, full), spec, node, fed, want, CLOSE, specs=["portable", "", *(
                    levels() if number == 1 else ())])  # fmt: skip


def test_batch_comes_first_with_layout_1() -> None:
    with Cases("layout 1") as cases:
        for op in GATES:
            spec = next(s for s in recurrent.SPECS if s.op == op)
            case = Case(op, (3, 4, 5, 6), "bidirectional", 5, True)
            y, *states = case.want(DEFAULTS[op] * 2)
            want = [y.transpose(2, 0, 1, 3), *(s.swapaxes(0, 1) for s in states)]
            case.x = np.ascontiguousarray(case.x.swapaxes(0, 1))
            case.h0 = np.ascontiguousarray(case.h0.swapaxes(0, 1))  # type: ignore[union-attr]
            if case.c0 is not None:
                case.c0 = np.ascontiguousarray(case.c0.swapaxes(0, 1))
            node, fed = case.node(case.attrs(layout=1))
            cases.node(op, spec, node, fed, want, CLOSE, specs=["portable", ""])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    case = Case("RNN", (3, 2, 5, 19), "forward", 7, True)
    attrs = case.attrs(activations=[name.upper()])
    if name in ALPHAS:
        attrs["activation_alpha"] = [ALPHAS[name]]
    if name in BETAS:
        attrs["activation_beta"] = [BETAS[name]]
    node, fed = case.node(attrs)
    spec = next(s for s in recurrent.SPECS if s.op == "RNN")
    with Cases(name) as cases:
        cases.node(name, spec, node, fed, case.want((name,)), CLOSE, specs=["portable", ""])


def _model(
    case: Case, attrs: dict[str, Any], keep: tuple[bool, ...]
) -> tuple[bytes, dict[str, Array]]:
    names, feeds, made = [], {}, []
    for i, array in enumerate(case.operands()):
        names.append("" if array is None else f"i{i}")
        if array is None:
            continue
        if i in (1, 2, 3, 7):
            made.append(numpy_helper.from_array(array, f"i{i}"))
        else:
            feeds[f"i{i}"] = array
    outputs = [f"o{i}" if kept else "" for i, kept in enumerate(keep)]
    node = helper.make_node(case.op, names, outputs, **attrs)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    results = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs if n]
    graph = helper.make_graph([node], "g", inputs, results, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return model.SerializeToString(), feeds


@pytest.mark.session
@pytest.mark.parametrize("op", GATES)
def test_onnxruntime_agrees(op: str) -> None:
    outputs = 3 if op == "LSTM" else 2
    with Cases(op) as cases:
        for number, direction in enumerate(BACKWARD):
            for full in (False, True):
                case = Case(op, (5, 2, 7, 16), direction, number, full)
                if case.lens is not None:
                    case.lens = np.maximum(case.lens, 1)  # onnxruntime leaves length 0 undefined
                for keep in ((True,) * outputs, (False,) * (outputs - 1) + (True,)):
                    model, feeds = _model(case, case.attrs(), keep)
                    want = onnxruntime_outputs(onnx.load_from_string(model), feeds)
                    assert want is not None
                    got = qrt.load(model, threads=2).run(None, feeds)
                    for ours, theirs in zip(got, want.values(), strict=True):
                        cases.check((direction, full, keep), CLOSE(ours, theirs))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"hidden_size": 7}, ModelError, "W must be [1, 21, 5]"),
        ({"hidden_size": -1}, ModelError, "hidden_size must be positive"),
        ({"activations": ["Sigmoid"]}, ModelError, "activations must be 2"),
        ({"activations": ["Sigmoid", "Cube"]}, UnsupportedError, "Cube"),
        ({"clip": -1.0}, ModelError, "clip must not be negative"),
        ({"direction": "sideways"}, UnsupportedError, "sideways"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: dict[str, Any], error: type[Exception], says: str
) -> None:
    case = Case("GRU", (2, 1, 5, 6), "forward", 0, True)
    node, _ = case.node(case.attrs() | change)
    with pytest.raises(error) as raised:
        recurrent.infer(node)
    assert says in str(raised.value)


def test_operands_of_another_shape_are_refused() -> None:
    for i, says in ((3, "B must be"), (4, "sequence_lens must be"), (5, "initial_h must be")):
        case = Case("GRU", (2, 3, 5, 6), "forward", 0, True)
        node, _ = case.node(case.attrs())
        value = node.required(i)
        value.shape = (*value.static_shape[:-1], value.static_shape[-1] + 1)
        with pytest.raises(ModelError, match=says):
            recurrent.infer(node)


def _dynamic_case(
    size: tuple[int, int, int, int], direction: str, dtype: Any, per_column: bool, seed: int
) -> tuple[Node, list[Array | None]]:
    """A DynamicQuantizeLSTM with every optional operand, and what is fed."""
    case = Case("LSTM", size, direction, seed, True)
    rng = np.random.default_rng(seed)
    d, n = case.r.shape[0], size[3]
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    shape = (d, 4 * n) if per_column else (d,)
    extra = []
    for _ in "WR":
        extra.append(rng.uniform(0.001, 0.01, shape).astype(np.float32))
        extra.append(rng.integers(low, high + 1, shape).astype(dtype))
    w = rng.integers(low, high + 1, (d, size[2], 4 * n)).astype(dtype)
    r = rng.integers(low, high + 1, (d, n, 4 * n)).astype(dtype)
    arrays = [case.x, w, r, case.b, case.lens, case.h0, case.c0, case.p, *extra]
    values = [
        constant(a) if i in (1, 2, 3, 7) or i > 7 else new_value(f"i{i}", a.dtype, a.shape)
        for i, a in enumerate(arrays)
        if a is not None
    ]
    outputs = [new_value(f"y{i}", np.float32) for i in range(3)]
    attrs = case.attrs(clip=0.9)
    return Node("DynamicQuantizeLSTM", values, outputs, attrs, "com.microsoft"), arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_dynamically_quantized_lstm(dtype: Any) -> None:
    """The equations of LSTM on what plain NumPy makes of each operand's codes."""
    with Cases("DynamicQuantizeLSTM") as cases:
        for number, (direction, size) in enumerate(zip(BACKWARD, SIZES[1:], strict=True)):
            for per_column in (False, True):
                node, arrays = _dynamic_case(size, direction, dtype, per_column, number)
                want = _dynamic_by_hand(node, arrays)
                cases.node((size, per_column), dynamic_lstm.SPEC, node, arrays, want, CLOSE)


def _dynamic_by_hand(node: Node, arrays: list[Any]) -> list[Array]:
    """Step by step over all batch rows: the state's range is that of all of them."""
    x, w, r, b, lens, h0, c0, p, w_scale, w_zero, r_scale, r_zero = arrays
    steps, batch, _ = x.shape
    d, n, _ = r.shape
    back = {1: (node.attrs["direction"] == "reverse",), 2: (False, True)}[d]
    clip = node.attrs["clip"]

    def product(a: Array, q: Array, scale: Array, zero: Array) -> Array:
        a = a.astype(np.float32)
        low, high = min(np.float32(0), a.min()), max(np.float32(0), a.max())
        step = np.float32((high - low) / np.float32(255)) if high > low else np.float32(1)
        middle = np.rint(-low / step)
        codes = np.clip(np.rint(a / step) + middle, 0, 255) - middle
        sums = codes.astype(np.int64) @ (q.astype(np.int64) - zero.astype(np.int64))
        return np.asarray(sums.astype(np.float32) * (step * scale))

    def bound(v: Array) -> Array:
        return np.clip(v, -clip, clip)

    y = np.zeros((steps, d, batch, n))
    ends = [h0.astype(np.float64).copy(), c0.astype(np.float64).copy()]
    for k in range(d):
        xw = product(x, w[k], w_scale[k], w_zero[k])
        h, c = ends[0][k], ends[1][k]
        wb, rb = b[k].reshape(2, 4 * n)
        pi, po, pf = p[k].reshape(3, n)
        for t in range(steps)[:: -1 if back[k] else 1]:
            total = xw[t] + product(h, r[k], r_scale[k], r_zero[k]) + wb + rb
            i, o, f, new = np.split(total.astype(np.float64), 4, axis=1)
            i = oracle.sigmoid(bound(i + pi * c))
            c2 = oracle.sigmoid(bound(f + pf * c)) * c + i * np.tanh(bound(new))
            h2 = oracle.sigmoid(bound(o + po * c2)) * np.tanh(c2)
            on = (t < lens)[:, None]
            # the state is float32, and its codes are those of float32
            h = np.where(on, h2, h).astype(np.float32).astype(np.float64)
            c = np.where(on, c2, c)
            y[t, k] = np.where(on, h, 0)
        ends[0][k], ends[1][k] = h, c
    return [v.astype(np.float32) for v in (y, *ends)]


@pytest.mark.session
def test_onnxruntime_agrees_on_the_dynamic_lstm() -> None:
    from bench.zoo_recurrent import STEPS, WIDTH, lstm_dynamic

    model = lstm_dynamic()
    x = np.random.default_rng(0).standard_normal((STEPS, 1, WIDTH)).astype(np.float32)
    want = onnxruntime_outputs(model, {"input": x})
    assert want is not None
    (got,) = qrt.load(model).run(None, {"input": x})
    assert within(0, 1e-5)(got, want["output"]) is None


@pytest.mark.parametrize(
    ("which", "change", "says"),
    [
        (8, lambda a: a * 0, "W_scale must be positive"),
        (9, lambda a: a.astype(np.int16), "must be uint8 or int8"),
        (10, lambda a: a[:, :3], "R_scale must be"),
        (2, lambda a: a[:, :-1], "R must be"),
    ],
)
def test_dynamic_weights_that_do_not_fit_are_refused(which: int, change: Any, says: str) -> None:
    node, arrays = _dynamic_case((2, 1, 5, 6), "forward", np.int8, True, 0)
    node.inputs[which] = constant(change(arrays[which]))
    with pytest.raises(ModelError) as raised:
        dynamic_lstm.infer(node)
    assert says in str(raised.value)
