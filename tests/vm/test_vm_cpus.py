"""Thread counts: what the caller, the environment, affinity and cgroups say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qrt.errors import QrtError
from qrt.vm import cpus
from qrt.vm.cpus import cgroup_limit, resolve_threads, usable_threads

MANY = 1 << 16


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def tree(tmp_path: Path) -> tuple[Path, Path]:
    root, membership = tmp_path / "cgroup", tmp_path / "self"
    root.mkdir()
    membership.write_text("")
    return root, membership


@pytest.mark.parametrize(
    "text, expected",
    [
        ("max 100000\n", MANY),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("garbage\n", MANY),
        ("100000 0\n", MANY),
        ("", MANY),
    ],
)
def test_v2_quota(tree: tuple[Path, Path], text: str, expected: int) -> None:
    root, membership = tree
    write(root / "cpu.max", text)
    assert cgroup_limit(root, membership) == expected


def test_v2_limits_of_all_groups_above(tree: tuple[Path, Path]) -> None:
    root, membership = tree
    membership.write_text("0::/pods/app/web\n")
    write(root / "pods" / "cpu.max", "300000 100000")
    write(root / "pods" / "app" / "web" / "cpu.max", "500000 100000")
    assert cgroup_limit(root, membership) == 3


def test_v1_quota(tree: tuple[Path, Path]) -> None:
    root, membership = tree
    membership.write_text("5:memory:/x\n3:cpu,cpuacct:/x\n")
    folder = root / "cpu,cpuacct" / "x"
    write(folder / "cpu.cfs_quota_us", "400000\n")
    write(folder / "cpu.cfs_period_us", "100000\n")
    assert cgroup_limit(root, membership) == 4
    write(folder / "cpu.cfs_quota_us", "-1\n")
    assert cgroup_limit(root, membership) == MANY


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert cgroup_limit(tmp_path / "no", tmp_path / "nowhere") == MANY


def test_paths_cannot_leave_the_tree(tree: tuple[Path, Path]) -> None:
    root, membership = tree
    membership.write_text("0::/../../etc\nnonsense\n")
    assert cgroup_limit(root, membership) == MANY


def test_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "usable_threads", lambda: 4)
    monkeypatch.delenv("QRT_THREADS", raising=False)
    assert [resolve_threads(n) for n in (None, 1, 3, 4, 99, 0)] == [1, 1, 3, 4, 4, 4]
    monkeypatch.setenv("QRT_THREADS", "2")
    assert [resolve_threads(n) for n in (None, 3)] == [2, 3]
    monkeypatch.setenv("QRT_THREADS", "0")
    assert resolve_threads(None) == 4


@pytest.mark.parametrize("bad", [-1, 1.5, "2", True])
def test_what_is_no_count_is_refused(bad: object) -> None:
    with pytest.raises(QrtError, match="threads must be a whole number"):
        resolve_threads(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["many", "-2", "1.5"])
def test_a_bad_variable_is_refused(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRT_THREADS", bad)
    with pytest.raises(QrtError, match=f"got '{bad}'"):
        resolve_threads(None)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")
def test_affinity_limits() -> None:
    assert 1 <= usable_threads() <= len(os.sched_getaffinity(0))
