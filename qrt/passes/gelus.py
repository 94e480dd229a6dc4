"""Gelu from its parts.

x / 2 (1 + erf(x / sqrt 2)) = Gelu(x), x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))) = Gelu(x)
of approximate="tanh", however the sums and products are spelled: both sides are compared as
polynomials of x and erf or tanh. One kernel rounds less often than the parts do. Runs before
quantization is recognised, and again when all ranks are known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from qrt.ir import Graph, Node, Value
from qrt.passes.parts import Parts, origins, scalar

Powers = tuple[int, int]  # of x and of the function
Polynomial = dict[Powers, float]

X, FUNCTION = (1, 0), (0, 1)
GELU = 20  # the opset that ONNX's Gelu came with
CLOSE = 1e-4  # of a coefficient: files round them to 4 digits and more
DEPTH = 5  # operators on top of each other, in the longest spelling
HALF_OF_X: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
# function -> what it is of, and the attribute
FORMS: dict[str, tuple[Polynomial, str]] = {
    "Erf": ({(1, 0): math.sqrt(0.5)}, "none"),
    "Tanh": (
        {(1, 0): math.sqrt(2 / math.pi), (3, 0): 0.044715 * math.sqrt(2 / math.pi)},
        "tanh",
    ),
}


def fuse_gelus(graph: Graph) -> Graph:
    """Replace every Gelu whose parts nothing else reads; `graph` is changed."""
    parts = Parts(graph)
    found: dict[Node, tuple[set[Node], Node]] = {}
    taken: set[Node] = set()
    for function in graph.nodes:
        if function.domain or function.op not in FORMS:
            continue
        gelu = _gelu(parts, function)
        if gelu is not None and not gelu[0] & taken:
            members, last, x = gelu
            taken |= members
            attrs = {"approximate": FORMS[function.op][1]}
            found[last] = (
                members,
                Node(
                    "Gelu", [x], last.outputs, attrs, "", last.name, last.index, GELU,
                    origins(members, graph),
                ),
            )  # fmt: skip
    return parts.replace(found)


def _gelu(parts: Parts, function: Node) -> tuple[set[Node], Node, Value] | None:
    """(parts, the last of them, x) of the Gelu that `function` is a part of."""
    inner = function.required(0)
    for x in _operands(parts, inner, DEPTH):
        members: set[Node] = {function}
        if not _is(_expand(parts, inner, {x: X}, DEPTH, members), FORMS[function.op][0]):
            continue
        known = {x: X, function.outputs[0]: FUNCTION}
        for last in _above(parts, function, DEPTH):
            outer = set(members)
            polynomial = _expand(parts, last.outputs[0], known, DEPTH, outer)
            if _is(polynomial, HALF_OF_X) and parts.apart(outer, last):
                return outer, last, x
    return None


def _operands(parts: Parts, value: Value, depth: int) -> Iterator[Value]:
    """What `value` is computed from by sums and products, near before far."""
    node = parts.maker(value, "Add", "Div", "Mul", "Pow")
    if node is None or depth == 0:
        return
    below = [v for v in node.inputs if v is not None and v.data is None]
    yield from below
    for operand in below:
        yield from _operands(parts, operand, depth - 1)


def _above(parts: Parts, node: Node, depth: int) -> Iterator[Node]:
    """The nodes that read `node`, and those that read them, as long as each has one reader."""
    for _ in range(depth):
        readers = parts.consumers.get(node.outputs[0], [])
        if len(readers) != 1:
            return
        node = readers[0]
        yield node


def _is(polynomial: Polynomial | None, wanted: Polynomial) -> bool:
    return polynomial is not None and all(
        abs(polynomial.get(k, 0.0) - wanted.get(k, 0.0)) <= CLOSE * abs(wanted.get(k, CLOSE))
        for k in polynomial.keys() | wanted.keys()
    )


def _expand(
    parts: Parts, value: Value, known: dict[Value, Powers], depth: int, members: set[Node]
) -> Polynomial | None:
    """`value` as a polynomial of what is known; None when it is none. Adds to `members`."""
    if value in known:
        return {known[value]: 1.0}
    constant = scalar(value, min(len(x.shape or ()) for x in known))
    if constant is not None:
        return {(0, 0): constant}
    node = parts.maker(value, "Add", "Div", "Mul", "Pow")
    if node is None or depth == 0:
        return None
    members.add(node)
    a = _expand(parts, node.required(0), known, depth - 1, members)
    b = _expand(parts, node.required(1), known, depth - 1, members)
    if a is None or b is None:
        return None
    if node.op == "Add":
        return {k: a.get(k, 0.0) + b.get(k, 0.0) for k in a.keys() | b.keys()}
    if node.op == "Mul":
        return _times(a, b)
    number = b.get((0, 0), 0.0) if len(b) == 1 else 0.0
    if node.op == "Div":
        return {k: c / number for k, c in a.items()} if number else None
    square = _times(a, a)
    return {2: square, 3: _times(square, a)}.get(number)  # type: ignore[call-overload, no-any-return]


def _times(a: Polynomial, b: Polynomial) -> Polynomial:
    product: Polynomial = {}
    for (i, j), c in a.items():
        for (k, m), d in b.items():
            product[i + k, j + m] = product.get((i + k, j + m), 0.0) + c * d
    return product
