"""The exceptions qrt raises for a user's input, one class per kind of mistake.

Every message says what was asked, the rule, what came, and what to do where that can be said.
"""

from __future__ import annotations

from typing import NoReturn


class QrtError(Exception):
    """Base of every error that qrt raises on purpose."""


class ModelError(QrtError):
    """The model breaks a rule of ONNX: truncated, cyclic, a missing tensor, a bad attribute."""


class QuantizationError(ModelError):
    """A scale, zero point or quantized type without meaning: zero, NaN, wrong type or shape."""


class UnsupportedError(QrtError):
    """Valid ONNX that qrt does not run: an operator, an attribute value, a dtype."""


class OpenShapeError(UnsupportedError):
    """Only a run can tell what a node's outputs are; `output` is the name of one of them. Such a
    node ends a stage, so no user sees this error."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class InputError(QrtError, ValueError):
    """What was passed to `run` does not fit the model: name, rank, shape, dtype."""


class ProgramError(QrtError):
    """A program (built here or loaded from a file) that fails verification."""


class MemoryLimitError(QrtError, MemoryError):
    """The plan needs more bytes than `max_bytes` allows."""


class StepLimitError(QrtError):
    """The loops of one run take more steps than `max_steps` allows."""


class CompileError(QrtError):
    """A kernel could not be compiled or loaded on this machine."""


class KernelError(QrtError):
    """A kernel returned a status other than zero while running."""


def at_node(error: QrtError, where: str) -> NoReturn:
    """Raise `error` again, its message led by the node it belongs to (`where`), once."""
    text = str(error)
    number = where[where.rfind("(#") :] if "(#" in where else where
    # a node that was rewritten has another operator, but keeps its number
    if text.startswith(where) or text.partition(": ")[0].endswith(number):
        raise error
    raise type(error)(f"{where}: {text}") from error.__cause__
