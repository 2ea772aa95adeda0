"""Paged attention against a softmax in double precision, and its independence of how a prompt is cut."""

import numpy as np
import pytest

from headrace.kernels import native
from headrace.kernels.plan import PAGE_TOKENS, AttentionMode

VARIANTS = native.variants()

# Values are about 1 and outputs are means of them; scores are sums of up to 128 float32 products.
ATTENTION_LIMIT = 5e-6

GARBAGE = np.float16(60000).view(np.uint16)  # finite, as pages always are, and loud if a masked slot is ever used


class Case:
    """Random keys, values and queries of one sequence, its pages shuffled and followed by garbage."""

    def __init__(self, num_tokens: int, heads: int, kv_heads: int, head_dim: int = 64, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.scale = head_dim**-0.5
        self.q = rng.standard_normal((num_tokens, heads * head_dim)).astype(np.float32) * 2
        self.keys, self.values = rng.standard_normal((2, num_tokens, kv_heads, head_dim)).astype(np.float16)
        num_pages = -(-num_tokens // PAGE_TOKENS)
        self.page_table = rng.permutation(num_pages + 2)[:num_pages].astype(np.int32)
        self.pool = np.full((num_pages + 2, 1, kv_heads, 2, head_dim * PAGE_TOKENS), GARBAGE, np.uint16)
        for token in range(num_tokens):
            page, slot = self.pool[self.page_table[token // PAGE_TOKENS], 0], token % PAGE_TOKENS
            page[:, 0].reshape(kv_heads, head_dim, PAGE_TOKENS)[:, :, slot] = self.keys[token].view(np.uint16)
            page[:, 1].reshape(kv_heads, PAGE_TOKENS, head_dim)[:, slot] = self.values[token].view(np.uint16)

    def run(
        self, begin: int, end: int, variant: str, mode: int = 0, window: int = 0, softcap: float = 0.0
    ) -> np.ndarray:
        """The kernel's answer for the queries at positions begin..end."""
        return native.attention(
            self.q[begin:end], self.pool, self.page_table, begin, self.scale, mode, window, softcap, variant
        )

    def expected(self, begin: int, mode: int = 0, window: int = 0, softcap: float = 0.0) -> np.ndarray:
        """Softmax in double precision for the queries from `begin` on."""
        num_tokens = len(self.q)
        positions, keys = np.arange(begin, num_tokens)[:, None], np.arange(num_tokens)[None]
        visible = {0: keys <= positions, 1: (keys <= positions) & (keys > positions - window), 2: keys >= 0}[mode]
        repeat = self.heads // self.kv_heads
        k, v = (np.repeat(x.astype(np.float64), repeat, axis=1) for x in (self.keys, self.values))
        q = self.q[begin:].reshape(-1, self.heads, self.head_dim).astype(np.float64)
        scores = np.einsum("nhd,thd->hnt", q, k) * self.scale
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        scores = np.where(visible[None], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        return np.einsum("hnt,thd->nhd", weights, v).reshape(len(q), -1)


def largest_error(got: np.ndarray, expected: np.ndarray) -> float:
    assert np.isfinite(got).all()
    return float(np.abs(got - expected).max())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_tokens", [1, 31, 32, 33, 511, 512, 513, 1100])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (9, 3), (8, 2), (8, 1)])
def test_causal_attention_equals_a_softmax(variant: str, num_tokens: int, heads: int, kv_heads: int) -> None:
    case = Case(num_tokens, heads, kv_heads)
    # Long prompts are not run from their start: the double-precision twin would take seconds.
    for begin in {0 if num_tokens < 600 else 1000, max(0, num_tokens - 23), num_tokens - 1}:
        assert largest_error(case.run(begin, num_tokens, variant), case.expected(begin)) < ATTENTION_LIMIT


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("window", [1, 31, 32, 33, 100, 512, 600, 2_000_000_000])
def test_a_window_hides_what_lies_before_it(variant: str, window: int) -> None:
    case = Case(700, 6, 2)
    for begin in (500, 650, 699):
        got = case.run(begin, 700, variant, AttentionMode.WINDOW, window)
        assert largest_error(got, case.expected(begin, 1, window)) < ATTENTION_LIMIT


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_tokens", [1, 33, 540])
def test_bidirectional_attention_sees_all_keys(variant: str, num_tokens: int) -> None:
    case = Case(num_tokens, 4, 2)
    got = case.run(0, num_tokens, variant, AttentionMode.BIDIRECTIONAL)
    assert largest_error(got, case.expected(0, 2)) < ATTENTION_LIMIT


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head_dim", [8, 40, 64, 80, 96, 128, 256])
def test_every_head_size_works(variant: str, head_dim: int) -> None:
    case = Case(70, 6, 2, head_dim)
    for begin in (0, 66, 69):
        assert largest_error(case.run(begin, 70, variant), case.expected(begin)) < ATTENTION_LIMIT


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("softcap", [0.5, 20.0])
def test_softcap_bounds_the_scores(variant: str, softcap: float) -> None:
    case = Case(70, 2, 1)
    got = case.run(0, 70, variant, softcap=softcap)
    assert largest_error(got, case.expected(0, softcap=softcap)) < 4 * ATTENTION_LIMIT


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_far_apart_neither_overflow_nor_divide_by_zero(variant: str) -> None:
    case = Case(600, 3, 1)
    case.scale = 100.0
    assert largest_error(case.run(0, 600, variant), case.expected(0)) < 1e-2  # scores near 10^4 keep about 3 decimals


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(9, 3, 64), (8, 1, 64), (4, 4, 128), (3, 1, 40)])
@pytest.mark.parametrize(("mode", "window"), [(0, 0), (1, 70)])
def test_chunks_and_single_tokens_give_the_bits_of_the_whole(
    variant: str, heads: int, kv_heads: int, head_dim: int, mode: int, window: int
) -> None:
    num_tokens = 530
    case = Case(num_tokens, heads, kv_heads, head_dim)
    whole = case.run(0, num_tokens, variant, mode, window)
    for chunk in (23, 100):
        for begin in range(0, num_tokens, chunk):
            end = min(num_tokens, begin + chunk)
            assert np.array_equal(case.run(begin, end, variant, mode, window), whole[begin:end]), (chunk, begin)
    for token in (0, 1, 31, 32, 63, 511, 512, 529):
        assert np.array_equal(case.run(token, token + 1, variant, mode, window), whole[token : token + 1]), token


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_lies_behind_the_last_key_has_no_influence(variant: str) -> None:
    case = Case(45, 2, 1)
    before = case.run(0, 45, variant)
    last_page = case.pool[case.page_table[-1], 0, 0]
    last_page[0].reshape(64, PAGE_TOKENS)[:, 45 % PAGE_TOKENS :] = 0
    last_page[1].reshape(PAGE_TOKENS, 64)[45 % PAGE_TOKENS :] = 0
    assert np.array_equal(case.run(0, 45, variant), before)
