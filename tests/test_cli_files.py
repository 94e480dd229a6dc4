"""The parts of the command line that read and write files, without a model."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qrt.api.arguments import Argument
from qrt.api.images import Preprocessing, image_axes, read_image
from qrt.cli.inputs import random_input, split_option
from qrt.cli.outputs import safe_names, summarise_output, write_outputs
from qrt.errors import InputError

FLOAT = np.dtype(np.float32)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A PNG of 4 x 6 pixels that are all different."""
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    image.fromarray(pixels).save(tmp_path / "ramp.png")
    return tmp_path / "ramp.png"


PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def read(path: Path, dtype: Any, *dims: Any, **how: Any) -> np.ndarray:
    return read_image(path, Argument("x", np.dtype(dtype), dims), dims, Preprocessing(**how))


def test_image_layouts(picture: Path) -> None:
    np.testing.assert_array_equal(read(picture, np.uint8, 1, 4, 6, 3), PIXELS[None])
    np.testing.assert_array_equal(
        read(picture, np.uint8, "n", 3, 4, 6), PIXELS.transpose(2, 0, 1)[None]
    )
    np.testing.assert_array_equal(read(picture, np.uint8, 4, 6, 3), PIXELS)
    # open sizes are the image's own
    assert read(picture, np.uint8, None, 3, "h", "w").shape == (1, 3, 4, 6)
    assert read(picture, np.uint8, 1, 1, 4, 6).shape == (1, 1, 4, 6)
    assert read(picture, np.uint8, 9, 5).shape == (9, 5)
    assert read(picture, np.uint8, 1, 3, 224, 200).shape == (1, 3, 224, 200)
    assert read(picture, np.uint8, 1, 3, 4, 6).flags.c_contiguous


def test_image_values(picture: Path) -> None:
    whole = PIXELS[None].astype(np.float64)
    np.testing.assert_array_equal(
        read(picture, FLOAT, 1, 4, 6, 3), (whole / 255).astype(np.float32)
    )
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    np.testing.assert_allclose(
        read(picture, FLOAT, 1, 4, 6, 3, mean=mean, std=std),
        ((whole / 255 - mean) / std).astype(np.float32),
        rtol=1e-6,  # one rounding to float32, and 1/255 against / 255
        atol=1e-7,
    )
    np.testing.assert_array_equal(
        read(picture, np.int8, 1, 4, 6, 3, mean=(128.0,)), (whole - 128).astype(np.int8)
    )
    with pytest.raises(InputError, match=r"int8.*-200 to"):
        read(picture, np.int8, 1, 4, 6, 3, mean=(200.0,))
    with pytest.raises(InputError, match="--std"):
        read(picture, FLOAT, 1, 4, 6, 3, std=(0.0,))
    with pytest.raises(InputError, match="3 channels, got 2"):
        read(picture, FLOAT, 1, 4, 6, 3, mean=(1.0, 2.0))


def test_inputs_that_are_no_image(picture: Path) -> None:
    with pytest.raises(InputError, match="takes 2 images"):
        read(picture, FLOAT, 2, 3, 4, 6)
    for dims in ((1, 2, 8, 8), (10,), (1, 3, 4, 5, 6), ("n", "c", "h", "w")):
        with pytest.raises(InputError, match="does not look like an image"):
            image_axes(Argument("x", FLOAT, dims), dims)


def test_without_pillow(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="pip install pillow"):
        read(picture, FLOAT, 1, 3, 4, 6)


def test_random_inputs_by_dtype() -> None:
    rng = np.random.default_rng(0)

    def draw(dtype: Any) -> np.ndarray:
        return random_input(Argument("x", np.dtype(dtype), ("n", 400, None)), {"n": 2}, rng)

    assert draw(np.float32).shape == (2, 400, 1)
    assert draw(np.float16).dtype == np.float16
    assert (draw(np.int8).min(), draw(np.uint8).max()) == (-128, 255)
    assert set(draw(np.int64).flat) == {0, 1}
    assert draw(bool).dtype == np.bool_
    for dtype, dims in ((np.dtype(object), (1,)), (FLOAT, None), (None, (1,))):
        with pytest.raises(InputError, match="cannot be drawn at random"):
            random_input(Argument("x", dtype, dims), {}, rng)


def test_names_with_an_equals_sign() -> None:
    arguments = [Argument(name, FLOAT, (1,)) for name in ("a", "a=b")]
    assert split_option("a=b=c.npy", arguments) == ("a=b", Path("c.npy"))
    assert split_option("a=c.npy", arguments) == ("a", Path("c.npy"))
    assert split_option("x=c.npy", arguments) == (None, Path("x=c.npy"))


def test_names_of_files_are_safe_and_distinct() -> None:
    names = ["../../etc/passwd", "a:0", "a_0", "A_0", "", "..", "x" * 500, ".hidden", "-o", "é"]
    safe = safe_names(names)
    assert safe[:6] == ["_.._etc_passwd", "a_0", "a_0_2", "A_0_3", "output", "output_2"]
    assert len({name.lower() for name in safe}) == len(names)
    assert all(name[0] not in ".-" and "/" not in name and len(name) < 120 for name in safe)


def test_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new" / "folder"
    old, new = np.zeros(3), np.arange(1000)
    assert write_outputs(folder, ["y"], [old]) == [folder / "y.npy"]

    def full(file: Any, array: np.ndarray, **options: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_outputs(folder, ["y"], [new])
    assert os.listdir(folder) == ["y.npy"]
    np.testing.assert_array_equal(np.load(folder / "y.npy"), old)


def test_summaries() -> None:
    vector = summarise_output("y", np.array([[3, 1, 7, 7, np.nan, -2]], np.float32))
    assert (vector.min, vector.max, vector.nans) == (-2, 7, 1)
    assert [index for index, _ in vector.top] == [2, 3, 0, 1, 5]
    batch = summarise_output("y", np.ones((2, 5), np.int8))
    assert (batch.top, batch.mean) == ((), 1.0)
    empty = summarise_output("y", np.zeros((0, 4), np.float32))
    assert (empty.min, empty.top) == (None, ())
    words = summarise_output("y", np.array(["a", "b"]))
    assert (words.min, words.top) == (None, ())
    scalar = summarise_output("y", np.float32(2.5).reshape(()))
    assert (scalar.shape, scalar.mean) == ((), 2.5)
    for summary in (vector, batch, empty, words, scalar):
        assert summary.lines()[0].startswith("y  ")
