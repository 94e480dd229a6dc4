"""What `run` must refuse, what it must take, and that it leaves nothing behind but its cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qrt
from qrt.errors import InputError
from tests.graphs.draw import Array
from tests.loader.models import make_model, node, tensor_info
from tests.test_bad_models import qoperators

SHAPE = (1, 3, 6, 6)
ROOT = Path(qrt.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def session() -> qrt.Session:
    """QuantizeLinear, QLinearConv, DequantizeLinear on x, float32 of 1 x 3 x 6 x 6."""
    return qrt.load(qoperators())


def picture(*shape: int) -> Array:
    """Random floats."""
    return np.random.default_rng(0).normal(0, 1, shape or SHAPE).astype(np.float32)


@pytest.mark.parametrize(
    "feeds, says",
    [
        ({"z": picture()}, ("'z'", "'x'")),
        ({"x": picture(), "z": picture()}, ("'z'", "'x'")),
        ({}, ("missing", "'x'")),
        ({"x": picture(3, 6, 6)}, ("'x'", "rank must be 4", "3")),
        ({"x": picture(1, 1, 3, 6, 6)}, ("'x'", "rank must be 4", "5")),
        ({"x": picture(1, 3, 6, 7)}, ("'x'", "dimension 3 must be 6", "7")),
        ({"x": picture(2, 3, 6, 6)}, ("'x'", "dimension 0 must be 1", "2")),
        ({"x": picture(1, 6, 6, 3)}, ("'x'", "dimension 1 must be 3", "6")),
        ({"x": picture(1, 3, 6, 0)}, ("'x'", "dimension 3")),
        ({"x": picture().astype(np.float64)}, ("'x'", "float32", "float64")),
        ({"x": picture().astype(np.float16)}, ("'x'", "float32", "float16")),
        ({"x": picture().astype(np.uint8)}, ("'x'", "float32", "uint8")),
        ({"x": picture().astype(object)}, ("'x'", "float32", "object")),
        ({"x": picture().astype(str)}, ("'x'", "float32")),
        ({"x": picture() > 0}, ("'x'", "float32", "bool")),
        ({"x": None}, ("'x'",)),
        ({"x": "picture.png"}, ("'x'",)),
        ({1: picture()}, ("1",)),
        ([picture()], ("dict",)),
        (None, ("dict",)),
    ],
)
def test_refused(session: qrt.Session, feeds: Any, says: tuple[str, ...]) -> None:
    expected = session.run(None, {"x": picture()})[0]
    with pytest.raises(InputError) as caught:
        session.run(None, feeds)
    for part in says:
        assert part in str(caught.value)
    assert session.run(None, {"x": picture()})[0].tobytes() == expected.tobytes()


def test_wrong_output_names(session: qrt.Session) -> None:
    for names in (["nothing"], ["y", "c"], "y", [0]):
        with pytest.raises(InputError, match="'y'"):
            session.run(names, {"x": picture()})  # type: ignore[arg-type]


def read_only(x: Array) -> Array:
    """The same, not writeable."""
    y = x.copy()
    y.flags.writeable = False
    return y


def negative_strides(x: Array) -> Array:
    """The same, stored backwards along every axis."""
    backwards = tuple(slice(None, None, -1) for _ in x.shape)
    return x[backwards].copy()[backwards]


def every_other(x: Array) -> Array:
    """The same, with as much junk between."""
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def unaligned(x: Array) -> Array:
    """The same, one byte off."""
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


class Subclass(np.ndarray[Any, Any]):
    """An array of another class."""


STORED: dict[str, Callable[[Array], Array]] = {
    "read-only": read_only,
    "negative strides": negative_strides,
    "every other": every_other,
    "unaligned": unaligned,
    "Fortran order": np.asfortranarray,
    "channels last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "another byte order": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only and negative": lambda x: read_only(x)[..., ::-1][..., ::-1],
    "a subclass": lambda x: x.view(Subclass),
}


@pytest.mark.parametrize("name", STORED)
def test_any_array_gives_the_same_result(session: qrt.Session, name: str) -> None:
    x = picture()
    stored = STORED[name](x)
    assert np.array_equal(stored, x)
    expected = session.run(None, {"x": x})[0]
    got = session.run(None, {"x": stored})[0]
    assert type(got) is np.ndarray and got.tobytes() == expected.tobytes()
    assert np.array_equal(stored, x), "the input was changed"


@pytest.mark.parametrize("threads", [1, 2])
def test_strange_numbers_are_quantized_as_the_contract_says(threads: int) -> None:
    """NaN gives the smallest integer, infinities saturate; nothing traps."""
    session = qrt.load(qoperators(), threads=threads)
    for value, like in ((np.nan, -2.56), (np.inf, 99), (-np.inf, -99), (1e30, 99), (-0.0, 0)):
        x = picture()
        x[0, :, 2, 2] = value
        y = x.copy()
        y[0, :, 2, 2] = like
        assert session(x).tobytes() == session(y).tobytes(), value


SCRIPT = """
import json, sys
import numpy as np
import qrt
from pathlib import Path
x = np.load(sys.argv[2])
y = qrt.load(Path(sys.argv[1]))(x)
print(json.dumps([y.tobytes().hex(), "numba" in sys.modules]))
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with the model and its input, and nothing else."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(small().SerializeToString())
    np.save(folder / "x.npy", picture())
    return folder


def small() -> onnx.ModelProto:
    """Needs two kernels, soon compiled."""
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
    constants: dict[str, Array] = {"s": np.array(0.02, np.float32), "z": np.array(128, np.uint8)}
    return make_model(nodes, inputs=[tensor_info("x", SHAPE)], constants=constants)


def start(work: Path, cache: Path) -> subprocess.Popen[str]:
    """Another process that runs the model in `work` with this cache folder."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("QRT_")}
    env |= {"QRT_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"QRT_FEATURES": "portable", "HOME": str(work.parent / "home")}
    env |= {"TMPDIR": str(temporary(work))}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "model.onnx", "x.npy"],
        cwd=work,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def temporary(work: Path) -> Path:
    """Where a process of this test puts temporary files."""
    folder = work.parent / "temporary"
    folder.mkdir(exist_ok=True)
    return folder


def finish(process: subprocess.Popen[str]) -> str:
    """What it wrote to stderr; fails unless its result is right."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    result, _ = json.loads(out)
    assert result == qrt.load(small())(picture()).tobytes().hex()
    return err


def test_the_cache_folder_and_who_may_break_it(work: Path, tmp_path: Path) -> None:
    """One compilation, then: warm; two at once from nothing; damaged; and no file anywhere else."""
    before = files(work)
    cache = tmp_path / "cache"
    first, second = start(work, cache), start(work, cache)
    said = finish(first) + finish(second)
    assert "compil" in said
    kernels = files(cache)
    assert kernels and all(name.endswith(".o") for name in kernels), kernels
    assert "compil" not in finish(start(work, cache)), "the cache was not used"
    assert files(cache) == kernels
    for i, name in enumerate(kernels):
        body = (cache / name).read_bytes()
        damaged = (b"", body[:100], body[:-7], bytes(len(body)), body[:60] + b"?" + body[61:])
        (cache / name).write_bytes(damaged[i % len(damaged)])
    finish(start(work, cache))
    assert files(cache) == kernels
    assert "compil" not in finish(start(work, cache)), "the cache was not mended"
    assert files(work) == before
    assert not files(temporary(work)) and not files(tmp_path / "home")


@pytest.mark.parametrize("kind", ["unwritable", "a file", "inside a file", "world-writable"])
def test_a_cache_folder_that_cannot_be_used_only_costs_time(
    work: Path, tmp_path: Path, kind: str
) -> None:
    cache = tmp_path / "cache"
    if kind == "unwritable":
        cache = Path("/proc/self/nothing") if os.path.isdir("/proc/self") else Path("/nothing/here")
    elif kind == "world-writable":
        cache.mkdir()
        (cache / "other.o").write_bytes(b"not ours")
        cache.chmod(0o777)
    else:
        cache.write_text("a file\n")
        cache = cache / "inner" if kind == "inside a file" else cache
    before = files(work)
    finish(start(work, cache))
    assert files(work) == before
    assert not files(temporary(work)) and not files(tmp_path / "home")


def files(folder: Path) -> list[str]:
    """Every file below `folder`, by name."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())
