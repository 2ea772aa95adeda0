"""What files of mixtures of experts say and must not say, how experts are read, and what their plan looks like."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.oracle import tiny_experts
from tests.oracle.expert_files import FORMS, write_folder, write_gguf

from headrace.core.errors import ModelFileError
from headrace.kernels.grouped import unpack
from headrace.kernels.plan import OpKind, padded
from headrace.models import moe
from headrace.models.expert_weights import packed_experts, read_experts, stacked_experts
from headrace.models.gguf import GgufFile
from headrace.models.load import fingerprint
from headrace.models.registry import architecture_for
from headrace.models.safetensors import SafetensorsFolder


def folder(name: str, path: Path, changes: dict[str, Any] | None = None, drop: str = "", **more: Any) -> moe.Config:
    """The config of a tiny model, some fields changed (... removes one) and a tensor left out or put in."""
    write_folder(name, path)
    fields = {**tiny_experts.CONFIGS[name], **(changes or {})}
    (path / "config.json").write_text(json.dumps({key: value for key, value in fields.items() if value is not ...}))
    tensors = {tensor: values for tensor, values in tiny_experts.weights(name).items() if tensor != drop} | more
    save_file(tensors, path / "model.safetensors")
    checkpoint = SafetensorsFolder(path)
    config = architecture_for(checkpoint).read_config(checkpoint, None)
    assert isinstance(config, moe.Config)
    return config


def test_what_a_config_says_of_its_experts_is_read(tmp_path: Path) -> None:
    config = folder("qwen2-moe-some-dense", tmp_path)
    assert (config.num_experts, config.num_used, config.expert_width, config.shared_width) == (4, 2, 64, 33)
    assert config.renormalises and not config.has_qkv_bias
    assert config.is_sparse == (False, True, False, False, False)


def test_the_number_of_experts_may_have_either_name(tmp_path: Path) -> None:
    assert folder("qwen3-moe", tmp_path, {"num_experts": ..., "num_local_experts": 9}).num_experts == 9


def test_a_layer_of_experts_routes_before_it_quantises(tmp_path: Path) -> None:
    plan = moe.record(folder("qwen2-moe", tmp_path))
    kinds = [op.kind for op in plan.ops]
    first = kinds.index(OpKind.ROUTE)
    assert kinds[first - 1 : first + 6] == [
        OpKind.RMS_NORM,
        OpKind.ROUTE,
        OpKind.QUANTIZE,
        OpKind.EXPERTS,
        OpKind.GATED,
        OpKind.LINEAR,
        OpKind.ADD_GATED,
    ]
    assert kinds.count(OpKind.EXPERTS) == 2


BAD_FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("mixtral", {"num_local_experts": ...}, "num_local_experts is missing"),
    ("mixtral", {"num_local_experts": 5000}, r"num_local_experts = 5000: must be within \[1, 4096\]"),
    ("mixtral", {"num_experts_per_tok": 6}, "num_experts_per_tok = 6: more than the 5 experts"),
    ("mixtral", {"num_experts_per_tok": 0}, "num_experts_per_tok = 0"),
    (
        "mixtral",
        {"num_local_experts": 4},
        r"gate\.weight: shape \(5, 64\)",
    ),
    ("qwen3-moe", {"num_experts": 10}, r"router|mlp\.gate\.weight: shape \(9, 64\)"),
    ("qwen3-moe", {"use_sliding_window": True, "sliding_window": 9}, "use_sliding_window = True|layer_types"),
    ("qwen3-moe", {"mlp_only_layers": [2]}, r"mlp_only_layers = \[2\]"),
    ("qwen3-moe", {"mlp_only_layers": [1]}, r"layers\.1\.mlp"),
    ("qwen3-moe", {"decoder_sparse_step": 0}, "decoder_sparse_step = 0"),
    ("qwen3-moe", {"norm_topk_prob": 1}, "norm_topk_prob = 1: true or false"),
    ("qwen3-moe", {"moe_intermediate_size": ...}, "moe_intermediate_size is missing"),
    ("qwen3-moe", {"moe_intermediate_size": 41}, r"experts\.0\.gate_proj\.weight: shape \(40, 64\)"),
    ("qwen3-moe", {"routed_scaling_factor": 2.5}, "routed_scaling_factor = 2.5"),
    ("qwen3-moe", {"scoring_func": "sigmoid"}, "scoring_func = 'sigmoid'"),
    ("qwen3-moe", {"n_group": 8}, "n_group = 8"),
    ("qwen2-moe", {"shared_expert_intermediate_size": 71}, r"shared_expert\.gate_proj\.weight: shape \(70, 64\)"),
    ("qwen2-moe", {"qkv_bias": False}, r"q_proj\.bias: the file holds a tensor"),
    ("olmoe", {"clip_qkv": 8.0}, "clip_qkv = 8.0"),
]


@pytest.mark.parametrize(("name", "changes", "message"), BAD_FIELDS)
def test_a_config_that_does_not_fit_is_refused_by_field_and_value(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        folder(name, tmp_path, changes)


@pytest.mark.parametrize("tensor", ["mlp.experts.5.up_proj.weight", "mlp.gate.weight", "mlp.shared_expert_gate.weight"])
def test_a_missing_tensor_is_refused_by_name(tmp_path: Path, tensor: str) -> None:
    with pytest.raises(ModelFileError, match=f"layers.1.{tensor}"):
        folder("qwen2-moe", tmp_path, drop=f"model.layers.1.{tensor}")


def test_a_shared_expert_that_the_family_does_not_have_is_refused(tmp_path: Path) -> None:
    extra = {"model.layers.0.mlp.shared_expert.gate_proj.weight": np.zeros((40, 64), np.float32)}
    with pytest.raises(ModelFileError, match=r"shared_expert\.gate_proj\.weight: the file holds a tensor"):
        folder("qwen3-moe", tmp_path, **extra)


def test_an_expert_that_nobody_counted_is_refused(tmp_path: Path) -> None:
    extra = {"model.layers.0.block_sparse_moe.experts.5.w1.weight": np.zeros((100, 64), np.float32)}
    with pytest.raises(ModelFileError, match=r"experts\.5\.w1\.weight: the file holds an expert"):
        folder("mixtral", tmp_path, **extra)


BAD_KEYS = [
    ("expert_count", 6, r"ffn_gate_inp\.weight: shape \(5, 64\)"),
    ("expert_used_count", 9, r"llama\.expert_used_count = 9: more than the 5 experts"),
    ("expert_weights_scale", 2.5, r"llama\.expert_weights_scale = 2\.5"),
    ("expert_gating_func", 2, r"llama\.expert_gating_func = 2"),
    ("expert_group_count", 4, r"llama\.expert_group_count = 4"),
    ("leading_dense_block_count", 1, r"llama\.leading_dense_block_count = 1"),
]


@pytest.mark.parametrize(("key", "value", "message"), BAD_KEYS)
def test_gguf_metadata_that_does_not_fit_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    checkpoint = GgufFile(write_gguf("mixtral", tmp_path / "model.gguf"))
    checkpoint._metadata = {**checkpoint.metadata, f"llama.{key}": value}  # type: ignore[assignment]
    with pytest.raises(ModelFileError, match=message):
        architecture_for(checkpoint).read_config(checkpoint, None)


def test_experts_of_both_formats_are_read_into_the_same_places(tmp_path: Path) -> None:
    checkpoints = [
        SafetensorsFolder(write_folder("olmoe", tmp_path)),
        GgufFile(write_gguf("olmoe", tmp_path / "x.gguf")),
    ]
    weights = tiny_experts.weights("olmoe")
    for checkpoint in checkpoints:
        architecture = architecture_for(checkpoint)
        plan = architecture.record(architecture.read_config(checkpoint, None))
        both, down = (spec for spec in plan.matrices if spec.name.startswith("layer 1 experts"))
        matrices = stacked_experts(both, checkpoint).dequantize().reshape(8, -1, 2, 32, 64)
        downs = stacked_experts(down, checkpoint).dequantize().reshape(8, 64, 100)
        for expert in range(8):
            name = f"model.layers.1.mlp.experts.{expert}"
            for side, role in enumerate(("gate_proj", "up_proj")):
                rows = matrices[expert, :, side].reshape(-1, 64)
                assert np.array_equal(rows[:100], weights[f"{name}.{role}.weight"])
                assert not rows[100:].any()
            assert np.array_equal(downs[expert], weights[f"{name}.down_proj.weight"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("quantise", [False, True])
def test_experts_packed_one_by_one_are_those_packed_together(tmp_path: Path, quantise: bool, form: str) -> None:
    checkpoint = GgufFile(write_gguf("olmoe", tmp_path / "x.gguf", quantise, form))
    architecture = architecture_for(checkpoint)
    for spec in architecture.record(architecture.read_config(checkpoint, None)).matrices:
        if not spec.num_experts:
            continue
        packed, whole = packed_experts(spec, checkpoint), stacked_experts(spec, checkpoint)
        assert (packed.rows, packed.cols, packed.bits) == (whole.rows, whole.cols, whole.bits)
        assert packed.tiles.ctypes.data % 64 == 0
        assert packed.bits == (4 if quantise and spec.layout != "concat" else 8)
        again = unpack(packed.tiles, packed.rows, packed.cols, packed.bits, has_minimum=packed.has_minimum)
        assert np.array_equal(again.dequantize(), whole.dequantize())


def test_experts_of_another_shape_are_refused_before_they_are_read(tmp_path: Path) -> None:
    checkpoint = GgufFile(write_gguf("olmoe", tmp_path / "x.gguf"))
    architecture = architecture_for(checkpoint)
    plan = architecture.record(architecture.read_config(checkpoint, None))
    spec = next(spec for spec in plan.matrices if spec.num_experts)
    for wrong in (replace(spec, num_experts=4), replace(spec, cols=32), replace(spec, rows=8 * 2 * padded(64))):
        with pytest.raises(ModelFileError, match=r"ffn_gate_exps\.weight' has shape \(8, 100, 64\)"):
            next(read_experts(wrong, checkpoint))
    assert fingerprint(plan) != fingerprint(
        replace(plan, matrices=tuple(replace(each, num_experts=0) for each in plan.matrices))
    )


def test_experts_with_weights_of_different_types_are_refused(tmp_path: Path) -> None:
    checkpoint = SafetensorsFolder(write_folder("olmoe", tmp_path))
    architecture = architecture_for(checkpoint)
    plan = architecture.record(architecture.read_config(checkpoint, None))
    spec = next(spec for spec in plan.matrices if spec.num_experts)

    class Mixed(SafetensorsFolder):
        def grouped(self, name: str, index: int | None = None) -> Any:
            matrix = super().grouped(name, index)
            is_other = ".experts.3." in name
            return replace(matrix, minimum=np.zeros_like(matrix.scale)) if is_other else matrix

    with pytest.raises(ModelFileError, match="expert 3 has weights of another type"):
        packed_experts(spec, Mixed(tmp_path))


def test_a_stack_of_matrices_is_not_taken_for_one(tmp_path: Path) -> None:
    file = GgufFile(write_gguf("olmoe", tmp_path / "x.gguf"))
    with pytest.raises(ModelFileError, match="but a matrix is needed"):
        file.grouped("blk.0.ffn_gate_exps.weight")
    with pytest.raises(ModelFileError, match="but a matrix for each expert is needed"):
        file.grouped("blk.0.attn_q.weight", 0)
    (tmp_path / "config.json").write_text("{}")
    save_file({"stack": np.zeros((2, 3, 32), np.float32)}, tmp_path / "model.safetensors")
    stack = SafetensorsFolder(tmp_path)
    assert stack.grouped("stack", 1).rows == 3
    with pytest.raises(ModelFileError, match="but a matrix is needed"):
        stack.grouped("stack")
