"""What files of all decoder families may say: with a head or without, causal or not, and what is never ignored."""

import pytest
from tests.unit.models.memory_checkpoint import folder_checkpoint, gguf_checkpoint

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import AttentionMode, OpKind
from headrace.models import llama, qwen2, qwen3
from headrace.models.family import FOREIGN
from headrace.models.registry import architecture_for


def without_head(model_type, class_name, **changes):
    """As transformers saves a model that never had a head: no prefix, no lm_head."""
    checkpoint = folder_checkpoint(model_type, architectures=[class_name], **changes)
    shapes = {name.removeprefix("model."): shape for name, shape in checkpoint.shapes.items()}
    del shapes["lm_head.weight"]
    checkpoint.shapes = shapes
    return checkpoint


@pytest.mark.parametrize(("model_type", "class_name"), [("qwen3", "Qwen3Model"), ("qwen2", "Qwen2Model")])
def test_a_model_without_a_head_ends_with_its_last_norm(model_type, class_name):
    checkpoint = without_head(model_type, class_name)
    architecture = architecture_for(checkpoint)
    plan = architecture.record(architecture.read_config(checkpoint, None))
    assert plan.ops[-1].kind is OpKind.RMS_NORM
    assert (plan.buffers[plan.output].width, plan.is_whole) == (48, False)
    assert "layers.1.mlp.down_proj.weight" in [part for spec in plan.matrices for part in spec.parts]


def test_a_tied_head_works_under_names_without_a_prefix_too():
    checkpoint = without_head("qwen3", "Qwen3ForCausalLM", tie_word_embeddings=True)
    plan = llama.record(qwen3.read_config(checkpoint))
    assert (plan.ops[-1].kind, plan.ops[-1].operands()["matrix"]) == (OpKind.LINEAR, 0)
    assert plan.matrices[0].name == "embed_tokens.weight"


@pytest.mark.parametrize("checkpoint", [gguf_checkpoint(attention__causal=False), folder_checkpoint(is_causal=False)])
def test_a_decoder_that_looks_both_ways_is_computed_whole_and_has_no_head(checkpoint):
    plan = llama.record(llama.read_config(checkpoint))
    modes = {op.operands()["mode"] for op in plan.ops if op.kind is OpKind.ATTENTION}
    assert modes == {AttentionMode.BIDIRECTIONAL}
    assert plan.is_whole and plan.ops[-1].kind is OpKind.RMS_NORM


def test_windows_that_look_both_ways_are_refused():
    checkpoint = folder_checkpoint("qwen2", is_causal=False, use_sliding_window=True, sliding_window=8)
    checkpoint.metadata["max_window_layers"] = 1
    with pytest.raises(ModelFileError, match="is_causal = False: not supported for layers with a window"):
        qwen2.read_config(checkpoint)


@pytest.mark.parametrize("pattern", FOREIGN["safetensors"])
@pytest.mark.parametrize("has_prefix", [True, False])
def test_no_tensor_that_would_change_the_result_goes_unread(pattern, has_prefix):
    checkpoint = folder_checkpoint("qwen3") if has_prefix else without_head("qwen3", "Qwen3Model")
    name = pattern if has_prefix else pattern.removeprefix("model.")
    checkpoint.shapes[name.format(1)] = (48,)
    with pytest.raises(ModelFileError, match="the file holds a tensor that this architecture does not read"):
        qwen3.read_config(checkpoint)


@pytest.mark.parametrize("pattern", FOREIGN["gguf"])
def test_nor_in_a_gguf_file(pattern):
    checkpoint = gguf_checkpoint("qwen3")
    checkpoint.shapes[pattern.format(1)] = (48,)
    with pytest.raises(ModelFileError, match="the file holds a tensor that this architecture does not read"):
        qwen3.read_config(checkpoint)
