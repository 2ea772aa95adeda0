"""The sampler, row by row: the noise, the cuts, ties and rows that make no sense. Its distribution: tests/oracle."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.kernels import native, reference_sampling

Parameters = dict[str, NDArray[Any]]


@pytest.fixture
def threads() -> Iterator[native.Threads]:
    pool = native.Threads(2)
    yield pool
    pool.close()


def parameters(
    count: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    *,
    seed: int = 0,
    logprobs: bool = False,
) -> Parameters:
    """The same parameters for every row but its seed."""
    return {
        "temperature": np.full(count, temperature, dtype=np.float32),
        "top_k": np.full(count, top_k, dtype=np.int32),
        "top_p": np.full(count, top_p, dtype=np.float32),
        "min_p": np.full(count, min_p, dtype=np.float32),
        "seed": np.arange(seed, seed + count, dtype=np.uint64),
        "choice": np.zeros(count, dtype=np.uint32),
        "position": np.full(count, 7, dtype=np.uint32),
        "logprobs": np.full(count, logprobs),
    }


def random_logits(rows: int, vocab: int, spread: float, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((rows, vocab)) * spread).astype(np.float32)


# --- noise ------------------------------------------------------------------------------------------------------------


def test_noise_equals_an_independent_philox() -> None:
    for key in ((0, 0, 0), (2**64 - 1, 2**32 - 1, 2**32 - 1), (0x0123456789ABCDEF, 3, 99)):
        expected = reference_sampling.gumbel_noise(*key, 5, 203)
        assert np.array_equal(native.gumbel_noise(*key, 5, 203), expected)


def test_noise_is_finite_for_every_word() -> None:
    edges = np.array([0, 1, 511, 512, 2**31, 2**32 - 513, 2**32 - 512, 2**32 - 1], dtype=np.uint32)
    sweep = np.arange(0, 2**32, 4093, dtype=np.uint32)
    noise = native.gumbel_of(np.concatenate([edges, sweep]))
    assert np.isfinite(noise).all()
    assert noise.min() == noise[0] > 1.0
    assert 27.03 < noise.max() == noise[7] < 27.04, "the sampler skips what 27.04 cannot lift"
    assert (np.diff(native.gumbel_of(sweep)) >= 0).all(), "the sampler skips words below a bound"
    # Monotonous from neighbour to neighbour where rounding is coarsest and finest, so that the ends bound all between.
    for begin in (0, 2**31 - 2**15, 2**32 - 2**16):
        neighbours = native.gumbel_of(np.arange(begin, begin + 2**16, dtype=np.uint32))
        assert np.isfinite(neighbours).all() and (np.diff(neighbours) >= 0).all()


def test_no_token_of_a_block_has_more_noise_than_the_first_draw_says() -> None:
    key = (12, 3, 4)
    counters = np.zeros((50, 4), dtype=np.uint32)
    counters[:, 0] = np.arange(50)
    counters[:, 1:] = key[2], key[1], reference_sampling.BLOCK_TAG
    words = reference_sampling.philox(counters, key[0])
    noise = native.gumbel_noise(*key, 0, 50 * 64).reshape(50, 64)
    assert np.array_equal(noise.max(axis=1), native.gumbel_of(np.ascontiguousarray(words[:, 0])))
    assert np.array_equal(noise.argmax(axis=1), words[:, 1] >> 26)


def test_noise_differs_by_seed_choice_and_position() -> None:
    rows = [native.gumbel_noise(*key, 0, 64) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**32, 0, 0))]
    assert len({row.tobytes() for row in rows}) == len(rows)


# --- equal to the plain version ---------------------------------------------------------------------------------------

CUTS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.8, "top_k": 40},
    {"top_k": 1},
    {"top_k": 900},
    {"top_p": 0.9},
    {"top_p": 0.05},
    {"top_p": 0.9999},
    {"temperature": 0.5, "top_k": 50, "top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 1.3, "top_k": 300, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 100.0},
    {"temperature": 1e-3},
]


@pytest.mark.parametrize("vocab", [1, 3, 64, 65, 1000, 5003])
@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 40.0])
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_every_row_draws_what_the_plain_version_draws(
    threads: native.Threads, cut: dict[str, Any], spread: float, vocab: int
) -> None:
    logits = random_logits(6, vocab, spread, seed=vocab)
    sampling = parameters(6, **cut, logprobs=True)
    expected, expected_logprobs, *_ = reference_sampling.sample(logits, sampling)
    for most_survivors in (0, 1):  # nearly every row with cuts has to be scanned twice when hardly any token is kept
        tokens, logprobs, *_ = native.sample(threads, logits, sampling, most_survivors)
        assert tokens.tolist() == expected.tolist()
        assert np.abs(logprobs - expected_logprobs).max() < 2e-5 * max(1.0, spread)


def test_a_long_flat_row_draws_what_the_plain_version_draws(threads: native.Threads) -> None:
    logits = random_logits(4, 49152, 1.0)
    for cut in ({}, {"top_p": 0.95}, {"top_k": 2000}, {"temperature": 3.0, "top_p": 0.999}):
        sampling = parameters(4, **cut)  # type: ignore[arg-type]
        assert native.sample(threads, logits, sampling)[0].tolist() == (
            reference_sampling.sample(logits, sampling)[0].tolist()
        )


def test_a_temperature_near_zero_still_draws_among_equals(threads: native.Threads) -> None:
    logits = np.full((300, 200), -1.0, dtype=np.float32)
    logits[:, [5, 70, 130]] = 3.0
    sampling = parameters(300, temperature=1e-30)
    tokens = native.sample(threads, logits, sampling)[0]
    assert tokens.tolist() == reference_sampling.sample(logits, sampling)[0].tolist()
    assert (np.bincount(tokens, minlength=131)[[5, 70, 130]] > 70).all()


# --- order and ties ---------------------------------------------------------------------------------------------------


def test_greedy_takes_the_lowest_index_among_equals(threads: native.Threads) -> None:
    logits = np.zeros((3, 300), dtype=np.float32)
    logits[1, [70, 200, 299]] = 5.0
    logits[2, 299] = 1.0
    assert native.sample(threads, logits, parameters(3, temperature=0.0))[0].tolist() == [0, 70, 299]


def test_cuts_keep_the_lowest_indices_among_equals(threads: native.Threads) -> None:
    logits = np.zeros((400, 200), dtype=np.float32)
    for cut in ({"top_k": 3}, {"top_p": 3 / 200}):
        tokens = native.sample(threads, logits, parameters(400, **cut))[0]  # type: ignore[arg-type]
        assert set(tokens.tolist()) == {0, 1, 2}


def test_a_top_p_of_almost_nothing_keeps_the_largest(threads: native.Threads) -> None:
    logits = random_logits(50, 333, 0.1)
    tokens = native.sample(threads, logits, parameters(50, top_p=1e-30))[0]
    assert np.array_equal(tokens, logits.argmax(axis=1))


# --- rows that make no sense ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [{"temperature": 0.0}, *CUTS], ids=str)
def test_nan_and_infinity_never_win(threads: native.Threads, cut: dict[str, Any]) -> None:
    logits = random_logits(30, 150, 1.0)
    logits[:, ::2] = np.nan
    logits[:, 1::4] = -np.inf
    tokens = native.sample(threads, logits, parameters(30, **cut))[0]
    assert set((tokens % 4).tolist()) == {3}


@pytest.mark.parametrize("cut", [{"temperature": 0.0}, *CUTS], ids=str)
def test_a_row_without_a_usable_logit_gives_minus_one(threads: native.Threads, cut: dict[str, Any]) -> None:
    logits = np.full((3, 150), np.nan, dtype=np.float32)
    logits[1] = -np.inf
    logits[2, 17] = 0.5
    tokens, logprobs, *_ = native.sample(threads, logits, parameters(3, **cut, logprobs=True))
    assert tokens.tolist() == [-1, -1, 17]
    assert np.isnan(logprobs).tolist() == [True, True, False]


def test_an_infinite_logit_is_taken(threads: native.Threads) -> None:
    logits = random_logits(2, 150, 1.0)
    logits[:, [33, 60]] = np.inf
    assert native.sample(threads, logits, parameters(2, top_p=0.5))[0].tolist() == [33, 33]


# --- rows are on their own --------------------------------------------------------------------------------------------


def test_a_row_draws_the_same_token_in_every_slot_batch_and_thread_count() -> None:
    logits = random_logits(40, 3000, 1.0)
    sampling = parameters(40, temperature=0.9, top_p=0.97, logprobs=True)
    order = np.random.default_rng(5).permutation(40)
    shuffled = {name: values[order] for name, values in sampling.items()}
    results = []
    for count in (1, 2, 5):
        pool = native.Threads(count)
        results.append(native.sample(pool, logits, sampling)[:2])
        tokens, logprobs, *_ = native.sample(pool, logits[order], shuffled)
        results.append((tokens[np.argsort(order)], logprobs[np.argsort(order)]))
        for row in (0, 17):
            alone = native.sample(pool, logits[row : row + 1], {n: v[row : row + 1] for n, v in sampling.items()})
            assert alone[0][0] == results[0][0][row]
        pool.close()
    for tokens, logprobs in results:
        assert np.array_equal(tokens, results[0][0])
        assert np.array_equal(logprobs, results[0][1])


def test_only_rows_that_ask_get_a_log_probability(threads: native.Threads) -> None:
    logits = random_logits(4, 500, 1.0)
    sampling = parameters(4) | {"logprobs": np.array([True, False, True, False])}
    assert np.isnan(native.sample(threads, logits, sampling)[1]).tolist() == [False, True, False, True]
    del sampling["logprobs"]
    assert np.isnan(native.sample(threads, logits, sampling)[1]).all()


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", np.float32("nan"), r"temperature\[1\]"),
        ("temperature", np.float32("inf"), r"temperature\[1\]"),
        ("temperature", np.float32(-0.1), r"temperature\[1\]"),
        ("top_k", np.int32(-1), r"top_k\[1\]"),
        ("top_p", np.float32(0.0), r"top_p\[1\]"),
        ("top_p", np.float32(1.5), r"top_p\[1\]"),
        ("top_p", np.float32("nan"), r"top_p\[1\]"),
        ("min_p", np.float32(-0.5), r"min_p\[1\]"),
        ("min_p", np.float32(1.01), r"min_p\[1\]"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name_and_row(
    threads: native.Threads, name: str, value: Any, message: str
) -> None:
    sampling = parameters(2)
    sampling[name][1] = value
    with pytest.raises(ValueError, match=message):
        native.sample(threads, random_logits(2, 10, 1.0), sampling)


def test_logits_without_a_vocabulary_are_refused(threads: native.Threads) -> None:
    with pytest.raises(ValueError, match="logits"):
        native.sample(threads, np.zeros((1, 0), dtype=np.float32), parameters(1))
