"""Every random operator, with the tensors it accepts: the one list that tests walk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import dynamic, elementwise, movement, pools, products
from .builder import Builder, Real, Tensor

MAX_SIZE = 20_000  # elements; so that a graph is evaluated in milliseconds


@dataclass(frozen=True)
class Operator:
    """`build` appends the operator to a graph, given a tensor of `min_rank` to `max_rank` axes."""

    build: Callable[[Builder, Tensor], Tensor | Real]
    min_rank: int = 1
    max_rank: int = 5
    opset: int = 1

    def accepts(self, x: Tensor, opset: int) -> bool:
        fits = self.min_rank <= x.rank <= self.max_rank and 0 < x.q.size <= MAX_SIZE
        return fits and opset >= self.opset


OPERATORS: dict[str, Operator] = {
    "conv": Operator(products.conv, min_rank=3),
    "matmul": Operator(products.matmul, min_rank=2),
    "gemm": Operator(products.gemm, min_rank=2, max_rank=2),
    "add": Operator(elementwise.add),
    "mul": Operator(elementwise.mul),
    "concat": Operator(elementwise.concat, min_rank=2),
    "unary": Operator(elementwise.unary),
    "gate": Operator(elementwise.gate),
    "requantize": Operator(elementwise.requantize),
    "sums": Operator(elementwise.sums),
    "average_pool": Operator(pools.average_pool, min_rank=3),
    "global_average_pool": Operator(pools.global_average_pool, min_rank=3),
    "reduce_mean": Operator(pools.reduce_mean, min_rank=3),
    "max_pool": Operator(pools.max_pool, min_rank=3),
    "softmax": Operator(pools.softmax, min_rank=2),
    "transpose": Operator(movement.transpose, min_rank=2),
    "reshape": Operator(movement.reshape, min_rank=2, max_rank=4),
    "flatten": Operator(movement.flatten, min_rank=2),
    "unsqueeze": Operator(movement.unsqueeze, min_rank=2, max_rank=4),
    "squeeze": Operator(movement.squeeze, min_rank=2, max_rank=4),
    "pad": Operator(movement.pad, min_rank=3),
    "slice": Operator(movement.slice_, min_rank=2),
    "resize_nearest": Operator(movement.resize_nearest, min_rank=3),
    "resize_linear": Operator(movement.resize_linear, min_rank=3, max_rank=4),
    "dynamic_conv": Operator(dynamic.conv, min_rank=3),
    "dynamic_conv_pair": Operator(dynamic.conv_pair, min_rank=3),
    "dynamic_matmul": Operator(dynamic.matmul, min_rank=2),
    "dynamic_fused_matmul": Operator(dynamic.fused_matmul, min_rank=2),
}

# scales computed at run time: not in random graphs unless asked for
DYNAMIC = ("dynamic_conv", "dynamic_conv_pair", "dynamic_matmul", "dynamic_fused_matmul")

# how often a random graph takes each: what quantized networks are made of comes more often
WEIGHTS: dict[str, int] = {"conv": 6, "matmul": 3, "gemm": 3, "add": 3, "mul": 2, "concat": 2}
