"""The discrepancy of two samples: against the formula written out, and what it is worth on known distributions."""

import numpy as np
import pytest

from headrace.trust.monitors.theft.discrepancy import discrepancy, kernel_of, permuted_share
from headrace.trust.monitors.theft.embedding import DIMENSIONS, MAX_CHARS, embed, spread_of, weighed


def sample(seed: int, count: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, 16)) + shift).astype(np.float32)


def written_out(one: np.ndarray, other: np.ndarray) -> float:
    """Gretton et al. 2012, lemma 6, equation 3, with loops."""
    together = np.concatenate([one, other]).astype(np.float64)
    squares = [float(((a - b) ** 2).sum()) for i, a in enumerate(together) for b in together[i + 1 :]]
    width = float(np.median(squares))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a.astype(np.float64) - b) ** 2).sum() / width))

    m, n = len(one), len(other)
    first = sum(kernel(a, b) for i, a in enumerate(one) for j, b in enumerate(one) if i != j) / (m * (m - 1))
    second = sum(kernel(a, b) for i, a in enumerate(other) for j, b in enumerate(other) if i != j) / (n * (n - 1))
    return first + second - 2 * sum(kernel(a, b) for a in one for b in other) / (m * n)


def test_it_is_what_the_paper_says() -> None:
    one, other = sample(1, 12), sample(2, 17, 0.4)
    assert discrepancy(one, other) == pytest.approx(written_out(one, other), abs=1e-5)


def test_of_one_distribution_it_is_about_nothing_and_of_two_it_is_more() -> None:
    alike = [discrepancy(sample(seed, 100), sample(seed + 1000, 100)) for seed in range(50)]
    assert abs(float(np.mean(alike))) < 0.002  # unbiased: some are below nothing
    assert min(alike) < 0.0
    assert discrepancy(sample(1, 100), sample(2, 100, 0.5)) > 5 * max(alike)


def test_the_share_of_permutations_is_a_p_value() -> None:
    random = np.random.default_rng(0)
    shares = [permuted_share(sample(seed, 40), sample(seed + 500, 60), random, 99)[1] for seed in range(60)]
    assert 0.3 < float(np.mean(shares)) < 0.7
    assert sum(share <= 0.05 for share in shares) <= 9
    assert permuted_share(sample(1, 40), sample(2, 60, 1.0), random, 99)[1] == pytest.approx(0.01)


@pytest.mark.parametrize("count", [0, 1])
def test_it_needs_two_of_each(count: int) -> None:
    with pytest.raises(ValueError, match="two vectors"):
        discrepancy(sample(1, count), sample(2, 5))


def test_equal_points_have_a_kernel_without_holes() -> None:
    assert np.array_equal(kernel_of(np.zeros((4, 3), np.float32)), np.ones((4, 4)))


@pytest.mark.parametrize("text", ["", "a", "ab\ud800", "\U000e0041" * 10, "x" * 100_000, "\0\1\2", "日本語のテキスト"])
def test_every_text_has_a_vector_of_length_one_or_none(text: str) -> None:
    vector = embed(text)
    assert vector.shape == (DIMENSIONS,)
    assert vector.dtype == np.float32
    norm = float(np.linalg.norm(vector))
    assert norm == pytest.approx(1.0, abs=1e-5) or (norm == 0.0 and not text)


def test_texts_alike_lie_nearer_than_others_and_case_does_not_matter() -> None:
    one, alike, other = embed("How do I sort a list?"), embed("how do I sort a LIST of words?"), embed("Übersetze das")
    assert one @ alike > 2 * (one @ other)
    chinese, near, far = embed("请把这句话翻译成德语"), embed("请把那句话翻译成法语"), embed("天气怎么样")
    assert chinese @ near > 2 * abs(chinese @ far)
    assert np.array_equal(embed("ABC def"), embed("abc DEF"))
    assert np.array_equal(embed("a" * MAX_CHARS + "b" * MAX_CHARS), embed("a" * MAX_CHARS + "c" + "b" * MAX_CHARS))


def test_what_varies_little_counts_as_much_as_what_varies_more() -> None:
    vectors = sample(1, 500) * np.linspace(0.1, 5.0, 16, dtype=np.float32)
    after = weighed(vectors, spread_of(vectors))
    assert np.allclose(np.linalg.norm(after, axis=1), 1.0, atol=1e-5)
    assert spread_of(after).max() < 1.2 * spread_of(after).min()
    assert np.all(np.isfinite(weighed(np.zeros((2, 16), np.float32), spread_of(np.zeros((2, 16), np.float32)))))
