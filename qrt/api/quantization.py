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
    from qrt.ptq.target import TargetReport


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
    iterable of feeds; some hundred samples do. Without any, an `InputRanges` (qrt.ptq.expected):
    what BatchNormalization tells then stands in for them. config: a `QuantConfig` or the name of a
    preset (`qrt.ptq.config.PRESETS`). form: "qdq" puts QuantizeLinear and DequantizeLinear around
    float operators; "qoperator" writes QLinearConv, QLinearMatMul and com.microsoft's QGemm,
    QLinearAdd, ... where there is one of 8 bits. `progress` is told how many runs are done.

    Raises ModelError for a model that is quantized already, InputError for data that are empty or
    do not fit, QuantizationError for values that are not finite and names that are not there.
    """
    from qrt.ptq.expected import InputRanges
    from qrt.ptq.static import quantize_static as recipe
    from qrt.ptq.unseen import quantize_unseen

    if isinstance(calibration_data, InputRanges):
        return quantize_unseen(model, calibration_data, config, form)
    return recipe(model, _samples(calibration_data), config, run_float, progress, form)


def quantize_dynamic(
    model: Model,
    *,
    op_types: Sequence[str] = ("Conv", "Gemm", "MatMul", "LSTM"),
    weight_dtype: str = "int8",
    per_channel: bool = False,
    rounding: str | None = None,
    calibration_data: Any = None,
) -> onnx.ModelProto:
    """`model` with 8-bit weights, its activations quantized by their own range at every run.

    calibration_data, as `quantize_static` takes it, is not needed; where it is given, weights are
    rounded by it: "gptq" (the default then) or "learned", see `QuantConfig`.

    Raises ModelError for a model that is quantized already, QuantizationError when there is nothing
    to quantize, `weight_dtype` is neither "int8" nor "uint8", or `rounding` does not fit the data.
    """
    from qrt.ptq.dynamic import quantize_dynamic as recipe

    data = _samples(calibration_data)
    return recipe(model, op_types, weight_dtype, per_channel, rounding, data, run_float)


def quantize_weights(
    model: Model,
    bits: int = 4,
    block_size: int = 32,
    *,
    method: str | None = None,
    symmetric: bool = True,
    form: str = "blocked",
    calibration_data: Any = None,
    reconstruct: bool = False,
) -> onnx.ModelProto:
    """`model` with weights of few bits in blocks, activations float.

    method: "rtn" rounds to the nearest, "mse" and "hqq" choose better grids, "gptq" also lets later
    columns make up for what rounding did to `calibration_data`, "learned" learns on them which way
    each weight is rounded; these two correct biases, too. By default "gptq" with data, "mse"
    without. `reconstruct` then learns scales and biases on the data over the whole model, the float
    one its teacher. form: "blocked" writes DequantizeLinear with blocks (opset 21), "matmulnbits"
    com.microsoft's operator.
    """
    from qrt.ptq.weights import quantize_weights as recipe

    return recipe(
        model, bits, block_size, method=method, symmetric=symmetric, form=form,
        data=_samples(calibration_data), runner=run_float, reconstruct=reconstruct,
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


def quantize_to_target(
    model: Model,
    calibration_data: Any,
    target_drop: float,
    *,
    evaluate: Callable[[onnx.ModelProto], float] | None = None,
    labels: tuple[Any, Any] | None = None,
    config: QuantConfig | str | None = None,
    max_evaluations: int = 40,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[onnx.ModelProto, TargetReport]:
    """The cheapest static mix of int8, 16-bit activations and float within a drop of the score.

    The score is what `evaluate` says of a model, more is better; or, of `labels`, samples (as
    calibration_data) and their classes, the share whose class is the largest of the first output.
    `target_drop` is in its units: 0.003 of a share is 0.3 points. `config` is what 8 bits mean.
    Returns the model, and a report that says of every layer what it is and why; printed, a table.
    At most `max_evaluations` models are scored, so that labels which decide between them are no
    test of the result any more; `progress` is told each score.

    Raises as `quantize_static`, and QuantizationError for a score that is not finite.
    """
    from qrt.ptq.target import quantize_to_target as search

    if labels is not None:
        labels = _samples(labels[0]), labels[1]
    return search(
        model, _samples(calibration_data), target_drop, evaluate=evaluate, labels=labels,
        config=config, max_evaluations=max_evaluations, runner=run_float, progress=progress,
    )  # fmt: skip


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
