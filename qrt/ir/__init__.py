"""The NumPy-based form of a model: Graph, Node, Value, QParams."""

from qrt.ir.graph import Graph, Node, Value
from qrt.ir.qparams import QParams

__all__ = ["Graph", "Node", "QParams", "Value"]
