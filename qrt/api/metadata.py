"""What a model says about itself, in ONNX Runtime's words."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelMetadata:
    """The part of ONNX Runtime's ModelMetadata that qrt keeps."""

    graph_name: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    producer_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom_metadata_map: dict[str, str] = field(default_factory=dict)
