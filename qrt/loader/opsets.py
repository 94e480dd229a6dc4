"""Which version of which operator set a model or function uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
import onnx.defs
from onnx import OperatorSetIdProto

from qrt.errors import ModelError, UnsupportedError
from qrt.loader.limits import Limits
from qrt.loader.names import checked_name


def normal_domain(domain: str) -> str:
    """The default domain has two spellings."""
    return "" if domain == "ai.onnx" else domain


def read_opsets(imports: Iterable[OperatorSetIdProto], what: str, limits: Limits) -> dict[str, int]:
    """Version by domain; the default domain's must be one that there is."""
    opsets: dict[str, int] = {}
    for entry in imports:
        domain = normal_domain(checked_name(entry.domain, f"{what}: an opset", limits))
        version = int(entry.version)
        if opsets.get(domain, version) != version:
            raise ModelError(
                f"{what}: imports opset {opsets[domain]} and {version} of"
                f" '{domain or 'ai.onnx'}', only one is possible"
            )
        opsets[domain] = version
    if "" in opsets:
        check_opset(opsets[""], what)
    return opsets


def check_opset(version: int, what: str) -> None:
    """Refuse a default-domain opset that there is not, or not yet."""
    newest = onnx.defs.onnx_opset_version()
    if version < 1:
        raise ModelError(f"{what}: opset must be 1 or more, got {version}")
    if version > newest:
        raise UnsupportedError(
            f"{what}: opset may be up to {newest} with onnx {onnx.__version__}, got {version};"
            " install a newer onnx package"
        )


def version_of(domain: str, opsets: Mapping[str, int], where: str) -> int:
    """The opset version for a node of `domain`, which must be imported."""
    if domain not in opsets:
        raise ModelError(
            f"{where}: no opset of domain '{domain or 'ai.onnx'}' is imported, only of"
            f" {', '.join(repr(d or 'ai.onnx') for d in opsets) or 'none'}"
        )
    return opsets[domain]
