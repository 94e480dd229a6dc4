"""Hand-made machine graphs over the kernels of `kernels`, and their operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qrt.ir import Graph, Node, Value
from qrt.ops.spec import Lowering, OpSpec
from tests.machine.kernels import (
    add_kernel,
    fail_kernel,
    hold_kernel,
    rotate_kernel,
)

F32 = np.dtype(np.float32)
I64 = np.dtype(np.int64)


def _same_as_first(node: Node) -> Sequence[tuple[tuple[int, ...], Any]]:
    return [(node.required(0).static_shape, node.required(0).dtype)]


def _lower_binary(kernel: Any) -> Any:
    def lower(node: Node, program: Lowering) -> None:
        x, y, out = node.required(0), node.required(1), node.outputs[0]
        program.emit(
            kernel,
            x=program.operand(x),
            y=program.operand(y),
            out=program.operand(out),
            n=int(np.prod(out.static_shape)),
        )

    return lower


def _lower_fail(node: Node, program: Lowering) -> None:
    program.emit(
        fail_kernel,
        trigger=program.operand(node.required(0)),
        status=node.attrs["status"],
        thread=node.attrs["thread"],
    )
    program.alias(node.outputs[0], node.required(0))


def _lower_hold(node: Node, program: Lowering) -> None:
    program.emit(
        hold_kernel,
        orders=program.operand(node.required(0)),
        census=program.operand(node.required(1)),
        index=node.attrs["census_row"],
    )
    program.alias(node.outputs[0], node.required(1))


def _lower_alias(node: Node, program: Lowering) -> None:
    program.alias(node.outputs[0], node.required(0))


OPS: Mapping[tuple[str, str], OpSpec] = {
    ("test", "Add"): OpSpec("Add", "test", _same_as_first, None, _lower_binary(add_kernel)),
    ("test", "Rotate"): OpSpec(
        "Rotate", "test", _same_as_first, None, _lower_binary(rotate_kernel)
    ),
    ("test", "Fail"): OpSpec("Fail", "test", _same_as_first, None, _lower_fail),
    ("test", "Hold"): OpSpec("Hold", "test", _same_as_first, None, _lower_hold),
    ("test", "Alias"): OpSpec("Alias", "test", _same_as_first, None, _lower_alias),
}


def tensor(name: str, shape: tuple[int | str | None, ...], dtype: Any = F32) -> Value:
    """A value that a node computes, or an input."""
    return Value(name, np.dtype(dtype), shape)


def constant(name: str, data: Any) -> Value:
    """A constant value."""
    array = np.asarray(data)
    return Value(name, array.dtype, array.shape, array)


def node(op: str, inputs: list[Value | None], output: Value, index: int = 0, **attrs: Any) -> Node:
    """A node of the test domain called after its output."""
    return Node(op, inputs, [output], attrs, "test", f"make_{output.name}", index)


def rotating_chain(rows: int, n: int) -> Graph:
    """x -> rotate and add a constant, `rows` times: each row reads all of the row before."""
    x = tensor("x", (n,))
    step = constant("step", np.arange(n, dtype=np.float32))
    nodes, value = [], x
    for i in range(rows):
        result = tensor(f"r{i}", (n,))
        nodes.append(node("Rotate", [value, step], result, i))
        value = result
    return Graph(nodes, [x], [value])


def rotated(x: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    """What `rotating_chain` computes."""
    step = np.arange(x.size, dtype=np.float32)
    for _ in range(rows):
        x = x[::-1] + step
    return x


def failing_graph(status: int, thread: int, n: int = 20_000) -> Graph:
    """Rows before and after a row that fails when input `trigger` is not zero."""
    x, trigger = tensor("x", (n,)), tensor("trigger", (1,), I64)
    before, armed, after, last = (
        tensor(name, (n,)) for name in ("before", "armed", "after", "last")
    )
    armed = tensor("armed", (1,), I64)
    nodes = [
        node("Rotate", [x, x], before, 0),
        node("Fail", [trigger], armed, 1, status=status, thread=thread),
        node("Rotate", [before, before], after, 2),
        node("Rotate", [after, before], last, 3),
    ]
    return Graph(nodes, [x, trigger], [last, armed])


CENSUS_ROWS = 8


def holding_graph(n: int = 20_000) -> Graph:
    """Rows that count their threads, and hold one as `orders` say (see `hold_kernel`).

    Outputs: `rotating_chain(1, n)` of x, int64 threads of each of `CENSUS_ROWS` rows.
    """
    x, rotated_x = tensor("x", (n,)), tensor("rotated_x", (n,))
    orders, census = tensor("orders", (8,), I64), tensor("census", (8,), I64)
    step = constant("step", np.arange(n, dtype=np.float32))
    nodes, value = [node("Rotate", [x, step], rotated_x)], census
    for i in range(CENSUS_ROWS):
        after = tensor(f"census{i}", (8,), I64)
        nodes.append(node("Hold", [orders, value], after, i + 1, census_row=i))
        value = after
    return Graph(nodes, [x, orders, census], [rotated_x, value])
