"""The rival: onnxruntime on the model of a case, where it is installed.

The only file of qrt that imports onnxruntime, and only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Rival:
    """A session with inputs and outputs bound to memory: `enter` is its lightest call."""

    enter: Callable[[], Any]
    outputs: list[Array]


@cache
def onnxruntime() -> ModuleType | None:
    """The module, or None where it is not installed."""
    try:
        import onnxruntime as ort
    except ImportError:
        return None
    return ort  # type: ignore[no-any-return]


def version() -> str | None:
    """The rival's version, None where it is not installed."""
    ort = onnxruntime()
    return None if ort is None else str(ort.__version__)


def prepare_rival(model: Any, inputs: dict[str, Array], threads: int) -> Rival | None:
    """`model` with `inputs` on `threads` threads, warm; None where onnxruntime is not installed."""
    ort = onnxruntime()
    if ort is None:
        return None
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = [np.array(a, order="C") for a in session.run(None, inputs)]
    binding = session.io_binding()
    for name, array in inputs.items():
        _bind(binding.bind_input, name, array)
    for info, array in zip(session.get_outputs(), outputs, strict=True):
        _bind(binding.bind_output, info.name, array)
    keep = (session, binding, inputs, outputs)

    def enter() -> None:
        keep[0].run_with_iobinding(keep[1])

    enter()
    return Rival(enter, outputs)


def _bind(bind: Callable[..., None], name: str, array: Array) -> None:
    bind(
        name=name,
        device_type="cpu",
        device_id=0,
        element_type=array.dtype.type,
        shape=array.shape,
        buffer_ptr=array.ctypes.data,
    )
