"""What the Gemma 3 decoder reads, records and refuses; its numbers are tests/oracle's business."""

from dataclasses import replace

import pytest
from tests.unit.models.memory_checkpoint import folder_checkpoint, gguf_checkpoint

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import Activation, AttentionMode, OpKind, RopeStyle
from headrace.models import gemma3, rope
from headrace.models.registry import architecture_for

GGUF = {"attention__key_length": 16, "attention__value_length": 16, "attention__sliding_window": 9}
GGUF |= {"rope__freq_base": 1e6, "attention__sliding_window_pattern": 2}
FOLDER = {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16}
FOLDER |= {"tie_word_embeddings": True}


def from_gguf(**changes):
    checkpoint = gguf_checkpoint("gemma3", **(GGUF | changes))
    checkpoint.shapes.pop("output.weight")
    return checkpoint


def from_folder(**changes):
    checkpoint = folder_checkpoint("gemma3", **(FOLDER | changes))
    checkpoint.shapes.pop("lm_head.weight")
    return checkpoint


def operands(plan, kind):
    return [op.operands() for op in plan.ops if op.kind is kind]


def test_both_formats_describe_the_same_model_but_for_the_one_in_norms():
    gguf, folder = gemma3.read_config(from_gguf()), gemma3.read_config(from_folder())
    assert (gguf.norm_offset, folder.norm_offset) == (0.0, 1.0)
    assert gguf.norm_eps == folder.norm_eps
    assert replace(gguf, names={}, norm_offset=1.0) == replace(folder, names={})


@pytest.mark.parametrize("checkpoint", [from_gguf(), from_folder()])
def test_both_formats_are_known_by_name(checkpoint):
    assert architecture_for(checkpoint).name == "gemma3"


def test_the_stream_starts_scaled_and_every_branch_is_normed_before_it_is_added():
    plan = gemma3.record(gemma3.read_config(from_folder()))
    assert operands(plan, OpKind.EMBED)[0]["scale"] == pytest.approx(48**0.5)
    assert not any(op["accumulate"] for op in operands(plan, OpKind.LINEAR))
    kinds = [op.kind for op in plan.ops]
    assert kinds.count(OpKind.ADD) == 4
    assert kinds.count(OpKind.RMS_NORM) == 4 * 2 + 1
    assert {op["activation"] for op in operands(plan, OpKind.GATED)} == {Activation.GELU_TANH}
    assert {vector.offset for vector in plan.vectors if vector.parts} == {1.0}


def test_local_layers_have_a_window_and_a_rotation_of_their_own():
    plan = gemma3.record(gemma3.read_config(from_gguf()))
    assert [(op["mode"], op["window"]) for op in operands(plan, OpKind.ATTENTION)] == [
        (AttentionMode.WINDOW, 9),
        (AttentionMode.CAUSAL, 0),
    ]
    tables = [plan.vectors[op["table"]].name for op in operands(plan, OpKind.ROPE)]
    assert tables == ["local rope"] * 2 + ["global rope"] * 2
    assert {op["style"] for op in operands(plan, OpKind.ROPE)} == {RopeStyle.HALVES}


def test_every_sixth_layer_is_global_where_nothing_is_said():
    checkpoint = from_folder(num_hidden_layers=7, layer_types=...)
    for name, shape in list(checkpoint.shapes.items()):
        if ".layers.1." in name:
            checkpoint.shapes |= {name.replace(".1.", f".{layer}."): shape for layer in range(2, 7)}
    assert gemma3.read_config(checkpoint).windows == (9,) * 5 + (0, 9)


def test_the_only_size_that_scales_queries_otherwise_is_told_by_its_layers():
    checkpoint = from_gguf(block_count=62, embedding_length=48, attention__head_count=6, attention__key_length=16)
    for name, shape in list(checkpoint.shapes.items()):
        wide = (96, 48) if name.endswith("attn_q.weight") else (48, 96) if "attn_output" in name else shape
        checkpoint.shapes[name] = wide
        if name.startswith("blk.1."):
            checkpoint.shapes |= {name.replace(".1.", f".{layer}."): wide for layer in range(2, 62)}
    assert gemma3.read_config(checkpoint).query_scale == pytest.approx((48 / 6) ** -0.5)


@pytest.mark.parametrize(
    "stated",
    [
        {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            }
        },
    ],
)
def test_positions_are_stretched_in_global_layers_only(stated):
    config = gemma3.read_config(from_folder(**stated))
    assert config.ropes[gemma3.GLOBAL] == rope.Rope(theta=5e5, rotary_dim=16, scaling=rope.Scaling.LINEAR, factor=8.0)
    assert config.ropes[gemma3.LOCAL] == rope.Rope(theta=2e4, rotary_dim=16)


@pytest.mark.parametrize(
    ("checkpoint", "field"),
    [
        (from_gguf(final_logit_softcapping=30.0), "final_logit_softcapping = 30.0"),
        (from_gguf(attn_logit_softcapping=50.0), "attn_logit_softcapping = 50.0"),
        (from_folder(final_logit_softcapping=30.0), "final_logit_softcapping = 30.0"),
        (from_folder(attn_logit_softcapping=50.0), "attn_logit_softcapping = 50.0"),
        (from_folder(use_bidirectional_attention=True), "use_bidirectional_attention = True"),
        (from_folder(attention_bias=True), "attention_bias = True"),
        (from_folder(hidden_activation="relu"), "hidden_activation = 'relu'"),
        (from_folder(layer_types=["sliding_attention"]), "layer_types"),
        (from_folder(rope_parameters={"rope_type": "default"}), "rope_parameters"),
        (from_folder(sliding_window=None), "sliding_window is missing"),
        (from_gguf(attention__value_length=8), "attention.value_length = 8"),
    ],
)
def test_what_changes_the_result_and_is_not_done_is_refused(checkpoint, field):
    with pytest.raises(ModelFileError, match=field.replace(".", r"\.")):
        gemma3.read_config(checkpoint)


@pytest.mark.parametrize("name", ["blk.1.post_ffw_norm.weight", "blk.0.attn_q_norm.weight"])
def test_a_missing_norm_is_refused(name):
    checkpoint = from_gguf()
    del checkpoint.shapes[name]
    with pytest.raises(ModelFileError, match=name):
        gemma3.read_config(checkpoint)


def test_a_bias_that_would_go_unread_is_refused():
    checkpoint = from_gguf()
    checkpoint.shapes["blk.1.attn_k.bias"] = (16,)
    with pytest.raises(ModelFileError, match="does not read"):
        gemma3.read_config(checkpoint)
