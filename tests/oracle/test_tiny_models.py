"""Architectures in exact arithmetic against transformers: the plan, not the kernels, is under test here.

Logits deviate by about 1, float32 rounding moves them by at most 6e-6; 3e-5 leaves room for another BLAS.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.oracle import tiny_models
from tests.oracle.assembly import assemble, reference_logits
from tests.oracle.tiny_files import write_folder, write_gguf

from headrace.models.gguf import GgufFile
from headrace.models.hidden import has_head, without_head
from headrace.models.registry import architecture_for
from headrace.models.safetensors import SafetensorsFolder

LOGIT_BOUND = 3e-5
VECTORS = Path(__file__).parent / "vectors" / "tiny_models"
NUM_TOKENS = tiny_models.NUM_TOKENS
SCHEDULES = {
    "one piece": (NUM_TOKENS,),
    "chunks": (1, 17, 32, 50, 64, 70, NUM_TOKENS),
    "token by token": tuple(range(1, NUM_TOKENS + 1)),
}
# GGUF metadata cannot say from which layer on windows apply, which layers do not rotate, nor name another activation.
GGUF_NAMES = [
    name for name in tiny_models.CONFIGS if name not in ("qwen2-some-windows", "llama-gelu", "smollm3-windows")
]


def recorded(name):
    with np.load(VECTORS / f"{name}.npz") as vectors:
        return vectors["logits"]


def worst(name, logits):
    return np.abs(logits[list(tiny_models.POSITIONS)] - recorded(name)).max()


def schedules(name):
    """Who sees what follows is computed whole."""
    return SCHEDULES if tiny_models.CONFIGS[name].get("is_causal", True) else ("one piece",)


@pytest.mark.parametrize(
    ("name", "schedule"), [(name, schedule) for name in tiny_models.CONFIGS for schedule in schedules(name)]
)
def test_a_safetensors_folder_gives_the_logits_of_transformers(name, schedule, tmp_path):
    model = assemble(SafetensorsFolder(write_folder(name, tmp_path)), tiny_models.CONTEXTS.get(name))
    logits = reference_logits(model, tiny_models.tokens(tiny_models.CONFIGS[name]), SCHEDULES[schedule], exact=True)
    assert worst(name, logits) < LOGIT_BOUND


@pytest.mark.parametrize("name", GGUF_NAMES)
def test_the_same_model_as_a_gguf_file_gives_the_same_logits(name, tmp_path):
    model = assemble(GgufFile(write_gguf(name, tmp_path / "model.gguf")), tiny_models.CONTEXTS.get(name))
    if name in tiny_models.HIDDEN and has_head(model.plan):  # a GGUF file does not say that its head is not to be used
        model = replace(model, plan=without_head(model.plan))
    logits = reference_logits(model, tiny_models.tokens(tiny_models.CONFIGS[name]), (NUM_TOKENS,), exact=True)
    assert worst(name, logits) < LOGIT_BOUND


@pytest.mark.parametrize("name", tiny_models.CONFIGS)
def test_the_config_that_transformers_writes_says_the_same(name, tmp_path):
    folder = write_folder(name, tmp_path)
    short = SafetensorsFolder(folder)
    config = architecture_for(short).read_config(short, None)
    with np.load(VECTORS / f"{name}.npz") as vectors:
        (folder / "config.json").write_text(str(vectors["config"]))
    written = SafetensorsFolder(folder)
    assert architecture_for(written).read_config(written, None) == config
