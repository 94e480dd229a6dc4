"""Networks of real size, random weights, small images: quantized from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_harness import qrt_command

import qrt
from bench import zoo
from bench.zoo_real import RealBuilder
from qrt.ptq.config import QuantConfig

SIZE = 32


# least size ratio: MobileNetV2 has 17,000 channels, each with scales and biases of its own
@pytest.mark.parametrize(
    ("name", "static_ratio", "dynamic_ratio"),
    [("resnet18", 3.9, 3.95), ("mobilenet_v2", 3.6, 3.85)],
)
def test_networks_from_end_to_end(
    name: str, static_ratio: float, dynamic_ratio: float, tmp_path: Path
) -> None:
    ort: Any = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    files = [tmp_path / f"{form}.onnx" for form in ("float", "static", "dynamic")]
    onnx.save(getattr(zoo, name)(size=SIZE, builder=RealBuilder), files[0])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, SIZE, SIZE)).astype(np.float32)
    onnx.save(qrt.quantize_static(files[0], x, QuantConfig()), files[1])
    onnx.save(qrt.quantize(files[0], "dynamic"), files[2])
    (want,) = qrt.load(files[0]).run(None, {"input": x[:1]})
    for file in files[1:]:
        session = qrt.load(file)
        (ours,) = session.run(None, {"input": x[:1]})
        # random weights amplify rounding: no more than that the signal is still there
        assert np.linalg.norm(ours - want) < 0.5 * np.linalg.norm(want)
        kernels = [kernel for row in session.explain().rows for kernel in row.kernels]
        assert not [k for k in kernels if k.startswith(("gemm_f32", "host"))]
        (theirs,) = ort.InferenceSession(str(file)).run(None, {"input": x[:1]})
        assert np.linalg.norm(ours - theirs) < 0.1 * np.linalg.norm(theirs)
    sizes = qrt_command("size", *files, "--json").json["models"]
    first = sizes[0]["file_nbytes"]
    assert first / sizes[1]["file_nbytes"] > static_ratio
    assert first / sizes[2]["file_nbytes"] > dynamic_ratio
    for file, size in zip(files, sizes, strict=True):
        assert size["file_nbytes"] == file.stat().st_size
        layers = {layer["layer"]: layer["nbytes"] for layer in size["layers"]}
        for layer in sizes[0]["layers"]:
            if layer["elements"] > 10_000:
                assert layers[layer["layer"]] * (1 if file == files[0] else 3) <= layer["nbytes"]
    table = qrt_command("size", *files).out.splitlines()
    assert [line.split("(")[-1] for line in table[:1]] == ["1.00x)"]
