"""The hard case of quantization: depthwise channels whose ranges are spread a hundredfold and more.

    python -m bench.hard_case [--spread 100]

Trained networks, their channels scaled at both ends of each depthwise convolution so that the
function stays the same: the rows of its weights spread by that factor, what it reads and what it
writes by the root of it. One grid for all loses the small channels. Prints top-1 of each way to
quantize, on pictures that calibrated nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import qrt
from bench.labelled import MODELS, Labelled
from qrt.ptq.config import PRESETS, WEIGHTS, QuantConfig
from qrt.ptq.expected import InputRanges

Array = NDArray[Any]
CALIBRATION = 200  # pictures
EPSILON = 1e-5


@dataclass(frozen=True)
class Joint:
    """Convolutions, by the names of their weights, that write a tensor and all that read it."""

    writers: tuple[str, ...]
    readers: tuple[str, ...]


def _block(name: str) -> tuple[Joint, Joint]:
    """Of a MobileNetV2 block: expansion, depthwise, projection."""
    first, depthwise, last = (f"{name}.0.conv.{i}.weight" for i in (0, 3, 6))
    return Joint((first,), (depthwise,)), Joint((depthwise,), (last,))


# what is in front of each depthwise convolution, and what is behind it
JOINTS: dict[str, tuple[tuple[Joint, Joint], ...]] = {
    "digits_fp32": (
        (
            Joint(("wide.weight", "pointwise.weight"), ("depthwise.weight", "down.weight")),
            Joint(("depthwise.weight",), ("pointwise.weight",)),
        ),
    ),
    "cifar_tinycnn_fp32": tuple(_block(f"mbconv{i}") for i in (2, 3, 4)),
}
_PER_TENSOR = QuantConfig(weights=replace(WEIGHTS, granularity="per_tensor"))
WAYS = {
    "per tensor": _PER_TENSOR,
    "per tensor, bias correction": replace(_PER_TENSOR, bias_correction=True),
    "per tensor, equalized": replace(_PER_TENSOR, equalize=True),
    "per tensor, equalized, bias correction": replace(
        _PER_TENSOR, equalize=True, bias_correction=True
    ),
    "per channel": QuantConfig(),
    "per channel, bias correction": QuantConfig(bias_correction=True),
    "per channel, equalized, bias correction": QuantConfig(equalize=True, bias_correction=True),
    "x86": PRESETS["x86"],
    "x86, equalized": replace(PRESETS["x86"], equalize=True),
}
NO_DATA = (
    "per tensor",
    "per tensor, equalized",
    "per tensor, equalized, bias correction",
    "per channel, bias correction",
    "per channel, equalized, bias correction",
)  # of the ways, with BatchNormalization in place of calibration data


def hard_case(case: Labelled, spread: float, seed: int = 0) -> onnx.ModelProto:
    """The network of `case`, the rows of its depthwise weights spread by `spread` (largest to
    smallest), with the same function.

    A Clip at 0 and a bound becomes Relu, which is the same at any scale.
    """
    model = onnx.load(case.model)
    rng = np.random.default_rng(seed)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Clip":
            node.op_type = "Relu"
            del node.input[1:]

    def scale(name: str, factors: Array, axis: int) -> None:
        array = numpy_helper.to_array(stored[name])
        wide = factors.reshape((-1,) + (1,) * (array.ndim - 1 - axis))
        scaled = (array * wide).astype(np.float32)
        stored[name].CopyFrom(numpy_helper.from_array(scaled, name))

    inputs = {node.input[1]: node.input for node in model.graph.node if node.op_type == "Conv"}
    for front, behind in JOINTS[case.name]:
        factors = spread ** rng.uniform(-0.25, 0.25, stored[front.readers[0]].dims[0])
        for joint, written in ((front, 1 / factors), (behind, factors)):
            for name in joint.writers:
                for part in inputs[name][1:]:
                    scale(part, written, 0)
            for name in joint.readers:
                is_depthwise = stored[name].dims[1] == 1
                scale(name, 1 / written, 0 if is_depthwise else 1)
    return model


def with_batchnorm(model: onnx.ModelProto, x: Array) -> onnx.ModelProto:
    """The model as it was before its BatchNormalization was folded; the same function.

    Behind each convolution, one whose statistics are those of the pictures `x`.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    del seen.graph.output[:]
    for node in convolutions:
        info = helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        seen.graph.output.append(info)
    session = qrt.load(seen)
    name = session.get_inputs()[0].name
    runs = [session.run(None, {name: image[None]}) for image in x]
    nodes = []
    for node in made.graph.node:
        nodes.append(node)
        if node.op_type != "Conv":
            continue
        index = next(i for i, n in enumerate(convolutions) if n.output[0] == node.output[0])
        values = np.stack([np.asarray(run[index], np.float64) for run in runs])
        mean, variance = (f(values, axis=(0, 1, 3, 4)) for f in (np.mean, np.var))
        out, bias = node.output[0], stored[node.input[2]]
        parts = {"gamma": np.sqrt(variance + EPSILON), "beta": mean, "mean": mean - bias,
                 "variance": variance}  # fmt: skip
        for part, array in parts.items():
            tensor = numpy_helper.from_array(array.astype(np.float32), f"{out}_{part}")
            made.graph.initializer.append(tensor)
        node.output[0] = f"{out}_raw"
        del node.input[2:]
        names = [node.output[0], *(f"{out}_{part}" for part in parts)]
        nodes.append(
            helper.make_node("BatchNormalization", names, [out], f"{out}_bn", epsilon=EPSILON)
        )
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def top1(model: onnx.ModelProto, x: Array, y: Array) -> float:
    """Share of pictures whose largest logit is the label's, one at a time."""
    session = qrt.load(model)
    name = session.get_inputs()[0].name
    found = [int(np.argmax(session.run(None, {name: image[None]})[0])) for image in x]
    return float((np.array(found) == y).mean())


def table(case: Labelled, spread: float) -> Iterator[tuple[str, float]]:
    """Top-1 of the float network and of each of `WAYS`."""
    model = hard_case(case, spread)
    x, y = case.arrays()
    unseen, labels = x[CALIBRATION:], y[CALIBRATION:]
    yield "float", top1(model, unseen, labels)
    for name, config in WAYS.items():
        made = qrt.quantize_static(model, x[:CALIBRATION], config)
        yield name, top1(made, unseen, labels)
    told = with_batchnorm(model, x[:CALIBRATION])
    ranges = InputRanges({told.graph.input[0].name: (float(x.min()), float(x.max()))})
    for name in NO_DATA:
        made = qrt.quantize_static(told, ranges, WAYS[name])
        yield f"no data: {name}", top1(made, unseen, labels)


def main() -> None:
    """Print a table per network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--spread", type=float, default=100.0, help="largest to smallest row")
    arguments = parser.parse_args()
    for name in JOINTS:
        case = MODELS[name]
        if not case.model.exists():
            print(f"{name}: {case.model} is not here (set QRT_SHARED_DIR)")
            continue
        print(f"{name}, depthwise weights spread {arguments.spread:g}-fold")
        for way, found in table(case, arguments.spread):
            print(f"  {way:<52}{found:7.2%}")


if __name__ == "__main__":
    main()
