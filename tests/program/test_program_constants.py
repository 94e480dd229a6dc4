"""The constant pool: stable offsets, shared bytes, packed once."""

from __future__ import annotations

import numpy as np

from qrt.program.constants import ConstantPool
from qrt.program.places import ALIGNMENT, SLACK


def stored(pool: ConstantPool, offset: int, like: np.ndarray) -> np.ndarray:
    return pool.buffer[offset : offset + like.nbytes].view(like.dtype).reshape(like.shape)


def test_equal_bytes_share_a_place() -> None:
    pool = ConstantPool()
    a = np.arange(100, dtype=np.int32)
    first, again, other = pool.add(a), pool.add(a.copy()), pool.add(a + 1)
    assert first == again and first != other
    assert other.offset % ALIGNMENT == 0
    np.testing.assert_array_equal(stored(pool, first.offset, a), a)
    np.testing.assert_array_equal(stored(pool, other.offset, a), a + 1)


def test_every_buffer_ends_in_slack_and_is_aligned() -> None:
    pool = ConstantPool()
    for n in (0, 1, 63, 64, 65):
        pool.add(np.full(n, n, np.uint8))
        assert pool.buffer.size == pool.nbytes + SLACK
        assert pool.buffer.ctypes.data % ALIGNMENT == 0


def test_growth_keeps_offsets_and_the_old_buffer() -> None:
    pool = ConstantPool()
    a = np.arange(10, dtype=np.float32)
    place = pool.add(a)
    old = pool.buffer
    assert pool.buffer is old
    pool.add(np.ones(1000))
    assert pool.buffer is not old
    np.testing.assert_array_equal(stored(pool, place.offset, a), a)
    np.testing.assert_array_equal(old[place.offset : place.offset + 40].view(np.float32), a)


def test_order_in_memory_is_c_order() -> None:
    pool = ConstantPool()
    a = np.arange(12, dtype=np.uint8).reshape(3, 4).T
    place = pool.add(a)
    np.testing.assert_array_equal(stored(pool, place.offset, a), a)


def test_packed_makes_once_per_key() -> None:
    pool, made = ConstantPool(), []

    def make() -> np.ndarray:
        made.append(1)
        return np.arange(7)

    first = pool.packed((1, "panel"), make)
    assert pool.packed((1, "panel"), make) == first and len(made) == 1
    assert pool.packed((2, "panel"), make) == first and len(made) == 2  # equal bytes, again
    pool.forget()
    assert pool.packed((1, "panel"), make) == first and len(made) == 3


def test_scalars_and_bools() -> None:
    pool = ConstantPool()
    place = pool.add(np.float32(1.5))  # type: ignore[arg-type]
    assert pool.buffer[place.offset : place.offset + 4].view(np.float32)[0] == 1.5
    assert pool.add(np.array([True, False])).offset > place.offset
