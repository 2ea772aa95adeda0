"""Paged attention against a softmax in double precision, and its independence of how the work is cut and grouped."""

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.kernels import native, reference_pages
from headrace.kernels.plan import PAGE_TOKENS, AttentionMode, CacheShape, KvKind

VARIANTS = native.variants()
KINDS = list(KvKind)

# Values are about 1 and outputs are means of them; scores are sums of up to 256 float32 products.
HALF_LIMIT = 5e-6
# Against the same 8-bit queries, keys and values: what is left is the rounding of each weight to 15 bits, an error of
# at most 2^-16 of the largest value (up to 4 here) for each of up to 512 keys, of either sign: 5e-5 as a root mean
# square. Rounding the values themselves to 8 bits costs 2e-3.
INT8_LIMIT = 1.2e-3
LIMITS = {KvKind.HALF: HALF_LIMIT, KvKind.INT8: INT8_LIMIT}


def garbage_pool(shape: CacheShape, kind: KvKind, num_pages: int) -> NDArray[np.uint8 | np.uint16]:
    """Finite numbers, as pages always hold, and loud if a masked slot is ever used."""
    pool = reference_pages.new_pool(shape, num_pages, kind)
    if kind is KvKind.HALF:
        pool[:] = np.float16(60000).view(np.uint16)
    else:
        pool[:] = 255
        pool[..., -2 * PAGE_TOKENS * 4 :].view(np.float32)[:] = 500.0
    return pool


class Case:
    """Random keys, values and queries of one sequence, its pages shuffled and followed by garbage."""

    def __init__(
        self, num_tokens: int, heads: int, kv_heads: int, head_dim: int = 64, kind: KvKind = KvKind.HALF, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        self.kind, self.heads, self.kv_heads, self.head_dim = kind, heads, kv_heads, head_dim
        self.scale = head_dim**-0.5
        self.q = rng.standard_normal((num_tokens, heads * head_dim)).astype(np.float32) * 2
        keys, values = rng.standard_normal((2, num_tokens, kv_heads, head_dim)).astype(np.float32)
        num_pages = -(-num_tokens // PAGE_TOKENS)
        self.page_table = rng.permutation(num_pages + 2)[:num_pages].astype(np.int32)
        self.pool = garbage_pool(CacheShape(1, kv_heads, head_dim), kind, num_pages + 2)
        self.store(keys, values)

    def store(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """Replace all keys and values [tokens, kv_heads, head_dim]."""
        reference_pages.store_kv(self.pool, 0, self.page_table, 0, (keys, values))

    def run(
        self,
        begin: int,
        end: int,
        variant: str,
        mode: int = 0,
        window: int = 0,
        softcap: float = 0.0,
        spans_per_task: int = 0,
    ) -> NDArray[np.float32]:
        """The kernel's answer for the queries at positions begin..end."""
        return native.attention(
            self.q[begin:end],
            self.pool,
            self.page_table,
            begin,
            self.scale,
            mode,
            window,
            softcap,
            spans_per_task=spans_per_task,
            variant=variant,
        )

    def expected(self, begin: int, mode: int = 0, window: int = 0, softcap: float = 0.0) -> NDArray[np.float64]:
        """Softmax in double precision, of what the pages hold, for the queries from `begin` on."""
        num_tokens = len(self.q)
        positions, keys = np.arange(begin, num_tokens)[:, None], np.arange(num_tokens)[None]
        visible = {0: keys <= positions, 1: (keys <= positions) & (keys > positions - window), 2: keys >= 0}[mode]
        repeat = self.heads // self.kv_heads
        stored = reference_pages.load_kv(self.pool, 0, self.page_table, num_tokens)
        k, v = (np.repeat(x.astype(np.float64), repeat, axis=1) for x in stored)
        q = self.q[begin:].reshape(-1, self.heads, self.head_dim).astype(np.float64)
        if self.kind is KvKind.INT8:
            codes, scales = reference_pages.quantize_heads(q.astype(np.float32))
            q = codes * scales[..., None].astype(np.float64)
        scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0) * self.scale
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        scores = np.where(visible[None], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        return (weights @ v.transpose(1, 0, 2)).transpose(1, 0, 2).reshape(len(q), -1)


def largest_error(got: NDArray[np.float32], expected: NDArray[np.float64]) -> float:
    assert np.isfinite(got).all()
    return float(np.abs(got - expected).max())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tokens", [1, 31, 32, 33, 511, 512, 513, 1100])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (9, 3), (8, 2), (8, 1)])
def test_causal_attention_equals_a_softmax(
    variant: str, kind: KvKind, num_tokens: int, heads: int, kv_heads: int
) -> None:
    case = Case(num_tokens, heads, kv_heads, kind=kind)
    # Long prompts are not run from their start: the double-precision twin would take seconds.
    for begin in {0 if num_tokens < 600 else 1000, max(0, num_tokens - 23), num_tokens - 1}:
        assert largest_error(case.run(begin, num_tokens, variant), case.expected(begin)) < LIMITS[kind]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [1, 31, 32, 33, 100, 512, 600, 2_000_000_000])
def test_a_window_hides_what_lies_before_it(variant: str, kind: KvKind, window: int) -> None:
    case = Case(700, 6, 2, kind=kind)
    for begin in (500, 650, 699):
        got = case.run(begin, 700, variant, AttentionMode.WINDOW, window)
        assert largest_error(got, case.expected(begin, 1, window)) < LIMITS[kind]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tokens", [1, 33, 540])
def test_bidirectional_attention_sees_all_keys(variant: str, kind: KvKind, num_tokens: int) -> None:
    case = Case(num_tokens, 4, 2, kind=kind)
    got = case.run(0, num_tokens, variant, AttentionMode.BIDIRECTIONAL)
    assert largest_error(got, case.expected(0, 2)) < LIMITS[kind]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("kind", "head_dim"),
    [(KvKind.HALF, size) for size in (1, 8, 16, 20, 36, 40, 64, 80, 96, 128, 256)]
    + [(KvKind.INT8, size) for size in (32, 64, 96, 128, 160, 256)],
)
def test_every_head_size_works(variant: str, kind: KvKind, head_dim: int) -> None:
    case = Case(70, 6, 2, head_dim, kind)
    for begin in (0, 66, 69):
        assert largest_error(case.run(begin, 70, variant), case.expected(begin)) < LIMITS[kind]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("softcap", [0.5, 20.0])
def test_softcap_bounds_the_scores(variant: str, kind: KvKind, softcap: float) -> None:
    case = Case(570, 2, 1, kind=kind)
    got = case.run(500, 570, variant, softcap=softcap)
    assert largest_error(got, case.expected(500, softcap=softcap)) < 4 * LIMITS[kind]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_far_apart_neither_overflow_nor_divide_by_zero(variant: str, kind: KvKind) -> None:
    case = Case(600, 3, 1, kind=kind)
    case.scale = 100.0
    assert largest_error(case.run(0, 600, variant), case.expected(0)) < 1e-2  # scores near 10^4 keep about 3 decimals


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "portable"])
@pytest.mark.parametrize(("num_tokens", "head_dim"), [(40, 64), (600, 96)])
def test_variants_agree_on_int8_pages_but_for_single_units_of_a_weight(
    variant: str, num_tokens: int, head_dim: int
) -> None:
    """Integer products are the same; exp may differ by an ulp, and then a weight by 1 / 32767."""
    case = Case(num_tokens, 3, 1, head_dim, KvKind.INT8)
    difference = np.abs(case.run(0, num_tokens, variant) - case.run(0, num_tokens, "portable"))
    assert difference.max() < 1.5e-4
    assert difference.mean() < 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_codes_do_not_overflow(variant: str, sign: float) -> None:
    """Every code of a whole span is +-127, every weight the largest there is: 512 * 32767 * 127 is just below 2^31."""
    case = Case(600, 3, 1, kind=KvKind.INT8)
    ones = np.full((600, 1, 64), 3.0, np.float32)
    case.store(ones * sign, ones * sign)
    case.q[:] = 5.0
    assert largest_error(case.run(500, 600, variant), case.expected(500)) < 2e-6
    case.q[:, ::2] = -5.0
    assert largest_error(case.run(500, 600, variant), case.expected(500)) < 2e-6
    alternating = np.where(np.arange(600)[:, None, None] % 2 == 0, ones, -ones)
    case.store(alternating, alternating)
    assert largest_error(case.run(500, 600, variant), case.expected(500)) < 2e-6


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-38, 1e-7, 6e4])
def test_tiny_and_huge_numbers_stay_what_they_are(variant: str, kind: KvKind, size: float) -> None:
    """Zero and denormal queries, keys or values are numbers like others; fp16 pages hold nothing below 6e-8."""
    for part in range(3):
        case = Case(70, 3, 1, kind=kind)
        q, keys, values = (np.random.default_rng(i).standard_normal((70, 3 - 2 * (i > 0), 64)) for i in range(3))
        q, keys, values = (x * (size if i == part else 1.0) / np.abs(x).max() for i, x in enumerate((q, keys, values)))
        case.q[:] = q.reshape(70, -1)
        case.store(keys.astype(np.float32), values.astype(np.float32))
        case.scale = 1e-3
        largest = size if part == 2 else 1.0
        assert largest_error(case.run(0, 70, variant), case.expected(0)) <= 2 * LIMITS[kind] * largest


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_sizes_of_values_may_differ_from_token_to_token(variant: str, kind: KvKind) -> None:
    case = Case(600, 3, 1, kind=kind)
    keys, values = np.random.default_rng(1).standard_normal((2, 600, 1, 64)).astype(np.float32)
    values *= np.exp(np.random.default_rng(2).uniform(-12, 0, (600, 1, 1))).astype(np.float32)
    case.store(keys, values)
    assert largest_error(case.run(0, 600, variant), case.expected(0)) < LIMITS[kind]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(9, 3, 64), (8, 1, 64), (4, 4, 128), (3, 1, 96)])
@pytest.mark.parametrize(("mode", "window"), [(0, 0), (1, 70)])
def test_chunks_and_single_tokens_give_the_bits_of_the_whole(
    variant: str, kind: KvKind, heads: int, kv_heads: int, head_dim: int, mode: int, window: int
) -> None:
    num_tokens = 530
    case = Case(num_tokens, heads, kv_heads, head_dim, kind)
    whole = case.run(0, num_tokens, variant, mode, window)
    for chunk in (23, 100):
        for begin in range(0, num_tokens, chunk):
            end = min(num_tokens, begin + chunk)
            assert np.array_equal(case.run(begin, end, variant, mode, window), whole[begin:end]), (chunk, begin)
    for token in (0, 1, 31, 32, 63, 511, 512, 529):
        assert np.array_equal(case.run(token, token + 1, variant, mode, window), whole[token : token + 1]), token


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spans_per_task", [1, 2, 5])
@pytest.mark.parametrize(("mode", "window"), [(0, 0), (1, 700), (2, 0)])
def test_spans_computed_apart_and_merged_give_the_bits_of_the_whole(
    variant: str, kind: KvKind, spans_per_task: int, mode: int, window: int
) -> None:
    for head_dim, num_tokens in ((64, 1700), (96, 512)):
        case = Case(num_tokens, 4, 2, head_dim, kind)
        for begin in (num_tokens - 1, num_tokens - 40):
            whole = case.run(begin, num_tokens, variant, mode, window)
            parts = case.run(begin, num_tokens, variant, mode, window, spans_per_task=spans_per_task)
            assert np.array_equal(parts, whole)


class Family:
    """Sequences of one pool with a few new tokens each, some of whose pages are the same."""

    def __init__(self, kind: KvKind, shared_pages: list[int], heads: int, kv_heads: int, seed: int = 0) -> None:
        """Sequence i has the first shared_pages[i] pages of sequence 0."""
        rng = np.random.default_rng(seed)
        self.scale = 0.125
        count = len(shared_pages)
        lengths = rng.integers(500, 600, count)
        self.pages = rng.permutation(20 * count).reshape(count, 20).astype(np.int32)
        self.pool = garbage_pool(CacheShape(1, kv_heads, 64), kind, 20 * count)
        for table, length in zip(self.pages, lengths, strict=True):
            keys, values = rng.standard_normal((2, length, kv_heads, 64)).astype(np.float32)
            reference_pages.store_kv(self.pool, 0, table, 0, (keys, values))
        for i, num_shared in enumerate(shared_pages):
            self.pages[i, :num_shared] = self.pages[0, :num_shared]
        new = rng.integers(1, 5, count)
        self.starts = np.concatenate([[0], np.cumsum(new)]).astype(np.int32)
        self.contexts = (lengths - new).astype(np.int32)
        self.q = rng.standard_normal((self.starts[-1], heads * 64)).astype(np.float32)

    def together(self, variant: str, mode: int, window: int, spans_per_task: int) -> NDArray[np.float32]:
        """All sequences in tasks of as many as fit."""
        return native.attention_batch(
            self.q,
            self.pool,
            self.starts,
            self.contexts,
            self.pages,
            self.scale,
            mode,
            window,
            spans_per_task=spans_per_task,
            variant=variant,
        )

    def alone(self, variant: str, mode: int, window: int) -> NDArray[np.float32]:
        """Each sequence by itself."""
        return np.concatenate(
            [
                native.attention(
                    self.q[begin:end], self.pool, table, int(context), self.scale, mode, window, variant=variant
                )
                for begin, end, table, context in zip(
                    self.starts[:-1], self.starts[1:], self.pages, self.contexts, strict=True
                )
            ]
        )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "shared_pages",
    [[0] * 9, [16] * 9, [0, 16, 16, 12, 12, 12, 3, 3, 0, 1], [16, 0] * 4, [0]],
    ids=["no page shared", "all shared", "a tree", "alternating", "alone"],
)
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (2, 2), (8, 2)])
def test_members_of_a_task_get_the_bits_they_get_alone(
    variant: str, kind: KvKind, shared_pages: list[int], heads: int, kv_heads: int
) -> None:
    family = Family(kind, shared_pages, heads, kv_heads)
    for mode, window in ((0, 0), (1, 90), (2, 0)):
        alone = family.alone(variant, mode, window)
        assert np.isfinite(alone).all()
        for spans_per_task in (0, 1):
            assert np.array_equal(family.together(variant, mode, window, spans_per_task), alone)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_behind_the_last_key_has_no_influence(variant: str, kind: KvKind) -> None:
    case = Case(45, 2, 1, kind=kind)
    before = case.run(0, 45, variant)
    clean = reference_pages.new_pool(CacheShape(1, 1, 64), len(case.pool), kind)
    reference_pages.store_kv(clean, 0, case.page_table, 0, reference_pages.load_kv(case.pool, 0, case.page_table, 45))
    assert not np.array_equal(clean, case.pool)
    if kind is KvKind.INT8:  # a code may come back as another one: keep all but what nobody may look at
        clean = case.pool.copy()
        keys, values, key_scales, value_scales = reference_pages._planes(clean[case.page_table[-1], 0])
        keys[..., 13:, :], key_scales[..., 13:], value_scales[..., 13:] = 0, 0, 0
        values[:, 4:] = 0
        values[:, 3, :, 1:] = 0
    case.pool = clean
    assert np.array_equal(case.run(0, 45, variant), before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_are_quantised_as_the_reference_does(variant: str) -> None:
    for head_dim in (8, 32, 36, 64, 80, 96, 256):
        x = np.random.default_rng(head_dim).standard_normal((40, head_dim)).astype(np.float32)
        x[1], x[2, 0], x[3, -1], x[4, 1] = 0.0, np.inf, -np.inf, 1e30
        x[5] *= np.float32(1e-41)
        x[6] *= np.float32(2.0**-117)
        x[7] = np.arange(head_dim) + 0.5  # ties
        codes, scales = native.quantize_heads(x, variant)
        expected_codes, expected_scales = reference_pages.quantize_heads(x)
        assert np.array_equal(codes, expected_codes)
        assert np.array_equal(scales, expected_scales)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_head_that_is_not_a_number_gets_finite_codes(variant: str) -> None:
    x = np.full((1, 64), np.nan, np.float32)
    codes, scales = native.quantize_heads(x, variant)
    assert (np.abs(codes) == 127).all()
    assert scales[0] == np.float32(65504.0) / np.float32(127.0)


def refused(message: str, **changes: object) -> None:
    case = Case(40, 2, 1, 32, KvKind.INT8)
    arguments = {"q": case.q, "pool": case.pool, "page_table": case.page_table, "context": 0, "scale": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        native.attention(**arguments)


def test_arguments_that_do_not_fit_are_named() -> None:
    refused("pool", pool=np.zeros((4, 1, 1, 2304 + 64 * 8), np.uint8))
    refused("pool", pool=np.zeros((4, 2, 1, 2304), np.uint8))
    refused("pool", pool=np.zeros((4, 1, 1, 3, 32 * 32), np.uint16))
    refused("pool", pool=np.zeros((4, 1, 1, 2304), np.float32))
    refused("page_table", page_table=np.array([0, 99], np.int32))
    refused("page_table", page_table=np.array([0], np.int32))
    refused("q", q=np.zeros((40, 33), np.float32))
    refused("mode", mode=3)
    refused("window", mode=1)
    refused("context", context=-1)
