"""What the Llama decoder reads, records and refuses; its numbers are tests/oracle's business."""

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.models.memory_checkpoint import folder_checkpoint, gguf_checkpoint

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import Activation, AttentionMode, OpKind, RopeStyle
from headrace.models import llama
from headrace.models.decoder import computed_vectors


def operands(plan, kind):
    return [op.operands() for op in plan.ops if op.kind is kind]


def test_both_formats_describe_the_same_sizes():
    from_gguf = llama.read_config(gguf_checkpoint(), None)
    from_folder = llama.read_config(folder_checkpoint(), None)
    assert replace(from_gguf, names={}, rope_style=RopeStyle.HALVES) == replace(from_folder, names={})
    assert from_gguf.rope_style is RopeStyle.ADJACENT
    assert (from_gguf.head_dim, from_gguf.vocab_size, from_gguf.max_positions) == (16, 70, 64)


def test_positions_are_the_smaller_of_trained_and_asked_for():
    assert llama.read_config(gguf_checkpoint(), 40).max_positions == 40
    assert llama.read_config(gguf_checkpoint(), 4000).max_positions == 64


def test_a_layer_is_two_fused_products_and_two_that_add_to_the_stream():
    plan = llama.record(llama.read_config(gguf_checkpoint(), None))
    names = {spec.name: spec for spec in plan.matrices}
    qkv, gate_up = names["layer 1 qkv"], names["layer 1 gate up"]
    assert (qkv.rows, qkv.parts) == (80, ("blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight"))
    assert (gate_up.rows, gate_up.layout) == (128, "interleave")
    assert [op["accumulate"] for op in operands(plan, OpKind.LINEAR)] == [0, 1, 1] * 2 + [0]
    assert plan.buffers[plan.output].width == plan.vocab_size == 70


def test_heads_that_are_not_whole_groups_are_quantised_after_attention():
    narrow = llama.read_config(gguf_checkpoint(), None)
    assert len(operands(llama.record(narrow), OpKind.QUANTIZE)) == 2
    wide = replace(narrow, head_dim=32)
    assert not operands(llama.record(wide), OpKind.QUANTIZE)


def test_a_file_without_a_head_shares_the_embedding_and_may_say_so():
    tied = gguf_checkpoint()
    del tied.shapes["output.weight"]
    assert llama.record(llama.read_config(tied, None)).matrices[-1].name != "output.weight"
    config = llama.read_config(folder_checkpoint(tie_word_embeddings=True), None)
    assert "lm_head.weight" not in [spec.name for spec in llama.record(config).matrices]


def test_an_untied_folder_without_a_head_is_refused():
    checkpoint = folder_checkpoint()
    del checkpoint.shapes["lm_head.weight"]
    with pytest.raises(ModelFileError, match=r"lm_head\.weight"):
        llama.read_config(checkpoint, None)


def test_biases_of_a_gguf_file_are_found_by_their_tensors():
    checkpoint = gguf_checkpoint()
    for layer in range(2):
        for role, width in (("q", 48), ("k", 16), ("v", 16), ("output", 48)):
            checkpoint.shapes[f"blk.{layer}.attn_{role}.bias"] = (width,)
    plan = llama.record(llama.read_config(checkpoint, None))
    assert [op["bias"] >= 0 for op in operands(plan, OpKind.LINEAR)] == [True, True, False] * 2 + [False]
    bias = next(spec for spec in plan.vectors if spec.name == "layer 0 qkv bias")
    assert (bias.shape, len(bias.parts)) == ((80,), 3)


def test_a_mistral_window_becomes_the_mode_of_every_layer():
    plan = llama.record(llama.read_mistral_config(folder_checkpoint("mistral", sliding_window=8), None))
    assert [(op["mode"], op["window"]) for op in operands(plan, OpKind.ATTENTION)] == [(AttentionMode.WINDOW, 8)] * 2
    plan = llama.record(llama.read_config(gguf_checkpoint(attention__sliding_window=8), None))
    assert [op["window"] for op in operands(plan, OpKind.ATTENTION)] == [8, 8]


@pytest.mark.parametrize("window", [None, 64, ...])  # no window, as long as the context, missing: 4096
def test_a_window_that_hides_nothing_is_no_window(window):
    config = llama.read_mistral_config(folder_checkpoint("mistral", sliding_window=window), None)
    assert config.windows == (0, 0)


def test_the_activation_is_read():
    config = llama.read_config(folder_checkpoint(hidden_act="gelu_pytorch_tanh"), None)
    assert operands(llama.record(config), OpKind.GATED)[0]["activation"] == Activation.GELU_TANH


def test_the_rope_table_covers_every_position():
    config = llama.read_config(gguf_checkpoint(), 40)
    vectors = computed_vectors(config)
    spec = next(spec for spec in llama.record(config).vectors if spec.name == "rope")
    assert spec.parts == ()
    assert vectors["rope"].shape == spec.shape == (40, 16)


def test_divisors_of_the_file_reach_the_table():
    checkpoint = gguf_checkpoint()
    checkpoint.shapes["rope_freqs.weight"] = (8,)
    checkpoint.vectors["rope_freqs.weight"] = np.full(8, 2.0, dtype=np.float32)
    halved = computed_vectors(llama.read_config(checkpoint, None))["rope"]
    plain = computed_vectors(llama.read_config(gguf_checkpoint(), None))["rope"]
    np.testing.assert_allclose(halved[2], plain[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"mlp_bias": True}, "mlp_bias = True"),
        ({"num_local_experts": 8}, "num_local_experts = 8"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"head_dim": 13}, "head_dim = 13"),
        ({"num_key_value_heads": 2}, "num_key_value_heads = 2: 3 query heads"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000"),
        ({"hidden_size": 0}, "hidden_size = 0"),
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps = inf"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"attention_bias": "yes"}, "attention_bias = 'yes'"),
        ({"intermediate_size": 51}, r"mlp\.gate_proj\.weight: shape \(50, 48\)"),
    ],
)
def test_what_a_config_asks_for_and_we_do_not_do_is_refused(changes, message):
    with pytest.raises(ModelFileError, match=message):
        llama.read_config(folder_checkpoint(**changes), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_count": 8}, r"llama\.expert_count = 8"),
        ({"attention__head_count_kv": [1, 2]}, r"llama\.attention\.head_count_kv = \[1, 2\]"),
        ({"attention__value_length": 8}, r"llama\.attention\.value_length = 8"),
        ({"attention__scale": 0.1}, r"llama\.attention\.scale = 0\.1"),
        ({"block_count": 3}, r"blk\.2\.attn_norm\.weight"),
    ],
)
def test_what_a_gguf_file_asks_for_and_we_do_not_do_is_refused(changes, message):
    with pytest.raises(ModelFileError, match=message):
        llama.read_config(gguf_checkpoint(**changes), None)


@pytest.mark.parametrize("name", ["blk.1.ffn_up.bias", "blk.0.ffn_gate_inp.weight", "blk.1.attn_q_norm.weight"])
def test_a_tensor_that_would_change_the_answers_is_never_ignored(name):
    checkpoint = gguf_checkpoint()
    checkpoint.shapes[name] = (48,)
    with pytest.raises(ModelFileError, match=name):
        llama.read_config(checkpoint, None)
