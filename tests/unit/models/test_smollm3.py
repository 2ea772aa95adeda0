"""Which layers of SmolLM3 rotate, and which have a window."""

import pytest
from tests.unit.models.memory_checkpoint import folder_checkpoint, gguf_checkpoint

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import OpKind
from headrace.models import llama, smollm3

LAYERS = 4


def deeper(checkpoint):
    for name, shape in list(checkpoint.shapes.items()):
        for before, after in ((".layers.1.", ".layers.{}."), ("blk.1.", "blk.{}.")):
            if before in name:
                extra = range(2, LAYERS)
                checkpoint.shapes |= {name.replace(before, after.format(layer)): shape for layer in extra}
    return checkpoint


def from_folder(**changes):
    return deeper(folder_checkpoint("smollm3", num_hidden_layers=LAYERS, **changes))


def rotating(config):
    """Layers that rotate, by what the plan records between two products."""
    counts, layer = {}, -1
    for op in llama.record(config).ops:
        layer += op.kind is OpKind.STORE_KV
        if op.kind is OpKind.ROPE:
            counts[layer + 1] = counts.get(layer + 1, 0) + 1
    assert set(counts.values()) <= {2}
    return sorted(counts)


@pytest.mark.parametrize("checkpoint", [from_folder(), deeper(gguf_checkpoint("smollm3", block_count=LAYERS))])
def test_every_fourth_layer_has_no_positions_where_nothing_is_said(checkpoint):
    assert rotating(smollm3.read_config(checkpoint)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"no_rope_layers": [0, 1, 0, 1]}, [1, 3]), ({"no_rope_layer_interval": 2}, [0, 2])],
)
def test_a_folder_may_name_the_layers_or_their_distance(changes, expected):
    assert rotating(smollm3.read_config(from_folder(**changes))) == expected


def test_layers_without_positions_have_the_window_if_one_is_used():
    used = {"use_sliding_window": True, "sliding_window": 8}
    assert smollm3.read_config(from_folder(**used)).windows == (0, 0, 0, 8)
    assert smollm3.read_config(from_folder(**used, no_rope_layers=[1, 0, 1, 1])).windows == (0, 8, 0, 0)
    kinds = ["sliding_attention"] + ["full_attention"] * 3
    assert smollm3.read_config(from_folder(**used, layer_types=kinds)).windows == (8, 0, 0, 0)
    assert smollm3.read_config(from_folder(sliding_window=8)).windows == (0,) * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_rope_layers": [1, 0]}, "no_rope_layers = .* 4 entries, 0 or 1"),
        ({"no_rope_layers": [1, 0, 2, 1]}, "no_rope_layers"),
        ({"no_rope_layer_interval": 0}, "no_rope_layer_interval = 0"),
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types"),
        ({"mlp_bias": True}, "mlp_bias = True"),
    ],
)
def test_what_is_not_done_is_refused(changes, message):
    with pytest.raises(ModelFileError, match=message):
        smollm3.read_config(from_folder(**changes))
