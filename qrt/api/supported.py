"""The operator table: every operator that qrt knows, and what runs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

NATIVE = "native"
REFERENCE = "host: onnx.reference"
PYTHON = "host: python"
STAGES = "stages"
FOLDED = "folded"
REFUSED = "refused"


@dataclass(frozen=True)
class OperatorRow:
    """One operator. `opsets`: the versions in which its meaning or its types changed; `runs`: what
    evaluates it, the fastest first; `dialects`: spellings of it that become integer operators."""

    operator: str
    domain: str
    opsets: tuple[int, ...]
    runs: str
    dialects: tuple[str, ...]

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        opsets = ", ".join(map(str, self.opsets))
        return self.operator, self.domain or "ai.onnx", opsets, self.runs, ", ".join(self.dialects)

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        return asdict(self)


HEADER = ("operator", "domain", "opsets", "runs as", "integer form of")


def operator_table() -> list[OperatorRow]:
    """All operators of ONNX's domains as the installed onnx defines them, then those of others."""
    return [*_onnx(), *_others()]


def _onnx() -> Iterator[OperatorRow]:
    from onnx import defs

    from qrt.ir.domains import ONNX_DOMAINS

    versions: dict[tuple[str, str], list[int]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain in ONNX_DOMAINS and not schema.deprecated:
            versions.setdefault((schema.domain, schema.name), []).append(schema.since_version)
    for (domain, op), since in sorted(versions.items()):
        yield OperatorRow(op, domain, tuple(sorted(since)), runs(domain, op), _dialects(domain, op))


def _others() -> Iterator[OperatorRow]:
    from qrt.ir.domains import ONNX_DOMAINS
    from qrt.ops import OPS
    from qrt.passes.expand import PROJECTIONS
    from qrt.passes.recognise import RECOGNISERS
    from qrt.passes.resolve import REWRITES
    from qrt.passes.same_names import CONTRIB, SINCE

    names = {*OPS, *RECOGNISERS, *REWRITES, *PROJECTIONS, *((CONTRIB, op) for op in SINCE)}
    for domain, op in sorted(names):
        if domain not in (*ONNX_DOMAINS, "qrt"):
            yield OperatorRow(op, domain, (1,), NATIVE, ())


def runs(domain: str, op: str) -> str:
    """What evaluates an operator of ONNX: kernels where they take its types and attributes, else
    the host."""
    from qrt.api.control import CONTROL
    from qrt.loader.refused import REFUSED as REASONS
    from qrt.ops.host_functions import HOST_FUNCTIONS
    from qrt.ops.sequences import FUNCTIONS

    if (domain, op) in REASONS:
        return f"{REFUSED}: {REASONS[domain, op]}"
    if not domain and op in CONTROL:
        return STAGES
    until = {spec.until for spec in HOST_FUNCTIONS if (spec.domain, spec.op) == (domain, op)}
    host = PYTHON if 0 in until or (not domain and op in FUNCTIONS) else REFERENCE
    if until - {0}:
        host = f"{REFERENCE}, before opset {max(until)} python"
    if (domain, op) in _native():
        return NATIVE
    if not domain and op in _folded():
        return f"{FOLDED}, else {host}"
    return host


def _native() -> set[tuple[str, str]]:
    """Operators with a kernel, or that become others that have one."""
    from qrt.ops import OPS
    from qrt.passes.recognise import RECOGNISERS
    from qrt.passes.resolve import REWRITES

    kernels = {key for key, spec in OPS.items() if spec.lower is not None}
    # what a recogniser makes of these has kernels
    quantized = {
        (domain, op)
        for domain, op in RECOGNISERS
        if ("qrt", op) in OPS or op.startswith("QLinear") or op.endswith(("Integer", "zeLinear"))
    }
    movement = {("", "Identity")}  # never copies, where it is not an output
    return kernels | quantized | movement | set(REWRITES)


def _folded() -> set[str]:
    """Operators of shapes, which programs have no rows for where shapes are known."""
    from qrt.passes.arithmetic import FOLDS

    return {"Constant", "Shape", "Size", *FOLDS}


def _dialects(domain: str, op: str) -> tuple[str, ...]:
    from qrt.passes.recognise import DYNAMIC, ONNX
    from qrt.passes.spellings import SPELLINGS

    if domain or op not in ONNX:
        return ()
    if op in DYNAMIC:
        return ("dynamic",)
    spelled = [name for name, spelling in SPELLINGS.items() if spelling.op == op]
    return ("QDQ", *sorted(spelled))
