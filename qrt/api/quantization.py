"""`qrt.quantize_static` and its kin: float models to standard ONNX with small integers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qrt.api.images import open_samples
from qrt.api.loading import load

if TYPE_CHECKING:
    import onnx

    from qrt.api.loading import Model
    from qrt.ptq.config import QuantConfig
    from qrt.ptq.samples import Feeds


def quantize_static(
    model: Model,
    calibration_data: Any,
    config: QuantConfig | str | None = None,
    *,
    form: str = "qdq",
    progress: Callable[[int], None] = lambda done: None,
) -> onnx.ModelProto:
    """A static model of float `model`, its ranges seen while qrt runs it on `calibration_data`.

    calibration_data: an array of samples (first axis), a dict of them by input, an .npy or .npz
    file, a folder of .npz files or of images (an `ImageFolder` says how these are scaled), or an
    iterable of feeds; some hundred samples do. config: a `QuantConfig` or the name of a preset
    (`qrt.ptq.config.PRESETS`). form: "qdq" puts QuantizeLinear and DequantizeLinear around float
    operators; "qoperator" writes QLinearConv, QLinearMatMul and com.microsoft's QGemm, QLinearAdd,
    ... where there is one of 8 bits. `progress` is told how many runs are done.

    Raises ModelError for a model that is quantized already, InputError for data that are empty or
    do not fit, QuantizationError for values that are not finite and names that are not there.
    """
    from qrt.ptq.static import quantize_static as recipe

    return recipe(model, _samples(calibration_data), config, run_float, progress, form)


def quantize_dynamic(
    model: Model,
    *,
    op_types: Sequence[str] = ("Conv", "Gemm", "MatMul", "LSTM"),
    weight_dtype: str = "int8",
    per_channel: bool = False,
) -> onnx.ModelProto:
    """`model` with 8-bit weights, its activations quantized by their own range at every run.

    Raises ModelError for a model that is quantized already, QuantizationError when there is nothing
    to quantize or `weight_dtype` is neither "int8" nor "uint8".
    """
    from qrt.ptq.dynamic import quantize_dynamic as recipe

    return recipe(model, op_types, weight_dtype, per_channel)


def quantize_weights(
    model: Model,
    bits: int = 4,
    block_size: int = 32,
    *,
    method: str | None = None,
    symmetric: bool = True,
    form: str = "blocked",
    calibration_data: Any = None,
) -> onnx.ModelProto:
    """`model` with weights of few bits in blocks, activations float.

    method: "rtn" rounds to the nearest, "mse" and "hqq" choose better grids, "gptq" also lets later
    columns make up for what rounding did to `calibration_data`, "learned" learns on them which way
    each weight is rounded; these two correct biases, too. By default "learned" with data, "mse"
    without. form: "blocked" writes DequantizeLinear with blocks (opset 21), "matmulnbits"
    com.microsoft's operator.
    """
    from qrt.ptq.weights import quantize_weights as recipe

    return recipe(
        model, bits, block_size, method=method, symmetric=symmetric, form=form,
        data=_samples(calibration_data), runner=run_float,
    )  # fmt: skip


def import_qat(
    model: Model,
    calibration_data: Any = None,
    *,
    form: str = "qdq",
    progress: Callable[[int], None] = lambda done: None,
) -> onnx.ModelProto:
    """A model trained with quantization (QDQ with learned scales) with its weights as integers.

    Its scales stay as they are, bit for bit; biases become int32. Nothing else is rounded unless
    there are calibration data, on which the ranges of what has no scale are seen. Raises ModelError
    for a model without scales.
    """
    from qrt.ptq.qat import import_qat as recipe

    return recipe(model, _samples(calibration_data), run_float, progress, form)


def to_float16(
    model: Model, *, form: str = "weights", keep_io: bool = True, keep: Sequence[str] = ()
) -> onnx.ModelProto:
    """`model` in float16: about half the bytes.

    form: "weights" stores constants as float16 behind a Cast and computes in float32, as fast as
    before; "full" also computes in float16, which accelerators want (here such operators run on
    the host, slowly). keep_io: inputs and outputs stay float32 ("full" only). keep: operators, or
    patterns of node names, that stay float32 with their constants.

    Values beyond float16 become its largest, with a warning that names the tensor. Raises
    QuantizationError for NaN among constants, and when there is nothing to convert.
    """
    from qrt.ptq.float16 import to_float16 as recipe

    return recipe(model, form, keep_io, keep)


def _samples(data: Any) -> Any:
    """Calibration data as the recipes take them: a path is opened."""
    return open_samples(data) if isinstance(data, (str, os.PathLike)) else data


def run_float(model: onnx.ModelProto) -> Callable[[Feeds], Sequence[Any]]:
    """A function that runs `model` on feeds."""
    session = load(model)
    return lambda feeds: session.run(None, dict(feeds))
