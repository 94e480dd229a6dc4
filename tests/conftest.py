"""Where the real networks are: `../shared` beside the repository, or QRT_SHARED_DIR.

`shared_models` is the folder of networks. A test that takes `shared_model` runs once for every
network there, or for those that the marker names: `@pytest.mark.shared("*_qdq*", "*_qop*")`.
Without the folder such tests are skipped; QRT_SHARED=required makes them fail instead.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


def shared_folder() -> Path:
    """The folder with `models` and `data`, there or not."""
    return Path(os.environ.get("QRT_SHARED_DIR") or _ROOT.parent / "shared")


def missing(what: Path) -> None:
    """Skip, or fail where the networks are required."""
    message = f"{what} is not here (set QRT_SHARED_DIR)"
    if os.environ.get("QRT_SHARED") == "required":
        pytest.fail(message)
    pytest.skip(message)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test that uses a shared fixture carries the marker, so that -m may deselect it."""
    for item in items:
        if {"shared_model", "shared_models", "shared_data"} & set(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker(pytest.mark.shared)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shared_model" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("shared")
    patterns = marker.args if marker and marker.args else ("*",)
    paths = sorted((shared_folder() / "models").glob("*.onnx"))
    chosen = [p for p in paths if any(fnmatch(p.stem, pattern) for pattern in patterns)]
    ids = [p.stem for p in chosen] or ["missing"]
    metafunc.parametrize("shared_model", chosen or [None], indirect=True, ids=ids)


@pytest.fixture
def shared_model(request: pytest.FixtureRequest) -> Path:
    """One network; its input and expected output are in the .npz beside it."""
    if request.param is None:
        missing(shared_folder() / "models")
    path: Path = request.param
    return path


@pytest.fixture
def shared_models() -> Path:
    """The folder of networks."""
    folder = shared_folder() / "models"
    if not folder.is_dir():
        missing(folder)
    return folder


@pytest.fixture
def shared_data() -> Path:
    """The folder of labelled data."""
    folder = shared_folder() / "data"
    if not folder.is_dir():
        missing(folder)
    return folder
