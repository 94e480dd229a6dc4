"""Quantized ONNX models at real sizes with random weights, for benches and tests.

    python bench/zoo.py                          list the models
    python bench/zoo.py mobilenet_v2 -o m.onnx   write one

Networks are the published ones (sources at each function), quantized as onnxruntime's static
quantizer does it in QDQ format: uint8 activations, int8 weights per channel; `_dynamic` ones as its
dynamic quantizer does it, weights per tensor. `builder=RealBuilder` gives ResNet-18 and MobileNetV2
before quantization. Names of MiniLM and of the decoder block end with the number of tokens.
The same seed gives the same model. Weights mean nothing; shapes, scales and value ranges are what
counts.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs as a script

from bench import zoo_decoder, zoo_recurrent, zoo_transformer
from bench.zoo_builder import QdqBuilder, Tensor, checked_model
from bench.zoo_dynamic import as_dynamic

# of the one input (float32, named "input") of a network for images or sounds
INPUT_SHAPES: dict[str, tuple[int, ...]] = {
    "resnet50": (1, 3, 224, 224),
    "resnet18": (1, 3, 224, 224),
    "mobilenet_v2": (1, 3, 224, 224),
    "mobilenet_v3_small": (1, 3, 224, 224),
    "ds_cnn": (1, 1, 49, 10),
    "yolo_like": (1, 3, 320, 320),
    "three_row": (1, 16),
    "mobilenet_v2_dynamic_u8": (1, 3, 224, 224),
    "mobilenet_v2_dynamic_s8": (1, 3, 224, 224),
    "yolo_like_dynamic": (1, 3, 320, 320),
    "lstm_dynamic": (zoo_recurrent.STEPS, 1, zoo_recurrent.WIDTH),
    "gru": (zoo_recurrent.STEPS, 1, zoo_recurrent.WIDTH),
}


def build(name: str) -> ModelProto:
    """Build the zoo model `name`; ValueError if there is none."""
    if name not in ZOO:
        raise ValueError(f"the zoo has no model {name!r}; it has {', '.join(ZOO)}")
    return ZOO[name]()


def input_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs by name."""
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in model.graph.input
    }


def macs(model: ModelProto) -> int | None:
    """Return the multiply-accumulates of one inference, or None for a model from elsewhere."""
    found = [entry.value for entry in model.metadata_props if entry.key == "macs"]
    return int(found[0]) if found else None


def resnet50(seed: int = 0, per_tensor: bool = False) -> ModelProto:
    """ResNet-50 v1.5 (He et al. 2015; the stride sits in the 3x3 as in torchvision)."""
    b = QdqBuilder("resnet50", seed=seed, per_tensor=per_tensor)

    def bottleneck(x: Tensor, width: int, stride: int) -> Tensor:
        y = b.conv(x, width, 1, act="Relu")
        y = b.conv(y, width, 3, stride, act="Relu")
        y = b.conv(y, 4 * width, 1)
        return b.add(y, _shortcut(b, x, y, stride), act="Relu")

    return _resnet(b, bottleneck, (3, 4, 6, 3))


def resnet18(
    seed: int = 0,
    per_tensor: bool = False,
    *,
    size: int = 224,
    builder: type[QdqBuilder] = QdqBuilder,
) -> ModelProto:
    """ResNet-18 (He et al. 2015), of images with `size` pixels a side."""
    b = builder("resnet18", seed=seed, per_tensor=per_tensor)

    def basic(x: Tensor, width: int, stride: int) -> Tensor:
        y = b.conv(x, width, 3, stride, act="Relu")
        y = b.conv(y, width, 3)
        return b.add(y, _shortcut(b, x, y, stride), act="Relu")

    return _resnet(b, basic, (2, 2, 2, 2), size)


def mobilenet_v2(
    seed: int = 0,
    per_tensor: bool = False,
    *,
    size: int = 224,
    builder: type[QdqBuilder] = QdqBuilder,
) -> ModelProto:
    """MobileNetV2 at width 1.0 (Sandler et al. 2018, table 2), images of `size` pixels a side."""
    b = builder("mobilenet_v2", seed=seed, per_tensor=per_tensor)
    x = b.conv(b.input((1, 3, size, size)), 32, 3, 2, act="Relu6")
    for expansion, channels, repeats, first_stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(repeats):
            stride = first_stride if i == 0 else 1
            wide = expansion * x.channels
            y = b.conv(x, wide, 1, act="Relu6") if expansion > 1 else x
            y = b.conv(y, wide, 3, stride, depthwise=True, act="Relu6")
            y = b.conv(y, channels, 1)
            x = b.add(x, y) if stride == 1 and x.channels == channels else y
    x = b.global_average_pool(b.conv(x, 1280, 1, act="Relu6"))
    return b.finish({"output": b.gemm(b.flatten(x), 1000)})


def mobilenet_v3_small(seed: int = 0, per_tensor: bool = False) -> ModelProto:
    """MobileNetV3-Small at width 1.0 (Howard et al. 2019, table 2; squeezed as in torchvision)."""
    b = QdqBuilder("mobilenet_v3_small", seed=seed, per_tensor=per_tensor)
    x = b.conv(b.input(INPUT_SHAPES[b.name]), 16, 3, 2, act="HardSwish")
    for kernel, wide, channels, squeeze, act, stride in (
        (3, 16, 16, 8, "Relu", 2),
        (3, 72, 24, 0, "Relu", 2),
        (3, 88, 24, 0, "Relu", 1),
        (5, 96, 40, 24, "HardSwish", 2),
        (5, 240, 40, 64, "HardSwish", 1),
        (5, 240, 40, 64, "HardSwish", 1),
        (5, 120, 48, 32, "HardSwish", 1),
        (5, 144, 48, 40, "HardSwish", 1),
        (5, 288, 96, 72, "HardSwish", 2),
        (5, 576, 96, 144, "HardSwish", 1),
        (5, 576, 96, 144, "HardSwish", 1),
    ):
        y = b.conv(x, wide, 1, act=act) if wide != x.channels else x
        y = b.conv(y, wide, kernel, stride, depthwise=True, act=act)
        if squeeze:
            gate = b.conv(b.global_average_pool(y), squeeze, 1, act="Relu")
            y = b.mul(b.conv(gate, wide, 1, act="HardSigmoid"), y)
        y = b.conv(y, channels, 1)
        x = b.add(x, y) if stride == 1 and x.channels == channels else y
    x = b.global_average_pool(b.conv(x, 576, 1, act="HardSwish"))
    x = b.gemm(b.flatten(x), 1024, act="HardSwish")
    return b.finish({"output": b.gemm(x, 1000)})


def ds_cnn(seed: int = 0, per_tensor: bool = False) -> ModelProto:
    """DS-CNN of MLPerf Tiny (Zhang et al. 2017): 49 frames of 10 MFCCs in, 12 words out."""
    b = QdqBuilder("ds_cnn", seed=seed, per_tensor=per_tensor)
    x = b.input(INPUT_SHAPES[b.name])
    x = b.conv(x, 64, (10, 4), 2, act="Relu", pads=(4, 1, 5, 1))  # Keras "same"
    for _ in range(4):
        x = b.conv(x, 64, 3, depthwise=True, act="Relu")
        x = b.conv(x, 64, 1, act="Relu")
    x = b.gemm(b.flatten(b.average_pool(x)), 12)
    return b.finish({"output": b.softmax(x)})


def yolo_like(seed: int = 0, per_tensor: bool = False) -> ModelProto:
    """YOLOv8n up to its decoder: three outputs (1, 144, h, w), boxes (64) before classes (80)."""
    b = QdqBuilder("yolo_like", seed=seed, per_tensor=per_tensor, lean=2.0)

    def conv(x: Tensor, channels: int, kernel: int = 1, stride: int = 1) -> Tensor:
        return b.conv(x, channels, kernel, stride, act="SiLU")

    def c2f(x: Tensor, channels: int, repeats: int, *, residual: bool) -> Tensor:
        parts = list(b.halves(conv(x, channels)))
        for _ in range(repeats):
            y = conv(conv(parts[-1], channels // 2, 3), channels // 2, 3)
            parts.append(b.add(parts[-1], y) if residual else y)
        return conv(b.concat(*parts), channels)

    def sppf(x: Tensor) -> Tensor:
        pools = [conv(x, x.channels // 2)]
        for _ in range(3):
            pools.append(b.max_pool(pools[-1], 5, 1))
        return conv(b.concat(*pools), x.channels)

    def head(x: Tensor) -> Tensor:
        boxes = b.conv(conv(conv(x, 64, 3), 64, 3), 64)
        classes = b.conv(conv(conv(x, 80, 3), 80, 3), 80)
        return b.concat(boxes, classes)

    x = conv(conv(b.input(INPUT_SHAPES[b.name]), 16, 3, 2), 32, 3, 2)
    x = c2f(x, 32, 1, residual=True)
    at8 = c2f(conv(x, 64, 3, 2), 64, 2, residual=True)  # named by how much smaller than the image
    at16 = c2f(conv(at8, 128, 3, 2), 128, 2, residual=True)
    at32 = sppf(c2f(conv(at16, 256, 3, 2), 256, 1, residual=True))

    at16 = c2f(b.concat(b.upsample(at32), at16), 128, 1, residual=False)
    at8 = c2f(b.concat(b.upsample(at16), at8), 64, 1, residual=False)
    at16 = c2f(b.concat(conv(at8, 64, 3, 2), at16), 128, 1, residual=False)
    at32 = c2f(b.concat(conv(at16, 128, 3, 2), at32), 256, 1, residual=False)
    return b.finish({"out8": head(at8), "out16": head(at16), "out32": head(at32)})


def three_row(seed: int = 0) -> ModelProto:
    """QuantizeLinear, QLinearMatMul 16x16, DequantizeLinear: what a call costs without work."""
    weight = np.random.default_rng(seed).integers(-127, 128, (16, 16), dtype=np.int8)
    constants: dict[str, NDArray[Any]] = {
        "x_scale": np.array(8 / 255, np.float32),  # 8 sigma of a standard normal input
        "x_zero_point": np.array(128, np.uint8),
        "w": weight,
        "w_scale": np.array(1 / 127, np.float32),
        "w_zero_point": np.array(0, np.int8),
        "y_scale": np.array(8 * 2.3 / 255, np.float32),  # sums of 16: sigma sqrt(16 / 3) = 2.3
        "y_zero_point": np.array(128, np.uint8),
    }
    x, w, y = ([f"{p}_scale", f"{p}_zero_point"] for p in "xwy")
    nodes = [
        helper.make_node("QuantizeLinear", ["input", *x], ["x"], "quantize"),
        helper.make_node("QLinearMatMul", ["x", *x, "w", *w, *y], ["y"], "product"),
        helper.make_node("DequantizeLinear", ["y", *y], ["output"], "dequantize"),
    ]
    shape = INPUT_SHAPES["three_row"]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("input", "output")]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "three_row", ends[:1], ends[1:], initializers)
    return checked_model(graph, weight.size)


ZOO: dict[str, Callable[[], ModelProto]] = {
    "resnet50": resnet50,
    "resnet18": resnet18,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_small": mobilenet_v3_small,
    "ds_cnn": ds_cnn,
    "yolo_like": yolo_like,
    "three_row": three_row,
    "mobilenet_v2_dynamic_u8": lambda: as_dynamic(mobilenet_v2(per_tensor=True), "u8"),
    "mobilenet_v2_dynamic_s8": lambda: as_dynamic(mobilenet_v2(per_tensor=True), "s8"),
    "yolo_like_dynamic": lambda: as_dynamic(yolo_like(per_tensor=True), "u8"),
    "lstm_dynamic": zoo_recurrent.lstm_dynamic,
    "gru": zoo_recurrent.gru,
    **{
        f"minilm_{form}_{sequence}": partial(zoo_transformer.minilm, form, sequence)
        for form in ("qdq", "dynamic")
        for sequence in (16, 128, 256)
    },
    **{
        f"decoder_4bit_{'step' if tokens == 1 else 'prompt'}_{past + tokens}": partial(
            zoo_decoder.decoder_block, tokens, past
        )
        for tokens, past in ((64, 0), (256, 0), (1, 255))
    },
}


def main(argv: list[str] | None = None) -> int:
    """Write one model, or list them all with input shape and multiply-accumulates."""
    parser = argparse.ArgumentParser(description="Write a quantized benchmark model.")
    parser.add_argument("name", nargs="?", choices=list(ZOO))
    parser.add_argument("-o", "--output", type=Path, help="default: NAME.onnx")
    args = parser.parse_args(argv)
    if args.name is None:
        for name in ZOO:
            model = build(name)
            million = (macs(model) or 0) / 1e6
            shape = "x".join(map(str, next(iter(input_shapes(model).values()))))
            print(f"{name:24} {shape:12} {million:10.3f} MMAC")
        return 0
    path = args.output or Path(f"{args.name}.onnx")
    path.write_bytes(build(args.name).SerializeToString())
    print(f"{path}: {path.stat().st_size} bytes")
    return 0


def _shortcut(b: QdqBuilder, x: Tensor, y: Tensor, stride: int) -> Tensor:
    """Return `x` in the shape of `y`: itself, or through a 1x1 projection."""
    return x if x.sample.shape == y.sample.shape else b.conv(x, y.channels, 1, stride)


def _resnet(
    b: QdqBuilder,
    block: Callable[[Tensor, int, int], Tensor],
    repeats: tuple[int, ...],
    size: int = 224,
) -> ModelProto:
    x = b.conv(b.input((1, 3, size, size)), 64, 7, 2, act="Relu")
    x = b.max_pool(x, 3, 2)
    for stage, count in enumerate(repeats):
        for i in range(count):
            x = block(x, 64 << stage, 2 if i == 0 and stage > 0 else 1)
    return b.finish({"output": b.gemm(b.flatten(b.global_average_pool(x)), 1000)})


if __name__ == "__main__":
    sys.exit(main())
