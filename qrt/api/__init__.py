"""What users hold: sessions, their answers about a model, and ONNX Runtime's names for them."""

from qrt.api.inference_session import InferenceSession, SessionOptions, get_available_providers
from qrt.api.loading import load
from qrt.api.session import Session

__all__ = ["InferenceSession", "Session", "SessionOptions", "get_available_providers", "load"]
