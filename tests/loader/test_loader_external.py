"""External data: read from beside the model, and from nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from qrt.errors import ModelError
from qrt.loader import load_graph
from tests.loader.models import make_model, node

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def external_model(**entries: str) -> onnx.ModelProto:
    """y = x + w, w in another file."""
    model = make_model([node("Add", "x w", "y")], constants={"w": VALUES})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return model


def save(folder: Path, **entries: str) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(external_model(**entries).SerializeToString())
    return path


def weights(path: Path) -> np.ndarray:
    data = load_graph(path).nodes[0].required(1).data
    assert data is not None and data.flags.aligned and not data.flags.writeable
    return data


@pytest.mark.parametrize("offset", [0, 1, 8, 4096])
def test_offset_and_length(tmp_path: Path, offset: int) -> None:
    (tmp_path / "w.bin").write_bytes(b"?" * offset + VALUES.tobytes() + b"after")
    path = save(tmp_path, location="w.bin", offset=str(offset), length="24")
    assert np.array_equal(weights(path), VALUES)


def test_whole_file_in_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(VALUES.tobytes())
    for location in ("sub/w.bin", "./sub/w.bin"):
        assert np.array_equal(weights(save(tmp_path, location=location)), VALUES)


def test_link_inside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "link").symlink_to("w.bin")
    assert np.array_equal(weights(save(tmp_path, location="link")), VALUES)


def test_base_dir_for_bytes_and_protos(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    model = external_model(location="w.bin")
    for given in (model, model.SerializeToString()):
        with pytest.raises(ModelError, match=r"initializer 'w'.*base_dir"):
            load_graph(given)
        data = load_graph(given, base_dir=tmp_path).nodes[0].required(1).data
        assert data is not None and np.array_equal(data, VALUES)


def test_files_that_onnx_writes(tmp_path: Path) -> None:
    model = make_model([node("Add", "x w", "y")], constants={"w": VALUES})
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    assert np.array_equal(weights(path), VALUES)


BAD = {
    "absolute": ({"location": "{outside}"}, "inside the model's folder"),
    "up": ({"location": "../secret.bin"}, "inside the model's folder"),
    "up within": ({"location": "sub/../../secret.bin"}, "inside the model's folder"),
    "backslashes": ({"location": "..\\secret.bin"}, "inside the model's folder"),
    "drive": ({"location": "C:\\secret.bin"}, "inside the model's folder"),
    "link out": ({"location": "link"}, "links to a file outside"),
    "folder link out": ({"location": "linked/secret.bin"}, "links to a file outside"),
    "no location": ({"offset": "0"}, "must name a file"),
    "empty location": ({"location": ""}, "must name a file"),
    "nul": ({"location": "w.bin\0x"}, "must name a file"),
    "missing": ({"location": "nothing.bin"}, "is missing"),
    "folder": ({"location": "sub"}, "not a regular file"),
    "pipe": ({"location": "pipe"}, "not a regular file"),
    "the folder itself": ({"location": "."}, "not a regular file"),
    "offset beyond": ({"location": "w.bin", "offset": "25"}, "starts at byte 25"),
    "length beyond": ({"location": "w.bin", "offset": "4", "length": "24"}, "bytes 4 to 28"),
    "length short": ({"location": "w.bin", "length": "20"}, "needs 24 bytes, got 20"),
    "negative offset": ({"location": "w.bin", "offset": "-4"}, "number of bytes"),
    "offset text": ({"location": "w.bin", "offset": "four"}, "number of bytes"),
    "offset very long": ({"location": "w.bin", "offset": "9" * 10000}, "number of bytes"),
    "length negative": ({"location": "w.bin", "length": "-1"}, "number of bytes"),
    "too little": ({"location": "short.bin"}, "needs 24 bytes, got 5"),
    "empty file": ({"location": "empty.bin"}, "needs 24 bytes, got 0"),
    "long name": ({"location": "x" * 5000}, "File name too long"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    (folder / "w.bin").write_bytes(VALUES.tobytes())
    (folder / "short.bin").write_bytes(b"12345")
    (folder / "empty.bin").write_bytes(b"")
    (folder / "link").symlink_to("../secret.bin")
    (folder / "linked").symlink_to("..")
    os.mkfifo(folder / "pipe")
    entries, says = BAD[name]
    entries = {k: v.replace("{outside}", str(tmp_path / "secret.bin")) for k, v in entries.items()}
    with pytest.raises(ModelError, match=says) as caught:
        load_graph(save(folder, **entries))
    assert str(caught.value).startswith("initializer 'w': ")


def test_a_key_twice(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(VALUES.tobytes())
    model = external_model(location="w.bin")
    model.graph.initializer[0].external_data.add(key="location", value="other")
    with pytest.raises(ModelError, match="'location' twice"):
        load_graph(model, base_dir=tmp_path)
