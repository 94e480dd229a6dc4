"""MatMulNBits in whole models: bit for bit the contract, near ONNX Runtime, errors by name."""

from __future__ import annotations

import re
from itertools import product as combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nbits_cases import ZERO_POINTS, draw, rows
from onnx import numpy_helper

import qrt
from qrt.errors import QrtError
from tests.contract import evaluate
from tests.rivals import onnxruntime_outputs
from tests.sessions import THREADS, Cases, differences, feature_levels, named, run

# of the largest output: ONNX Runtime adds in another order, and rounds activations to int8 alike
NEAR = 5e-6
NEAR_STORED = 1e-4  # of the range of outputs


@pytest.mark.parametrize("level", (0, 1, 4))
@pytest.mark.parametrize("bits", (2, 4, 8))
def test_matmul_nbits(bits: int, level: int) -> None:
    cases = Cases()
    rng = np.random.default_rng(920)
    compared = 0
    for i, (kind, block, permuted) in enumerate(
        combinations(ZERO_POINTS, (16, 32, 128), (False, True))
    ):
        m, n, k = ((1, 40, 64), (7, 33, 257), (3, 70, 150))[i % 3]
        drawn = draw(rng, n, k, bits, block, kind, bias=i % 2 == 0)
        g_idx = np.arange(k, dtype=np.int32) // block
        if permuted:
            rng.shuffle(g_idx)
        model = drawn.model(m, level, g_idx if permuted else None)
        x = {"x": rows(rng, m, k)}
        want = evaluate(model, x)
        for features, threads in combinations(feature_levels(), THREADS):
            got = run(model, x, features, threads)
            cases.check(f"{i} {named(features)} {threads}", differences(want, got))
        # it takes groups of 4 bits only, no float zero points of 8, and rounds blocks of 16 by 32
        if permuted or block == 16 or (bits, kind) == (8, "f32"):
            continue
        theirs = onnxruntime_outputs(model, x)
        if theirs is not None:
            gap = np.abs(theirs["y"] - want["y"]).max() / np.abs(want["y"]).max()
            cases.check(f"{i} onnxruntime", "" if gap < NEAR else f"{gap} apart")
            compared += 1
    assert compared
    cases.finish(f"{bits} bits, level {level}", at_least=30)


def test_batches_and_shapes_share_weights() -> None:
    """Any leading axes; a second shape packs nothing again."""
    rng = np.random.default_rng(921)
    drawn = draw(rng, 200, 96, 4, 32)
    model = drawn.model(1, 4)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param = "rows"
    session = qrt.load(model)
    before = None
    for m in (1, 5, 40):
        x = rows(rng, m, 96)
        (got,) = session.run(None, {"x": x})
        assert np.array_equal(got, drawn.want(x, integers=True))
        nbytes = session.explain().constants_nbytes
        assert before is None or nbytes == before
        before = nbytes


@pytest.mark.shared("*nbits*")
def test_shared_models(shared_model: Path) -> None:
    arrays = np.load(shared_model.with_suffix(".npz"))
    inputs = {name[3:]: arrays[name] for name in arrays if name.startswith("in:")}
    cases = Cases()
    first = None
    for features, threads in combinations(feature_levels(), THREADS):
        got = run(shared_model, inputs, features, threads)
        first = first or got
        cases.check((features, threads), differences(first, got))
        for name, y in got.items():
            want = arrays[f"out:{name}"]
            gap = np.abs(y - want).max() / np.ptp(want)
            cases.check((features, name), "" if gap <= NEAR_STORED else f"{gap} of the range")
    cases.finish(shared_model.stem, at_least=4)


def changed(model: onnx.ModelProto, **changes: Any) -> onnx.ModelProto:
    """A copy with attributes of the node or constants replaced; None takes one away."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    node = copy.graph.node[0]
    for name, value in changes.items():
        if isinstance(value, np.ndarray):
            kept = [t for t in copy.graph.initializer if t.name != name]
            del copy.graph.initializer[:]
            copy.graph.initializer.extend([*kept, numpy_helper.from_array(value, name)])
            continue
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if value is not None:
            node.attribute.append(onnx.helper.make_attribute(name, value))
    return copy


G = np.arange(64, dtype=np.int32) // 32
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "weights too short": ({"B": np.zeros((40, 2, 15), np.uint8)}, "B must have 40*2*16 elements"),
    "weights too long": ({"B": np.zeros((41, 2, 16), np.uint8)}, "B must have 40*2*16 elements"),
    "weights of words": ({"B": np.zeros((40, 2, 16), np.int16)}, "B must be uint8, got int16"),
    "no weights": ({"B": np.zeros((0,), np.uint8)}, "B must have 40*2*16 elements"),
    "scales too few": ({"scales": np.ones(79, np.float32)}, "scales must have 40*2 elements"),
    "float64 scales": ({"scales": np.ones(80)}, "scales must be float32, got float64"),
    "zero points too few": ({"zero_points": np.ones(39, np.uint8)}, "zero_points must have 40*1"),
    "zero points of ints": ({"zero_points": np.ones(40, np.int32)}, "zero_points must be uint8"),
    "bias too long": ({"bias": np.ones(41, np.float32)}, "bias must have 40 elements"),
    "block of zero": ({"block_size": 0}, "block_size must be a power of two, 16 or more, got 0"),
    "block of 8": ({"block_size": 8}, "block_size must be a power of two"),
    "negative block": ({"block_size": -32}, "block_size must be a power of two"),
    "block of 48": ({"block_size": 48}, "block_size must be a power of two"),
    "huge block": ({"block_size": 2**40}, "block_size must be a power of two"),
    "no block": ({"block_size": None}, "block_size"),
    "bits of 3": ({"bits": 3}, "bits must be 2, 4, 8, got 3"),
    "K of zero": ({"K": 0}, "K must be positive, got 0"),
    "negative N": ({"N": -1}, "N must be positive, got -1"),
    "huge K": ({"K": 2**62}, "K must be positive"),
    "level of 9": ({"accuracy_level": 9}, "accuracy_level must be 0 to 4, got 9"),
    "another K": ({"K": 63}, "last axis of its input must be K = 63"),
    "unknown attribute": ({"weight_prepacked": 1}, "weight_prepacked"),
    "group out of range": ({"g_idx": G + 1}, "g_idx must be within [0, 1], got 2"),
    "negative group": ({"g_idx": G - 1}, "g_idx must be within [0, 1], got -1"),
    "uneven groups": ({"g_idx": np.append(G[1:], np.int32(1))}, "g_idx must give every group 32"),
    "short g_idx": ({"g_idx": G[:5]}, "g_idx must have K = 64 elements, got 5"),
    "long groups": ({"g_idx": G.astype(np.int64)}, "g_idx must be int32, got int64"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_models_are_refused(case: str) -> None:
    changes, message = REFUSED[case]
    rng = np.random.default_rng(922)
    model = draw(rng, 40, 64, 4, 32, "u8").model(2, 4, G)
    with pytest.raises(QrtError, match=re.escape(message)) as refusal:
        qrt.load(changed(model, **changes)).run(None, {"x": rows(rng, 2, 64)})
    assert "MatMulNBits 'product' (#0)" in str(refusal.value)


def test_computed_weights_are_refused() -> None:
    """Weights are packed before the first run."""
    model = draw(np.random.default_rng(923), 40, 64, 4, 32).model(2, 4)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("B", onnx.TensorProto.UINT8, [40, 2, 16])
    )
    kept = [t for t in model.graph.initializer if t.name != "B"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    with pytest.raises(QrtError, match="B must be constant, 'B' is computed"):
        qrt.load(model)
