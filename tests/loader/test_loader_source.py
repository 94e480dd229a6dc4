"""Files and bytes that are not models, and those that are."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import onnx
import pytest

from qrt.errors import InputError, ModelError, UnsupportedError
from qrt.loader import Limits, load_graph
from tests.loader.models import make_model, node, small_cnn


def test_path_bytes_and_proto_give_the_same_graph(tmp_path: Path) -> None:
    model = small_cnn()
    path = tmp_path / "model.onnx"
    data = model.SerializeToString()
    path.write_bytes(data)
    for given in (path, str(path), data, bytearray(data), memoryview(data), model):
        graph = load_graph(given)
        assert [n.op for n in graph.nodes] == [
            "QuantizeLinear", "QLinearConv", "QLinearAdd", "DequantizeLinear",
            "ReduceMean", "Add", "Mul",
        ]  # fmt: skip
    assert model.SerializeToString() == data, "the caller's model was changed"


NOT_MODELS = {
    "empty": (b"", "empty"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "PNG"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "html": (b"<!DOCTYPE html><html></html>", "HTML"),
    "zip": (b"PK\x03\x04" + bytes(100), "zip"),
    "ort": (b"\x20\0\0\0ORTM" + bytes(100), "ORT format"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(100), "TensorFlow Lite"),
    "zeros": (bytes(1000), "not an ONNX model"),
    "text": (b"hello, world\n" * 20, "not an ONNX model"),
    # parses: an unknown field
    "unknown field": (b"\xfa\x07\x03abc", "no graph"),
    "random": (np.random.default_rng(0).bytes(10_000), "not an ONNX model"),
}


@pytest.mark.parametrize("name", NOT_MODELS)
def test_not_a_model(name: str, tmp_path: Path) -> None:
    data, says = NOT_MODELS[name]
    with pytest.raises(ModelError, match=says):
        load_graph(data)
    path = tmp_path / "thing.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=says) as caught:
        load_graph(path)
    assert "thing.onnx" in str(caught.value)


def test_truncated(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(small_cnn().SerializeToString()[:-200])
    with pytest.raises(ModelError, match=r"cut\.onnx.*truncated"):
        load_graph(path)


class BytesPath:
    """A path that is not text."""

    def __fspath__(self) -> bytes:
        return b"x"


def test_missing_file_folder_and_odd_paths(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_graph(tmp_path / "nothing.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        load_graph(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        load_graph("a\0b")
    with pytest.raises(ModelError, match="cannot be read"):
        load_graph(tmp_path / ("x" * 5000))
    with pytest.raises(InputError, match="path must be a str"):
        load_graph(BytesPath())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="got int"):
        load_graph(3)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_sockets_do_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="not a regular file"):
        load_graph(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(ModelError, match="not a regular file"):
            load_graph("socket")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.onnx"
    path.write_bytes(small_cnn().SerializeToString())
    path.chmod(0)
    with pytest.raises(ModelError, match="cannot be read"):
        load_graph(path)


def test_header_rules() -> None:
    model = small_cnn()
    model.ClearField("opset_import")
    with pytest.raises(ModelError, match="opset_import"):
        load_graph(model)

    model = small_cnn()
    model.ClearField("ir_version")
    with pytest.raises(ModelError, match="ir_version"):
        load_graph(model)

    model = small_cnn()
    model.ir_version = onnx.IR_VERSION + 1
    with pytest.raises(UnsupportedError, match="newer onnx"):
        load_graph(model)

    model = small_cnn()
    model.graph.ClearField("output")
    with pytest.raises(ModelError, match="at least one output"):
        load_graph(model)


def test_size_limit(tmp_path: Path) -> None:
    data = small_cnn().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    small = Limits(max_file_nbytes=len(data) - 1)
    for given in (data, path):
        with pytest.raises(ModelError, match=f"may have {len(data) - 1} bytes"):
            load_graph(given, small)
    load_graph(path, Limits(max_file_nbytes=len(data)))


def test_names_must_be_text_and_short() -> None:
    long = make_model([node("Relu", "x", "y", name="n" * 5000)])
    with pytest.raises(ModelError, match="4096 characters"):
        load_graph(long)
    data = make_model([node("Relu", "x", "y", name="ABCDEF")]).SerializeToString()
    with pytest.raises(ModelError, match="UTF-8"):
        load_graph(data.replace(b"ABCDEF", b"\xff\xfe\xff\xfe\xff\xfe"))
    with pytest.raises(ModelError, match="UTF-8"):
        load_graph(data.replace(b"Relu", b"\xff\xfe\xff\xfe"))
