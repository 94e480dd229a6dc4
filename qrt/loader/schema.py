"""What ONNX's own schemas say about a node: does it exist, how many inputs, which attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import onnx.defs
from onnx.defs import OpSchema, SchemaError

from qrt.errors import ModelError, UnsupportedError
from qrt.loader.attributes import ATTRIBUTE_KINDS, Attribute, type_name
from qrt.loader.refused import REFUSED

_KIND_OF = {getattr(OpSchema.AttrType, type_name(kind)): kind for kind in ATTRIBUTE_KINDS}
# deprecated for a mistake in their definition, which models of their opsets still mean
STILL_RUN = {("GroupNormalization", version) for version in (18, 19, 20)}
_OPTIONAL = OpSchema.FormalParameterOption.Optional


@lru_cache(maxsize=4096)
def schema_of(op: str, version: int, domain: str) -> OpSchema | None:
    """ONNX's schema of `op` in opset `version` of `domain`; None when there is none."""
    try:
        return onnx.defs.get_schema(op, version, domain)
    except SchemaError:
        return None


def check_signature(
    op: str,
    domain: str,
    version: int,
    inputs: Sequence[bool],
    outputs: Sequence[bool],
    attributes: Mapping[str, Attribute],
    where: str,
) -> None:
    """Check a node of one of ONNX's domains; `inputs`, `outputs`: which are given."""
    schema = schema_of(op, version, domain)
    if schema is None:
        raise UnsupportedError(f"{where}: {_unknown(op, version, domain)}")
    if (domain, op) in REFUSED:
        raise UnsupportedError(f"{where}: {op} is not supported: {REFUSED[domain, op]}")
    if schema.deprecated and (op, version) not in STILL_RUN:
        raise UnsupportedError(
            f"{where}: {op} is deprecated since opset {schema.since_version}"
            f" and not part of opset {version}"
        )
    _check_count("inputs", inputs, schema.min_input, schema.max_input, where)
    _check_count("outputs", outputs, schema.min_output, schema.max_output, where)
    _check_required(inputs, schema.inputs, where)
    for name, declared in schema.attributes.items():
        if declared.required and name not in attributes:
            raise ModelError(f"{where}: attribute '{name}' is required, it is missing")
    for name, attribute in attributes.items():
        # names that begin so are a tool's private notes (onnx.checker skips them too)
        if name.startswith("__"):
            continue
        if name not in schema.attributes:
            known = ", ".join(sorted(schema.attributes)) or "no attributes"
            raise ModelError(
                f"{where}: {op} of opset {version} has no attribute '{name}', only {known}"
            )
        want = _KIND_OF[schema.attributes[name].type]
        if attribute.kind != want:
            raise ModelError(
                f"{where}: attribute '{name}' must be {type_name(want)},"
                f" got {type_name(attribute.kind)}"
            )


def _unknown(op: str, version: int, domain: str) -> str:
    """Why there is no schema: never heard of, or from a later opset."""
    of = f"opset {version} of {domain}" if domain else f"opset {version}"
    if schema_of(op, 2**31 - 1, domain) is None:
        return f"'{op}' is not an ONNX operator of {of}"
    return f"'{op}' is not an ONNX operator of {of}, it came later"


def _check_count(what: str, given: Sequence[bool], least: int, most: int, where: str) -> None:
    """What is left out at the end does not count as given."""
    count = len(given)
    while count and not given[count - 1]:
        count -= 1
    if least <= count <= most:
        return
    if least == most:
        rule = f"{least}"
    elif most >= 2**31 - 1:
        rule = f"{least} or more"
    else:
        rule = f"{least} to {most}"
    raise ModelError(f"{where}: must have {rule} {what}, got {count}")


def _check_required(
    given: Sequence[bool], formals: Sequence[OpSchema.FormalParameter], where: str
) -> None:
    """An input that is not optional may not be left out by an empty name."""
    for i, there in enumerate(given):
        formal = formals[min(i, len(formals) - 1)]
        if not there and formal.option != _OPTIONAL:
            raise ModelError(f"{where}: input {i} ({formal.name}) is required, it is left out")
