"""How Granite's multipliers are folded into the Llama decoder."""

import numpy as np
import pytest
from tests.unit.models.memory_checkpoint import folder_checkpoint, gguf_checkpoint

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import OpKind, RopeStyle
from headrace.models import granite, llama
from headrace.models.load import read_vector

FOLDER = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.125,
    "logits_scaling": 8.0,
}
GGUF = {"embedding_scale": 12.0, "residual_scale": 0.5, "attention__scale": 0.125, "logit_scale": 8.0}
BOTH = [folder_checkpoint("granite", **FOLDER), gguf_checkpoint("granite", **GGUF)]


@pytest.mark.parametrize("checkpoint", BOTH)
def test_multipliers_become_scales_that_cost_nothing(checkpoint):
    plan = llama.record(granite.read_config(checkpoint))
    embed, norm, attend = (
        next(op.operands() for op in plan.ops if op.kind is kind)
        for kind in (OpKind.EMBED, OpKind.RMS_NORM, OpKind.ATTENTION)
    )
    assert (embed["scale"], attend["scale"]) == (24.0, 0.125)
    assert norm["eps"] == pytest.approx(1e-5 / 0.25)
    plain = llama.record(llama.read_config(folder_checkpoint()))
    assert [op.kind for op in plan.ops] == [op.kind for op in plain.ops]


@pytest.mark.parametrize("checkpoint", BOTH)
def test_the_last_norm_divides_by_the_scale_of_logits(checkpoint):
    plan = llama.record(granite.read_config(checkpoint))
    last = plan.vectors[-1]
    assert [spec.scale for spec in plan.vectors if spec is not last] == [1.0] * (len(plan.vectors) - 1)
    checkpoint.vectors[last.name] = np.full(48, 4.0, dtype=np.float32)
    np.testing.assert_array_equal(read_vector(last, checkpoint), np.full(48, 0.5, dtype=np.float32))


def test_rows_of_q_and_k_are_in_the_order_of_their_format():
    styles = [granite.read_config(checkpoint).rope_style for checkpoint in BOTH]
    assert styles == [RopeStyle.HALVES, RopeStyle.ADJACENT]


def test_what_a_file_leaves_out_is_one_except_the_scale_of_gguf_scores():
    assert granite.read_config(folder_checkpoint("granite")).query_scale == 1.0
    config = granite.read_config(gguf_checkpoint("granite"))
    assert (config.query_scale, config.embedding_scale, config.final_scale) == (0.25, 1.0, 1.0)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (folder_checkpoint("granite", **(FOLDER | {"residual_multiplier": 0.0})), "residual_multiplier = 0.0"),
        (folder_checkpoint("granite", **(FOLDER | {"logits_scaling": "8"})), "logits_scaling = '8'"),
        (folder_checkpoint("granite", mlp_bias=True), "mlp_bias = True"),
        (gguf_checkpoint("granite", expert_count=8), r"granite\.expert_count = 8"),
        (gguf_checkpoint("granite", rope__scaling__finetuned=False), r"rope\.scaling\.finetuned = False"),
    ],
)
def test_what_is_not_done_is_refused(checkpoint, message):
    with pytest.raises(ModelFileError, match=message):
        granite.read_config(checkpoint)


@pytest.mark.parametrize("name", ["logit_scale", "residual_scale", "embedding_scale", "attention__scale"])
def test_other_families_still_refuse_multipliers(name):
    with pytest.raises(ModelFileError, match=name.replace("__", ".")):
        llama.read_config(gguf_checkpoint(**{name: 0.5}))
