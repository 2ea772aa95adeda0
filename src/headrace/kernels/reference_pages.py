"""Pages of keys and values in plain NumPy: an empty pool, what storing writes into it, and what loading reads back.

The oracle for the native kernels' pages, in fp16, in 8 bits, and in float32 where arithmetic is to be exact. Knows page
tables and layers; no plan and no attention.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.plan import PAGE_TOKENS, CacheShape, KvKind

F32 = NDArray[np.float32]

SMALLEST_MAGNITUDE = np.float32(2.0**-118)
"""A group of activations below this is zero; 127 / amax would overflow."""

LARGEST_HALF = 65504.0
"""Keys and values are clamped to what fp16 can hold."""


def quantize_heads(x: F32) -> tuple[NDArray[np.int8], F32]:
    """Codes [..., head_dim] and scales [...] of heads, clamped to what fp16 holds: one scale per head."""
    clamped = np.where(np.isnan(x), np.copysign(np.float32(LARGEST_HALF), x), x).clip(-LARGEST_HALF, LARGEST_HALF)
    amax = np.abs(clamped).max(axis=-1)
    is_zero = amax < SMALLEST_MAGNITUDE
    inverse = np.where(is_zero, np.float32(0.0), np.float32(127.0) / np.where(is_zero, np.float32(1.0), amax))
    codes = np.rint(clamped * inverse[..., None]).astype(np.int8)
    return codes, np.where(is_zero, np.float32(0.0), amax / np.float32(127.0))


def new_pool(cache: CacheShape, num_pages: int, kind: KvKind = KvKind.HALF, *, exact: bool = False) -> NDArray[Any]:
    """An empty pool; exact pools hold float32 instead of fp16 bits."""
    return np.zeros(cache.pool_shape(kind, num_pages), dtype=np.float32 if exact else kind.dtype)


def _stored(pool: NDArray[Any]) -> NDArray[Any]:
    # The pool as numbers instead of bits.
    return pool if pool.dtype == np.float32 else pool.view(np.float16)


def _planes(pages: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int8], F32, F32]:
    # Views of int8 planes [..., plane]: keys [..., head_dim / 4, slots, 4], values [..., slots / 4, head_dim, 4], the
    # scales of keys and of values [..., slots].
    lead, head_dim = pages.shape[:-1], (pages.shape[-1] // PAGE_TOKENS - 8) // 2
    size = head_dim * PAGE_TOKENS
    keys = pages[..., :size].reshape(*lead, head_dim // 4, PAGE_TOKENS, 4, copy=False)
    values = pages[..., size : 2 * size].view(np.int8).reshape(*lead, PAGE_TOKENS // 4, head_dim, 4, copy=False)
    scales = pages[..., 2 * size :].view(np.float32).reshape(*lead, 2, PAGE_TOKENS, copy=False)
    return keys, values, scales[..., 0, :], scales[..., 1, :]


def store_kv(pool: NDArray[Any], layer: int, page_table: NDArray[np.int32], first: int, kv: tuple[F32, F32]) -> None:
    """Write keys and values [n, kv_heads, head_dim] of positions first ... into their pages."""
    if pool.dtype == np.uint8:
        return _store_codes(pool[:, layer], page_table, first, kv)
    limit = np.inf if pool.dtype == np.float32 else LARGEST_HALF
    keys, values = (np.clip(part, -limit, limit) for part in kv)
    stored, head_dim = _stored(pool), pool.shape[4] // PAGE_TOKENS
    for i in range(len(keys)):
        page, slot = page_table[(first + i) // PAGE_TOKENS], (first + i) % PAGE_TOKENS
        stored[page, layer, :, 0, slot::PAGE_TOKENS] = keys[i]
        stored[page, layer, :, 1, slot * head_dim : (slot + 1) * head_dim] = values[i]
    return None


def _store_codes(pages: NDArray[np.uint8], page_table: NDArray[np.int32], first: int, kv: tuple[F32, F32]) -> None:
    (keys, key_scales), (values, value_scales) = (quantize_heads(part) for part in kv)
    for i in range(len(keys)):
        page, slot = page_table[(first + i) // PAGE_TOKENS], (first + i) % PAGE_TOKENS
        plane_keys, plane_values, plane_key_scales, plane_value_scales = _planes(pages[page])
        plane_keys[:, :, slot] = (keys[i].astype(np.int16) + 128).astype(np.uint8).reshape(len(keys[i]), -1, 4)
        plane_values[:, slot // 4, :, slot % 4] = values[i]
        plane_key_scales[:, slot] = key_scales[i]
        plane_value_scales[:, slot] = value_scales[i]


def load_kv(pool: NDArray[Any], layer: int, page_table: NDArray[np.int32], num_keys: int) -> tuple[F32, F32]:
    """Keys and values [num_keys, kv_heads, head_dim] in float32."""
    used = page_table[: -(-num_keys // PAGE_TOKENS)]
    if pool.dtype == np.uint8:
        codes, value_codes, key_scales, value_scales = _planes(pool[used, layer])
        num_pages, kv_heads = key_scales.shape[:2]
        signed = (codes.astype(np.int16) - 128).astype(np.float32).transpose(0, 3, 1, 2, 4)
        numbers = value_codes.astype(np.float32).transpose(0, 2, 4, 1, 3)
        keys = signed.reshape(num_pages * PAGE_TOKENS, kv_heads, -1) * _per_token(key_scales)
        values = numbers.reshape(num_pages * PAGE_TOKENS, kv_heads, -1) * _per_token(value_scales)
        return keys[:num_keys], values[:num_keys]
    pages = _stored(pool)[used, layer]  # [pages, kv_heads, 2, head_dim * slots]
    num_pages, kv_heads, _, size = pages.shape
    head_dim = size // PAGE_TOKENS
    keys = pages[:, :, 0].reshape(num_pages, kv_heads, head_dim, PAGE_TOKENS).transpose(0, 3, 1, 2)
    values = pages[:, :, 1].reshape(num_pages, kv_heads, PAGE_TOKENS, head_dim).transpose(0, 2, 1, 3)
    both = (part.reshape(-1, kv_heads, head_dim)[:num_keys].astype(np.float32) for part in (keys, values))
    return next(both), next(both)


def _per_token(scales: F32) -> F32:
    # [pages, kv_heads, slots] as [pages * slots, kv_heads, 1].
    return scales.transpose(0, 2, 1).reshape(-1, scales.shape[1], 1)
