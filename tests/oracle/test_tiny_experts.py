"""Mixtures of experts against transformers: the plan in exact arithmetic, then the native program.

Logits deviate by 0.45 to 1; bounds as in `test_tiny_models` and `test_tiny_models_native`, the latter as shares of the
deviation. Which experts a row chooses does not hang on rounding: see `tiny_experts`.
"""

from pathlib import Path

import numpy as np
import pytest
from tests.oracle import tiny_experts
from tests.oracle.assembly import assemble, reference_logits
from tests.oracle.expert_files import FORMS, GGUF_NAMES, write_folder, write_gguf
from tests.oracle.test_tiny_models import LOGIT_BOUND, NUM_TOKENS, SCHEDULES
from tests.oracle.test_tiny_models_native import ROOT_MEAN_SQUARE_BOUND, WORST_BOUND, native_logits

from headrace.models.gguf import GgufFile
from headrace.models.safetensors import SafetensorsFolder

VECTORS = Path(__file__).parent / "vectors" / "tiny_experts.npz"
NAMES = list(tiny_experts.CONFIGS)


def recorded(name):
    with np.load(VECTORS) as vectors:
        return vectors[name]


def tokens(name):
    return tiny_experts.tokens(tiny_experts.CONFIGS[name])


def errors(name, logits):
    return logits[list(tiny_experts.POSITIONS)] - recorded(name)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", NAMES)
def test_a_safetensors_folder_gives_the_logits_of_transformers(name, schedule, tmp_path):
    model = assemble(SafetensorsFolder(write_folder(name, tmp_path)))
    logits = reference_logits(model, tokens(name), SCHEDULES[schedule], exact=True)
    assert np.abs(errors(name, logits)).max() < LOGIT_BOUND


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", GGUF_NAMES)
def test_the_same_model_as_a_gguf_file_gives_the_same_logits(name, form, tmp_path):
    model = assemble(GgufFile(write_gguf(name, tmp_path / "model.gguf", form=form)))
    logits = reference_logits(model, tokens(name), (NUM_TOKENS,), exact=True)
    assert np.abs(errors(name, logits)).max() < LOGIT_BOUND


@pytest.mark.parametrize("name", NAMES)
def test_the_native_program_is_as_close_to_transformers_as_its_reference(name, tmp_path):
    model = assemble(SafetensorsFolder(write_folder(name, tmp_path)))
    for logits in (
        native_logits(model, tokens(name), (NUM_TOKENS,)),
        reference_logits(model, tokens(name), (NUM_TOKENS,), exact=False),
    ):
        error = errors(name, logits) / recorded(name).std()
        assert np.sqrt((error**2).mean()) < ROOT_MEAN_SQUARE_BOUND
        assert np.abs(error).max() < WORST_BOUND


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_in_chunks_or_token_by_token_gives_the_same_bits_as_in_one_piece(name, tmp_path):
    model = assemble(SafetensorsFolder(write_folder(name, tmp_path)))
    whole, *others = (native_logits(model, tokens(name), pieces) for pieces in SCHEDULES.values())
    for other in others:
        np.testing.assert_array_equal(other, whole)
    alone = native_logits(model, tokens(name), SCHEDULES["chunks"], last_only=True)
    np.testing.assert_array_equal(alone, whole[-1:])
