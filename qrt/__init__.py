"""qrt: run quantized ONNX models with NumPy and Numba, the same answer on every CPU.

session = qrt.load("model.onnx")
outputs = session.run(None, {"input": array})
"""

from qrt.api import InferenceSession, Session, SessionOptions, get_available_providers, load
from qrt.api.images import ImageFolder
from qrt.api.quantization import (
    import_qat,
    quantize_dynamic,
    quantize_static,
    quantize_to_target,
    quantize_weights,
    to_float16,
)
from qrt.api.recipes import quantize
from qrt.errors import (
    CompileError,
    InputError,
    KernelError,
    MemoryLimitError,
    ModelError,
    ProgramError,
    QrtError,
    QuantizationError,
    StepLimitError,
    UnsupportedError,
)

__version__ = "0.1.0"

__all__ = [
    "CompileError",
    "ImageFolder",
    "InferenceSession",
    "InputError",
    "KernelError",
    "MemoryLimitError",
    "ModelError",
    "ProgramError",
    "QrtError",
    "QuantizationError",
    "Session",
    "SessionOptions",
    "StepLimitError",
    "UnsupportedError",
    "get_available_providers",
    "import_qat",
    "load",
    "quantize",
    "quantize_dynamic",
    "quantize_static",
    "quantize_to_target",
    "quantize_weights",
    "to_float16",
]
