"""The NumPy-based form of a model: Graph, Node, Value, QParams."""

from qrt.ir.graph import Deferred, Graph, Node, Value
from qrt.ir.qparams import QParams

__all__ = ["Deferred", "Graph", "Node", "QParams", "Value"]
