"""Finding the regions of a model: one walk over its nodes, a table of what each operator does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from qrt.ptq.backends import PRODUCTS
from qrt.ptq.channels import Layout, Part, Region, clip_limits
from qrt.ptq.draft import Draft, attributes, label
from qrt.quant.affine import Array

SAME = ("Relu", "LeakyRelu", "PRelu", "Abs", "Identity", "Dropout")  # shapes stay
POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceSum")
BLIND = ("Shape", "Size")  # read no values


def find_regions(draft: Draft) -> list[Region]:
    """All regions of the model, blocked ones too."""
    return _Finder(draft).run()


class _Finder:
    """Walks the nodes once, in order; `layouts` has what is known of each tensor's channels."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.layouts: dict[str, Layout] = {}
        self.regions: list[Region] = []
        self.uses = {name: len(nodes) for name, nodes in draft.consumers().items()}
        self.fixed = {*draft.outputs, *draft.captured()}
        for name in self.fixed:
            self.uses[name] = self.uses.get(name, 0) + 1
        self.shapes = _shapes(draft)

    def run(self) -> list[Region]:
        for node in self.draft.nodes:
            known = [name for name in node.input if name in self.layouts]
            handle = _HANDLERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            layout = handle(self, node) if handle is not None else self._end(node)
            if layout is None:
                continue
            if node.op_type not in PRODUCTS:
                for name in known:
                    if self.layouts[name].region is not layout.region:
                        self._block(name, f"{label(node)} reads it")
            self._place(node.output[0], layout)
        for name in self.fixed:
            self._block(name, "it is an output, or a subgraph reads it")
        return [region for region in self.regions if region.tensors]

    # one method per kind of operator: the layout of what it writes, None for none

    def product(self, node: onnx.NodeProto) -> Layout | None:
        """Ends the region of what it reads, begins another."""
        weights = self.draft.arrays.get(node.input[1])
        for name in node.input[2:]:
            self._block(name, f"{label(node)} adds it")  # where it is no constant
        if weights is None or weights.dtype != np.float32 or attributes(node).get("transA", 0):
            return self._end(node)
        if node.op_type != "Conv" and weights.ndim != 2:
            return self._end(node)
        if self.uses[node.input[1]] > 1:
            return self._end(node, "its weights are shared")
        layout = self.layouts.get(node.input[0])
        if layout is not None:
            reader = _reader(node, weights, layout)
            if reader is None:
                return self._end(node)
            layout.region.readers.append(reader)
        return self._begin(node, weights)

    def normalization(self, node: onnx.NodeProto) -> Layout | None:
        """LayerNormalization over the last axis writes channels by its factors."""
        self._end(node)
        rank = self._rank(node.input[0])
        if attributes(node).get("axis", -1) not in (-1, (rank or 0) - 1):
            return None
        factors = self.draft.arrays.get(node.input[1])
        if factors is None or factors.ndim != 1:
            return None
        layout = Layout(self._new(len(factors)), -1)
        for index in range(1, len(node.input)):
            if node.input[index] and not self._shift(node, index, layout):
                return None
        return layout

    def same(self, node: onnx.NodeProto) -> Layout | None:
        """Element by element, on the first input."""
        return self.layouts.get(node.input[0])

    def clip(self, node: onnx.NodeProto) -> Layout | None:
        """Between 0 and a bound."""
        layout = self.layouts.get(node.input[0])
        low, high = clip_limits(self.draft, node)
        if layout is None or low != 0 or high is None:
            return self._end(node)
        if np.isfinite(high):
            layout.region.clips.append(node)
        return layout

    def pool(self, node: onnx.NodeProto) -> Layout | None:
        """Windows over the axes behind the channels."""
        layout, rank = self.layouts.get(node.input[0]), self._rank(node.input[0])
        if layout is None or rank is None or layout.axis != 1 - rank or any(node.output[1:]):
            return self._end(node)
        return layout

    def reshape(self, node: onnx.NodeProto) -> Layout | None:
        """Channels stay together where the elements behind them are spread evenly."""
        layout = self.layouts.get(node.input[0])
        before, after = self.shapes.get(node.input[0]), self.shapes.get(node.output[0])
        if layout is None or before is None or after is None:
            return self._end(node)
        size = _count(before[len(before) + layout.axis :])
        wide = layout.region.channels * layout.repeat
        for axis in range(len(after)):
            mine = after[axis]
            if size is None or mine is None or mine % wide or _count(after[axis:]) != size:
                continue
            repeat = layout.repeat * (mine // wide)
            return Layout(layout.region, axis - len(after), repeat)
        return self._end(node)

    def transpose(self, node: onnx.NodeProto) -> Layout | None:
        """The channels' axis goes where `perm` puts it."""
        layout, rank = self.layouts.get(node.input[0]), self._rank(node.input[0])
        if layout is None or rank is None:
            return self._end(node)
        perm = list(attributes(node).get("perm", range(rank)[::-1]))
        return Layout(layout.region, perm.index(rank + layout.axis) - rank, layout.repeat)

    def reduction(self, node: onnx.NodeProto) -> Layout | None:
        """Over other axes than the channels'."""
        layout, rank = self.layouts.get(node.input[0]), self._rank(node.input[0])
        axes = attributes(node).get("axes")
        if axes is None and len(node.input) > 1:
            axes = self.draft.arrays.get(node.input[1])
        if layout is None or rank is None or axes is None:
            return self._end(node)
        gone = {int(axis) - rank if axis >= 0 else int(axis) for axis in np.ravel(axes)}
        if layout.axis in gone:
            return self._end(node)
        if attributes(node).get("keepdims", 1):
            return layout
        axis = layout.axis + sum(other > layout.axis for other in gone)
        return Layout(layout.region, axis, layout.repeat)

    def resize(self, node: onnx.NodeProto) -> Layout | None:
        """Weighted sums of neighbours, channel by channel."""
        layout = self.layouts.get(node.input[0])
        before, after = self.shapes.get(node.input[0]), self.shapes.get(node.output[0])
        mode = attributes(node).get("coordinate_transformation_mode", b"")
        if layout is None or before is None or after is None or mode == b"tf_crop_and_resize":
            return self._end(node)
        if before[layout.axis] is None or before[layout.axis] != after[layout.axis]:
            return self._end(node)
        return layout

    def add(self, node: onnx.NodeProto) -> Layout | None:
        """Two members of one region, or a member and a constant per channel."""
        first, second = (self.layouts.get(name) for name in node.input)
        if first is not None and second is not None:
            same = (first.axis, first.repeat) == (second.axis, second.repeat)
            if not same or first.region.channels != second.region.channels:
                return self._end(node)
            return Layout(self._join(first.region, second.region), first.axis, first.repeat)
        layout, index = (first, 1) if first is not None else (second, 0)
        if layout is None or not self._shift(node, index, layout):
            return self._end(node)
        return layout

    def gate(self, node: onnx.NodeProto) -> Layout | None:
        """A member times or by what has no region; a vector of constants begins one."""
        first = self.layouts.get(node.input[0])
        second = self.layouts.get(node.input[1])
        if first is not None and second is not None:
            return self._end(node)
        layout = first if first is not None or node.op_type == "Div" else second
        if layout is not None:
            return layout if layout.region.channels * layout.repeat > 1 else self._end(node)
        if node.op_type == "Div":
            return self._end(node)
        for index, name in enumerate(node.input):
            array = self.draft.arrays.get(name)
            if array is not None and array.dtype == np.float32 and array.ndim == 1 < array.size:
                begun = Layout(self._new(array.size), -1)
                return begun if self._shift(node, index, begun) else None
        return None

    def blind(self, node: onnx.NodeProto) -> Layout | None:
        """Looks at shapes only."""
        return None

    # regions

    def _new(self, channels: int) -> Region:
        region = Region(channels)
        self.regions.append(region)
        return region

    def _begin(self, node: onnx.NodeProto, weights: Array) -> Layout | None:
        axis = 0 if node.op_type == "Conv" or attributes(node).get("transB", 0) else 1
        channels = weights.shape[axis]
        layout = Layout(self._new(channels), 1 - weights.ndim if node.op_type == "Conv" else -1)
        shape = (weights.shape[0], weights.size // weights.shape[0])
        along = (channels, 1) if axis == 0 else (1, channels)
        layout.region.writers.append(Part(node, 1, shape, along))
        if len(node.input) > 2 and node.input[2]:
            rank = 1 if node.op_type == "Conv" else 2
            bias = self.draft.arrays.get(node.input[2])
            if bias is None or bias.ndim > rank or not self._shift(node, 2, layout, vector=True):
                return None
        return layout

    def _shift(
        self, node: onnx.NodeProto, index: int, layout: Layout, vector: bool = False
    ) -> bool:
        """Take a constant that goes with the writers; False when it has another shape.

        `vector`: channels are its last axis, as a bias has them, wherever they lie in the tensor.
        """
        array = self.draft.arrays.get(node.input[index])
        if array is None or array.dtype != np.float32:
            return False
        axis = -1 if vector else layout.axis
        wide = layout.region.channels * layout.repeat
        full = (wide, *(1,) * (-axis - 1))
        if array.size == 1 and array.ndim <= len(full):
            array = np.broadcast_to(array.reshape((1,) * len(full)), full)
        elif array.size != wide or array.shape[axis:] != full:
            return False
        if self.uses[node.input[index]] > 1 or array.shape != self._array(node, index).shape:
            node.input[index] = self.draft.constant(f"{node.input[index]}_own", array)
            self.uses[node.input[index]] = 1
        shape = (layout.region.channels, layout.repeat)
        layout.region.shifts.append(Part(node, index, shape, (layout.region.channels, 1)))
        return True

    def _array(self, node: onnx.NodeProto, index: int) -> Array:
        return self.draft.arrays[node.input[index]]

    def _end(self, node: onnx.NodeProto, reason: str = "") -> Layout | None:
        """Block the regions of all that `node` reads; what it writes has none."""
        for name in node.input:
            self._block(name, reason or f"{label(node)} reads it")
        return None

    def _block(self, name: str, reason: str) -> None:
        layout = self.layouts.get(name)
        if layout is not None and not layout.region.blocked:
            layout.region.blocked = f"tensor '{name}': {reason}"

    def _place(self, name: str, layout: Layout) -> None:
        self.layouts[name] = layout
        layout.region.tensors[name] = layout

    def _join(self, one: Region, other: Region) -> Region:
        """Everything of `other` into `one`."""
        if one is other:
            return one
        for mine, more in (
            (one.writers, other.writers),
            (one.shifts, other.shifts),
            (one.readers, other.readers),
            (one.clips, other.clips),
        ):
            mine.extend(more)  # type: ignore[arg-type]
        one.blocked = one.blocked or other.blocked
        for name, layout in other.tensors.items():
            self._place(name, Layout(one, layout.axis, layout.repeat))
        self.regions = [region for region in self.regions if region is not other]
        return one

    def _rank(self, name: str) -> int | None:
        shape = self.shapes.get(name)
        return None if shape is None else len(shape)


_HANDLERS: dict[str, Callable[[_Finder, onnx.NodeProto], Layout | None]] = {
    **dict.fromkeys(PRODUCTS, _Finder.product),
    **dict.fromkeys(SAME, _Finder.same),
    **dict.fromkeys(POOLS, _Finder.pool),
    **dict.fromkeys(RESHAPES, _Finder.reshape),
    **dict.fromkeys(REDUCTIONS, _Finder.reduction),
    **dict.fromkeys(BLIND, _Finder.blind),
    "LayerNormalization": _Finder.normalization,
    "Clip": _Finder.clip,
    "Transpose": _Finder.transpose,
    "Resize": _Finder.resize,
    "Add": _Finder.add,
    "Mul": _Finder.gate,
    "Div": _Finder.gate,
}


def _reader(node: onnx.NodeProto, weights: Array, layout: Layout) -> Part | None:
    """The weights by the channels they read; None when these are not its inputs."""
    wide = layout.region.channels * layout.repeat
    if node.op_type == "Conv":
        groups = attributes(node).get("group", 1)
        each = weights.shape[1]
        if layout.axis != 1 - weights.ndim or layout.repeat != 1 or wide != groups * each:
            return None
        rows = weights.shape[0] // groups
        return Part(node, 1, (groups, rows, each, weights[0, 0].size), (groups, 1, each, 1))
    summed = 1 if attributes(node).get("transB", 0) else 0
    if layout.axis != -1 or weights.shape[summed] != wide:
        return None
    channels, repeat, outputs = layout.region.channels, layout.repeat, weights.shape[1 - summed]
    if summed:
        return Part(node, 1, (outputs, channels, repeat), (1, channels, 1))
    return Part(node, 1, (channels, repeat * outputs), (channels, 1))


def _shapes(draft: Draft) -> dict[str, list[int | None]]:
    """What ONNX's inference knows of the shapes of tensors."""
    inferred = onnx.shape_inference.infer_shapes(draft.model(check=False), data_prop=True)
    shapes = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = [d.dim_value if d.HasField("dim_value") else None for d in dims]
    return shapes


def _count(sizes: Sequence[int | None]) -> int | None:
    """How many elements; None where a size is not known."""
    count = 1
    for size in sizes:
        if size is None:
            return None
        count *= size
    return count
