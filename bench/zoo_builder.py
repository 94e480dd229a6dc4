"""Write a network once, get its quantized ONNX model: the builder behind the benchmark zoo.

Each call adds one float operator, runs it on a sample, and puts the QuantizeLinear and
DequantizeLinear pairs around it that onnxruntime's static quantizer (QDQ format) would put there,
under the same names. So onnxruntime fuses all of it, and a model behaves like a quantized file
from the field: per-channel int8 weights, int32 biases, uint8 activations, folded Relu.

Weights are random, but each convolution is followed by a BatchNorm folded into it (statistics from
the sample), so that values keep a natural spread however deep the network is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    checker,
    helper,
    numpy_helper,
)

from bench import zoo_float as ops
from bench.zoo_float import FloatArray, Pads

OPSET = 17
IR_VERSION = 8  # the one that came with opset 17
MIN_POSITIONS = 16  # fewer values per channel say nothing about its spread: no BatchNorm then
LOGIT_SIGMA = 2.0  # spread of a Gemm's outputs: as of a classifier with opinions

# Activations that clamp are folded into the quantization of the operator before them.
FOLDED: dict[str, tuple[float, float]] = {
    "": (-np.inf, np.inf),
    "Relu": (0.0, np.inf),
    "Relu6": (0.0, 6.0),
}


@dataclass(frozen=True)
class StoredQParams:
    """A scale with the initializers that hold it and its zero point."""

    scale: np.float32
    scale_name: str
    zero_point_name: str


@dataclass(frozen=True)
class Tensor:
    """A quantized activation, as its consumers see it."""

    name: str  # output of the DequantizeLinear
    sample: FloatArray  # (c, h, w) or (c,): one real value of this tensor
    qparams: StoredQParams

    @property
    def channels(self) -> int:
        """Size of the channel axis."""
        return int(self.sample.shape[0])


class QdqBuilder:
    """Collects the nodes, initializers and multiply count of one model of batch 1."""

    def __init__(
        self, name: str, *, seed: int = 0, per_tensor: bool = False, lean: float = 0.0
    ) -> None:
        """Start a model; `lean` makes all channels share part of one signal.

        In a deep network of purely random weights one rounding difference grows into noise over
        the whole output, and outputs of two engines cannot be compared. A positive mean of the
        middle taps, `lean` / input channels, keeps a signal that sums over channels do not lose.
        """
        self.name = name
        self.per_tensor = per_tensor
        self.lean = lean
        self.macs = 0
        self._rng = np.random.default_rng(seed)
        self._weight_nodes: list[NodeProto] = []
        self._nodes: list[NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._counts: dict[str, int] = {}
        self._inputs: list[ValueInfoProto] = []

    def input(self, shape: Sequence[int], name: str = "input") -> Tensor:
        """Declare the float32 input (1, c, h, w); its sample is standard normal."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return self._quantized(name, self._rng.standard_normal(tuple(shape)[1:]))

    def conv(
        self,
        x: Tensor,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        *,
        depthwise: bool = False,
        act: str = "",
        pads: Pads | None = None,
    ) -> Tensor:
        """Add Conv, folded BatchNorm and `act`; pads default to the `kernel // 2` of PyTorch."""
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        pads = pads or (kh // 2, kw // 2, kh // 2, kw // 2)
        w = self._he_normal((channels, 1 if depthwise else x.channels, kh, kw))
        w[:, :, kh // 2, kw // 2] += self.lean / w.shape[1]
        y = ops.conv(x.sample, w, stride, pads)
        w_factor, bias = self._batch_norm(y)
        y = y * w_factor[:, None, None] + bias[:, None, None]
        self.macs += w[0].size * y.size
        attrs = {
            "group": channels if depthwise else 1,
            "kernel_shape": [kh, kw],
            "pads": pads,
            "strides": [stride, stride],
        }
        return self._weighted("Conv", x, w * w_factor[:, None, None, None], bias, y, act, attrs)

    def gemm(self, x: Tensor, channels: int, act: str = "") -> Tensor:
        """Add Gemm of `x` (c,) with a weight (channels, c), as PyTorch exports Linear."""
        w = self._he_normal((channels, x.channels))
        w = w * ops.portable(LOGIT_SIGMA / (w @ x.sample).std())
        bias = 0.1 * self._rng.standard_normal(channels)
        self.macs += w.size
        return self._weighted("Gemm", x, w, bias, w @ x.sample + bias, act, {"transB": 1})

    def activate(self, x: Tensor, act: str) -> Tensor:
        """Add an activation with a node of its own: one of `zoo_float.UNARY`, or SiLU in two."""
        if act == "SiLU":
            return self.mul(x, self.activate(x, "Sigmoid"))
        attrs = {"alpha": 1 / 6, "beta": 0.5} if act == "HardSigmoid" else {}
        return self._operator(act, [x], ops.UNARY[act](x.sample), attrs)

    def softmax(self, x: Tensor) -> Tensor:
        """Add Softmax of `x` (c,); its range is known, so scale is 1/256 and zero_point 0."""
        name = self._fresh("Softmax")
        self._node("Softmax", [x.name], [name], {"axis": -1}, name)
        qparams = self._uint8_qparams(name, 0.0, 255 / 256)
        return self._quantized(name, ops.softmax(x.sample), qparams)

    def add(self, a: Tensor, b: Tensor, act: str = "") -> Tensor:
        """Add Add, with a folded `act`."""
        name = self._fresh("Add")
        self._node("Add", [a.name, b.name], [name], {}, name)
        return self._clamped(name, a.sample + b.sample, act)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """Add Mul; shapes broadcast."""
        return self._operator("Mul", [a, b], a.sample * b.sample)

    def concat(self, *xs: Tensor) -> Tensor:
        """Add Concat over the channels."""
        return self._operator("Concat", xs, np.concatenate([x.sample for x in xs]), {"axis": 1})

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add Split of the channels into two equal parts; both keep the QParams of `x`."""
        name = self._fresh("Split")
        outputs = [f"{name}_0", f"{name}_1"]
        self._node("Split", [x.name], outputs, {"axis": 1}, name)
        first, second = np.split(x.sample, 2)
        return (
            self._quantized(outputs[0], first, x.qparams),
            self._quantized(outputs[1], second, x.qparams),
        )

    def max_pool(self, x: Tensor, kernel: int, stride: int) -> Tensor:
        """Add MaxPool padded by `kernel // 2`; keeps the QParams of `x`."""
        pads = (kernel // 2,) * 4
        y = ops.max_pool(x.sample, kernel, stride, pads)
        attrs = {"kernel_shape": [kernel] * 2, "pads": pads, "strides": [stride] * 2}
        return self._operator("MaxPool", [x], y, attrs, x.qparams)

    def average_pool(self, x: Tensor) -> Tensor:
        """Add AveragePool over the whole image, as Keras exports spell it."""
        return self._operator("AveragePool", [x], _mean(x), {"kernel_shape": x.sample.shape[1:]})

    def global_average_pool(self, x: Tensor) -> Tensor:
        """Add GlobalAveragePool."""
        return self._operator("GlobalAveragePool", [x], _mean(x))

    def flatten(self, x: Tensor) -> Tensor:
        """Add Flatten; keeps the QParams of `x`."""
        return self._operator("Flatten", [x], x.sample.reshape(-1), {}, x.qparams)

    def upsample(self, x: Tensor) -> Tensor:
        """Add Resize to twice the size by nearest neighbour; keeps the QParams of `x`."""
        name = self._fresh("Resize")
        scales = self._initializer(f"{name}_factors", np.array([1, 1, 2, 2], np.float32))
        attrs = {
            "coordinate_transformation_mode": "asymmetric",
            "mode": "nearest",
            "nearest_mode": "floor",
        }
        self._node("Resize", [x.name, "", scales], [name], attrs, name)
        return self._quantized(name, x.sample.repeat(2, axis=1).repeat(2, axis=2), x.qparams)

    def finish(self, outputs: dict[str, Tensor]) -> ModelProto:
        """Name the outputs (float32, batch 1) and return the model, with `macs` in its metadata."""
        renamed = {tensor.name: name for name, tensor in outputs.items()}
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        declared = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, *tensor.sample.shape))
            for name, tensor in outputs.items()
        ]
        nodes = self._weight_nodes + self._nodes
        graph = helper.make_graph(nodes, self.name, self._inputs, declared, self._initializers)
        return checked_model(graph, self.macs)

    def _weighted(
        self,
        op: str,
        x: Tensor,
        w: FloatArray,
        bias: FloatArray,
        y: FloatArray,
        act: str,
        attrs: dict[str, Any],
    ) -> Tensor:
        """Add `op` with its quantized weight and bias; an `act` that does not fold follows it."""
        name = self._fresh(op)
        w_name, w_scale = self._weight(f"{name}_weight", w)
        b_name = self._bias(f"{name}_bias", bias, x.qparams.scale * w_scale)
        self._node(op, [x.name, w_name, b_name], [name], attrs, name)
        if act in FOLDED:
            return self._clamped(name, y, act)
        return self.activate(self._quantized(name, y), act)

    def _operator(
        self,
        op: str,
        xs: Sequence[Tensor],
        y: FloatArray,
        attrs: dict[str, Any] | None = None,
        qparams: StoredQParams | None = None,
    ) -> Tensor:
        """Add `op`, whose real output on the sample is `y`."""
        name = self._fresh(op)
        self._node(op, [x.name for x in xs], [name], attrs or {}, name)
        return self._quantized(name, y, qparams)

    def _clamped(self, name: str, y: FloatArray, act: str) -> Tensor:
        """Quantize `name`, whose real values are `y`, with an `act` that the integers' range is."""
        return self._quantized(name, np.clip(y, *FOLDED[act]))

    def _quantized(
        self, name: str, sample: FloatArray, qparams: StoredQParams | None = None
    ) -> Tensor:
        """Put QuantizeLinear and DequantizeLinear behind `name`.

        Without `qparams`: uint8 over the range of the sample, widened to hold 0.
        """
        if qparams is None:
            low, high = min(sample.min(), 0.0), max(sample.max(), 0.0)
            qparams = self._uint8_qparams(name, low, high)
        stored, real = f"{name}_QuantizeLinear_Output", f"{name}_DequantizeLinear_Output"
        inputs = [qparams.scale_name, qparams.zero_point_name]
        self._node("QuantizeLinear", [name, *inputs], [stored], {}, f"{name}_QuantizeLinear")
        self._node("DequantizeLinear", [stored, *inputs], [real], {}, f"{name}_DequantizeLinear")
        return Tensor(real, sample, qparams)

    def _uint8_qparams(self, name: str, low: float, high: float) -> StoredQParams:
        """Store scale = (high - low) / 255 and zero_point = round(-low / scale)."""
        scale = np.float32(ops.portable(np.array((high - low) / 255)))
        zero_point = np.uint8(np.clip(np.round(-low / scale), 0, 255))
        return StoredQParams(
            scale,
            self._initializer(f"{name}_scale", np.array(scale)),
            self._initializer(f"{name}_zero_point", np.array(zero_point)),
        )

    def _weight(self, name: str, w: FloatArray) -> tuple[str, NDArray[np.float32]]:
        """Store `w` as symmetric int8 behind a DequantizeLinear; scale is () or (channels,)."""
        axes = None if self.per_tensor else tuple(range(1, w.ndim))
        scale = ops.portable(np.abs(w).max(axis=axes) / 127).astype(np.float32)
        steps = w / (scale if self.per_tensor else scale.reshape(-1, *(1,) * (w.ndim - 1)))
        self._initializer(f"{name}_quantized", np.clip(np.round(steps), -127, 127).astype(np.int8))
        self._initializer(f"{name}_scale", scale)
        self._initializer(f"{name}_zero_point", np.zeros(scale.shape, np.int8))
        parts = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
        return self._dequantized(parts, name, f"{name}_DequantizeLinear_Output"), scale

    def _bias(self, name: str, bias: FloatArray, scale: NDArray[np.float32]) -> str:
        """Store `bias` as int32 with `scale` = x_scale * w_scale behind a DequantizeLinear."""
        stored = self._initializer(f"{name}_quantized", np.round(bias / scale).astype(np.int32))
        scale_name = self._initializer(f"{name}_quantized_scale", scale)
        zeros = np.zeros(scale.shape, np.int32)
        zero_point = self._initializer(f"{name}_quantized_zero_point", zeros)
        return self._dequantized([stored, scale_name, zero_point], name, name)

    def _dequantized(self, parts: list[str], name: str, output: str) -> str:
        attrs: dict[str, Any] = {} if self.per_tensor else {"axis": 0}
        node_name = f"{name}_DequantizeLinear"
        node = helper.make_node("DequantizeLinear", parts, [output], node_name, **attrs)
        self._weight_nodes.append(node)
        return output

    def _he_normal(self, shape: tuple[int, ...]) -> FloatArray:
        fan_in = int(np.prod(shape[1:]))
        return np.asarray(self._rng.normal(0.0, np.sqrt(2.0 / fan_in), shape))

    def _batch_norm(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return factor and bias per channel of a trained BatchNorm over `y` (c, h, w)."""
        factor = self._rng.uniform(0.6, 1.4, len(y))
        bias = 0.4 * self._rng.standard_normal(len(y))
        if y[0].size < MIN_POSITIONS:
            return factor, bias
        factor = factor / np.sqrt(y.var(axis=(1, 2)) + 1e-3)
        return ops.portable(factor), ops.portable(bias - factor * y.mean(axis=(1, 2)))

    def _fresh(self, op: str) -> str:
        count = self._counts.get(op, 0)
        self._counts[op] = count + 1
        return f"{op}_{count}"

    def _initializer(self, name: str, array: NDArray[Any]) -> str:
        self._initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def _node(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attrs: dict[str, Any],
        name: str,
    ) -> None:
        self._nodes.append(helper.make_node(op, inputs, outputs, name, **attrs))


def checked_model(graph: GraphProto, macs: int, domain: str = "") -> ModelProto:
    """Wrap `graph` as a model of `OPSET` with `macs` in its metadata, and check it.

    `domain` is another one that it takes operators from.
    """
    opsets = [helper.make_opsetid("", OPSET)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="qrt bench zoo"
    )
    helper.set_model_props(model, {"macs": str(macs)})
    checker.check_model(model)
    return model


def _mean(x: Tensor) -> FloatArray:
    return np.asarray(x.sample.mean(axis=(1, 2), keepdims=True))
