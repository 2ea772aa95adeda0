"""What a row may ask besides a temperature and cuts: bias, penalties, masks, typical-p, alternatives, targets."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.unit.kernels.random_sampling import Arrays, random_sampling, rows_of

from headrace.kernels import native, reference_sampling


@pytest.fixture(scope="module")
def threads() -> Iterator[native.Threads]:
    pool = native.Threads(2)
    yield pool
    pool.close()


def plain(count: int, temperature: float = 0.0) -> Arrays:
    return {
        "temperature": np.full(count, temperature, np.float32),
        "top_k": np.zeros(count, np.int32),
        "top_p": np.ones(count, np.float32),
        "min_p": np.zeros(count, np.float32),
        "seed": np.arange(count, dtype=np.uint64),
        "choice": np.zeros(count, np.uint32),
        "position": np.full(count, 7, np.uint32),
    }


def adjustments(rows: list[dict[int, tuple[float, float, float]]]) -> Arrays:
    """Per row: token -> (bias, repetition, minus)."""
    entries = [(token, *row[token]) for row in rows for token in sorted(row)]
    tokens, *values = np.array(entries, dtype=np.float64).reshape(-1, 4).T
    return {
        "adjust_starts": np.cumsum([0, *map(len, rows)]).astype(np.int32),
        "adjust_tokens": tokens.astype(np.int32),
    } | {
        f"adjust_{name}": array.astype(np.float32)
        for name, array in zip(("bias", "repetition", "minus"), values, strict=True)
    }


def mask(vocab: int, allowed: list[int]) -> NDArray[np.uint32]:
    words = np.zeros(-(-vocab // 32), np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


# --- equal to the plain version ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=120)
@given(
    vocab=st.sampled_from([1, 3, 64, 255, 256, 1000, 5003]),
    count=st.sampled_from([1, 2, 7, 70]),
    spread=st.sampled_from([0.0, 0.3, 3.0, 40.0]),
    most_survivors=st.sampled_from([0, 0, 1, 300]),
    seed=st.integers(0, 2**32),
)
def test_every_row_draws_what_the_plain_version_draws(
    threads: native.Threads, vocab: int, count: int, spread: float, most_survivors: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((count, vocab)) * spread).astype(np.float32)
    sampling = random_sampling(rng, count, vocab)
    tokens, logprobs, top_tokens, top_logprobs = native.sample(threads, logits, sampling, most_survivors)
    expected = reference_sampling.sample(logits, sampling)
    assert tokens.tolist() == expected[0].tolist()
    assert top_tokens.tolist() == expected[2].tolist()
    asked = sampling["logprobs"] | (sampling.get("num_top", 0) > 0) | (sampling.get("targets", -1) >= 0)
    assert np.isnan(logprobs[~asked]).all()
    bound = 2e-5 * max(1.0, spread)
    np.testing.assert_allclose(logprobs[asked], expected[1][asked], atol=bound)
    np.testing.assert_allclose(top_logprobs, expected[3], atol=bound)


def test_a_row_is_the_same_in_every_slot_batch_and_thread_count() -> None:
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((70, 3000)).astype(np.float32)
    sampling: Arrays = {}
    while not {"masks", "adjust_starts", "num_top"} <= set(sampling):
        sampling = random_sampling(rng, 70, 3000)
    order = rng.permutation(70)
    results = []
    for count in (1, 2, 5):
        pool = native.Threads(count)
        results.append(native.sample(pool, logits, sampling))
        shuffled = native.sample(pool, logits[order], rows_of(sampling, order))
        results.append(tuple(array[np.argsort(order)] for array in shuffled))  # type: ignore[arg-type]
        for row in (0, 17, 44):
            alone = native.sample(pool, logits[row : row + 1], rows_of(sampling, [row]))
            width = alone[2].shape[1]
            for part, whole in zip(alone, results[0], strict=True):
                expected = whole[row : row + 1, :width] if whole.ndim == 2 else whole[row : row + 1]
                assert np.array_equal(part, expected, equal_nan=True)
        pool.close()
    for result in results:
        for part, whole in zip(result, results[0], strict=True):
            assert np.array_equal(part, whole, equal_nan=True)


# --- bias and penalties -----------------------------------------------------------------------------------------------


def test_repetition_divides_what_is_positive_and_multiplies_what_is_not(threads: native.Threads) -> None:
    logits = np.array([[2.0, 1.5, -1.0, -2.0], [2.0, 1.5, -1.0, -2.0], [-3.0, -1.0, -1.5, -9.0]], np.float32)
    rows = [{0: (0.0, 2.0, 0.0)}, {0: (0.0, 1.25, 0.0)}, {1: (0.0, 2.0, 0.0)}]
    sampling = plain(3) | adjustments(rows)
    assert native.sample(threads, logits, sampling)[0].tolist() == [1, 0, 2]


def test_bias_comes_before_repetition_and_what_is_subtracted_last(threads: native.Threads) -> None:
    logits = np.array([[1.0, 0.0]] * 2, np.float32)
    # (1 - 3) * 2 = -4 against 0; (1 + 1) / 2 - 1.5 = -0.5 against 0.
    sampling = plain(2) | adjustments([{0: (-3.0, 2.0, 0.0)}, {0: (1.0, 2.0, 1.5)}])
    assert native.sample(threads, logits, sampling)[0].tolist() == [1, 1]
    sampling = plain(2) | adjustments([{0: (-3.0, 2.0, -4.5)}, {0: (1.0, 2.0, 0.75)}])
    assert native.sample(threads, logits, sampling)[0].tolist() == [0, 0]


def test_a_log_probability_ignores_what_the_row_changes(threads: native.Threads) -> None:
    logits = np.random.default_rng(0).standard_normal((4, 700)).astype(np.float32)
    targets = [5, 300, 511, 699]
    rows = [{token: (100.0, 1.0, 0.0)} for token in targets]
    for temperature in (0.0, 1.0):
        sampling = plain(4, temperature) | adjustments(rows) | {"logprobs": np.ones(4, bool)}
        tokens, logprobs, *_ = native.sample(threads, logits, sampling)
        assert tokens.tolist() == targets
        np.testing.assert_allclose(logprobs, log_softmax(logits)[range(4), targets], atol=1e-5)


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_what_the_mask_allows_is_drawn(threads: native.Threads, temperature: float) -> None:
    vocab = 1000
    logits = np.random.default_rng(1).standard_normal((300, vocab)).astype(np.float32)
    masks = np.stack([mask(vocab, [31, 32, 999]), mask(vocab, list(range(vocab)))])
    rows = np.arange(300, dtype=np.int32) % 3 - 1
    sampling = plain(300, temperature) | {"masks": masks, "mask_rows": rows, "logprobs": np.ones(300, bool)}
    tokens, logprobs, *_ = native.sample(threads, logits, sampling)
    without = native.sample(threads, logits, plain(300, temperature))[0]
    assert set(tokens[rows == 0].tolist()) == {31, 32, 999}
    assert np.array_equal(tokens[rows != 0], without[rows != 0])
    np.testing.assert_allclose(logprobs, log_softmax(logits)[range(300), tokens], atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_that_leaves_nothing_gives_minus_one(threads: native.Threads, temperature: float) -> None:
    logits = np.zeros((3, 40), np.float32)
    logits[1, 33] = -np.inf
    masks = np.stack([mask(40, []), mask(40, [33])])
    sampling = plain(3, temperature) | {"masks": masks, "mask_rows": np.array([0, 1, -1], np.int32)}
    sampling |= {"logprobs": np.ones(3, bool), "num_top": np.full(3, 1, np.int32)}
    tokens, logprobs, top_tokens, _ = native.sample(threads, logits, sampling)
    assert tokens[:2].tolist() == [-1, -1] and tokens[2] >= 0
    assert np.isnan(logprobs).tolist() == [True, True, False]
    assert top_tokens.tolist() == [[0], [0], [0]], "alternatives are of the unmasked distribution"


# --- typical-p --------------------------------------------------------------------------------------------------------


def test_typical_keeps_what_is_nearest_to_the_entropy_and_not_the_likeliest(threads: native.Threads) -> None:
    probabilities = np.array([0.4, 0.15, 0.15, 0.15, 0.15])  # entropy 1.51 nats; -log p is 0.92 and 1.90
    logits = np.tile(np.log(probabilities).astype(np.float32), (400, 1))
    kept = {}
    for typical_p in (0.1, 0.16, 0.59, 0.61, 1.0):
        sampling = plain(400, 1.0) | {"typical_p": np.full(400, typical_p, np.float32)}
        kept[typical_p] = set(native.sample(threads, logits, sampling)[0].tolist())
    assert kept == {0.1: {1}, 0.16: {1, 2}, 0.59: {1, 2, 3, 4}, 0.61: {0, 1, 2, 3, 4}, 1.0: {0, 1, 2, 3, 4}}


# --- alternatives and targets -----------------------------------------------------------------------------------------


def test_alternatives_are_the_largest_in_order_with_their_log_probabilities(threads: native.Threads) -> None:
    logits = (np.random.default_rng(2).integers(-40, 40, (6, 2000)) / 8).astype(np.float32)  # many ties
    counts = np.array([0, 1, 2, 5, 20, 20], np.int32)
    top_tokens, top_logprobs = native.sample(threads, logits, plain(6, 1.0) | {"num_top": counts})[2:]
    assert top_tokens.shape == top_logprobs.shape == (6, 20)
    for row, count in enumerate(counts):
        expected = np.argsort(-logits[row], kind="stable")[:count]
        assert top_tokens[row].tolist() == [*expected.tolist(), *[-1] * (20 - count)]
        np.testing.assert_allclose(top_logprobs[row, :count], log_softmax(logits)[row, expected], atol=1e-5)
        assert np.isnan(top_logprobs[row, count:]).all()


def test_nobody_asking_makes_no_alternatives(threads: native.Threads) -> None:
    results = native.sample(threads, np.zeros((3, 10), np.float32), plain(3))
    assert results[2].shape == results[3].shape == (3, 0)


def test_a_target_is_told_and_priced_whatever_else_the_row_asks(threads: native.Threads) -> None:
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal((40, 5003)) * 4).astype(np.float32)
    targets = rng.integers(0, 5003, 40).astype(np.int32)
    targets[:3] = 0, 5002, -1
    sampling = random_sampling(rng, 40, 5003) | {"targets": targets}
    tokens, logprobs, *_ = native.sample(threads, logits, sampling)
    is_target = targets >= 0
    assert np.array_equal(tokens[is_target], targets[is_target])
    expected = log_softmax(logits)[range(40), np.maximum(targets, 0)]
    np.testing.assert_allclose(logprobs[is_target], expected[is_target], atol=1e-5)


def test_a_target_without_probability_has_minus_infinity_and_one_in_a_broken_row_none(threads: native.Threads) -> None:
    logits = np.zeros((2, 300), np.float32)
    logits[0, 290] = -np.inf
    logits[1] = np.nan
    tokens, logprobs, *_ = native.sample(threads, logits, plain(2) | {"targets": np.full(2, 290, np.int32)})
    assert tokens.tolist() == [290, -1]
    assert logprobs[0] == -np.inf and np.isnan(logprobs[1])


# --- refusals ---------------------------------------------------------------------------------------------------------

GOOD = adjustments([{1: (0.0, 1.0, 0.0), 3: (0.0, 1.0, 0.0)}, {2: (0.0, 1.0, 0.0)}])
ONE_MASK = {"masks": np.zeros((1, 2), np.uint32), "mask_rows": np.zeros(2, np.int32)}


def changed(array: NDArray[Any], index: int, value: float) -> NDArray[Any]:
    copy = array.copy()
    copy[index] = value
    return copy


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (GOOD | {"adjust_tokens": changed(GOOD["adjust_tokens"], 1, 1)}, r"adjust_tokens\[1\]: 1 is not in \[2, 40\)"),
        (GOOD | {"adjust_tokens": changed(GOOD["adjust_tokens"], 1, 40)}, r"adjust_tokens\[1\]: 40"),
        (GOOD | {"adjust_tokens": changed(GOOD["adjust_tokens"], 0, -1)}, r"adjust_tokens\[0\]: -1"),
        (GOOD | {"adjust_bias": changed(GOOD["adjust_bias"], 2, np.nan)}, r"adjust_bias\[2\]"),
        (GOOD | {"adjust_bias": changed(GOOD["adjust_bias"], 2, np.inf)}, r"adjust_bias\[2\]"),
        (GOOD | {"adjust_repetition": changed(GOOD["adjust_repetition"], 0, 0)}, r"adjust_repetition\[0\]"),
        (GOOD | {"adjust_minus": changed(GOOD["adjust_minus"], 0, np.nan)}, r"adjust_minus\[0\]"),
        (GOOD | {"adjust_starts": changed(GOOD["adjust_starts"], 0, 1)}, r"adjust_starts\[0\]: 1"),
        (GOOD | {"adjust_starts": changed(GOOD["adjust_starts"], 1, 4)}, r"adjust_starts\[2\]: 3"),
        (GOOD | {"adjust_starts": changed(GOOD["adjust_starts"], 2, 4)}, r"adjust_starts\[2\]: 4"),
        (GOOD | {"adjust_starts": GOOD["adjust_starts"][:2].copy()}, "adjust_starts: has 2 entries, not 3"),
        (GOOD | {"adjust_minus": GOOD["adjust_minus"][:2].copy()}, "adjust_minus: has 2 entries, not 3"),
        ({"adjust_tokens": GOOD["adjust_tokens"]}, "adjust_starts is missing"),
        (ONE_MASK | {"mask_rows": np.array([0, 1], np.int32)}, r"mask_rows\[1\]: 1 is not in \[-1, 1\)"),
        (ONE_MASK | {"mask_rows": np.array([-2, 0], np.int32)}, r"mask_rows\[0\]: -2"),
        (ONE_MASK | {"masks": np.zeros((1, 3), np.uint32)}, "masks: has 3 words a row, not 2"),
        (ONE_MASK | {"masks": np.zeros((1, 2), np.int32)}, "masks: wrong element type"),
        ({"mask_rows": np.zeros(2, np.int32)}, "masks is missing"),
        ({"num_top": np.array([0, 21], np.int32)}, r"num_top\[1\]: 21"),
        ({"num_top": np.array([0, -1], np.int32)}, r"num_top\[1\]: -1"),
        ({"targets": np.array([40, 0], np.int32)}, r"targets\[0\]: 40"),
        ({"targets": np.array([0, -2], np.int32)}, r"targets\[1\]: -2"),
        ({"typical_p": np.array([1, 0], np.float32)}, r"typical_p\[1\]"),
        ({"typical_p": np.array([1, 1, 1], np.float32)}, "typical_p: has 3 entries, not 2"),
        ({"typical": np.array([1, 1], np.float32)}, "unknown key 'typical'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(threads: native.Threads, bad: Arrays, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native.sample(threads, np.zeros((2, 40), np.float32), plain(2, 1.0) | bad)
