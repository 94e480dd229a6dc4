"""What to quantize and how: per model, per operator type, per name, per tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from qrt.errors import QuantizationError
from qrt.ptq.observers import OBSERVERS

GRANULARITIES = ("per_tensor", "per_channel", "per_block")
ROUNDINGS = ("nearest", "gptq", "learned")  # all but the first by data: functions in rounding.py


@dataclass(frozen=True)
class Grid:
    """How integers of a tensor are chosen. `observer` and its options count for activations."""

    bits: int = 8
    signed: bool = False
    symmetric: bool = False
    granularity: str = "per_tensor"
    block_size: int = 32
    observer: str = "minmax"

    def __post_init__(self) -> None:
        if type(self.bits) is not int or not 2 <= self.bits <= 16:
            raise QuantizationError(f"bits must be 2 to 16, got {self.bits!r}")
        if self.granularity not in GRANULARITIES:
            raise QuantizationError(
                f"granularity is one of {', '.join(GRANULARITIES)}, got {self.granularity!r}"
            )
        if type(self.block_size) is not int or self.block_size < 1:
            raise QuantizationError(f"block_size must be at least 1, got {self.block_size!r}")
        if self.observer not in OBSERVERS:
            raise QuantizationError(
                f"an observer is one of {', '.join(OBSERVERS)}, got {self.observer!r}"
            )


@dataclass(frozen=True)
class Rule:
    """What some nodes do otherwise; None leaves it as it was. `skip` leaves them in float."""

    activations: Grid | None = None
    weights: Grid | None = None
    skip: bool = False


ACTIVATIONS = Grid()
WEIGHTS = Grid(signed=True, symmetric=True, granularity="per_channel")


@dataclass(frozen=True)
class QuantConfig:
    """A whole recipe. Later rules win: `op_rules` by type, `name_rules` by pattern of node names.

    `tensors` gives single activations a grid by name. `op_types` are the operators to quantize
    (None: all that the backend runs in integers). `quantize_outputs` also quantizes what products
    give as graph outputs, which is otherwise left in float.

    `rounding` of weights is "nearest", "gptq" (one input after the other, each making up for the
    errors before it on the calibration data) or "learned" (up or down by what the layer then gives,
    AdaRound). `bias_correction` takes from each bias what quantization so far adds to the layer's
    mean on these data (Nagel et al. 2019, section 4.2); "learned" learns the bias as well.

    `reconstruct` then learns scales and biases on these data, over the whole model, the float one
    its teacher (reconstruct.py).

    `equalize` first scales channels of the float model, so that those which share a grid have the
    same range (equalize.py). `smooth`, 0 to 1, narrows wide channels of what linear products read
    by that much and widens their weights by the rest (SmoothQuant, smooth.py).
    """

    activations: Grid = ACTIVATIONS
    weights: Grid = WEIGHTS
    op_types: tuple[str, ...] | None = None
    op_rules: Mapping[str, Rule] = field(default_factory=dict)
    name_rules: Mapping[str, Rule] = field(default_factory=dict)
    tensors: Mapping[str, Grid] = field(default_factory=dict)
    backend: str = "qrt"
    quantize_outputs: bool = False
    rounding: str = "nearest"
    bias_correction: bool = False
    reconstruct: bool = False
    equalize: bool = False
    smooth: float | None = None

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise QuantizationError(
                f"rounding is one of {', '.join(ROUNDINGS)}, got {self.rounding!r}"
            )
        is_share = isinstance(self.smooth, (int, float)) and 0 <= self.smooth <= 1
        if self.smooth is not None and not is_share:
            raise QuantizationError(f"smooth lies between 0 and 1, got {self.smooth!r}")
        if isinstance(self.op_types, str):
            raise QuantizationError(f"op_types are names of operators, got {self.op_types!r}")
        grids = {"activations": self.activations, "weights": self.weights, **self.tensors}
        for kind, given in ((Grid, grids), (Rule, {**self.op_rules, **self.name_rules})):
            for name, value in given.items():
                if not isinstance(value, kind):
                    raise QuantizationError(
                        f"'{name}' in a config takes a {kind.__name__}, got {type(value).__name__}"
                    )

    def rule(self, op: str, name: str) -> Rule:
        """What holds for a node."""
        found = Rule(self.activations, self.weights)
        rules = [self.op_rules[op]] if op in self.op_rules else []
        rules += [rule for glob, rule in self.name_rules.items() if fnmatchcase(name, glob)]
        for rule in rules:
            found = Rule(
                rule.activations or found.activations, rule.weights or found.weights, rule.skip
            )
        return found


_U8 = Grid(observer="mse")
_S8 = Grid(signed=True, symmetric=True, observer="mse")
PRESETS: dict[str, QuantConfig] = {
    "static": QuantConfig(activations=_U8, bias_correction=True),
    "x86": QuantConfig(activations=_U8, rounding="gptq", bias_correction=True),
    "arm": QuantConfig(activations=_S8, rounding="gptq", bias_correction=True),
    "int16": QuantConfig(activations=Grid(bits=16)),
}
# what each is for
PRESET_TEXTS: dict[str, str] = {
    "static": "uint8 activations, int8 weights per channel, biases corrected by the data",
    "x86": "what VNNI multiplies, weights rounded by the data",
    "arm": "signed and symmetric, what NEON's dot products take, weights rounded by the data",
    "int16": "16-bit activations, int8 weights per channel",
}


def config_of(config: QuantConfig | str | None, **changes: Any) -> QuantConfig:
    """A preset by name, or `config` itself, with `changes`.

    Raises QuantizationError for a name that is none.
    """
    if config is None:
        config = "static"
    if isinstance(config, str):
        if config not in PRESETS:
            raise QuantizationError(f"a preset is one of {', '.join(PRESETS)}, got {config!r}")
        config = PRESETS[config]
    if not isinstance(config, QuantConfig):
        raise QuantizationError(
            f"a config is a QuantConfig or the name of a preset, got {type(config).__name__}"
        )
    return replace(config, **changes)
