"""In what Phi-3 differs from Llama: fused tensors, a window, LongRoPE."""

import numpy as np
import pytest
from tests.unit.models.memory_checkpoint import folder_checkpoint, gguf_checkpoint

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import OpKind
from headrace.models import llama, phi3
from headrace.models.decoder import ROPE, ROPE_LONG, ROPE_SHORT, computed_vectors

LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
ORIGINAL = {"original_max_position_embeddings": 32}


def long_folder(**changes):
    return folder_checkpoint("phi3", rope_scaling=LONG | changes, **ORIGINAL)


def long_gguf(**changes):
    checkpoint = gguf_checkpoint("phi3", rope__scaling__original_context_length=32, **changes)
    for name, value in (("short", 1.0), ("long", 4.0)):
        checkpoint.shapes[f"rope_factors_{name}.weight"] = (8,)
        checkpoint.vectors[f"rope_factors_{name}.weight"] = np.full(8, value, dtype=np.float32)
    return checkpoint


@pytest.mark.parametrize("checkpoint", [gguf_checkpoint("phi3"), folder_checkpoint("phi3")])
def test_one_tensor_holds_q_k_and_v_and_another_gate_above_up(checkpoint):
    plan = llama.record(phi3.read_config(checkpoint))
    names = {spec.name: spec for spec in plan.matrices}
    qkv, gate_up = names["layer 1 qkv"], names["layer 1 gate up"]
    assert (qkv.rows, len(qkv.parts), qkv.layout) == (80, 1, "concat")
    assert (gate_up.rows, len(gate_up.parts), gate_up.layout) == (128, 1, "halves")


def test_tensors_that_others_keep_apart_are_not_expected_and_not_ignored():
    checkpoint = folder_checkpoint("phi3")
    checkpoint.shapes["model.layers.1.self_attn.q_proj.bias"] = (48,)
    with pytest.raises(ModelFileError, match="does not read"):
        phi3.read_config(checkpoint)
    fused = gguf_checkpoint("llama")
    fused.shapes["blk.0.attn_qkv.weight"] = (80, 48)
    with pytest.raises(ModelFileError, match=r"blk\.0\.attn_qkv\.weight: the file holds a tensor"):
        llama.read_config(fused)


@pytest.mark.parametrize(("window", "expected"), [(8, (8, 8)), (None, (0, 0)), (64, (0, 0)), (..., (0, 0))])
def test_a_window_holds_in_every_layer_if_there_is_one(window, expected):
    assert phi3.read_config(folder_checkpoint("phi3", sliding_window=window)).windows == expected


@pytest.mark.parametrize("checkpoint", [long_gguf(rope__scaling__attn_factor=1.25), long_folder()])
@pytest.mark.parametrize(("context", "table", "divisor"), [(None, ROPE_LONG, 4.0), (32, ROPE_SHORT, 1.0)])
def test_factors_follow_the_context_that_the_program_is_made_for(checkpoint, context, table, divisor):
    config = phi3.read_config(checkpoint, context)
    plan = llama.record(config)
    assert [spec.name for spec in plan.vectors if not spec.parts] == [table]
    cosines = computed_vectors(config)[table][3, :8]
    amplitude = 1.25 if checkpoint.format == "gguf" else np.sqrt(1 + np.log(2) / np.log(32))
    plain = 10000.0 ** -(np.arange(8) / 8)
    np.testing.assert_allclose(cosines, np.cos(3 * plain / divisor) * amplitude, rtol=1e-6)


def test_what_is_packed_for_all_positions_serves_a_shorter_context_too():
    stored, asked = phi3.read_config(long_folder()), phi3.read_config(long_folder(), 20)
    kept = computed_vectors(stored)
    assert kept[ROPE_SHORT].shape[0] == 32 and kept[ROPE_LONG].shape[0] == 64
    np.testing.assert_array_equal(kept[ROPE_SHORT][:20], computed_vectors(asked)[ROPE_SHORT])


def test_a_context_that_was_never_stretched_has_one_table():
    config = phi3.read_config(folder_checkpoint("phi3"))
    assert set(config.ropes) == {ROPE}


@pytest.mark.parametrize("kind", ["su", "yarn"])
def test_early_names_of_longrope_are_known(kind):
    assert set(phi3.read_config(long_folder(rope_type=kind)).ropes) == {ROPE_SHORT, ROPE_LONG}


def test_ops_are_those_of_llama():
    kinds = [[op.kind for op in llama.record(each).ops] for each in (phi3.read_config(folder_checkpoint("phi3")),)]
    assert kinds == [[op.kind for op in llama.record(llama.read_config(folder_checkpoint())).ops]]
    assert OpKind.GATED in kinds[0]


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (long_folder(long_factor=[4.0] * 7), "long_factor = .* a list of 8 numbers"),
        (long_folder(short_factor=[0.0] + [1.0] * 7), r"short_factor\[0\] = 0\.0: must be finite and above 0"),
        (long_folder(long_mscale=1.2), "long_mscale = 1.2"),
        (folder_checkpoint("phi3", attention_bias=True), "attention_bias = True"),
        (folder_checkpoint("phi3", layer_types=["full_attention", "chunked_attention"]), "layer_types"),
        (long_gguf(rope__scaling__type="yarn"), "rope.scaling.type = 'yarn'"),
        (long_gguf(rope__scaling__factor=4.0), "rope.scaling.factor = 4.0"),
    ],
)
def test_what_is_not_done_is_refused(checkpoint, message):
    with pytest.raises(ModelFileError, match=message):
        phi3.read_config(checkpoint)


def test_factors_of_another_size_are_refused_by_the_tensor_s_name():
    checkpoint = long_gguf()
    checkpoint.vectors["rope_factors_long.weight"] = np.ones(4, dtype=np.float32)
    with pytest.raises(ModelFileError, match=r"rope_factors_long\.weight: 8 positive values are needed"):
        phi3.read_config(checkpoint)
