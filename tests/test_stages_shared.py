"""Real networks with control flow: recurrent ones that PyTorch exported with If."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qrt


@pytest.mark.shared("hey_jarvis_dyn", "silero_vad_fp32")
def test_agrees_with_onnxruntime(shared_model: Path) -> None:
    with np.load(shared_model.with_suffix(".npz")) as stored:
        inputs = {name[3:]: stored[name] for name in stored.files if name.startswith("in:")}
        outputs = {name[4:]: stored[name] for name in stored.files if name.startswith("out:")}
    session = qrt.load(shared_model)
    bound = 1e-2 if "dyn" in shared_model.stem else 1e-4  # of the output's range
    for argument, got in zip(session.get_outputs(), session.run(None, inputs), strict=True):
        want = outputs[argument.name]
        scale = max(float(np.ptp(want)), float(np.abs(want).max()))
        assert got.shape == want.shape
        assert float(np.abs(got - want).max()) <= bound * scale, argument.name


@pytest.mark.shared("silero_vad_fp32")
def test_branches_that_shapes_choose_leave_one_program_of_kernels(shared_model: Path) -> None:
    session = qrt.load(shared_model)
    for batch in (1, 3):
        session.run(
            None,
            {
                "input": np.zeros((batch, 512), np.float32),
                "state": np.zeros((2, batch, 128), np.float32),
                "sr": np.array(16000),
            },
        )
        rows = list(session.explain())
        assert not any(row.stage or row.operator == "If" for row in rows)
        assert not any(kernel.startswith("host") for row in rows for kernel in row.kernels)
