"""com.microsoft Gelu, BiasGelu, FastGelu, QuickGelu (opset 1) as ONNX operators.

Gelu(x) = x / 2 (1 + erf(x / sqrt 2)); BiasGelu(x, b) = Gelu(x + b); FastGelu(x, b): by tanh;
QuickGelu(x) = x sigmoid(alpha x).
"""

from __future__ import annotations

from qrt.ir import Node
from qrt.ir.attrs import AttrReader
from qrt.passes.expand.body import Body

GELU = 20  # the opset that ONNX's Gelu came with
SWISH = 24
QUICK_ALPHA = 1.702


def gelu(node: Node) -> list[Node]:
    """Gelu, BiasGelu and FastGelu."""
    AttrReader(node).done()
    b = Body(node)
    x, bias = node.required(0), node.input(1)
    if bias is not None:
        x = b("Add", x, bias)
    attrs = {"approximate": "tanh"} if node.op == "FastGelu" else {}
    return b.finish(b.several("Gelu", [x], 1, attrs, version=GELU)[0])


def quick_gelu(node: Node) -> list[Node]:
    """QuickGelu is Swish."""
    attrs = AttrReader(node)
    alpha = attrs.float("alpha", QUICK_ALPHA)
    attrs.done()
    b = Body(node)
    return b.finish(b.several("Swish", [node.required(0)], 1, {"alpha": alpha}, version=SWISH)[0])
