"""`qrt bench kernels`: its cases cover the kernel tables, its models mean what they claim."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from html.parser import HTMLParser
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_harness import qrt_command

from qrt.bench import rival
from qrt.bench.cases import SHAPES, Case, all_cases, choose_cases
from qrt.bench.draft import random_inputs
from qrt.bench.families import BY_NAME, FAMILIES
from qrt.bench.runner import dot_limit_of, prepare, program_of
from qrt.errors import InputError
from qrt.jit.declare import KERNELS
from qrt.program.program import Program
from qrt.simd.features import active_features, detected_features, levels

DOCS = (Path(__file__).resolve().parent.parent / "docs" / "bench.md").read_text()
TINY = ("bench kernels", "--family", "gemv", "--shape", "1x12x64", "--seconds", "0.001")
# what benches divide by, the interpreter itself, the rows that guide it, the mark of Python's
NOT_TIMED = {"limit", "vm", "jumps", "host"}
LARGE = 2**24  # multiply-adds, or elements, that tests do not wait for
SMALL = [case for case in all_cases() if max(case.macs, prod(case.dims)) < LARGE]


model_of = cache(Case.model)


@cache
def program(case: Case, features: frozenset[str]) -> Program:
    """What a case becomes."""
    return program_of(model_of(case), features)


def test_shapes_belong_to_families() -> None:
    assert set(SHAPES) == set(BY_NAME)
    for case in all_cases():
        case.family.check(case.dims)
        assert case.variant in case.family.variants, case
    names = [(case.label, case.name) for case in all_cases()]
    assert len(set(names)) == len(names)


def test_every_variant_has_a_shape() -> None:
    timed = {(case.family.name, case.variant) for case in all_cases()}
    assert timed == {(family.name, v) for family in FAMILIES for v in family.variants}


def test_every_kernel_family_has_a_shape() -> None:
    """On every level that this CPU has: each family, and its rows of that level's instructions."""
    usable = detected_features()
    chosen = {usable, *(frozenset(f) for f in levels().values() if usable.issuperset(f))}
    missing = {
        (k.family, k.features)
        for k in KERNELS.values()
        # tests of this process declare kernels too
        if k.features <= usable
        and k.family not in NOT_TIMED
        and k.fn.__module__.startswith("qrt.")
    }
    rest = sorted(set(all_cases()) - set(SMALL), key=lambda case: prod(case.dims))
    for case in (*SMALL, *rest):  # the rest only for what small sizes do not take
        for features in chosen if missing else ():
            for name in program(case, features).kernels:
                assert name in KERNELS, f"{case.label} {case.name} has no kernel: {name}"
                missing.discard((KERNELS[name].family, KERNELS[name].features))
    told = sorted((family, tuple(sorted(needs))) for family, needs in missing)
    assert not told, f"no case of qrt/bench/cases.py runs {told}"


def test_products_are_held_to_their_own_instructions() -> None:
    """The loop's features are those of the kernel, for every row of the tables of products."""
    for kernel in KERNELS.values():
        if kernel.family in ("gemm", "depthwise") and "_f32_" not in kernel.name:
            limit = dot_limit_of([kernel.name])
            assert set(limit.features) == kernel.features, (kernel.name, limit.family)


def test_multiply_adds() -> None:
    """As many as outputs times the weights that each output sees."""
    for case in SMALL:
        # several weights in an element; weights that a step reads again
        apart = {"block", "hidden"} & set(case.family.dims)
        if case.family.macs is None or case.variant == "two_inputs" or apart:
            continue
        weights = max((t.dims for t in model_of(case).graph.initializer), key=prod)
        outputs = weights[0] if len(weights) == 4 else weights[1]
        (y,) = program(case, active_features()).outputs
        assert case.macs == prod(y.shape) * prod(weights) // outputs, case


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.label}-{case.layer}")
def test_qrt_and_the_rival_compute_the_same(case: Case) -> None:
    """What is compared by time agrees: integers within one step, floats within 1e-4."""
    prepared = prepare(case, active_features())
    model = model_of(case)
    theirs = rival.prepare_rival(model, random_inputs(model), 1)
    assert theirs is not None
    assert len(prepared.call.outputs) == len(theirs.outputs)
    for got, want in zip(prepared.call.outputs, theirs.outputs, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if got.dtype.kind in "iu":
            assert np.abs(got.astype(np.int64) - want).max() <= 1
        else:
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_rivals_lose_their_transposes(tmp_path: Path) -> None:
    """onnxruntime runs quantized convolutions on the order that they are given in, as qrt does."""
    import onnx
    import onnxruntime as ort

    (case,) = choose_cases(["conv"], ["ds_cnn_pointwise"])
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(case.model().SerializeToString(), options)
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    assert [node.op_type for node in nodes] == ["QLinearConv"]
    (kernel,) = program(case, active_features()).kernels
    assert kernel.startswith("gemm")


def test_choosing() -> None:
    assert choose_cases() == all_cases()
    assert {case.family.name for case in choose_cases(["gemm", "conv"])} == {"gemm", "conv"}
    assert {case.layer for case in choose_cases((), ["bert_qkv"])} == {"bert_qkv"}
    (own,) = choose_cases(["gemv"], ["1x24x96"])
    assert (own.name, own.macs) == ("shape_1x24x96", 24 * 96)
    assert len(choose_cases(["pool"], ["8x8x16x3x1"])) == len(BY_NAME["pool"].variants)
    (known,) = choose_cases(["gemv"], ["1x768x768"])
    assert known.layer == "bert_token"


@pytest.mark.parametrize(
    ("families", "shapes", "words"),
    [
        (["gemmm"], [], ("gemmm", "gemm, gemv, conv")),
        ([], ["no_such_net"], ("no_such_net", "bert_qkv", "resnet50_stem", "128x768x768")),
        ([], ["3x5x7"], ("3x5x7", "--family")),
        (["gemm"], ["3x5"], ("3x5", "m x n x k")),
        (["gemm"], ["3x0x5"], ("3x0x5", "at least 1")),
        (["gemv"], ["2x5x7"], ("2x5x7", "m must be 1")),
        (["conv", "gemm"], ["3x5x7"], ("3x5x7", "--family")),
    ],
)
def test_what_cannot_be_timed(families: list[str], shapes: list[str], words: Any) -> None:
    with pytest.raises(InputError) as caught:
        choose_cases(families, shapes)
    argv = [*(f"--family={f}" for f in families), *(f"--shape={s}" for s in shapes)]
    done = qrt_command("bench", "kernels", *argv)
    assert (done.code, done.out) == (2, "")
    assert done.message == f"qrt bench kernels: {caught.value}"
    for word in words:
        assert word in done.message


def test_table() -> None:
    done = qrt_command(*TINY)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("family"))
    row = lines[head + 2]
    assert row.startswith("gemv")
    assert "GMAC/s" in row
    assert KERNELS.keys() & set(row.split())
    # aligned: numbers end where their titles end
    for title in ("median us", "min us", "rate", "share", "rival us", "ratio"):
        end = lines[head].index(title) + len(title)
        assert row[end - 1] in "0123456789%", (title, row)
        assert row[end] in " !", (title, row)


def test_two_words_are_one_command() -> None:
    assert (
        qrt_command("bench", "kernels", "--list").out == qrt_command("bench kernels", "--list").out
    )
    assert "kernels" in qrt_command("bench", "./kernels").message


def test_list() -> None:
    text = qrt_command("bench", "kernels", "--list").out
    for case in all_cases():
        assert case.name in text
    for family in FAMILIES:
        assert f"{family.name}: " in text
        assert family.sizes in text
    one = qrt_command("bench", "kernels", "--family", "conv", "--list", "--json").json
    assert [row["shape"] for row in one["shapes"]] == [case.name for case in choose_cases(["conv"])]


def schema(heading: str) -> dict[str, str]:
    """Field to type of a table of docs/bench.md."""
    _, _, rest = DOCS.partition(f"## {heading}\n")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", rest.partition("\n## ")[0], re.MULTILINE)
    assert rows, heading
    return dict(rows)


TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "true or false": bool,
    "list of strings": list,
    "object": dict,
    "list of objects": list,
}


def matches(fields: dict[str, Any], told: dict[str, str]) -> None:
    """The object has the fields that are told, each of its type; null only where that is told."""
    assert fields.keys() == told.keys()
    for name, value in fields.items():
        kind, _, null = told[name].partition(" or null")
        if told[name].endswith(" or null"):
            kind = told[name].removesuffix(" or null")
            if value is None:
                continue
        assert isinstance(value, TYPES[kind]), (name, value, null)


@pytest.mark.parametrize("alone", [False, True])
def test_json(alone: bool) -> None:
    done = qrt_command(*TINY, "--json", *(["--alone"] if alone else []))
    assert done.code == 0, done.err
    report = done.json
    matches(report, schema("Report"))
    matches(report["machine"], schema("Machine"))
    (row,) = report["measurements"]
    matches(row, schema("Measurement"))
    assert report["schema"] == 1
    assert (row["family"], row["dims"]) == ("gemv", {"m": 1, "n": 12, "k": 64})
    assert row["macs"] == 12 * 64
    assert row["rate"] == pytest.approx(row["macs"] / row["median_us"] / 1e3)
    assert row["share"] == pytest.approx(row["rate"] / row["limit_rate"])
    assert row["min_us"] <= row["median_us"]
    assert (row["rival_us"] is None) == (row["ratio"] is None) == alone
    assert (report["machine"]["onnxruntime"] is None) == alone
    if not alone:
        assert row["ratio"] == pytest.approx(row["rival_us"] / row["median_us"])


def test_forced_features() -> None:
    row = qrt_command(*TINY, "--json", "--features", "portable", "--alone").json["measurements"][0]
    assert row["kernels"] == ["gemm_u8s8_4x16k4_portable_u8"]
    assert row["limit"] in ("portable dots", "read")


def test_without_the_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rival, "onnxruntime", lambda: None)
    done = qrt_command(*TINY)
    assert done.code == 0
    assert "not installed" in done.out
    row = next(line for line in done.out.splitlines() if line.startswith("gemv"))
    assert row.split().count("-") == 2


class Balance(HTMLParser):
    """Checks that every element is closed where it must be, and keeps what was opened."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_plot(tmp_path: Path) -> None:
    """A page that loads nothing, with a mark inside of the drawing for every case."""
    path = tmp_path / "kernels.html"
    layers = ("keyword_fc", "ds_cnn_dw", "mobilenet_v3_swish", "resnet50_classes")
    chosen = [arg for layer in layers for arg in ("--shape", layer)]
    done = qrt_command(
        "bench", "kernels", *chosen, "--seconds", "0.001", "--alone", "--plot", path, "--json"
    )
    assert done.code == 0, done.err
    text = path.read_text(encoding="utf-8")
    for word in ("<script", "http", "src=", "href=", "@import", "url(", "<link", "<img"):
        assert word not in text, word
    page = Balance()
    page.feed(text)
    page.close()
    assert page.open == []
    assert len({tag for tag, _ in page.seen} & {"svg", "table", "dl"}) == 3
    drawings = re.findall(r"<svg [^>]*role=.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 2  # products, and the others
    tips = []
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for group in root.iter("g"):
            mark, title = group
            tips.append(title.text or "")
            numbers = re.findall(r"[\d.]+", mark.get("points", ""))
            xs = [float(v) for v in numbers[::2]] or [float(mark.get("cx") or mark.get("x") or -1)]
            ys = [float(v) for v in numbers[1::2]] or [float(mark.get("cy") or mark.get("y") or -1)]
            assert 0 < min(xs) <= max(xs) < width
            assert 0 < min(ys) <= max(ys) < height
    names = [row["shape"] for row in done.json["measurements"]]
    assert len(names) == len(layers)
    for name in names:
        assert sum(name in tip for tip in tips) == 1, name
        assert f"<td>{name}</td>" in text
    assert "dots" in drawings[0]
    assert "read L1" in drawings[0]


def test_a_plot_that_cannot_be_written(tmp_path: Path) -> None:
    """Is refused before anything is timed."""
    done = qrt_command("bench", "kernels", "--plot", tmp_path / "absent" / "kernels.html")
    assert (done.code, done.out) == (2, "")
    assert "absent" in done.message
