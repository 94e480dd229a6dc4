"""The domains whose operators ONNX itself defines, and how a host operator keeps its own."""

from __future__ import annotations

from qrt.ir.graph import Node

ONNX_DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")
_HOST = "host"


def host_domain(domain: str) -> str:
    """What `Node.domain` of a host operator of ONNX's `domain` is: "host", "host:ai.onnx.ml"."""
    return f"{_HOST}:{domain}" if domain else _HOST


def is_host(node: Node) -> bool:
    """True for an operator that Python evaluates."""
    return node.domain.partition(":")[0] == _HOST


def onnx_domain(node: Node) -> str:
    """The domain of the node's schema, also of a host operator's."""
    return node.domain.partition(":")[2] if is_host(node) else node.domain
