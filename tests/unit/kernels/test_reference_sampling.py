"""The reference sampler: known answers of its generator, the cuts, and the distribution that comes out."""

import numpy as np
import pytest

from headrace.kernels.reference_sampling import Cuts, candidates, gumbel_noise, philox, sample

ROWS = 4000


def settings(rows, **changes):
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 5, "choice": 0, "position": 0}
    kinds = {"top_k": "i4", "seed": "u8", "choice": "u4", "position": "u4"}
    result = {name: np.full(rows, value, dtype=kinds.get(name, "f4")) for name, value in (values | changes).items()}
    result["position"] = np.arange(rows, dtype=np.uint32)
    return result


@pytest.mark.parametrize(
    ("counter", "seed", "expected"),
    [
        ("00000000 00000000 00000000 00000000", 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", 0x299F31D0A4093822, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_known_answers(counter, seed, expected):
    words = philox(np.array([[int(word, 16) for word in counter.split()]], dtype=np.uint32), seed)
    assert " ".join(f"{word:08x}" for word in words[0]) == expected


def test_noise_of_a_token_does_not_depend_on_where_the_range_begins():
    whole = gumbel_noise(9, 1, 77, 0, 50)
    np.testing.assert_array_equal(whole[13:29], gumbel_noise(9, 1, 77, 13, 16))
    for other in (gumbel_noise(8, 1, 77, 0, 50), gumbel_noise(9, 2, 77, 0, 50), gumbel_noise(9, 1, 78, 0, 50)):
        assert (whole != other).all()


def test_noise_is_the_same_in_every_version():
    """A seed promises the same tokens: changing these numbers is a change that users see."""
    noise = gumbel_noise(2**63 + 9, 1, 77, 2, 4)
    np.testing.assert_allclose(noise, [3.499958, -1.613677, 0.664089, 2.832722], atol=2e-6)


def test_noise_has_the_mean_and_deviation_of_a_standard_gumbel():
    noise = gumbel_noise(1, 0, 0, 0, 200_000)
    assert abs(noise.mean() - 0.5772) < 0.01
    assert abs(noise.std() - np.pi / np.sqrt(6)) < 0.01


def test_greedy_takes_the_first_of_equal_largest():
    logits = np.array([[1, 3, 3, 0], [2, 2, 2, 2]], dtype=np.float32)
    assert sample(logits, settings(2, temperature=0.0))[0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p", "expected"),
    [
        (0, 1.0, 0.0, [1, 3, 4, 0, 2]),
        (3, 1.0, 0.0, [1, 3, 4]),
        (2, 1.0, 0.0, [1, 3]),
        (0, 0.5, 0.0, [1]),
        (0, 0.51, 0.0, [1, 3]),
        (0, 1.0, 0.3, [1, 3, 4]),
        (2, 0.6, 0.0, [1]),  # 0.5 of the 0.7 that top-k leaves: renormalised before top-p
        (0, 1.0, 1.0, [1]),
    ],
)
def test_candidates_are_cut_by_top_k_then_top_p_then_min_p(top_k, top_p, min_p, expected):
    logits = np.log(np.array([0.08, 0.5, 0.02, 0.2, 0.2]) + 1e-9).astype(np.float32)
    assert candidates(logits, 1.0, Cuts(top_k, top_p, min_p)).tolist() == expected


def test_samples_follow_the_softmax_at_the_temperature():
    logits = np.array([0.0, 1.0, 2.0, -1.0], dtype=np.float32)
    tokens, *_ = sample(np.tile(logits, (ROWS, 1)), settings(ROWS, temperature=0.7))
    weights = np.exp(logits.astype(np.float64) / 0.7)
    counts = np.bincount(tokens, minlength=4)
    expected = ROWS * weights / weights.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


def test_logprobs_are_those_of_the_unmodified_distribution():
    logits = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    tokens, logprobs, *_ = sample(logits, settings(6, temperature=0.3, top_k=3))
    probabilities = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(logprobs), probabilities[np.arange(6), tokens], rtol=1e-5)


def test_a_token_without_probability_is_never_drawn():
    logits = np.full((200, 8), -np.inf, dtype=np.float32)
    logits[:, 5] = -3.0
    assert set(sample(logits, settings(200))[0]) == {5}
