"""What a model's files say of it: read from headers, and refused where they are broken."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from headrace.core.errors import ModelFileError
from headrace.models.describe import describe


def test_a_gguf_file_tells_its_size_family_parameters_and_template(smollm2_path: Path) -> None:
    details = describe(smollm2_path)
    assert (details.format, details.family, details.quantization) == ("gguf", "llama", "Q4_1")
    assert (details.num_bytes, details.num_parameters) == (smollm2_path.stat().st_size, 134_515_008)
    assert (details.context_length, details.embedding_length) == (8192, 576)
    assert "im_start" in details.template
    assert details.metadata["llama.block_count"] == 30
    assert "tokenizer.ggml.tokens" not in details.metadata
    json.dumps(dict(details.metadata))


def test_a_folder_of_safetensors_tells_what_its_config_says(tmp_path: Path) -> None:
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}, tmp_path / "model.safetensors")
    config = {"model_type": "qwen3", "max_position_embeddings": 99, "hidden_size": 4, "torch_dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen3ForCausalLM"]}))
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    details = describe(tmp_path)
    assert (details.format, details.family, details.quantization) == ("safetensors", "qwen3", "BFLOAT16")
    assert (details.num_parameters, details.context_length, details.embedding_length) == (17, 99, 4)
    assert (details.template, details.metadata["architectures"]) == ("{{ messages }}", ["Qwen3ForCausalLM"])


def test_a_broken_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match="truncated or corrupt"):
        describe(tmp_path / "a.gguf")
