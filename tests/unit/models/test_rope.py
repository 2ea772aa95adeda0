"""Rope settings of both formats against frequencies recorded from transformers, and refusal of the rest."""

import json
from pathlib import Path

import numpy as np
import pytest

from headrace.core.errors import ModelFileError
from headrace.models import rope
from headrace.models.fields import Fields

VECTORS = Path(__file__).parents[2] / "oracle" / "vectors" / "rope.npz"
with np.load(VECTORS) as _vectors:
    RECORDED = {name: _vectors[name] for name in _vectors.files}
SETTINGS = json.loads(str(RECORDED.pop("settings")))
HEAD_DIM = 128


def config(**changes):
    return Fields({"max_position_embeddings": 2048} | changes)


def gguf(**changes):
    return Fields({"x.context_length": 2048} | {f"x.rope.{key}": value for key, value in changes.items()}, "x.")


@pytest.mark.parametrize("form", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("name", RECORDED)
def test_frequencies_and_amplitude_equal_those_of_transformers(name, form):
    settings = dict(SETTINGS[name])
    fields = {form: settings}
    if form == "rope_scaling":  # the old form keeps theta outside and says `type`
        fields |= {"rope_theta": settings.pop("rope_theta")}
        settings["type"] = settings.pop("rope_type")
    read = rope.read_config(config(**fields), HEAD_DIM)
    np.testing.assert_allclose(rope.frequencies(read), RECORDED[name][:-1], rtol=3e-6)
    assert read.amplitude == pytest.approx(RECORDED[name][-1], rel=1e-6)


def test_a_gguf_file_states_yarn_in_its_own_keys():
    stated = {"freq_base": 1e6, "scaling.type": "yarn", "scaling.factor": 4.0}
    fields = gguf(**stated, **{"scaling.original_context_length": 32768})
    read = rope.read_gguf(fields, HEAD_DIM, None)
    np.testing.assert_allclose(rope.frequencies(read), RECORDED["qwen2.5-yarn"][:-1], rtol=3e-6)
    assert read.amplitude == pytest.approx(RECORDED["qwen2.5-yarn"][-1], rel=1e-6)


def test_the_old_key_for_linear_scaling_is_read():
    old = rope.read_gguf(Fields({"x.rope.scale_linear": 4.0}, "x."), HEAD_DIM, None)
    np.testing.assert_allclose(rope.frequencies(old), RECORDED["linear"][:-1], rtol=3e-6)


def test_divisors_of_a_gguf_file_divide_the_frequencies():
    divisors = np.linspace(1, 8, 64, dtype=np.float32)
    plain = rope.frequencies(rope.read_gguf(gguf(), HEAD_DIM, None))
    divided = rope.frequencies(rope.read_gguf(gguf(), HEAD_DIM, divisors))
    np.testing.assert_allclose(divided, plain / divisors)


def test_the_table_holds_cosines_then_sines_times_the_amplitude():
    table = rope.table(rope.Rope(theta=100.0, rotary_dim=4, amplitude=2.0), 3)
    assert table.dtype == np.float32
    expected = [[2 * np.cos(p), 2 * np.cos(p / 10), 2 * np.sin(p), 2 * np.sin(p / 10)] for p in range(3)]
    np.testing.assert_allclose(table, expected, rtol=1e-6)


def test_part_of_a_head_may_be_rotated():
    assert rope.read_config(config(partial_rotary_factor=0.25), HEAD_DIM).rotary_dim == 32
    assert rope.read_gguf(Fields({"x.rope.dimension_count": 32}, "x."), HEAD_DIM, None).rotary_dim == 32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type = 'dynamic'"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_type = 'longrope'"),
        ({"rope_scaling": "linear"}, "rope_scaling = 'linear'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor = 0"),
        ({"rope_scaling": {"rope_type": "linear", "factor": float("nan")}}, "factor = nan"),
        ({"rope_scaling": SETTINGS["llama-3.1"] | {"high_freq_factor": 1.0}}, "high_freq_factor = 1.0"),
        ({"rope_theta": "big"}, "rope_theta = 'big'"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor = 1.5"),
    ],
)
def test_what_a_config_asks_for_and_we_do_not_know_is_refused_by_name(fields, message):
    with pytest.raises(ModelFileError, match=message):
        rope.read_config(config(**fields), HEAD_DIM)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope.scaling.type": "longrope"}, "x.rope.scaling.type = 'longrope'"),
        ({"rope.dimension_count": 129}, "x.rope.dimension_count = 129"),
        ({"rope.dimension_count": 7}, "x.rope.dimension_count = 7"),
        ({"rope.scaling.type": "yarn", "rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor = 0.5"),
    ],
)
def test_what_a_gguf_file_asks_for_and_we_do_not_know_is_refused_by_name(fields, message):
    metadata = {"x.context_length": 64} | {f"x.{key}": value for key, value in fields.items()}
    with pytest.raises(ModelFileError, match=message):
        rope.read_gguf(Fields(metadata, "x."), HEAD_DIM, None)


@pytest.mark.parametrize("divisors", [np.ones(63, np.float32), np.zeros(64, np.float32)])
def test_divisors_that_do_not_fit_are_refused(divisors):
    with pytest.raises(ModelFileError, match=r"rope_freqs\.weight"):
        rope.read_gguf(gguf(), HEAD_DIM, divisors)
