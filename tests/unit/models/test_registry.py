"""Which architecture a file's own words lead to."""

import pytest
from tests.unit.models.memory_checkpoint import folder_checkpoint, gguf_checkpoint

from headrace.core.errors import ModelFileError
from headrace.models.registry import architecture_for


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma2", "phi3", "granite", "olmo2", "smollm3"])
def test_a_gguf_file_names_its_architecture(name):
    assert architecture_for(gguf_checkpoint(name)).name == name


@pytest.mark.parametrize(
    "name", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "granite", "olmo2", "smollm3"]
)
def test_a_folder_names_its_model_type(name):
    architecture = architecture_for(folder_checkpoint(name))
    assert architecture.name == name
    assert architecture.record(architecture.read_config(folder_checkpoint(name), None)).vocab_size == 70


def test_a_llama_file_with_experts_is_mixtral():
    assert architecture_for(gguf_checkpoint(expert_count=8)).name == "mixtral"
    assert architecture_for(gguf_checkpoint(expert_count=0)).name == "llama"


def test_a_folder_need_not_name_its_class():
    assert architecture_for(folder_checkpoint("qwen2", architectures=...)).name == "qwen2"


def test_unknown_architectures_are_refused_with_the_known_ones():
    checkpoint = gguf_checkpoint()
    checkpoint.metadata["general.architecture"] = "mamba"
    with pytest.raises(ModelFileError, match=r"general\.architecture = 'mamba' .* llama, qwen2, qwen3"):
        architecture_for(checkpoint)
    with pytest.raises(ModelFileError, match=r"model_type = 'deepseek_v3' .* llama, mistral, qwen2, qwen3"):
        architecture_for(folder_checkpoint(model_type="deepseek_v3"))
    with pytest.raises(ModelFileError, match="model_type = None"):
        architecture_for(folder_checkpoint(model_type=...))


def test_a_model_with_another_head_is_refused():
    with pytest.raises(ModelFileError, match=r"architectures = .'LlamaForSequenceClassification'."):
        architecture_for(folder_checkpoint(architectures=["LlamaForSequenceClassification"]))
