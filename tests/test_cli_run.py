"""`qrt run`: inputs from every kind of file, outputs described and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_harness import DIGITS, HELD_OUT, qrt_command

import qrt


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """float32 (8, 1, 8, 8), held out."""
    with np.load(HELD_OUT) as arrays:
        return arrays["x"][:8, None].astype(np.float32) / np.float32(16)


@pytest.fixture(scope="module")
def logits(images: np.ndarray) -> np.ndarray:
    """What the session gives for them."""
    return qrt.load(DIGITS).run(None, {"image": images})[0]


def test_npy_with_and_without_a_name(
    tmp_path: Path, images: np.ndarray, logits: np.ndarray
) -> None:
    np.save(tmp_path / "x.npy", images)
    for spelling in (f"image={tmp_path / 'x.npy'}", str(tmp_path / "x.npy")):
        done = qrt_command("run", DIGITS, "--input", spelling, "--output", tmp_path / "out")
        assert done.code == 0, done.err
        np.testing.assert_array_equal(np.load(tmp_path / "out" / "logits.npy"), logits)
        assert "logits  float32 8x10" in done.out
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["logits.npy"]


@pytest.mark.parametrize("key", ["image", "in:image", "anything"])
@pytest.mark.parametrize("named", [True, False])
def test_npz_by_key_or_its_only_array(
    tmp_path: Path, images: np.ndarray, logits: np.ndarray, key: str, named: bool
) -> None:
    np.savez(tmp_path / "x.npz", **{key: images})
    spelling = f"image={tmp_path / 'x.npz'}" if named else str(tmp_path / "x.npz")
    done = qrt_command("run", DIGITS, "--input", spelling, "--json")
    assert done.code == 0, done.err
    (output,) = done.json["outputs"]
    assert output["max"] == logits.max()
    assert output["shape"] == [8, 10]


def test_png_is_resized_and_scaled(tmp_path: Path, images: np.ndarray, logits: np.ndarray) -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    pixels = np.rint(images[0, 0] * 16).astype(np.uint8)
    image.fromarray(pixels).save(tmp_path / "digit.png")
    spelling = f"image={tmp_path / 'digit.png'}"
    done = qrt_command("run", DIGITS, "--input", spelling, "--scale", "1/16", "--json")
    assert done.code == 0, done.err
    (output,) = done.json["outputs"]
    assert output["top"][0] == [int(logits[0].argmax()), float(logits[0].max())]
    image.fromarray(pixels).resize((64, 48)).save(tmp_path / "large.jpg")
    done = qrt_command("run", DIGITS, "--input", tmp_path / "large.jpg", "--json")
    assert done.code == 0, done.err
    # the model leaves the batch open, not the size
    assert done.json["inputs"][0]["shape"] == [1, 1, 8, 8]


def test_random_inputs_follow_seed_and_dim() -> None:
    runs = [
        qrt_command("run", DIGITS, "--random", "--dim", "batch=3", "--seed", seed, "--json").json
        for seed in ("0", "0", "1")
    ]
    assert runs[0] == runs[1] != runs[2]
    assert runs[0]["outputs"][0]["shape"] == [3, 10]


def test_text_shows_shape_extremes_and_top_of_a_vector() -> None:
    done = qrt_command("run", DIGITS, "--random")
    assert done.code == 0
    for word in ("image  float32 1x1x8x8  random, seed 0", "float32 1x10", "min", "mean", "top 5"):
        assert word in done.out
    batch = qrt_command("run", DIGITS, "--random", "--dim", "batch=2")
    assert "top 5" not in batch.out  # two vectors are not one


def test_features_and_threads_reach_the_session() -> None:
    plain = qrt_command("run", DIGITS, "--random", "--json").json
    portable = qrt_command("run", DIGITS, "--random", "--features", "portable", "--json").json
    two = qrt_command("run", DIGITS, "--random", "--threads", "2", "--json").json
    assert plain == portable == two


@pytest.mark.shared("resnet8_qdq", "mobilenetv2_qdq", "kws_qdq")
def test_real_models_run_on_their_stored_inputs(shared_model: Path, tmp_path: Path) -> None:
    stored = shared_model.with_suffix(".npz")
    done = qrt_command("run", shared_model, "--input", stored, "--output", tmp_path, "--json")
    assert done.code == 0, done.err
    (file,) = done.json["files"]
    with np.load(stored) as arrays:
        (expected,) = [arrays[key] for key in arrays.files if key.startswith("out:")]
    assert np.load(file).argmax() == expected.argmax()
