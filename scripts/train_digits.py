"""Train, export and quantize the handwritten-digits CNN that is checked in under qrt/data.

It gives the repository a model of its own: small enough to commit, yet with a dense, a depthwise,
a pointwise and a strided convolution, a residual Add, pooling and a Gemm, in float and in int8.

    python -m venv /tmp/digits && /tmp/digits/bin/pip install torch onnx onnxruntime scikit-learn
    /tmp/digits/bin/python scripts/train_digits.py

Writes digits_fp32.onnx, digits_int8.onnx and digits_test.npz, or nothing and exits with 1 where
the int8 model is not good enough on the held-out split. The seed, the split and the thread count
are fixed: the same packages on the same kind of CPU give the same files.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort  # type: ignore[import-untyped, unused-ignore]
import torch  # type: ignore[import-not-found, unused-ignore]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (  # type: ignore[import-untyped, unused-ignore]
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped, unused-ignore]
from torch import nn  # type: ignore[import-not-found, unused-ignore]
from torch.nn import functional  # type: ignore[import-not-found, unused-ignore]

OUT_DIR = Path(__file__).resolve().parent.parent / "qrt" / "data"
SEED = 20240229
TEST_COUNT = 597  # leaves 1200 of the 1797 images to train on; one test image is 0.17 points
EPOCHS = 80
BATCH = 64
BATCH_NORM_EPSILON = 1e-5
MIN_INT8_TOP1 = 97.0  # percent
MAX_DROP = 0.3  # percentage points between float and int8
PIXEL_MAX = 16.0  # a pixel counts the dark cells of a 4x4 block, so it is 0..16
OPSET = 17
IR_VERSION = 8  # the one that came with opset 17

METADATA = {
    "preprocessing": "image = float32(pixels) / 16, pixels 0..16, 1 = ink; logits argmax = digit",
    "dataset": "Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak; UCI), "
    "through sklearn.datasets.load_digits",
    "dataset_license": "CC BY 4.0",
    "split": f"train_test_split(test_size={TEST_COUNT}, stratify=y, random_state={SEED})",
    "seed": str(SEED),
}


class ConvSpec(NamedTuple):
    """One convolution, padded to keep its size at stride 1, with its batch norm and its ReLU."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    relu: bool = True


# image 8x8, stem, wide, pool 4x4, depthwise, pointwise, + pool, down 2x2, mean, fc
CONVS = {
    spec.name: spec
    for spec in (
        ConvSpec("stem", 1, 16),
        ConvSpec("wide", 16, 32),
        ConvSpec("depthwise", 32, 32, groups=32),
        ConvSpec("pointwise", 32, 32, kernel=1, relu=False),  # the ReLU follows the Add
        ConvSpec("down", 32, 48, stride=2),
    )
}
CLASSES = 10


class Split(NamedTuple):
    """Pixels uint8 (n, 8, 8) of 0..16 and digits int64 (n,)."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]


def main() -> int:
    """Run every step; return the exit code, 1 where the int8 model is refused."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT_DIR, help="directory to write to")
    out: Path = parser.parse_args().out

    train, test = load_split()
    net = train_net(train)
    fp32 = export_fp32(net)
    check_export(net, fp32, test)
    int8 = quantize_int8(fp32, train)

    float_top1, int8_top1 = top1(fp32, test), top1(int8, test)
    drop = float_top1 - int8_top1
    print(f"held-out images {len(test.y)}")
    print(f"float top-1 {float_top1:.2f} %")
    print(f"int8  top-1 {int8_top1:.2f} %  (drop {drop:.2f} points)")
    if int8_top1 < MIN_INT8_TOP1 or drop > MAX_DROP:
        print(
            f"refused, nothing written: int8 top-1 must be at least {MIN_INT8_TOP1} % and within "
            f"{MAX_DROP} points of float",
            file=sys.stderr,
        )
        return 1

    out.mkdir(parents=True, exist_ok=True)
    for name, model in (("digits_fp32.onnx", fp32), ("digits_int8.onnx", int8)):
        onnx.checker.check_model(model, full_check=True)
        (out / name).write_bytes(model.SerializeToString(deterministic=True))
    np.savez_compressed(out / "digits_test.npz", x=test.x, y=test.y)
    for name in ("digits_fp32.onnx", "digits_int8.onnx", "digits_test.npz"):
        print(f"{name} {(out / name).stat().st_size} bytes")
    return 0


def preprocess(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn pixels (n, 8, 8) of 0..16 into the model's input, float32 (n, 1, 8, 8) of 0..1."""
    return pixels[:, None].astype(np.float32) / np.float32(PIXEL_MAX)


def load_split() -> tuple[Split, Split]:
    """Return the training (1200) and held-out (597) images, stratified by digit, fixed by SEED."""
    digits = load_digits()
    x = digits.images.astype(np.uint8)
    y = digits.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=TEST_COUNT, stratify=y, random_state=SEED
    )
    return Split(x_train, y_train), Split(x_test, y_test)


def train_net(train: Split) -> nn.ModuleDict:
    """Train on `train` alone for EPOCHS epochs; return the net in evaluation mode."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # a fixed order of float sums, so that a run can be repeated
    torch.use_deterministic_algorithms(True)
    net = build_net()
    x, y = torch.from_numpy(preprocess(train.x)), torch.from_numpy(train.y)
    steps = -(-len(y) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, epochs=EPOCHS, steps_per_epoch=steps
    )
    net.train()
    for _ in range(EPOCHS):
        order = torch.randperm(len(y))
        for start in range(0, len(y), BATCH):
            batch = order[start : start + BATCH]
            predicted = forward(net, jitter(x[batch]))
            loss = functional.cross_entropy(predicted, y[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            schedule.step()
    return net.eval()


def build_net() -> nn.ModuleDict:
    """Return the untrained modules: one Conv2d + BatchNorm2d per row of CONVS, and `fc`."""
    net = nn.ModuleDict()
    for spec in CONVS.values():
        conv = nn.Conv2d(
            spec.in_channels,
            spec.out_channels,
            spec.kernel,
            stride=spec.stride,
            padding=spec.kernel // 2,
            groups=spec.groups,
            bias=False,
        )
        net[spec.name] = nn.Sequential(
            conv, nn.BatchNorm2d(spec.out_channels, eps=BATCH_NORM_EPSILON)
        )
    net["fc"] = nn.Linear(CONVS["down"].out_channels, CLASSES)
    return net


def forward(net: nn.ModuleDict, image: torch.Tensor) -> torch.Tensor:
    """Map images (n, 1, 8, 8) to logits (n, 10); `export_fp32` spells the same graph in ONNX."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = net[name](x)
        return functional.relu(y) if CONVS[name].relu else y

    pool = functional.max_pool2d(conv("wide", conv("stem", image)), 2)
    residual = functional.relu(pool + conv("pointwise", conv("depthwise", pool)))
    predicted: torch.Tensor = net["fc"](conv("down", residual).mean((2, 3)))
    return predicted


def jitter(x: torch.Tensor) -> torch.Tensor:
    """Turn, scale and shift each image (n, 1, 8, 8) by a little: 10 degrees, 10 %, 0.8 pixels."""
    n = len(x)
    angle = torch.empty(n).uniform_(-0.175, 0.175)  # radians
    scale = torch.empty(n).uniform_(0.9, 1.1)
    shift = torch.empty(n, 2).uniform_(-0.2, 0.2)  # the 8 pixels span -1..1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale * angle.cos()
    theta[:, 0, 1] = -scale * angle.sin()
    theta[:, 1, 0] = scale * angle.sin()
    theta[:, :, 2] = shift
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def export_fp32(net: nn.ModuleDict) -> onnx.ModelProto:
    """Spell `forward` as an opset 17 model `image` -> `logits`, batch norms folded into convs."""
    state = {key: value.double().numpy() for key, value in net.state_dict().items()}
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def node(op: str, name: str, *inputs: str, **attrs: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attrs))
        return name

    def parameter(name: str, value: NDArray[np.float64]) -> str:
        weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def conv(name: str, x: str) -> str:
        spec = CONVS[name]
        weight, bias = fold_batch_norm(state, name)
        inputs = x, parameter(f"{name}.weight", weight), parameter(f"{name}.bias", bias)
        attrs = {
            "kernel_shape": [spec.kernel] * 2,
            "strides": [spec.stride] * 2,
            "pads": [spec.kernel // 2] * 4,
            "group": spec.groups,
        }
        if not spec.relu:
            return node("Conv", name, *inputs, **attrs)
        return node("Relu", f"{name}_relu", node("Conv", name, *inputs, **attrs))

    wide = conv("wide", conv("stem", "image"))
    pool = node("MaxPool", "pool", wide, kernel_shape=[2, 2], strides=[2, 2])
    total = node("Add", "residual", pool, conv("pointwise", conv("depthwise", pool)))
    down = conv("down", node("Relu", "residual_relu", total))
    flat = node("Flatten", "flatten", node("GlobalAveragePool", "mean", down), axis=1)
    fc_weight = parameter("fc.weight", state["fc.weight"])
    fc_bias = parameter("fc.bias", state["fc.bias"])
    nodes.append(
        helper.make_node("Gemm", [flat, fc_weight, fc_bias], ["logits"], name="fc", transB=1)
    )

    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    return sign(model, "float32")


def fold_batch_norm(
    state: dict[str, NDArray[np.float64]], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (weight, bias) of the one conv that equals `norm(conv(x))` of the layer `name`.

    norm(z) = gain * z + (beta - gain * mean), with gain = gamma / sqrt(var + epsilon)
    (ONNX BatchNormalization, opset 15, inference); z, the conv, has no bias of its own.
    """
    conv, norm = f"{name}.0", f"{name}.1"  # their places in the nn.Sequential of build_net
    gain = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
    weight = state[f"{conv}.weight"] * gain[:, None, None, None]
    return weight, state[f"{norm}.bias"] - gain * state[f"{norm}.running_mean"]


def check_export(net: nn.ModuleDict, fp32: onnx.ModelProto, split: Split) -> None:
    """Raise AssertionError where the exported model computes something else than `net`."""
    x = preprocess(split.x)
    with torch.no_grad():
        wanted = forward(net, torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(logits(fp32, x), wanted, rtol=1e-4, atol=1e-4)


class TrainingImages:
    """The calibration data: `train` in batches, through the `get_next` quantize_static calls."""

    def __init__(self, train: Split) -> None:
        """Take the images of `train`, in order."""
        x = preprocess(train.x)
        self._batches: Iterator[NDArray[np.float32]] = (
            x[start : start + BATCH] for start in range(0, len(x), BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next feed, or None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def quantize_int8(fp32: onnx.ModelProto, train: Split) -> onnx.ModelProto:
    """Return the static QDQ model: uint8 activations, int8 per-channel weights, int32 biases.

    Ranges are the min and max seen over `train`. A Conv or Add takes the range of its ReLU, whose
    clamp is then the zero point 0, and the Relu node goes. The advice to pre-process the model,
    which onnxruntime logs here, is moot: there is no batch norm left to fold.
    """
    with tempfile.TemporaryDirectory() as directory:
        # files, because quantize_static moves the weights of a ModelProto it is given out of it
        source, result = Path(directory) / "fp32.onnx", Path(directory) / "int8.onnx"
        onnx.save(fp32, source)
        quantize_static(
            source,
            result,
            TrainingImages(train),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        model = onnx.load(result)
    del model.graph.value_info[:]  # it still lists the inputs of the Relu nodes that went
    return sign(model, "int8")


def sign(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Set the header of `model` in place (producer, docs, metadata) and return it."""
    model.ir_version = IR_VERSION
    model.producer_name = "qrt"
    model.producer_version = ""
    model.doc_string = (
        f"Handwritten digits 0..9 from 8x8 images, {precision}. Input: {METADATA['preprocessing']}."
    )
    helper.set_model_props(model, METADATA)
    return model


def top1(model: onnx.ModelProto, split: Split) -> float:
    """Return the percentage of `split` whose largest logit under onnxruntime is its digit."""
    return float(np.mean(logits(model, preprocess(split.x)).argmax(1) == split.y) * 100)


def logits(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what onnxruntime computes for images (n, 1, 8, 8): logits (n, 10)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: NDArray[np.float32] = session.run(["logits"], {"image": x})[0]
    return result


if __name__ == "__main__":
    sys.exit(main())
