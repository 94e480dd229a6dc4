"""Recurrent layers of the zoo: an LSTM and a GRU of width 256, 64 steps of one sequence."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from bench.zoo_builder import checked_model

STEPS, WIDTH = 64, 256


def lstm_dynamic(seed: int = 0) -> ModelProto:
    """com.microsoft DynamicQuantizeLSTM: int8 weights per tensor, what quantize_dynamic makes."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[Any]] = {}
    for name in "WR":
        real = rng.uniform(-1, 1, (1, WIDTH, 4 * WIDTH)) / np.sqrt(WIDTH)
        scale = np.float32(np.abs(real).max() / 127)
        arrays[name] = np.round(real / scale).astype(np.int8)
        arrays[f"{name}_scale"] = np.full(1, scale)
        arrays[f"{name}_zero_point"] = np.zeros(1, np.int8)
    arrays["B"] = rng.uniform(-0.1, 0.1, (1, 8 * WIDTH)).astype(np.float32)
    rest = ["W_scale", "W_zero_point", "R_scale", "R_zero_point"]
    inputs = ["input", "W", "R", "B", "", "", "", "", *rest]
    return _model("DynamicQuantizeLSTM", "com.microsoft", inputs, arrays, 4)


def gru(seed: int = 0) -> ModelProto:
    """GRU in float32; quantizers leave it so."""
    rng = np.random.default_rng(seed)
    bound = 1 / np.sqrt(WIDTH)
    arrays: dict[str, NDArray[Any]] = {
        "W": rng.uniform(-bound, bound, (1, 3 * WIDTH, WIDTH)).astype(np.float32),
        "R": rng.uniform(-bound, bound, (1, 3 * WIDTH, WIDTH)).astype(np.float32),
        "B": rng.uniform(-0.1, 0.1, (1, 6 * WIDTH)).astype(np.float32),
    }
    return _model("GRU", "", ["input", *arrays], arrays, 3, linear_before_reset=1)


def _model(
    op: str,
    domain: str,
    inputs: list[str],
    arrays: dict[str, NDArray[Any]],
    gates: int,
    **attrs: Any,
) -> ModelProto:
    """A model of one layer; all its steps are the output."""
    node = helper.make_node(
        op, inputs, ["output"], op.lower(), domain=domain, hidden_size=WIDTH, **attrs
    )
    x = helper.make_tensor_value_info("input", TensorProto.FLOAT, (STEPS, 1, WIDTH))
    y = helper.make_tensor_value_info("output", TensorProto.FLOAT, (STEPS, 1, 1, WIDTH))
    initializers = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    graph = helper.make_graph([node], op.lower(), [x], [y], initializers)
    return checked_model(graph, STEPS * gates * WIDTH * 2 * WIDTH, domain)
