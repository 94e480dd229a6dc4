"""Program files: what is saved comes back, and a damaged or hostile file is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qrt.errors import ProgramError
from qrt.ir import Graph
from qrt.program import Program, build_program, load_program, save_program
from qrt.program.file import _FIXED, MAGIC, _digest
from qrt.simd.features import active_features
from qrt.vm import Executor
from tests.machine.graphs import OPS, constant, node, rotated, rotating_chain, tensor


@pytest.fixture
def program() -> Program:
    return build_program(rotating_chain(4, 33), active_features(), threads=2, ops=OPS)


@pytest.fixture
def path(program: Program, tmp_path: Path) -> Path:
    target = tmp_path / "model.qrt"
    save_program(program, target)
    return target


def test_a_program_comes_back_and_runs(program: Program, path: Path) -> None:
    loaded = load_program(path)
    assert (loaded.rows == program.rows).all() and loaded.rows.dtype == np.int64
    for name in ("kernels", "arena_nbytes", "inputs", "outputs", "nodes", "threads"):
        assert getattr(loaded, name) == getattr(program, name), name
    assert loaded.constants.nbytes == program.constants.nbytes
    assert not loaded.constants.buffer.flags.writeable, "constants stay in the memory map"
    x = np.arange(33, dtype=np.float32)
    (y,) = Executor(loaded, active_features()).run([x])
    np.testing.assert_array_equal(y, rotated(x, 4))
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing else is left behind"


def test_dtypes_and_layouts_come_back(tmp_path: Path) -> None:
    dtypes = [np.uint8, np.int8, np.bool_, np.float16, np.int64, ml_dtypes.bfloat16]
    values = [tensor(f"v{i}", (2, 3, 4), d) for i, d in enumerate(dtypes)]
    values[0].layout = (0, 2, 1)
    program = build_program(Graph([], values, values), frozenset(), ops=OPS)
    save_program(program, tmp_path / "p")
    assert load_program(tmp_path / "p").inputs == program.inputs


def test_a_program_without_rows_or_constants(tmp_path: Path) -> None:
    x, out = tensor("x", ()), tensor("out", ())
    graph = Graph([node("Alias", [x], out)], [x], [out, constant("c", np.float32(3))])
    save_program(build_program(graph, frozenset(), ops=OPS), tmp_path / "p")
    a, c = Executor(load_program(tmp_path / "p"), active_features()).run([np.array(2, np.float32)])
    assert a == 2 and c == 3 and a.shape == ()


def test_every_truncation_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for nbytes in [*range(100), *range(100, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:nbytes])
        with pytest.raises(ProgramError, match=r"model\.qrt"):
            load_program(path)


def test_damaged_bytes_are_refused_or_are_padding(program: Program, path: Path) -> None:
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for at in {*range(64), *rng.integers(0, len(whole), 300).tolist()}:
        old = whole[at]
        whole[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(whole)
        whole[at] = old
        try:
            loaded = load_program(path)
        except ProgramError:
            refused += 1
        else:  # bytes between sections mean nothing
            assert (loaded.rows == program.rows).all()
    assert refused > 64


def reheaded(path: Path, change: Any) -> None:
    """Rewrite the header (its checksum fits again), sections where they were."""
    whole = path.read_bytes()
    nbytes = int.from_bytes(whole[8:16], "little")
    fields = json.loads(whole[_FIXED : _FIXED + nbytes])
    change(fields)
    header = json.dumps(fields).encode()
    header += b" " * (nbytes - len(header))
    sections = whole[_FIXED + nbytes :]
    if len(header) != nbytes:  # moves the sections only as far as the padding allows
        sections = sections[len(header) - nbytes :]
    path.write_bytes(
        MAGIC + len(header).to_bytes(8, "little") + _digest(header) + header + sections
    )


def put(key: str, value: Any) -> Any:
    return lambda fields: fields.update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        put("arena_nbytes", -1),
        put("arena_nbytes", "big"),
        put("arena_nbytes", 1 << 70),
        put("arena_nbytes", True),
        put("arena_nbytes", 8),
        put("threads", 0),
        put("kernels", []),
        put("kernels", [["test_rotate"]]),
        put("kernels", None),
        put("kernels", ["vm_run"]),
        put("shape", [4, -7]),
        put("shape", [1 << 40, 1 << 40]),
        put("shape", [28]),
        put("shape", [28, 1]),
        put("nodes", []),
        put("nodes", [{}] * 4),
        put("nodes", [5]),
        put("sections", []),
        put("inputs", [{"name": "x"}]),
        put("inputs", 7),
        lambda f: f["inputs"][0].update(dtype="object"),
        lambda f: f["inputs"][0].update(dtype="int"),
        lambda f: f["inputs"][0].update(dtype="O"),
        lambda f: f["inputs"][0].update(dtype="finfo"),
        lambda f: f["inputs"][0].update(shape=[1 << 61, 1 << 61]),
        lambda f: f["inputs"][0].update(offset=1.5),
        lambda f: f["inputs"][0].update(offset=1 << 50),
        lambda f: f["outputs"][0].update(layout=[1]),
        lambda f: f["sections"][0].update(nbytes=1 << 60),
        lambda f: f["sections"][1].update(nbytes=0),
        lambda f: f.pop("rows", f.pop("shape")),
    ],
)
def test_hostile_headers_are_refused(path: Path, change: Any) -> None:
    reheaded(path, change)
    with pytest.raises(ProgramError):
        load_program(path)


def test_not_a_program(tmp_path: Path) -> None:
    for content in (b"", b"qrt", MAGIC, b"\x08\x07" * 4000, MAGIC + b"\xff" * 4000):
        (tmp_path / "p").write_bytes(content)
        with pytest.raises(ProgramError):
            load_program(tmp_path / "p")


def test_kernels_of_another_cpu_are_refused_when_bound(program: Program) -> None:
    from dataclasses import replace

    from qrt.errors import CompileError
    from qrt.jit.declare import KERNELS

    name = "test_needs_much"
    KERNELS[name] = replace(KERNELS["test_rotate"], name=name, features=frozenset(("avx9000",)))
    try:
        with pytest.raises(CompileError, match="needs avx9000"):
            Executor(replace(program, kernels=(name,)), active_features())
    finally:
        del KERNELS[name]
