"""Adapters beside experts: they may change attention, and whatever would change an expert is refused by name.

As in `test_adapters`, merging weights by hand is the oracle.
"""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.oracle import tiny_experts
from tests.oracle.assembly import assemble, reference_logits
from tests.oracle.expert_files import write_folder
from tests.oracle.test_adapters import EXACT_BOUND, adapted_logits, deviation, native_program, root_mean_square
from tests.oracle.test_tiny_experts import tokens
from tests.oracle.test_tiny_models_native import native_logits
from tests.oracle.tiny_adapters import TinyAdapter, write_peft

from headrace.adapters.load import load_adapter
from headrace.adapters.plan import adapted
from headrace.core.errors import ModelFileError
from headrace.kernels.plan import OpKind
from headrace.models.safetensors import SafetensorsFolder


def adapter_of(name: str, *ends: str) -> TinyAdapter:
    """Exact factors of rank 4 for the tensors of every layer that end so."""
    factors = {}
    for tensor, shape in tiny_experts.shapes(tiny_experts.CONFIGS[name]).items():
        if not tensor.endswith(tuple(f"{end}.weight" for end in ends)):
            continue
        random = np.random.RandomState(len(factors))
        codes = [random.randint(-127, 128, size=size).astype(np.float32) for size in ((4, shape[1]), (shape[0], 4))]
        for each in codes:
            each[:, ::32] = np.where(each[:, ::32] < 0, np.float32(-127), np.float32(127))
        factors[tensor] = codes[0] * np.float32(2.0**-9), codes[1] * np.float32(2.0**-10)
    return TinyAdapter(name, factors, 4, 8.0)


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "qwen3-moe"])
def test_an_adapter_of_attention_gives_the_logits_of_merged_weights(name: str, tmp_path: Path) -> None:
    adapter = adapter_of(name, "q_proj", "v_proj")
    merged = tiny_experts.weights(name)
    for tensor, (a, b) in adapter.factors.items():
        merged[tensor] = merged[tensor] + np.float32(adapter.scale(tensor)) * (b @ a)
    base = write_folder(name, tmp_path)
    model = assemble(SafetensorsFolder(base))
    architecture = tiny_experts.CONFIGS[name]["model_type"]
    logits = adapted_logits(model, architecture, write_peft(adapter, tmp_path / "adapter"), tokens(name))
    plain = reference_logits(model, tokens(name), (len(tokens(name)),), exact=True)
    # Merged weights do not fit 8 bits: qkv goes in as floats.
    matrices = list(model.matrices)
    for index, spec in enumerate(model.plan.matrices):
        if spec.name.endswith("qkv"):
            matrices[index] = Floats(np.concatenate([merged[part] for part in spec.parts]))
    exact = reference_logits(type(model)(model.plan, matrices, model.vectors), tokens(name), (71,), exact=True)
    assert root_mean_square(deviation(logits, exact)) < EXACT_BOUND
    assert root_mean_square(deviation(plain, exact)) > 0.05


class Floats:
    """As much of `GroupedMatrix` as the reference needs, in float32."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.rows, self.cols = values.shape

    def dequantize(self) -> np.ndarray:
        return self.values


@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe"])
def test_rows_without_an_adapter_get_the_bits_of_the_plain_plan(name: str, tmp_path: Path) -> None:
    model = assemble(SafetensorsFolder(write_folder(name, tmp_path)))
    program = native_program(model)
    loaded = load_adapter(
        write_peft(adapter_of(name, "q_proj"), tmp_path / "adapter"), program, name="it", architecture=name
    )
    plan = adapted(model.plan)
    assert [op for op in plan.ops if op.kind is OpKind.EXPERTS] == [
        op for op in model.plan.ops if op.kind is OpKind.EXPERTS
    ]
    whole = (len(tokens(name)),)
    got = native_logits(type(model)(plan, model.matrices, model.vectors), tokens(name), whole)
    np.testing.assert_array_equal(got, native_logits(model, tokens(name), whole))
    assert loaded.num_layers == 2


@pytest.mark.parametrize(
    ("name", "end", "message"),
    [
        ("qwen3-moe", "experts.1.gate_proj", r"experts\.1\.gate_proj\.lora_A\.weight' is not supported"),
        ("mixtral", "experts.0.w2", r"experts\.0\.w2\.lora_A\.weight' is not supported"),
        ("qwen3-moe", "mlp.gate", r"mlp\.gate\.lora_A\.weight' is not supported"),
        ("qwen2-moe", "shared_expert.up_proj", r"shared_expert\.up_proj\.lora_A\.weight' is not supported"),
    ],
)
def test_an_adapter_that_changes_an_expert_is_refused_by_name(
    name: str, end: str, message: str, tmp_path: Path
) -> None:
    program = native_program(assemble(SafetensorsFolder(write_folder(name, tmp_path))))
    with pytest.raises(ModelFileError, match=message):
        load_adapter(write_peft(adapter_of(name, end), tmp_path / "it"), program, name="it", architecture=name)


def test_an_adapter_of_a_dense_layer_is_refused_where_experts_stand(tmp_path: Path) -> None:
    program = native_program(assemble(SafetensorsFolder(write_folder("qwen3-moe", tmp_path))))
    folder = write_peft(adapter_of("qwen3-moe", "q_proj"), tmp_path / "it")
    module = "base_model.model.model.layers.1.mlp.up_proj"
    tensors = {f"{module}.lora_A.weight": np.zeros((4, 64), np.float32)}
    tensors |= {f"{module}.lora_B.weight": np.zeros((100, 4), np.float32)}
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ModelFileError, match=r"changes up of layer 1, which has experts in its place.*attention alone"):
        load_adapter(folder, program, name="it", architecture="qwen3_moe")
