"""ONNX models of one operator with random weights, under construction, and what is fed to them.

Activations of images lie channels last in memory, as they do inside of a network: the model begins
and ends with a Transpose, which qrt and onnxruntime resolve into the order they compute in.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        return self.nodes(op, *inputs, outputs=outputs, **attrs)[0]

    def nodes(self, op: str, *inputs: str, outputs: int, **attrs: Any) -> list[str]:
        """All outputs of a node."""
        from onnx import helper

        names = [f"n{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, **attrs))
        return names

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


def windows(h: int, w: int, kernel: int, stride: int) -> dict[str, Any]:
    """Strides, and pads that keep ceil(size / stride) outputs, the smaller half first."""
    before, after = [], []
    for size in (h, w):
        needed = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        before.append(needed // 2)
        after.append(needed - needed // 2)
    return {"strides": [stride] * 2, "pads": before + after, "kernel_shape": [kernel] * 2}
