"""The operator table: complete, true, and what docs/operators.md shows."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import defs, numpy_helper
from onnx.reference.ops import _op_list
from onnx.reference.ops.aionnx_preview import _op_list as preview_list
from onnx.reference.ops.aionnx_preview_training import _op_list as training_list
from onnx.reference.ops.aionnxml import _op_list as ml_list

import qrt
from qrt.api import supported
from qrt.api.supported import OperatorRow, operator_table
from qrt.cli import main
from qrt.errors import QrtError
from qrt.ir.domains import ONNX_DOMAINS
from qrt.loader.refused import REFUSED
from qrt.ops.host_functions import HOST_FUNCTIONS

DOCS = Path(__file__).resolve().parent.parent / "docs" / "operators.md"
LISTS = {
    "": _op_list, "ai.onnx.ml": ml_list, "ai.onnx.preview": preview_list,
    "ai.onnx.preview.training": training_list,
}  # fmt: skip
# operators whose cases all ask for types, outputs or exponents that kernels do not take
UNTRIED = {
    "Cast", "CastLike", "ConvInteger", "Dropout", "LayerNormalization", "Pow", "ReduceLogSumExp",
    "Upsample",
}  # fmt: skip


def rows() -> dict[tuple[str, str], OperatorRow]:
    table = operator_table()
    assert len({(row.domain, row.operator) for row in table}) == len(table)
    return {(row.domain, row.operator): row for row in table}


def test_every_operator_of_onnx_is_in_it() -> None:
    table = rows()
    kinds = (supported.NATIVE, supported.REFERENCE, supported.PYTHON, supported.STAGES)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain not in ONNX_DOMAINS or schema.deprecated:
            continue
        row = table[schema.domain, schema.name]
        assert schema.since_version in row.opsets
        started = row.runs.startswith((*kinds, supported.FOLDED))
        refused = row.runs.startswith(supported.REFUSED)
        assert started != refused and refused == ((schema.domain, schema.name) in REFUSED), row
    assert len(REFUSED) == 4, "a new refusal needs a reason that this test is told"


def test_the_reference_has_what_is_said_to_run_on_it() -> None:
    """Each version has an implementation or a function body."""
    missing = []
    for schema in defs.get_all_schemas_with_history():
        row = rows().get((schema.domain, schema.name))
        if row is None or schema.deprecated or supported.REFERENCE not in row.runs:
            continue
        if schema.has_function or schema.has_context_dependent_function:
            continue
        version = max(schema.since_version, 7)  # what the loader makes of older ones
        if any(
            (spec.domain, spec.op) == (schema.domain, schema.name) and spec.means(version)
            for spec in HOST_FUNCTIONS
        ):
            continue
        try:
            LISTS[schema.domain].load_op(schema.domain, schema.name, version)
        except Exception as error:
            missing.append(f"{schema.name} {version}: {error}")
    assert not missing, missing


def test_native_operators_run_natively() -> None:
    """One case of ONNX's conformance suite at least, with kernels alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        from onnx.backend.test.loader import load_model_tests

        cases = load_model_tests(kind="node")
    native = {op for (domain, op), row in rows().items() if not domain and row.runs == "native"}
    left = native - UNTRIED
    for case in cases:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in left and _runs_natively(case):
            left.remove(nodes[0].op_type)
    assert not left, f"no case of {sorted(left)} runs without the host"
    assert not UNTRIED - native


def _runs_natively(case: object) -> bool:
    model, (inputs, _) = case.model, case.data_sets[0]  # type: ignore[attr-defined]
    arrays = [numpy_helper.to_array(a) if isinstance(a, onnx.TensorProto) else a for a in inputs]
    try:
        session = qrt.load(model)
        feeds = dict(zip([i.name for i in session.get_inputs()], arrays, strict=True))
        session.run(None, {name: np.asarray(array) for name, array in feeds.items()})
    except QrtError:
        return False
    return not any("host" in kernel for row in session.explain() for kernel in row.kernels)


def test_docs_show_it() -> None:
    text = DOCS.read_text()
    version = re.search(r"^With onnx (.*):$", text, re.MULTILINE)
    assert version is not None
    if version[1] != onnx.__version__:
        pytest.skip(f"docs/operators.md is of onnx {version[1]}")
    from qrt.cli.supported import markdown

    shown = text[text.index("| operator |") :].rstrip("\n")
    assert shown == markdown(), "replace the table by what `qrt supported --markdown` prints"


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["supported"]) == 0
    assert re.search(r"^Conv +ai\.onnx +1, .* native +QDQ", capsys.readouterr().out, re.MULTILINE)
    assert main(["supported", "--markdown"]) == 0
    assert "| Gradient | ai.onnx.preview.training | 1 | refused:" in capsys.readouterr().out
    assert main(["supported", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["operators"]
    assert {"operator", "domain", "opsets", "runs", "dialects"} == set(listed[0])
