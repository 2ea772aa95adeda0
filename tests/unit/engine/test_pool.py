"""The page pool: counts, order of reuse, and a check that finds what is wrong."""

import numpy as np
import pytest
from tests.doubles import TOY_CACHE

from headrace.engine.kv.pool import PagePool
from headrace.kernels.plan import CacheShape, KvKind


def test_pages_start_at_zero_with_the_shape_that_kernels_expect() -> None:
    pool = PagePool.allocate(TOY_CACHE, 3)
    assert pool.array.shape == (3, 1, 1, 2, 8 * 32)
    assert pool.array.dtype == np.uint16
    assert not pool.array.any()
    pool.array[2, 0, 0, 1, 7] = 5
    assert pool.array[2].sum() == 5


def test_a_page_is_free_again_only_when_its_last_reference_goes() -> None:
    pool = PagePool.allocate(TOY_CACHE, 2)
    page = pool.take()
    pool.retain(page)
    pool.release(page)
    assert page not in pool.free
    pool.release(page)
    assert page in pool.free
    pool.check()


def test_the_page_freed_last_is_used_first_so_that_memory_stays_small() -> None:
    pool = PagePool.allocate(TOY_CACHE, 100)
    first = pool.take()
    second = pool.take()
    pool.release(second)
    pool.release(first)
    assert [pool.take(), pool.take()] == [first, second]


def test_a_free_page_can_be_neither_shared_nor_released() -> None:
    pool = PagePool.allocate(TOY_CACHE, 2)
    with pytest.raises(AssertionError, match="page 0 is free"):
        pool.retain(0)
    with pytest.raises(AssertionError, match="released more often"):
        pool.release(0)


def test_check_finds_a_page_that_is_lost() -> None:
    pool = PagePool.allocate(TOY_CACHE, 2)
    pool.refs[pool.take()] = 0
    with pytest.raises(AssertionError, match="disagree"):
        pool.check()


def test_a_pool_of_8_bits_has_planes_of_codes_and_scales_and_takes_half_the_memory() -> None:
    shape = CacheShape(num_layers=2, num_kv_heads=3, head_dim=64)
    pool = PagePool.allocate(shape, 5, KvKind.INT8)
    assert pool.array.shape == (5, 2, 3, 64 * 64 + 256)
    assert pool.array.dtype == np.uint8
    assert pool.array.nbytes == 5 * shape.page_bytes(KvKind.INT8)
    assert shape.page_bytes(KvKind.INT8) == shape.page_bytes(KvKind.HALF) * 17 // 32


def test_8_bits_need_heads_of_whole_groups() -> None:
    assert not TOY_CACHE.supports(KvKind.INT8)
    with pytest.raises(ValueError, match="head_dim: 8 is no multiple of 32"):
        PagePool.allocate(TOY_CACHE, 5, KvKind.INT8)
