"""In what Qwen3 differs from Llama."""

import pytest
from tests.unit.models.memory_checkpoint import folder_checkpoint, gguf_checkpoint

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import OpKind, RopeStyle
from headrace.models import llama, qwen3


@pytest.mark.parametrize("checkpoint", [gguf_checkpoint("qwen3"), folder_checkpoint("qwen3")])
def test_query_and_key_heads_are_normed_before_they_rotate(checkpoint):
    config = qwen3.read_config(checkpoint, None)
    assert config.rope_style is RopeStyle.HALVES
    kinds = [op.kind for op in llama.record(config).ops]
    first = kinds.index(OpKind.HEAD_NORM)
    assert kinds[first : first + 4] == [OpKind.HEAD_NORM, OpKind.HEAD_NORM, OpKind.ROPE, OpKind.ROPE]
    norms = [op.operands() for op in llama.record(config).ops if op.kind is OpKind.HEAD_NORM][:2]
    assert [(op["offset"], op["num_heads"]) for op in norms] == [(0, 3), (48, 1)]


def test_a_head_is_as_wide_as_the_file_says():
    checkpoint = folder_checkpoint("qwen3", head_dim=...)
    with pytest.raises(ModelFileError, match=r"asks for \(384, 48\)"):  # 128 where nothing is said, as transformers
        qwen3.read_config(checkpoint, None)


def test_biases_are_refused():
    with pytest.raises(ModelFileError, match="attention_bias = True"):
        qwen3.read_config(folder_checkpoint("qwen3", attention_bias=True), None)


def test_missing_head_norms_are_refused():
    checkpoint = gguf_checkpoint("qwen3")
    del checkpoint.shapes["blk.0.attn_k_norm.weight"]
    with pytest.raises(ModelFileError, match=r"blk\.0\.attn_k_norm\.weight"):
        qwen3.read_config(checkpoint, None)
