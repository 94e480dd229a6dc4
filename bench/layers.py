"""Layers of real networks as shapes: what the kernel benches walk.

Sizes are those of the networks' papers at 224 x 224 (ResNet-50, MobileNetV2, MobileNetV3-Small),
320 x 320 (the YOLO-like net of `zoo.py`), 49 x 10 spectrograms (DS-CNN) and 128 tokens (BERT-base).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

from qrt.ir import Graph, Node, QParams, Value
from qrt.ops import OPS

Array = np.ndarray[Any, Any]
U8 = np.dtype(np.uint8)


@dataclass(frozen=True)
class Layer:
    """One operator at one size. `x` is NCHW, or the rows and columns of a product's lhs.

    `n` is output channels or columns, `kernel` and `stride` are of a square window, padded by half,
    `group` is x's channels in a depthwise convolution; what an operator does not have stays 0 or 1.
    """

    name: str
    op: str
    x: tuple[int, ...]
    n: int = 0
    kernel: int = 1
    stride: int = 1
    group: int = 1

    @property
    def family(self) -> str:
        """product, depthwise or elementwise: what the layer's speed is measured against."""
        if self.op not in ("Conv", "MatMul"):
            return "elementwise"
        return "depthwise" if self.group > 1 else "product"

    @property
    def macs(self) -> int:
        """Multiply-adds; 0 when the operator has none."""
        if self.op == "MatMul":
            return prod(self.x) * self.n
        if self.op != "Conv":
            return 0
        batch, channels, h, w = self.x
        out = -(-h // self.stride) * -(-w // self.stride)
        return batch * out * self.n * channels // self.group * self.kernel**2


def _conv(name: str, c: int, size: int, n: int, kernel: int = 1, stride: int = 1) -> Layer:
    return Layer(name, "Conv", (1, c, size, size), n, kernel, stride)


def _depthwise(name: str, c: int, size: int, kernel: int, stride: int) -> Layer:
    return Layer(name, "Conv", (1, c, size, size), c, kernel, stride, c)


LAYERS: tuple[Layer, ...] = (
    _conv("resnet50 conv1", 3, 224, 64, 7, 2),
    _conv("resnet50 conv2 reduce", 256, 56, 64),
    _conv("resnet50 conv2 3x3", 64, 56, 64, 3),
    _conv("resnet50 conv2 expand", 64, 56, 256),
    _conv("resnet50 conv3 3x3/2", 128, 56, 128, 3, 2),
    _conv("resnet50 conv3 expand", 128, 28, 512),
    _conv("resnet50 conv4 3x3", 256, 14, 256, 3),
    _conv("resnet50 conv4 reduce", 1024, 14, 256),
    _conv("resnet50 conv5 3x3", 512, 7, 512, 3),
    _conv("resnet50 conv5 expand", 512, 7, 2048),
    _conv("resnet50 shortcut/2", 1024, 14, 2048, 1, 2),
    Layer("resnet50 fc", "MatMul", (1, 2048), 1000),
    _conv("mobilenet_v2 conv1", 3, 224, 32, 3, 2),
    _conv("mobilenet_v2 expand 112", 16, 112, 96),
    _conv("mobilenet_v2 project 56", 144, 56, 24),
    _conv("mobilenet_v2 expand 28", 32, 28, 192),
    _conv("mobilenet_v2 project 14", 576, 14, 96),
    _conv("mobilenet_v2 expand 7", 160, 7, 960),
    _conv("mobilenet_v2 last", 320, 7, 1280),
    Layer("mobilenet_v2 fc", "MatMul", (1, 1280), 1000),
    _conv("mobilenet_v3 squeeze", 240, 1, 64),
    _conv("yolo stem", 3, 320, 16, 3, 2),
    _conv("yolo c2f 40", 64, 40, 64, 3),
    _conv("yolo head 10", 128, 10, 80, 3),
    Layer("ds_cnn conv1", "Conv", (1, 1, 49, 10), 64, 5, 2),
    Layer("ds_cnn pointwise", "Conv", (1, 64, 25, 5), 64),
    Layer("bert attention", "MatMul", (128, 768), 768),
    Layer("bert feed-forward", "MatMul", (128, 768), 3072),
    Layer("bert, one token", "MatMul", (1, 768), 3072),
    _depthwise("mobilenet_v2 dw 112", 32, 112, 3, 1),
    _depthwise("mobilenet_v2 dw 112/2", 96, 112, 3, 2),
    _depthwise("mobilenet_v2 dw 56", 144, 56, 3, 1),
    _depthwise("mobilenet_v2 dw 28", 192, 28, 3, 1),
    _depthwise("mobilenet_v2 dw 14", 576, 14, 3, 1),
    _depthwise("mobilenet_v2 dw 14/2", 576, 14, 3, 2),
    _depthwise("mobilenet_v2 dw 7", 960, 7, 3, 1),
    _depthwise("mobilenet_v3 dw 14 5x5", 240, 14, 5, 1),
    _depthwise("mobilenet_v3 dw 28 5x5/2", 96, 28, 5, 2),
    Layer("ds_cnn dw", "Conv", (1, 64, 25, 5), 64, 3, 1, 64),
    Layer("resnet50 add 56", "Add", (1, 256, 56, 56)),
    Layer("mobilenet_v2 add 14", "Add", (1, 96, 14, 14)),
    Layer("yolo mul 80", "Mul", (1, 32, 80, 80)),
    Layer("mobilenet_v3 lookup 28", "Lookup", (1, 96, 28, 28)),
    Layer("mobilenet_v2 quantize", "Quantize", (1, 3, 224, 224)),
    Layer("resnet50 dequantize", "Dequantize", (1, 2048, 7, 7)),
    Layer("resnet50 max pool", "MaxPool", (1, 64, 112, 112), 0, 3, 2),
    Layer("resnet50 average", "ReduceMean", (1, 2048, 7, 7)),
    Layer("bert softmax", "Softmax", (1, 12, 128, 128)),
)


def layer_graph(layer: Layer, seed: int = 0) -> Graph:
    """A graph of the one node, with random weights and numbers; activations lie channels last."""
    rng = np.random.default_rng(seed)
    x_dtype = np.dtype(np.float32) if layer.op == "Quantize" else U8
    layout = (0, 2, 3, 1) if len(layer.x) == 4 and layer.op != "Softmax" else None
    inputs: list[Value | None] = [Value("x", x_dtype, layer.x, layout=layout)]
    attrs = _attrs(layer, rng)
    if layer.op in ("Conv", "MatMul"):
        inputs += _weights(layer, rng)
    elif layer.op in ("Add", "Mul"):
        inputs.append(Value("b", U8, layer.x, layout=layout))
    node = Node(layer.op, inputs, [], attrs, "qrt", layer.name)
    spec = OPS["qrt", layer.op]
    ((shape, dtype),) = spec.infer(node)
    out_layout = layout if len(shape) == 4 else None
    node.outputs = [Value("y", np.dtype(dtype), tuple(shape), layout=out_layout)]
    variables = [v for v in inputs if v is not None and v.data is None]
    return Graph([node], variables, list(node.outputs))


def layer_inputs(graph: Graph, seed: int = 1) -> list[Array]:
    """Random inputs of the graph, over the whole range of their type."""
    rng = np.random.default_rng(seed)
    arrays: list[Array] = []
    for value in graph.inputs:
        shape = value.static_shape
        if value.dtype == U8:
            arrays.append(rng.integers(0, 256, shape, dtype=np.uint8))
        else:
            arrays.append(rng.standard_normal(shape).astype(np.float32))
    return arrays


def _qparams(scale: float, zero_point: int) -> QParams:
    return QParams(np.array(scale, np.float32), np.array(zero_point, np.uint8), U8)


def _attrs(layer: Layer, rng: np.random.Generator) -> dict[str, Any]:
    x, y = _qparams(0.02, 120), _qparams(0.03, 110)
    limits = {"qmin": 0, "qmax": 255}
    if layer.op in ("Conv", "MatMul"):
        k = layer.macs // max(1, layer.n * _positions(layer))
        y = _qparams(float(np.sqrt(k) * 110), 110)
        scale = (rng.random(layer.n) + 0.5).astype(np.float32)
        attrs = {"x": x, "y": y, "w_zero_point": 0, "scale": scale, **limits}
        return attrs | (_window(layer) if layer.op == "Conv" else {})
    of_operator: dict[str, dict[str, Any]] = {
        "Add": {"a": x, "b": x, "y": y, **limits},
        "Mul": {"a": x, "b": x, "y": y, **limits},
        "Lookup": {"table": rng.permutation(256).astype(np.uint8)},
        "Quantize": {"y": y},
        "Dequantize": {"x": x},
        "MaxPool": {**_window(layer), "kernel_shape": (layer.kernel,) * 2, "ceil_mode": 0},
        "ReduceMean": {"axes": (2, 3), "keepdims": 1, "x": x, "y": y, **limits},
        "Softmax": {"axes": (3,), "x": x, "y": _qparams(1 / 256, 0)},
    }
    return of_operator[layer.op]


def _positions(layer: Layer) -> int:
    if layer.op == "MatMul":
        return prod(layer.x[:-1])
    return layer.x[0] * prod(-(-s // layer.stride) for s in layer.x[2:])


def _window(layer: Layer) -> dict[str, Any]:
    """Pads that keep ceil(size / stride) outputs, the smaller half first."""
    before, after = [], []
    for size in layer.x[2:]:
        needed = (-(-size // layer.stride) - 1) * layer.stride + layer.kernel - size
        before.append(max(0, needed) // 2)
        after.append(max(0, needed) - before[-1])
    window = {"strides": (layer.stride,) * 2, "dilations": (1, 1), "pads": (*before, *after)}
    return window | ({"group": layer.group} if layer.op == "Conv" else {})


def _weights(layer: Layer, rng: np.random.Generator) -> list[Value]:
    if layer.op == "MatMul":
        shape: tuple[int, ...] = (layer.x[-1], layer.n)
    else:
        shape = (layer.n, layer.x[1] // layer.group, layer.kernel, layer.kernel)
    w = rng.integers(-127, 128, shape, dtype=np.int8)
    bias = rng.integers(-3000, 3000, layer.n).astype(np.int32)
    return [Value("w", w.dtype, w.shape, w), Value("bias", bias.dtype, bias.shape, bias)]
