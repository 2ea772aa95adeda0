"""In what Gemma 2 differs from Gemma 3: caps, alternating windows, one rotation."""

from dataclasses import replace

import pytest
from tests.unit.models.memory_checkpoint import folder_checkpoint, gguf_checkpoint

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import Activation, OpKind
from headrace.models import gemma2, gemma3


def from_gguf(**changes):
    checkpoint = gguf_checkpoint("gemma2", **({"attention__sliding_window": 9} | changes))
    checkpoint.shapes.pop("output.weight")
    return checkpoint


def from_folder(**changes):
    checkpoint = folder_checkpoint("gemma2", **({"sliding_window": 9, "tie_word_embeddings": True} | changes))
    checkpoint.shapes.pop("lm_head.weight")
    return checkpoint


def operands(plan, kind):
    return [op.operands() for op in plan.ops if op.kind is kind]


def test_both_formats_describe_the_same_model_but_for_the_one_in_norms():
    gguf, folder = gemma2.read_config(from_gguf()), gemma2.read_config(from_folder(query_pre_attn_scalar=16))
    assert (gguf.norm_offset, folder.norm_offset) == (0.0, 1.0)
    assert replace(gguf, names={}, norm_offset=1.0) == replace(folder, names={})
    assert (gguf.score_cap, gguf.logit_cap, gguf.activation) == (50.0, 30.0, Activation.GELU_TANH)


def test_scores_are_capped_in_attention_and_logits_behind_the_head():
    plan = gemma3.record(gemma2.read_config(from_folder(attn_logit_softcapping=40.0, final_logit_softcapping=20.0)))
    assert [op["softcap"] for op in operands(plan, OpKind.ATTENTION)] == [40.0, 40.0]
    assert [op.kind for op in plan.ops[-2:]] == [OpKind.LINEAR, OpKind.SOFTCAP]
    assert plan.ops[-1].operands() == {"x": plan.output, "cap": 20.0}
    assert not operands(plan, OpKind.HEAD_NORM)


def test_a_cap_of_null_is_none():
    plan = gemma3.record(gemma2.read_config(from_folder(attn_logit_softcapping=None, final_logit_softcapping=None)))
    assert [op["softcap"] for op in operands(plan, OpKind.ATTENTION)] == [0.0, 0.0]
    assert not operands(plan, OpKind.SOFTCAP)


@pytest.mark.parametrize("checkpoint", [from_gguf(), from_folder()])
def test_every_other_layer_has_a_window_where_nothing_is_said(checkpoint):
    assert gemma2.read_config(checkpoint).windows == (9, 0)


def test_layers_with_a_window_may_be_named():
    kinds = ["full_attention", "sliding_attention"]
    assert gemma2.read_config(from_folder(layer_types=kinds)).windows == (0, 9)


def test_queries_are_scaled_as_the_file_says():
    assert gemma2.read_config(from_folder(query_pre_attn_scalar=144)).query_scale == pytest.approx(1 / 12)
    assert gemma2.read_config(from_gguf()).query_scale == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("checkpoint", "field"),
    [
        (from_folder(final_logit_softcapping=-1.0), "final_logit_softcapping = -1.0"),
        (from_folder(use_bidirectional_attention=True), "use_bidirectional_attention = True"),
        (from_folder(attention_bias=True), "attention_bias = True"),
        (from_folder(hidden_activation="relu"), "hidden_activation = 'relu'"),
        (from_folder(layer_types=["sliding_attention"]), "layer_types"),
        (from_gguf(attention__sliding_window_pattern=3), r"attention\.sliding_window_pattern = 3"),
        (from_gguf(attention__causal=False), r"attention\.causal = False"),
    ],
)
def test_what_changes_the_result_and_is_not_done_is_refused(checkpoint, field):
    with pytest.raises(ModelFileError, match=field):
        gemma2.read_config(checkpoint)
