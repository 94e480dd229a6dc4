"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qrt.files import whole_file


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_nothing_is_left_of_what_fails(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]
    with pytest.raises(OSError), whole_file(tmp_path / "missing" / "x.bin"):
        pass


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with whole_file(path) as one, whole_file(path) as other:
        one.write(b"one")
        other.write(b"other")
    assert path.read_bytes() == b"one"  # the outer block ends last
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize(("mode", "want"), [(0o666, 0o640), (0o600, 0o600)])
def test_who_may_read(tmp_path: Path, mode: int, want: int) -> None:
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "x.bin", mode):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.bin").stat().st_mode) == want
