"""In what OLMo 2 differs from Llama: norms behind the branches, and over all heads together."""

import pytest
from tests.unit.models.memory_checkpoint import folder_checkpoint, gguf_checkpoint

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import OpKind, RopeStyle
from headrace.models import olmo2

BOTH = [folder_checkpoint("olmo2"), gguf_checkpoint("olmo2")]


@pytest.mark.parametrize("checkpoint", BOTH)
def test_branches_read_the_stream_and_are_normed_before_they_are_added(checkpoint):
    kinds = [op.kind for op in olmo2.record(olmo2.read_config(checkpoint)).ops]
    assert kinds[:3] == [OpKind.EMBED, OpKind.QUANTIZE, OpKind.LINEAR]
    assert kinds.count(OpKind.ADD) == 4
    assert kinds.count(OpKind.RMS_NORM) == 4 + 1


@pytest.mark.parametrize("checkpoint", BOTH)
def test_queries_and_keys_are_normed_over_all_heads_and_rotated_by_halves(checkpoint):
    plan = olmo2.record(olmo2.read_config(checkpoint))
    norms = [op.operands() for op in plan.ops if op.kind is OpKind.HEAD_NORM][:2]
    assert [(op["offset"], op["num_heads"], op["head_dim"]) for op in norms] == [(0, 1, 48), (48, 1, 16)]
    assert {op.operands()["style"] for op in plan.ops if op.kind is OpKind.ROPE} == {RopeStyle.HALVES}


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (gguf_checkpoint("olmo2", attention__sliding_window=8), r"olmo2\.attention\.sliding_window = 8"),
        (folder_checkpoint("olmo2", layer_types=["sliding_attention", "full_attention"]), "layer_types"),
        (folder_checkpoint("olmo2", hidden_act="relu"), "hidden_act = 'relu'"),
    ],
)
def test_what_olmo3_adds_and_what_is_not_done_is_refused(checkpoint, message):
    with pytest.raises(ModelFileError, match=message):
        olmo2.read_config(checkpoint)


def test_a_norm_in_front_of_a_branch_would_go_unread_and_is_refused():
    checkpoint = gguf_checkpoint("olmo2")
    checkpoint.shapes["blk.0.attn_norm.weight"] = (48,)
    with pytest.raises(ModelFileError, match=r"blk\.0\.attn_norm\.weight: the file holds a tensor"):
        olmo2.read_config(checkpoint)
