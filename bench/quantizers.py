"""Ways to quantize a model, ours and onnxruntime's, as rows of one table.

A row is a name, the kind that says which bar holds for it, the engine that runs what comes out, and
a function from the float model and calibration samples to the quantized model.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import qrt
from qrt.ptq.config import PRESETS, WEIGHTS, QuantConfig
from qrt.ptq.rounding import BY_DATA
from qrt.ptq.weights import METHODS as WEIGHT_METHODS

Array = NDArray[Any]
Make = Callable[[Path, Array], onnx.ModelProto]
BLOCK = 32


@dataclass(frozen=True)
class Quantizer:
    """A row. `kind` is a key of `accuracy.BARS`; `engine` is qrt or onnxruntime."""

    name: str
    kind: str
    engine: str
    make: Make


def _static(config: QuantConfig | str) -> Make:
    return lambda model, x: qrt.quantize_static(model, x, config)


def _dynamic(per_channel: bool, rounding: str = "nearest") -> Make:
    return lambda model, x: qrt.quantize_dynamic(
        model, per_channel=per_channel, rounding=rounding,
        calibration_data=None if rounding == "nearest" else x,
    )  # fmt: skip


def _weights(method: str, symmetric: bool) -> Make:
    return lambda model, x: qrt.quantize_weights(
        model, 4, BLOCK, method=method, symmetric=symmetric, calibration_data=x
    )


def _nothing(model: Path, x: Array) -> onnx.ModelProto:
    return onnx.load(model)


_PER_TENSOR = replace(WEIGHTS, granularity="per_tensor")
# recipes that no preset stands for
CONFIGS = {
    "minmax per tensor": QuantConfig(weights=_PER_TENSOR),
    **{f"minmax {name}": QuantConfig(rounding=name) for name in BY_DATA},
    "minmax bias": QuantConfig(bias_correction=True),
    "minmax equalized per tensor": QuantConfig(weights=_PER_TENSOR, equalize=True),
}
OURS = (
    *(Quantizer(f"static {name}", "static", "qrt", _static(name)) for name in PRESETS),
    *(Quantizer(f"static {name}", "static", "qrt", _static(c)) for name, c in CONFIGS.items()),
    Quantizer("dynamic", "dynamic", "qrt", _dynamic(False)),
    Quantizer("dynamic per channel", "dynamic", "qrt", _dynamic(True)),
    *(
        Quantizer(f"dynamic per channel {name}", "dynamic", "qrt", _dynamic(True, name))
        for name in BY_DATA
    ),
    *(
        Quantizer(f"int4 {method}{'' if symmetric else ' asymmetric'}", "weights", "qrt",
                  _weights(method, symmetric))
        for method, symmetric in product((*WEIGHT_METHODS, *BY_DATA), (True, False))
    ),
)  # fmt: skip


def _ort_static(method: str, activations: str, weights: str, per_channel: bool) -> Make:
    def make(model: Path, x: Array) -> onnx.ModelProto:
        from onnxruntime import quantization as ort

        class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
            """Sample by sample."""

            def __init__(self, name: str) -> None:
                self._feeds = iter([{name: x[i : i + 1]} for i in range(len(x))])

            def get_next(self) -> dict[str, Array] | None:
                return next(self._feeds, None)

        with tempfile.TemporaryDirectory() as folder:
            source, out = _prepared(model, folder), Path(folder) / "out.onnx"
            ort.quantize_static(
                source, out, Reader(_input(source)),
                quant_format=ort.QuantFormat.QDQ,
                calibrate_method=getattr(ort.CalibrationMethod, method),
                activation_type=getattr(ort.QuantType, activations),
                weight_type=getattr(ort.QuantType, weights),
                per_channel=per_channel,
            )  # fmt: skip
            return onnx.load(out)

    return make


def _ort_dynamic(per_channel: bool, weights: str) -> Make:
    def make(model: Path, x: Array) -> onnx.ModelProto:
        from onnxruntime import quantization as ort

        with tempfile.TemporaryDirectory() as folder:
            source, out = _prepared(model, folder), Path(folder) / "out.onnx"
            ort.quantize_dynamic(
                source, out, per_channel=per_channel, weight_type=getattr(ort.QuantType, weights)
            )
            return onnx.load(out)

    return make


def _ort_nbits(symmetric: bool) -> Make:
    def make(model: Path, x: Array) -> onnx.ModelProto:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        made = MatMulNBitsQuantizer(
            onnx.load(model), block_size=BLOCK, is_symmetric=symmetric, bits=4
        )
        made.process()
        found: onnx.ModelProto = made.model.model
        return found

    return make


def _prepared(model: Path, folder: str) -> Path:
    """The model after onnxruntime's own preparation, as its guide asks; raised to opset 13 first,
    which weights per channel need."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, raised, out = onnx.load(model), Path(folder) / "raised.onnx", Path(folder) / "in.onnx"
    if next(o.version for o in source.opset_import if o.domain == "") < 13:
        source = onnx.version_converter.convert_version(source, 13)
    onnx.save(source, raised)
    quant_pre_process(raised, out, skip_symbolic_shape=True)
    return out


def _input(model: Path) -> str:
    graph = onnx.load(model).graph
    constants = {t.name for t in graph.initializer}
    return next(v.name for v in graph.input if v.name not in constants)


_SIGNS = {"U8S8": ("QUInt8", "QInt8"), "S8S8": ("QInt8", "QInt8"), "U8U8": ("QUInt8", "QUInt8")}
THEIRS = (
    *(
        Quantizer(
            f"ort static {method.lower()} {signs}{' per channel' if per_channel else ''}",
            "static", "onnxruntime", _ort_static(method, *_SIGNS[signs], per_channel),
        )
        for method, signs, per_channel in product(
            ("MinMax", "Percentile", "Entropy"), _SIGNS, (False, True)
        )
    ),
    *(
        Quantizer(f"ort dynamic {kind[1:]}{' per channel' if per_channel else ''}", "dynamic",
                  "onnxruntime", _ort_dynamic(per_channel, kind))
        for kind, per_channel in product(("QInt8", "QUInt8"), (False, True))
    ),
    *(
        Quantizer(f"ort int4{'' if symmetric else ' asymmetric'}", "weights", "onnxruntime",
                  _ort_nbits(symmetric))
        for symmetric in (True, False)
    ),
)  # fmt: skip
FLOAT = Quantizer("float", "float", "qrt", _nothing)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what onnxruntime's quantizer tells of every step; the table is what counts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)


def runner(engine: str, model: onnx.ModelProto) -> Callable[[Array], Array]:
    """A function from one sample (with its batch axis) to the model's first output."""
    if engine == "qrt":
        session = qrt.load(model)
        return lambda x: np.asarray(session(x))
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    rival = ort.InferenceSession(model.SerializeToString(), options)
    name = rival.get_inputs()[0].name
    return lambda x: np.asarray(rival.run(None, {name: x})[0])
