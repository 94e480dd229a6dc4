"""What quantization refuses: the same words from Python and from the command line, and no file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from cli_harness import DATA, qrt_command
from onnx import numpy_helper

import qrt
from qrt.errors import InputError, ModelError, QrtError, QuantizationError
from qrt.ptq.config import Grid, QuantConfig, config_of

Array = np.ndarray[Any, Any]
FLOAT, INT8 = DATA / "digits_fp32.onnx", DATA / "digits_int8.onnx"
with np.load(DATA / "digits_test.npz") as _arrays:
    X = _arrays["x"][:4, None].astype(np.float32) / np.float32(16)


def _with(value: float) -> Array:
    """Samples with one value at [2, 0, 3, 3]."""
    x = X.copy()
    x[2, 0, 3, 3] = value
    return x


class Bad(NamedTuple):
    """A call by recipe: what it is given, and what it must say. `data` None: no data."""

    says: str
    error: type[QrtError] = InputError
    recipe: str = "static"
    data: Array | None = X
    options: Mapping[str, Any] = MappingProxyType({})
    model: Path = FLOAT


BAD = {
    "empty": Bad("the calibration data are empty", data=X[:0]),
    "NaN": Bad("tensor 'image' in run 2 of the calibration data: 1 of 64 values are not finite;"
               " leave such samples out", QuantizationError, data=_with(np.nan)),
    "infinity": Bad("tensor 'image' in run 2", QuantizationError, data=_with(np.inf)),
    "overflow": Bad("are not finite; the float model overflows", QuantizationError,
                    data=X * np.float32(1e38)),
    "wrong size": Bad("run 0 of the calibration data has shape (1, 1, 3, 8) for input 'image',"
                      " which takes (batch, 1, 8, 8)", data=X[:, :, :3]),
    "no axis of samples": Bad("give array[None]", data=X[0]),
    "wrong dtype": Bad("input 'image': expected float32", data=X.astype(np.float64)),
    "one number": Bad("samples lie along the first axis", data=np.array(3.0, np.float32)),
    "constant": Bad("input 'image' is 0.5 everywhere", data=np.full_like(X, 0.5)),
    "no data": Bad("samples to see ranges on", data=None),
    "data in vain": Bad("takes no calibration data", recipe="float16"),
    **{f"quantized already, {recipe}": Bad(
        "the model is quantized already: it has DequantizeLinear 'depthwise.bias",
        ModelError, recipe, X if recipe == "static" else None, model=INT8)
       for recipe in ("static", "dynamic", "weights_int4")},
    "no scales": Bad("no scales to import", ModelError, "qat_import", None),
    "no such engine": Bad("an engine is one of", QuantizationError, options={"backend": "abacus"}),
    "no such rounding": Bad("rounding is one of nearest, gptq, learned, got 'x'", QuantizationError,
                            options={"rounding": "x"}),
    "no such form": Bad("form is one of qdq, qoperator", QuantizationError, options={"form": "x"}),
    "no such option": Bad("recipe dynamic has no option 'bits'", QuantizationError, "dynamic",
                          None, {"bits": 4}),
    "block of nothing": Bad("block_size must be at least 1, got 0", QuantizationError,
                            "weights_int4", None, {"block_size": 0}),
    "block too long": Bad("block_size 4096 fits no weight: the longest sum, of Gemm 'fc', has 48"
                          " terms; take up to 64", QuantizationError, "weights_int4", None,
                          {"block_size": 4096}),
    "block of no power": Bad("a power of two from 16 on, got 24", QuantizationError,
                             "weights_int4", None, {"block_size": 24, "form": "matmulnbits"}),
    "bits": Bad("bits are one of 2, 4, 8, got 3", QuantizationError, "weights_int4", None,
                {"bits": 3}),
    "method": Bad("method is one of", QuantizationError, "weights_int4", None, {"method": "x"}),
    "no such file": Bad("'absent.onnx' does not exist", ModelError, model=Path("absent.onnx")),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_calls_are_refused(name: str, tmp_path: Path) -> None:
    bad = BAD[name]
    with pytest.raises(bad.error) as raised:
        qrt.quantize(bad.model, bad.recipe, bad.data, **bad.options)
    assert bad.says in str(raised.value)
    argv: list[str | Path] = ["quantize", bad.model, "--recipe", bad.recipe]
    if bad.data is not None:
        np.save(tmp_path / "x.npy", bad.data)
        argv += ["--data", tmp_path / "x.npy"]
    for option, value in bad.options.items():
        argv += [f"--{option.replace('_', '-')}", str(value)]
    done = qrt_command(*argv, "-o", tmp_path / "out.onnx")
    assert done.code == 2
    assert bad.says in done.message
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: QuantConfig(activations=Grid(bits="8")), "bits must be 2 to 16, got '8'"),  # type: ignore[arg-type]
        (lambda: Grid(block_size=1.5), "block_size must be at least 1, got 1.5"),  # type: ignore[arg-type]
        (lambda: QuantConfig(op_types="Conv"), "op_types are names of operators"),  # type: ignore[arg-type]
        (lambda: QuantConfig(smooth="a"), "smooth lies between 0 and 1, got 'a'"),  # type: ignore[arg-type]
        (lambda: QuantConfig(op_rules={"Conv": Grid()}), "'Conv' in a config takes a Rule"),  # type: ignore[dict-item]
        (lambda: config_of(3), "a config is a QuantConfig or the name of a preset"),  # type: ignore[arg-type]
        (lambda: qrt.quantize_dynamic(FLOAT, op_types="Conv"), "op_types are names of operators"),
        (lambda: qrt.quantize_dynamic(FLOAT, op_types=["LSTM"]), "the model has no LSTM"),
        (lambda: qrt.quantize_static(FLOAT, X, QuantConfig(tensors={"zz": Grid()})),
         "the config names tensor 'zz', the model has none"),
        (lambda: qrt.quantize_static(FLOAT, X, QuantConfig(tensors={"stem": Grid()})),
         "gives tensor 'stem' a grid, but nothing rounds it"),
        (lambda: qrt.quantize_static(FLOAT, X, QuantConfig(tensors={"pool": Grid(bits=16)})),
         "gives tensor 'pool' a grid, but it has that of"),
        (lambda: qrt.quantize_static(FLOAT, X, QuantConfig(tensors={"fc.weight": Grid()})),
         "'fc.weight', a constant: `tensors` are activations"),
        (lambda: qrt.quantize_static(qrt.to_float16(FLOAT, form="full"), X),
         "its constants are float16"),
    ],
)  # fmt: skip
def test_bad_configs_are_refused(call: Callable[[], object], says: str) -> None:
    with pytest.raises(QuantizationError) as raised:
        call()
    assert says in str(raised.value)


@pytest.mark.parametrize("recipe", ["static", "dynamic", "weights_int4"])
def test_weights_that_are_not_finite_are_named(recipe: str) -> None:
    model = onnx.load(FLOAT)
    weights = next(t for t in model.graph.initializer if t.name == "wide.weight")
    array = numpy_helper.to_array(weights).copy()
    array[0, 0, 0, 0] = np.nan
    weights.CopyFrom(numpy_helper.from_array(array, "wide.weight"))
    with pytest.raises(QuantizationError, match=r"Conv 'wide': 1 of 4608 values of 'wide\.weight'"):
        qrt.quantize(model, recipe, X if recipe == "static" else None)


def test_what_is_stored_as_float16_can_be_quantized() -> None:
    made = qrt.quantize_dynamic(qrt.to_float16(FLOAT))
    assert "ConvInteger" in {node.op_type for node in made.graph.node}


def test_outputs_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    for out, says in (
        (tmp_path / "no" / "out.onnx", "there is no folder"),
        (folder, "it is there, and no file"),
        (pipe, "it is there, and no file"),
    ):
        # the model would be refused, too, but later
        done = qrt_command("quantize", INT8, "--recipe", "dynamic", "-o", out)
        assert done.code == 2
        assert says in done.message
        assert str(out) in done.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]
    assert not list(folder.iterdir())
