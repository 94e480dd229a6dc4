"""Cache sizes: the knob, Linux' description, CPUID's words as recorded from CPUs, the default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qrt.errors import QrtError
from qrt.simd import caches
from qrt.simd.caches import CacheSizes, cache_sizes, cpuid_sizes, parse_sizes, system_sizes
from qrt.simd.cpuid import Registers, cpuid
from qrt.simd.features import is_x86

KIB = 1 << 10
MIB = 1 << 20

# (leaf, subleaf) -> words
KABY_LAKE = {
    (0, 0): (0x16, 0x756E6547, 0x6C65746E, 0x49656E69),
    (4, 0): (0x1C004121, 0x01C0003F, 0x0000003F, 0x00000000),
    (4, 1): (0x1C004122, 0x01C0003F, 0x0000003F, 0x00000000),
    (4, 2): (0x1C004143, 0x00C0003F, 0x000003FF, 0x00000000),
    (4, 3): (0x1C03C163, 0x02C0003F, 0x00001FFF, 0x00000002),
    (0x80000000, 0): (0x80000008, 0, 0, 0),
}
ZEN4 = {
    (0, 0): (0x1C, 0x68747541, 0x444D4163, 0x69746E65),
    (0x80000000, 0): (0x80000021, 0x68747541, 0x444D4163, 0x69746E65),
    (0x8000001D, 0): (0x00000121, 0x01C0003F, 0x0000003F, 0x00000000),
    (0x8000001D, 1): (0x00000122, 0x01C0003F, 0x0000003F, 0x00000000),
    (0x8000001D, 2): (0x00000143, 0x01C0003F, 0x000007FF, 0x00000002),
    (0x8000001D, 3): (0x00004163, 0x03C0003F, 0x00007FFF, 0x00000001),
}
BARE = {(0, 0): (0xD, 0, 0, 0), (0x80000000, 0): (0x80000008, 0, 0, 0)}


def _recorded(
    words: dict[tuple[int, int], tuple[int, int, int, int]],
) -> Callable[[int, int], Registers]:
    def ask(leaf: int, subleaf: int) -> Registers:
        highest = words[leaf & 0x80000000, 0][0]
        assert leaf <= highest, f"leaf {leaf:#x} was asked for, the highest is {highest:#x}"
        return Registers(*words.get((leaf, subleaf), (0, 0, 0, 0)))

    return ask


def _describe(root: Path, cpu: int, levels: list[tuple[str, int, str]]) -> None:
    for i, fields in enumerate(levels):
        folder = root / f"cpu{cpu}" / "cache" / f"index{i}"
        folder.mkdir(parents=True)
        for name, value in zip(("type", "level", "size"), fields, strict=True):
            (folder / name).write_text(f"{value}\n")


def test_knob(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable says it all, whatever the machine is."""
    monkeypatch.setenv("QRT_CACHE_SIZES", " 48K, 2m ,0")
    assert cache_sizes() == CacheSizes(48 * KIB, 2 * MIB, 0)
    for text in ("32K,1M", "32K,1M,-1", "32K,1M,x", "0,1M,1M", "32K,,1M", "32 K,1M,1M"):
        with pytest.raises(QrtError, match="QRT_CACHE_SIZES: expected the sizes"):
            parse_sizes(text)


def test_system_description(tmp_path: Path) -> None:
    """Data and unified caches by level; the smaller of two kinds of cores; no L3 is 0."""
    big = [("Data", 1, "48K"), ("Instruction", 1, "32K"), ("Unified", 2, "1280K"),
           ("Unified", 3, "30720K")]  # fmt: skip
    _describe(tmp_path, 0, big)
    _describe(tmp_path, 16, [("Data", 1, "32K"), ("Instruction", 1, "64K"), ("Unified", 2, "2M")])
    assert system_sizes([0], tmp_path) == (48 * KIB, 1280 * KIB, 30 * MIB)
    assert system_sizes([16], tmp_path) == (32 * KIB, 2 * MIB, 0)
    assert system_sizes([0, 16], tmp_path) == (32 * KIB, 1280 * KIB, 0)


def test_system_says_nothing(tmp_path: Path) -> None:
    """No description, one without an L1d, or one that is not a size: the next source is asked."""
    _describe(tmp_path, 1, [("Unified", 2, "1M")])
    _describe(tmp_path, 2, [("Data", 1, "lots")])
    for cpus in ([], [0], [1], [2]):
        assert system_sizes(cpus, tmp_path) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (KABY_LAKE, CacheSizes(32 * KIB, 256 * KIB, 6 * MIB)),
        (ZEN4, CacheSizes(32 * KIB, MIB, 32 * MIB)),
        (BARE, None),
    ],
    ids=["Kaby Lake", "Zen 4", "no leaves"],
)
def test_cpuid_words(
    words: dict[tuple[int, int], tuple[int, int, int, int]], expected: CacheSizes | None
) -> None:
    """Ways x partitions x line x sets of each leaf; never a leaf that the CPU does not have."""
    assert cpuid_sizes(_recorded(words)) == expected


def test_sources_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system first, then CPUID on x86-64, then the default."""
    monkeypatch.delenv("QRT_CACHE_SIZES", raising=False)
    system, asked = CacheSizes(1, 2, 3), CacheSizes(4, 5, 6)
    found: dict[str, CacheSizes | None] = {"system": system, "cpuid": asked}
    monkeypatch.setattr(caches, "system_sizes", lambda cpus: found["system"])
    monkeypatch.setattr(caches, "cpuid_sizes", lambda ask: found["cpuid"])
    monkeypatch.setattr(caches, "host_arch", lambda: "x86_64")
    detect = caches.detected_sizes.__wrapped__
    assert detect() == system
    found["system"] = None
    assert detect() == asked
    found["cpuid"] = None
    assert detect() == caches.DEFAULT
    found["cpuid"] = asked
    monkeypatch.setattr(caches, "host_arch", lambda: "aarch64")
    assert detect() == caches.DEFAULT


def test_this_machine() -> None:
    """Sizes of this machine are plausible, and the same when asked again."""
    sizes = cache_sizes()
    assert 4 * KIB <= sizes.l1d <= 4 * MIB
    assert sizes == cache_sizes()


@pytest.mark.skipif(not is_x86(), reason="CPUID is x86's")
def test_cpuid_names_the_vendor() -> None:
    """Our instructions run: leaf 0 is twelve letters in ebx, edx, ecx."""
    words = cpuid(0)
    letters = b"".join(w.to_bytes(4, "little") for w in (words.ebx, words.edx, words.ecx))
    assert letters.isascii() and letters.isalpha(), letters
