"""Engines: which operators each runs in integers, so that nothing is quantized in vain."""

from __future__ import annotations

from dataclasses import dataclass

from qrt.errors import QuantizationError

PRODUCTS = ("Conv", "Gemm", "MatMul")
# the result has the grid of what goes in
MOVEMENT = (
    "DepthToSpace", "Expand", "Flatten", "Gather", "MaxPool", "GlobalMaxPool", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
# range known without looking: (low, high)
BOUNDED = {"Sigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "HardSigmoid": (0.0, 1.0)}
CLAMPS = ("Relu", "Clip")  # part of the operator before, where nothing else reads that


@dataclass(frozen=True)
class BackendConfig:
    """An engine: what it runs in integers.

    `ops`: operators. `activation_bits` are those that it multiplies so, where QuantizeLinear clips;
    `weight_bits` the most.
    `granularities`: of weights. `signed_clamps`: a Relu or Clip behind a product may stand in front
    of a signed QuantizeLinear; without it the clamp gets a pair of its own.
    """

    name: str
    what: str
    ops: tuple[str, ...]
    activation_bits: tuple[int, ...] = (8,)
    weight_bits: int = 8
    granularities: tuple[str, ...] = ("per_tensor", "per_channel")
    signed_clamps: bool = True

    @property
    def integers(self) -> str:
        """What it multiplies, for people."""
        kinds = " or ".join(kind.removeprefix("per_") for kind in self.granularities)
        bits = " or ".join(map(str, self.activation_bits))
        return f"activations of {bits} bits, weights to {self.weight_bits}, per {kinds}"


_COMMON = (
    *PRODUCTS,
    *MOVEMENT,
    *CLAMPS,
    "Add",
    "Mul",
    "AveragePool",
    "GlobalAveragePool",
    "Concat",
)
BACKENDS = {
    "qrt": BackendConfig(
        "qrt",
        "this runtime",
        (
            *_COMMON, *BOUNDED, "ReduceMean", "Resize", "HardSwish", "LeakyRelu", "Elu", "Tanh",
            "Gelu", "Erf", "Mish", "Softplus", "Abs", "Neg", "Sqrt",
        ),
        activation_bits=(8, 16),
    ),
    "onnxruntime": BackendConfig(
        "onnxruntime",
        "ONNX Runtime's CPU provider",
        (*_COMMON, "Sigmoid", "Softmax", "LeakyRelu", "Resize"),
        signed_clamps=False,
    ),
}  # fmt: skip


def backend_of(name: str) -> BackendConfig:
    """The engine called so. Raises QuantizationError when there is none."""
    if name not in BACKENDS:
        raise QuantizationError(f"an engine is one of {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS[name]
