"""The native engine on Gemma 3 270M against transformers in float32 on the same dequantised weights.

The oracle is the quantised file run in float32. Windows of up to 1,024 tokens, twice what a local layer sees; every one
starts with the token that the model was trained to see first. scripts/record_gemma3_parity.py made the vectors.
"""

from pathlib import Path

import pytest
from tests.oracle.real_models import CLEAR_MARGIN, measure

VECTORS = Path(__file__).parent / "vectors" / "gemma3.npz"

MEAN_NLL_BOUND = 0.005  # relative
MEAN_DIVERGENCE_BOUND = 0.006  # nats
AGREEMENT_BOUND = 0.99


@pytest.fixture(scope="module")
def measured(gemma3_path):
    return measure(gemma3_path, VECTORS)


def test_the_text_is_long_enough_to_judge_by(measured):
    assert len(measured.nll) == len(measured.their_nll) >= 3900
    assert (measured.margin > CLEAR_MARGIN).sum() >= 500


def test_mean_negative_log_likelihood_is_that_of_transformers(measured):
    assert measured.nll.mean() == pytest.approx(measured.their_nll.mean(), rel=MEAN_NLL_BOUND)


def test_first_tokens_agree_where_the_reference_is_clear(measured):
    assert measured.agreement >= AGREEMENT_BOUND


def test_mean_divergence_is_small(measured):
    assert measured.divergence.mean() <= MEAN_DIVERGENCE_BOUND
