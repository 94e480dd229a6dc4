"""Recipes: what `qrt.quantize` and `qrt quantize` make of a model, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from qrt.api import quantization as api
from qrt.errors import InputError, QuantizationError
from qrt.ptq.config import PRESET_TEXTS, PRESETS, QuantConfig, config_of

if TYPE_CHECKING:
    import onnx

    from qrt.api.loading import Model

Progress = Callable[[int], None]
NEEDED, USED, UNUSED = "needed", "used", "unused"


@dataclass(frozen=True)
class Recipe:
    """`call` takes the model, data, progress and options. `data` says whether it takes any."""

    what: str
    data: str
    options: tuple[str, ...]
    call: Callable[[Model, Any, Progress, Mapping[str, Any]], onnx.ModelProto]


def quantize(
    model: Model,
    recipe: str = "static",
    data: Any = None,
    *,
    progress: Progress = lambda done: None,
    **options: Any,
) -> onnx.ModelProto:
    """`model` by a recipe of `RECIPES`, as standard ONNX.

    data: samples for calibration, see `quantize_static`. options: those of the recipe; of a static
    one the fields of `QuantConfig` and `form`. Raises InputError when data are missing, or not
    wanted, QuantizationError for a recipe or an option that is none, and what the recipe raises.
    """
    if recipe not in RECIPES:
        raise QuantizationError(f"a recipe is one of {', '.join(RECIPES)}, got {recipe!r}")
    chosen = RECIPES[recipe]
    if chosen.data == NEEDED and data is None:
        raise InputError(f"recipe {recipe} needs calibration data: samples to see ranges on")
    if chosen.data == UNUSED and data is not None:
        raise InputError(f"recipe {recipe} takes no calibration data")
    for option in options:
        if option not in chosen.options:
            raise QuantizationError(
                f"recipe {recipe} has no option {option!r}, only"
                f" {', '.join(chosen.options) or 'none at all'}"
            )
    return chosen.call(model, data, progress, options)


def _static(preset: str) -> Recipe:
    def call(
        model: Model, data: Any, progress: Progress, options: Mapping[str, Any]
    ) -> onnx.ModelProto:
        changes = {name: value for name, value in options.items() if name != "form"}
        config, form = config_of(preset, **changes), options.get("form", "qdq")
        return api.quantize_static(model, data, config, form=form, progress=progress)

    names = ("form", *(field.name for field in fields(QuantConfig)))
    return Recipe(PRESET_TEXTS[preset], NEEDED, names, call)


def _dynamic(
    model: Model, data: Any, progress: Progress, options: Mapping[str, Any]
) -> onnx.ModelProto:
    return api.quantize_dynamic(model, calibration_data=data, **options)


def _weights(
    model: Model, data: Any, progress: Progress, options: Mapping[str, Any]
) -> onnx.ModelProto:
    chosen = {"symmetric": options.get("method") != "hqq", **options}
    return api.quantize_weights(model, calibration_data=data, **chosen)


def _float16(
    model: Model, data: Any, progress: Progress, options: Mapping[str, Any]
) -> onnx.ModelProto:
    return api.to_float16(model, **options)


def _qat(
    model: Model, data: Any, progress: Progress, options: Mapping[str, Any]
) -> onnx.ModelProto:
    return api.import_qat(model, data, progress=progress, **options)


RECIPES: dict[str, Recipe] = {
    **{preset: _static(preset) for preset in PRESETS},
    "dynamic": Recipe(
        "int8 weights, rounded by data where there are any; activations quantized by their own"
        " range at every run",
        USED,
        ("op_types", "weight_dtype", "per_channel", "rounding"),
        _dynamic,
    ),
    "weights_int4": Recipe(
        "weights of few bits in blocks, activations float; rounded by data where there are any",
        USED,
        ("bits", "block_size", "method", "symmetric", "form", "reconstruct"),
        _weights,
    ),
    "qat_import": Recipe(
        "a model trained with quantization (QDQ): its own scales, weights as integers; data"
        " complete what has no scales",
        USED,
        ("form",),
        _qat,
    ),
    "float16": Recipe(
        "constants of half the bytes, no scales", UNUSED, ("form", "keep_io", "keep"), _float16
    ),
}
