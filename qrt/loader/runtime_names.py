"""Operators that ONNX Runtime's optimizer writes into ONNX's domain, where no opset has them.

SimplifiedLayerNormalization is its own (com.microsoft knows it, too); LayerNormalization is that of
opset 17, in models of older ones.
"""

from __future__ import annotations

from qrt.loader.schema import schema_of

# name in the default domain -> (domain, version) of what is meant
MEANT = {
    "LayerNormalization": ("", 17),
    "SimplifiedLayerNormalization": ("com.microsoft", 1),
}


def meant(op: str, domain: str, version: int) -> tuple[str, int]:
    """(domain, version) of an operator: its own, but for those in MEANT that its opset lacks."""
    if domain == "" and op in MEANT and schema_of(op, version, domain) is None:
        return MEANT[op]
    return domain, version
