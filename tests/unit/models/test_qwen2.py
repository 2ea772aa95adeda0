"""In what Qwen2 differs from Llama."""

import pytest
from tests.unit.models.memory_checkpoint import folder_checkpoint, gguf_checkpoint

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import OpKind, RopeStyle
from headrace.models import llama, qwen2


@pytest.mark.parametrize("checkpoint", [gguf_checkpoint("qwen2"), folder_checkpoint("qwen2")])
def test_q_k_and_v_have_biases_and_heads_rotate_by_halves(checkpoint):
    config = qwen2.read_config(checkpoint, None)
    assert config.rope_style is RopeStyle.HALVES
    linears = [op.operands()["bias"] >= 0 for op in llama.record(config).ops if op.kind is OpKind.LINEAR]
    assert linears == [True, False, False] * 2 + [False]


def test_a_file_without_the_biases_is_refused():
    checkpoint = gguf_checkpoint("qwen2")
    del checkpoint.shapes["blk.1.attn_k.bias"]
    with pytest.raises(ModelFileError, match=r"blk\.1\.attn_k\.bias"):
        qwen2.read_config(checkpoint, None)


def test_a_window_that_is_switched_off_is_no_window():
    off = folder_checkpoint("qwen2", use_sliding_window=False, sliding_window=8, max_window_layers=1)
    assert qwen2.read_config(off, None).windows == (0, 0)


@pytest.mark.parametrize(
    "how", [{"max_window_layers": 1}, {"layer_types": ["full_attention", "sliding_attention"], "max_window_layers": 0}]
)
def test_windows_begin_at_the_layer_that_the_config_names(how):
    on = folder_checkpoint("qwen2", use_sliding_window=True, sliding_window=8, **how)
    assert qwen2.read_config(on, None).windows == (0, 8)


def test_windows_that_cannot_be_placed_are_refused():
    odd = folder_checkpoint("qwen2", use_sliding_window=True, layer_types=["full_attention", "linear_attention"])
    with pytest.raises(ModelFileError, match="layer_types"):
        qwen2.read_config(odd, None)
    with pytest.raises(ModelFileError, match=r"qwen2\.attention\.sliding_window = 8"):
        qwen2.read_config(gguf_checkpoint("qwen2", attention__sliding_window=8), None)
