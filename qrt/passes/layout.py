"""Memory order: docs/machine.md "Memory order". Only `Value.layout` changes, and Copy is inserted.

Transpose(x) is x with its axes renamed; Copy(x) = x in another order; shapes are bound.
Orders that differ only in axes of length 1 are the same order, so they are compared without them.
"""

from __future__ import annotations

from qrt.ir import Graph, Node, Value
from qrt.ir.domains import is_host
from qrt.ops import OPS
from qrt.ops.matrices import readable, written

Layout = tuple[int, ...] | None


def choose_layouts(graph: Graph) -> Graph:
    """Set the layout of every value and insert the Copies that this needs."""
    walk = _Layouts(graph)
    for node in graph.nodes:
        walk.place(node)
    graph.outputs = [walk.as_output(v) for v in graph.outputs]
    graph.nodes = walk.nodes
    return graph


def canonical(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """None when the order is row-major but for axes of length 1, else `layout`."""
    if layout is None:
        return None
    moving = [a for a in layout if shape[a] != 1]
    return None if moving == sorted(moving) else layout


def same_order(a: Layout, b: Layout, shape: tuple[int, ...]) -> bool:
    """True when both orders put the elements at the same places."""

    def moving(layout: Layout) -> list[int]:
        order = range(len(shape)) if layout is None else layout
        return [axis for axis in order if shape[axis] != 1]

    return moving(a) == moving(b)


def channels_last(rank: int) -> Layout:
    """(N, spatial..., C) of a tensor (N, C, spatial...)."""
    return (0, *range(2, rank), 1) if rank > 2 else None


class _Layouts:
    """State of the pass: the nodes so far, and copies that exist already."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[Node] = []
        self.copies: dict[tuple[Value, Layout], Value] = {}
        self.inputs = set(graph.inputs)

    def place(self, node: Node) -> None:
        """Give the node its inputs in an order it takes, its outputs the order they come in."""
        treat = "row_major" if is_host(node) else OPS[node.domain, node.op].layout
        order: Layout = None
        if node.op == "Transpose" and not node.domain:
            order = _renamed(node)
        elif _only_ones_change(node):
            order = _carried(node)
        elif treat == "channels_last":
            x = node.required(0)
            node.inputs[0] = self.in_order(x, channels_last(len(x.static_shape)), node)
            order = channels_last(len(node.outputs[0].static_shape))
        elif treat == "any":
            order = _preferred(node)
            rank = len(node.outputs[0].static_shape)
            for i, value in enumerate(node.inputs):
                # what broadcasts along leading axes is read where it lies
                if value is not None and len(value.static_shape) == rank:
                    node.inputs[i] = self.in_order(value, order, node)
        else:
            stays = treat == "matrices" and not any(
                v is not None and v.is_constant for v in node.inputs[:2]
            )
            for i, value in enumerate(node.inputs):
                if value is None or value.is_constant:
                    continue
                if not (stays and i < 2 and readable(value, i)):
                    node.inputs[i] = self.in_order(value, None, node)
            order = written(node) if stays else None
        for out in node.outputs:
            fits = order is not None and len(order) == len(out.static_shape)
            out.layout = canonical(order, out.static_shape) if fits else None
        self.nodes.append(node)

    def in_order(self, value: Value, layout: Layout, node: Node) -> Value:
        """`value`, or a Copy of it, in `layout`; a constant is stored in it."""
        if same_order(value.layout, layout, value.static_shape):
            return value
        layout = canonical(layout, value.static_shape)
        key = (value, layout)
        if key not in self.copies:
            name = f"{value.name}/{'rows' if layout is None else 'channels_last'}"
            copy = value.twin()
            copy.name, copy.layout = name, layout
            if not value.is_constant:
                self.nodes.append(
                    Node("Copy", [value], [copy], {}, "qrt", node.name, node.index, 1, node.origin)
                )
            self.copies[key] = copy
        return self.copies[key]

    def as_output(self, value: Value) -> Value:
        """A graph output is row-major; the value before the Copy takes another name."""
        if value.layout is None:
            return value
        out = Value(value.name, value.dtype, value.shape)
        value.name += "/channels_last"
        producer = next(n for n in reversed(self.nodes) if value in n.outputs)
        self.nodes.append(
            Node(
                "Copy", [value], [out], {}, "qrt", producer.name, producer.index, 1, producer.origin
            )
        )
        return out


def _preferred(node: Node) -> Layout:
    """The order of the first computed input of full rank that is not row-major, else row-major."""
    rank = len(node.outputs[0].static_shape)
    for value in node.inputs:
        if value is None or value.is_constant or value.layout is None:
            continue
        if len(value.layout) == rank:
            return value.layout
    return None


def _renamed(node: Node) -> Layout:
    """Transpose: output axis i is input axis perm[i], the bytes stay."""
    x = node.required(0)
    rank = len(x.static_shape)
    perm = list(node.attrs.get("perm") or reversed(range(rank)))
    order = range(rank) if x.layout is None else x.layout
    return tuple(perm.index(axis) for axis in order)


def _only_ones_change(node: Node) -> bool:
    """A Reshape that only adds or drops axes of length 1 keeps any order."""
    if node.op != "Reshape" or node.required(0).layout is None:
        return False
    shapes = node.required(0).static_shape, node.outputs[0].static_shape
    long = [[d for d in shape if d != 1] for shape in shapes]
    return long[0] == long[1]


def _carried(node: Node) -> Layout:
    """The order of the axes longer than 1, in the axes of the output; the others first."""
    x, y = node.required(0), node.outputs[0]
    assert x.layout is not None
    old = [a for a, d in enumerate(x.static_shape) if d != 1]
    new = [a for a, d in enumerate(y.static_shape) if d != 1]
    target = dict(zip(old, new, strict=True))
    ones = [a for a, d in enumerate(y.static_shape) if d == 1]
    return (*ones, *(target[a] for a in x.layout if a in target))
