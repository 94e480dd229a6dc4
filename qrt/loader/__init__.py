"""ONNX to Graph; untrusted input ends here.

`load_graph` answers with a Graph that obeys ONNX's rules, or with a qrt error that says which node
breaks which rule. Everything taken from a file is bounded by `Limits`.
"""

from __future__ import annotations

import os

import onnx

from qrt.ir.graph import Graph
from qrt.loader.external import ExternalFiles
from qrt.loader.graph import build_graph
from qrt.loader.limits import DEFAULT_LIMITS, Limits
from qrt.loader.quantization import check_quantization
from qrt.loader.source import read_model
from qrt.loader.tensors import TensorReader

__all__ = ["Limits", "load_graph"]


def load_graph(
    model: str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto,
    limits: Limits = DEFAULT_LIMITS,
    base_dir: str | os.PathLike[str] | None = None,
) -> Graph:
    """Read an ONNX model (a path, serialized bytes, or a ModelProto).

    External data is looked for in the folder of the path, or in `base_dir` where given. Raises
    ModelError for a file that breaks a rule of ONNX (QuantizationError when it is about a scale or
    zero point), UnsupportedError for valid ONNX that qrt does not run, InputError when `model` is
    of another type.
    """
    proto, folder = read_model(model, limits)
    files = ExternalFiles(folder if base_dir is None else os.fspath(base_dir))
    graph = build_graph(proto, TensorReader(files, limits), limits)
    check_quantization(graph)
    return graph
