"""ONNX models of one operator with random weights: what kernel benches run.

Activations of images lie channels last in memory, as they do inside of a network: the model begins
and ends with a Transpose, which qrt and onnxruntime resolve into the order they compute in. A
builder takes the sizes in the order that its family names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
Dims = tuple[int, ...]

OPSET, IR_VERSION = 17, 8
SEED = 20
U8, S8, S32, F32 = np.uint8, np.int8, np.int32, np.float32
LARGEST_SUM = 2**16  # of inputs of int32, which stand for sums of products
INDEXED_ROWS = 1024  # of tables that inputs of int64 are indices of
X_SCALE, X_ZERO_POINT, Y_ZERO_POINT = 0.02, 120, 110


class Draft:
    """A model under construction. Names of values are made here; `x...` and `y` are its ends."""

    def __init__(self, *, channels_last: bool = True) -> None:
        self.rng = np.random.default_rng(SEED)
        self.channels_last = channels_last
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._constants: list[Any] = []

    def input(self, dtype: Any, shape: Sequence[int]) -> str:
        """A graph input."""
        from onnx import helper

        name = f"x{len(self._inputs)}"
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, element, list(shape)))
        return name

    def image(self, dtype: Any, h: int, w: int, c: int) -> str:
        """A graph input of one image, (1, c, h, w) to the nodes that use it."""
        if not self.channels_last:
            return self.input(dtype, (1, c, h, w))
        return self.node("Transpose", self.input(dtype, (1, h, w, c)), perm=[0, 3, 1, 2])

    def constant(self, array: Any, dtype: Any) -> str:
        """An initializer."""
        from onnx import numpy_helper

        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        """A node's first output."""
        from onnx import helper

        names = [f"n{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, **attrs))
        return names[0]

    def dequantize(self, x: str, scale: float = X_SCALE, zero_point: int = X_ZERO_POINT) -> str:
        """Real values of the uint8 `x`."""
        return self.node("DequantizeLinear", x, *self.qparams(scale, zero_point))

    def quantize(self, x: str, scale: float, zero_point: int = Y_ZERO_POINT) -> str:
        """uint8 of the real `x`."""
        return self.node("QuantizeLinear", x, *self.qparams(scale, zero_point))

    def qparams(self, scale: float, zero_point: int, dtype: Any = U8) -> tuple[str, str]:
        """Scale and zero point."""
        return self.constant(scale, F32), self.constant(zero_point, dtype)

    def weights(self, *shape: int, dtype: Any = S8) -> str:
        """Random weights."""
        if dtype is F32:
            return self.constant(self.rng.standard_normal(shape, F32) * 0.1, F32)
        return self.constant(self.rng.integers(-127, 128, shape, S8), dtype)

    def output(self, *values: str) -> onnx.ModelProto:
        """The model that gives `values`, as y0, y1, ..."""
        from onnx import helper

        outputs = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(len(values))]
        for value, output in zip(values, outputs, strict=True):
            self._rename(value, output.name)
        graph = helper.make_graph(
            self._nodes, "bench", self._inputs, outputs, initializer=self._constants
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def output_image(self, value: str) -> onnx.ModelProto:
        """The model that gives one image."""
        if self.channels_last:
            value = self.node("Transpose", value, perm=[0, 2, 3, 1])
        return self.output(value)

    def _rename(self, value: str, name: str) -> None:
        for node in self._nodes:
            node.output[:] = [name if output == value else output for output in node.output]


def random_inputs(model: onnx.ModelProto, seed: int = 1) -> dict[str, Array]:
    """Inputs by name: bytes over all of their range, floats standard normal, int64 indices."""
    from onnx import helper

    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for info in model.graph.input:
        tensor = info.type.tensor_type
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        if dtype == np.bool_:
            arrays[info.name] = rng.integers(0, 2, shape).astype(bool)
        elif dtype == np.int64:
            arrays[info.name] = rng.integers(0, INDEXED_ROWS, shape)
        elif dtype.kind in "iu":
            span = np.iinfo(dtype)
            low, high = max(span.min, -LARGEST_SUM), min(span.max, LARGEST_SUM)
            arrays[info.name] = rng.integers(low, high, shape, dtype, endpoint=True)
        else:
            arrays[info.name] = rng.standard_normal(shape).astype(dtype)
    return arrays


def constants_nbytes(model: onnx.ModelProto) -> int:
    """Bytes of the weights."""
    from onnx import helper

    return sum(
        prod(t.dims) * np.dtype(helper.tensor_dtype_to_np_dtype(t.data_type)).itemsize
        for t in model.graph.initializer
    )


def empty() -> onnx.ModelProto:
    """One element through Relu: what remains is the cost of a call."""
    d = Draft()
    return d.output(d.node("Relu", d.input(F32, (1,))))


def _spread(k: int) -> float:
    """A scale of outputs that uses uint8 well, for sums of k products of random bytes."""
    return float(np.sqrt(k) * 110 * X_SCALE)


def _window(h: int, w: int, kernel: int, stride: int) -> dict[str, Any]:
    """Strides, and pads that keep ceil(size / stride) outputs, the smaller half first."""
    before, after = [], []
    for size in (h, w):
        needed = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        before.append(needed // 2)
        after.append(needed - needed // 2)
    return {"strides": [stride] * 2, "pads": before + after, "kernel_shape": [kernel] * 2}


# products


def qlinear_matmul(d: Draft, m: int, n: int, k: int, *, zero_point: int = 0) -> onnx.ModelProto:
    """u8 (m, k) * s8 weights (k, n), requantized to u8."""
    w = (d.weights(k, n), *d.qparams(1.0, zero_point, S8))
    y = d.qparams(_spread(k), Y_ZERO_POINT)
    x = d.input(U8, (m, k))
    return d.output(d.node("QLinearMatMul", x, *d.qparams(X_SCALE, X_ZERO_POINT), *w, *y))


def qlinear_matmul_asymmetric(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """The same with weights around a zero point other than 0."""
    return qlinear_matmul(d, m, n, k, zero_point=3)


def qlinear_matmul_two_inputs(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """u8 (m, k) * u8 (k, n), both computed by the network, as in attention."""
    a = (d.input(U8, (m, k)), *d.qparams(X_SCALE, X_ZERO_POINT))
    b = (d.input(U8, (k, n)), *d.qparams(1.0, 128))
    return d.output(d.node("QLinearMatMul", *a, *b, *d.qparams(_spread(k), Y_ZERO_POINT)))


def matmul_to_float(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """u8 * s8 weights with float32 results."""
    w = d.node("DequantizeLinear", d.weights(k, n), *d.qparams(1.0, 0, S8))
    return d.output(d.node("MatMul", d.dequantize(d.input(U8, (m, k))), w))


def matmul_words(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """u16 * s8 weights with float32 results (com.microsoft: before opset 21)."""
    qparams = d.qparams(X_SCALE / 256, 2**15, np.uint16)
    x = d.node(
        "DequantizeLinear", d.input(np.uint16, (m, k)), *qparams, domain="com.microsoft"
    )
    w = d.node("DequantizeLinear", d.weights(k, n), *d.qparams(2**-10, 0, S8))
    return d.output(d.node("MatMul", x, w))


def matmul_f32(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """float32 (m, k) * weights (k, n)."""
    return d.output(d.node("MatMul", d.input(F32, (m, k)), d.weights(k, n, dtype=F32)))


def matmul_f32_two_inputs(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """float32 (m, k) * (k, n), both computed by the network, as in attention."""
    return d.output(d.node("MatMul", d.input(F32, (m, k)), d.input(F32, (k, n))))


def gemm_f32_added(d: Draft, m: int, n: int, k: int) -> onnx.ModelProto:
    """float32 (m, k) * weights (k, n) + a computed (m, n)."""
    x, c = d.input(F32, (m, k)), d.input(F32, (m, n))
    return d.output(d.node("Gemm", x, d.weights(k, n, dtype=F32), c))


def nbits(
    d: Draft, m: int, n: int, k: int, block: int, *, bits: int, level: int,
    asymmetric: bool = False,
) -> onnx.ModelProto:  # fmt: skip
    """float32 (m, k) * weights of `bits` in blocks along k; `level` is the accuracy_level."""
    blocks = -(-k // block)

    def random(*shape: int) -> str:
        return d.constant(d.rng.integers(0, 256, shape), U8)

    inputs = [d.input(F32, (m, k)), random(n, blocks, block * bits // 8)]
    inputs.append(d.constant((d.rng.random(n * blocks) + 0.5) / (np.sqrt(k) * 2**bits), F32))
    if asymmetric:
        inputs.append(random(n * -(-blocks * bits // 8)))
    attrs = {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": level}
    return d.output(d.node("MatMulNBits", *inputs, domain="com.microsoft", **attrs))


nbits_s8_2b, nbits_s8_4b, nbits_s8_8b = (partial(nbits, bits=bits, level=4) for bits in (2, 4, 8))
nbits_s8_4b_asymmetric = partial(nbits, bits=4, level=4, asymmetric=True)
nbits_f32_4b = partial(nbits, bits=4, level=0)


# convolutions


def qlinear_conv(
    d: Draft, h: int, w: int, c: int, o: int, kernel: int, stride: int, group: int = 1
) -> onnx.ModelProto:
    """u8 image * s8 weights per channel, requantized to u8."""
    x = (d.image(U8, h, w, c), *d.qparams(X_SCALE, X_ZERO_POINT))
    scales = d.constant(d.rng.random(o) + 0.5, F32)
    weights = (d.weights(o, c // group, kernel, kernel), scales, d.constant(np.zeros(o), S8))
    k = c // group * kernel**2
    y = d.qparams(_spread(k), Y_ZERO_POINT)
    bias = d.constant(d.rng.integers(-3000, 3000, o), S32)
    window = _window(h, w, kernel, stride)
    conv = d.node("QLinearConv", *x, *weights, *y, bias, group=group, **window)
    return d.output_image(conv)


def qlinear_depthwise(
    d: Draft, h: int, w: int, c: int, kernel: int, stride: int
) -> onnx.ModelProto:
    """The same, a kernel of its own for each channel."""
    return qlinear_conv(d, h, w, c, c, kernel, stride, group=c)


def conv_f32(
    d: Draft, h: int, w: int, c: int, o: int, kernel: int, stride: int, group: int = 1
) -> onnx.ModelProto:
    """float32 image * weights, with a bias."""
    weights = d.weights(o, c // group, kernel, kernel, dtype=F32)
    bias = d.weights(o, dtype=F32)
    x = d.image(F32, h, w, c)
    return d.output_image(
        d.node("Conv", x, weights, bias, group=group, **_window(h, w, kernel, stride))
    )


def depthwise_f32(d: Draft, h: int, w: int, c: int, kernel: int, stride: int) -> onnx.ModelProto:
    """The same, a kernel of its own for each channel."""
    return conv_f32(d, h, w, c, c, kernel, stride, group=c)


# pooling


def max_pool(d: Draft, h: int, w: int, c: int, kernel: int, stride: int) -> onnx.ModelProto:
    """Maximum of u8 windows."""
    return d.output_image(d.node("MaxPool", d.image(U8, h, w, c), **_window(h, w, kernel, stride)))


def max_pool_f32(d: Draft, h: int, w: int, c: int, kernel: int, stride: int) -> onnx.ModelProto:
    """Maximum of float32 windows."""
    return d.output_image(d.node("MaxPool", d.image(F32, h, w, c), **_window(h, w, kernel, stride)))


def average_pool(d: Draft, h: int, w: int, c: int, kernel: int, stride: int) -> onnx.ModelProto:
    """Mean of u8 windows, requantized; of the whole image where the window has its size."""
    x = d.dequantize(d.image(U8, h, w, c))
    if kernel == h == w:
        mean = d.node("GlobalAveragePool", x)
    else:
        mean = d.node("AveragePool", x, **_window(h, w, kernel, stride))
    return d.output_image(d.quantize(mean, X_SCALE))


def average_pool_f32(d: Draft, h: int, w: int, c: int, kernel: int, stride: int) -> onnx.ModelProto:
    """Mean of float32 windows; of the whole image where the window has its size."""
    x = d.image(F32, h, w, c)
    if kernel == h == w:
        return d.output_image(d.node("GlobalAveragePool", x))
    return d.output_image(d.node("AveragePool", x, **_window(h, w, kernel, stride)))


# element by element


def add(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 + u8 of two scales, requantized."""
    a, b = (d.dequantize(d.input(U8, (rows, n)), scale) for scale in (0.0213, 0.0317))
    return d.output(d.quantize(d.node("Add", a, b), 0.0479))


def mul(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 * u8, requantized."""
    a, b = (d.dequantize(d.input(U8, (rows, n))) for _ in range(2))
    return d.output(d.quantize(d.node("Mul", a, b), 0.05))


def sigmoid(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """A function of u8 to u8: a table of 256 entries."""
    return d.output(d.quantize(d.node("Sigmoid", d.dequantize(d.input(U8, (rows, n)))), 1 / 256, 0))


def sigmoid_to_float(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """A function of u8 to float32."""
    return d.output(d.node("Sigmoid", d.dequantize(d.input(U8, (rows, n)))))


def unary_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Sigmoid of float32."""
    return d.output(d.node("Sigmoid", d.input(F32, (rows, n))))


def add_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 + float32."""
    return d.output(d.node("Add", d.input(F32, (rows, n)), d.input(F32, (rows, n))))


def less_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Not (float32 < float32)."""
    less = d.node("Less", d.input(F32, (rows, n)), d.input(F32, (rows, n)))
    return d.output(d.node("Not", less))


def where_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """One of two float32 tensors, by a mask."""
    mask = d.input(np.bool_, (rows, n))
    return d.output(d.node("Where", mask, d.input(F32, (rows, n)), d.input(F32, (rows, n))))


# between real and integer


def quantize(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 to u8."""
    return d.output(d.quantize(d.input(F32, (rows, n)), X_SCALE))


def quantize_channels(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 to u8, a scale per row."""
    return _quantize_along(d, (rows, n), 0, np.zeros(rows))


def quantize_columns(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 to u8, a scale per column, as channels last in memory."""
    return _quantize_along(d, (rows, n), 1, np.zeros(n))


def quantize_columns_apart(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """The same with zero points that differ too."""
    return _quantize_along(d, (rows, n), 1, np.arange(n) % 256)


def _quantize_along(d: Draft, shape: Dims, axis: int, zero_points: Array) -> onnx.ModelProto:
    scales = d.constant(d.rng.random(shape[axis]) + 0.5, F32)
    zeros = d.constant(zero_points, U8)
    return d.output(d.node("QuantizeLinear", d.input(F32, shape), scales, zeros, axis=axis))


def dynamic_quantize(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 to u8 by its own extremes."""
    y = d.node("DynamicQuantizeLinear", d.input(F32, (rows, n)), outputs=3)
    return d.output(*(y[:-1] + str(i) for i in range(3)))


def dequantize(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 to float32."""
    return d.output(d.dequantize(d.input(U8, (rows, n))))


def dequantize_channels(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 to float32, a scale per row."""
    scales, zeros = d.constant(d.rng.random(rows) + 0.5, F32), d.constant(np.zeros(rows), U8)
    return d.output(d.node("DequantizeLinear", d.input(U8, (rows, n)), scales, zeros, axis=0))


def requantize(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 of one scale to u8 of another."""
    return d.output(d.quantize(d.dequantize(d.input(U8, (rows, n))), 0.03))


def requantize_s32(d: Draft, rows: int, n: int, scale: Any = 0.00093) -> onnx.ModelProto:
    """int32 sums to u8; one product does for these scales."""
    x = d.input(S32, (rows, n))
    real = d.node("DequantizeLinear", x, d.constant(scale, F32), axis=1)
    return d.output(d.quantize(real, 0.1))


def requantize_s32_fine(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """int32 sums to u8, whose steps are too many sums long for one product."""
    return requantize_s32(d, rows, n, 0.0000371)


def requantize_s32_columns(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """int32 sums to u8, a scale per column, as channels last in memory."""
    return requantize_s32(d, rows, n, (d.rng.random(n) + 0.5) * 0.001)


# along rows


def softmax(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Of the rows of u8, requantized."""
    real = d.dequantize(d.input(U8, (rows, n)))
    return d.output(d.quantize(d.node("Softmax", real, axis=-1), 1 / 256, 0))


def softmax_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Of the rows of float32."""
    return d.output(d.node("Softmax", d.input(F32, (rows, n)), axis=-1))


def layer_norm(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Of the rows of float32."""
    scale, bias = d.weights(n, dtype=F32), d.weights(n, dtype=F32)
    return d.output(d.node("LayerNormalization", d.input(F32, (rows, n)), scale, bias, axis=-1))


def batch_norm(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """float32 (rows, n) by channel, n channels."""
    scale, bias, mean = (d.weights(n, dtype=F32) for _ in range(3))
    variance = d.constant(d.rng.random(n) + 0.5, F32)
    x = d.input(F32, (rows, n))
    return d.output(d.node("BatchNormalization", x, scale, bias, mean, variance))


def reduce_f32(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Mean of the rows of float32."""
    return d.output(d.node("ReduceMean", d.input(F32, (rows, n)), axes=[1], keepdims=1))


# movement


def transpose(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """u8 (rows, n) to (n, rows), in memory."""
    return d.output(d.node("Transpose", d.input(U8, (rows, n)), perm=[1, 0]))


def slice_rows(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """The second half of every row of u8."""
    bounds = (d.constant([n // 2], np.int64), d.constant([n], np.int64))
    x = d.input(U8, (rows, n))
    return d.output(d.node("Slice", x, *bounds, d.constant([1], np.int64)))


def slice_steps(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Every second element of float32 rows."""
    bounds = (d.constant([0], np.int64), d.constant([n], np.int64), d.constant([1], np.int64))
    x = d.input(F32, (rows, n))
    return d.output(d.node("Slice", x, *bounds, d.constant([2], np.int64)))


def pad_image(d: Draft, h: int, w: int, c: int) -> onnx.ModelProto:
    """One pixel around an image of u8."""
    pads = d.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    return d.output_image(d.node("Pad", d.image(U8, h, w, c), pads, d.constant(7, U8)))


def resize_nearest(d: Draft, h: int, w: int, c: int) -> onnx.ModelProto:
    """An image of u8 in twice the size, pixels repeated."""
    return _resize(d, d.image(U8, h, w, c), "nearest")


def resize_linear(d: Draft, h: int, w: int, c: int) -> onnx.ModelProto:
    """An image of u8 in twice the size, interpolated."""
    x = d.dequantize(d.image(U8, h, w, c))
    return _resize(d, x, "linear", quantized=True)


def _resize(d: Draft, x: str, mode: str, *, quantized: bool = False) -> onnx.ModelProto:
    scales = d.constant([1, 1, 2, 2], F32)
    y = d.node(
        "Resize", x, "", scales, mode=mode, coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )  # fmt: skip
    return d.output_image(d.quantize(y, X_SCALE, X_ZERO_POINT) if quantized else y)


def gather(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """Rows of a table of float32 by index, as embeddings are."""
    table = d.weights(INDEXED_ROWS, n, dtype=F32)
    return d.output(d.node("Gather", table, d.input(np.int64, (rows,))))


def cast(d: Draft, rows: int, n: int) -> onnx.ModelProto:
    """int32 to float32."""
    return d.output(d.node("Cast", d.input(S32, (rows, n)), to=1))
