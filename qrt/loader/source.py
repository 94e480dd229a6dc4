"""A path, bytes or ModelProto to a ModelProto that is plausibly a model."""

from __future__ import annotations

import os
import stat

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from qrt.errors import InputError, ModelError, UnsupportedError
from qrt.loader.limits import Limits

# what people pass by mistake: (offset, bytes found there, what it is)
_LOOKALIKES = (
    (0, b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull` to get the model"),
    (4, b"ORTM", "ONNX Runtime's own ORT format; convert from the .onnx file instead"),
    (4, b"TFL3", "a TensorFlow Lite model; convert it to ONNX first"),
    (0, b"PK\x03\x04", "a zip archive (or a PyTorch checkpoint); export it to ONNX first"),
    (0, b"\x1f\x8b", "gzip data; decompress it first"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "an HDF5 file; export the network to ONNX first"),
    (0, b"<", "HTML or XML text"),
    (0, b"{", "JSON text"),
)


def read_model(
    model: str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto,
    limits: Limits,
) -> tuple[onnx.ModelProto, str | None]:
    """Return the ModelProto and the folder of its file (None unless `model` is a path)."""
    if isinstance(model, onnx.ModelProto):
        check_header(model, "the ModelProto")
        return model, None
    if isinstance(model, (bytes, bytearray, memoryview)):
        return parse_model(bytes(model), "the bytes given", limits), None
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        if not isinstance(path, str):
            raise InputError(f"a model's path must be a str, got {type(path).__name__}")
        folder = os.path.dirname(os.path.abspath(path))
        return parse_model(read_file(path, limits), f"'{path}'", limits), folder
    raise InputError(
        f"a model must be a path, bytes or an onnx.ModelProto, got {type(model).__name__}"
    )


def read_file(path: str, limits: Limits) -> bytes:
    """The bytes of a regular file of at most `limits.max_file_nbytes`."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"'{path}' is a folder; give the path of an .onnx file")
        # a pipe or a device may block or never end
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"'{path}' is not a regular file")
        if status.st_size > limits.max_file_nbytes:
            raise ModelError(
                f"'{path}': a model file may have {limits.max_file_nbytes} bytes,"
                f" got {status.st_size}; keep large weights in external data"
            )
        with open(path, "rb") as file:
            # one byte more than stat promised tells that the file is still growing
            data = file.read(status.st_size + 1)
    except FileNotFoundError:
        raise ModelError(f"'{path}' does not exist") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"'{path}' cannot be read: {error}") from error
    if len(data) != status.st_size:
        raise ModelError(f"'{path}' changed its size while it was read")
    return data


def parse_model(data: bytes, what: str, limits: Limits) -> onnx.ModelProto:
    """Parse a serialized ModelProto; `what` names it in messages."""
    if not data:
        raise ModelError(f"{what}: not an ONNX model, it is empty")
    if len(data) > limits.max_file_nbytes:
        raise ModelError(
            f"{what}: a model may have {limits.max_file_nbytes} bytes, got {len(data)}"
        )
    for offset, magic, kind in _LOOKALIKES:
        if data[offset : offset + len(magic)] == magic:
            raise ModelError(f"{what}: not an ONNX model, it looks like {kind}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        if "depth" in str(error).lower():
            raise ModelError(
                f"{what}: subgraphs are nested deeper than protobuf reads (about 30)"
            ) from None
        raise ModelError(
            f"{what}: not an ONNX model, or truncated:"
            f" its {len(data)} bytes are not one protobuf message"
        ) from None
    check_header(model, what)
    return model


def check_header(model: onnx.ModelProto, what: str) -> None:
    """Refuse a message that parses but cannot be a model: protobuf accepts many random bytes."""
    if not model.HasField("graph"):
        raise ModelError(f"{what}: not an ONNX model, it has no graph")
    if not model.HasField("ir_version") or model.ir_version <= 0:
        raise ModelError(
            f"{what}: not an ONNX model, its ir_version must be 1 or more, got {model.ir_version}"
        )
    if model.ir_version > onnx.IR_VERSION:
        raise UnsupportedError(
            f"{what}: ir_version may be up to {onnx.IR_VERSION} with onnx {onnx.__version__},"
            f" got {model.ir_version}; install a newer onnx package"
        )
    if not model.graph.output:
        raise ModelError(f"{what}: the graph must have at least one output, it has none")
    if not model.opset_import:
        raise ModelError(
            f"{what}: the model must say which opsets it uses (opset_import), it does not"
            " (a truncated file?)"
        )
