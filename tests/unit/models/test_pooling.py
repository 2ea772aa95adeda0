"""How vectors come of hidden states, from what the files beside a model say; and what they must not say."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.models.memory_checkpoint import MemoryCheckpoint

from headrace.core.errors import ModelFileError
from headrace.models.pooling import Pooling, PoolingKind, ScoreActivation, read_activation, read_pooling

FOLDER = MemoryCheckpoint("safetensors", {}, {})
MODULES = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"]
NORMALIZE = "sentence_transformers.models.Normalize"


def write(folder: Path, modules: list[str], mode: dict[str, Any], **files: dict[str, Any]) -> Path:
    entries = [
        {"idx": i, "path": f"{i}_{kind.rpartition('.')[2]}" if i else "", "type": kind}
        for i, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(mode))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, PoolingKind.MEAN),
        ({"pooling_mode_cls_token": True}, PoolingKind.FIRST),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, PoolingKind.LAST),
        ({"pooling_mode": "cls"}, PoolingKind.FIRST),
        ({"pooling_mode": "mean"}, PoolingKind.MEAN),
    ],
)
def test_the_modules_of_a_folder_say_which_rows_and_whether_to_normalise(
    tmp_path: Path, mode: dict[str, Any], kind: PoolingKind
) -> None:
    folder = write(tmp_path, [*MODULES, NORMALIZE], mode, sentence_bert_config={"max_seq_length": 256})
    assert read_pooling(FOLDER, folder, is_whole=True) == Pooling(kind=kind, normalizes=True, max_tokens=256)


def test_without_a_normalize_module_vectors_keep_their_length(tmp_path: Path) -> None:
    folder = write(tmp_path, MODULES, {"pooling_mode_mean_tokens": True})
    pooling = read_pooling(FOLDER, folder, is_whole=True)
    assert pooling == Pooling(kind=PoolingKind.MEAN, normalizes=False)
    assert pooling.finish(np.array([3.0, 4.0], np.float32)).tolist() == [3.0, 4.0]


@pytest.mark.parametrize(("is_whole", "kind"), [(True, PoolingKind.MEAN), (False, PoolingKind.LAST)])
def test_a_model_that_says_nothing_pools_as_its_kind_does(tmp_path: Path, is_whole: bool, kind: PoolingKind) -> None:
    assert read_pooling(FOLDER, tmp_path, is_whole=is_whole) == Pooling(kind=kind)


@pytest.mark.parametrize(
    ("value", "kind"), [(1, PoolingKind.MEAN), (2, PoolingKind.FIRST), (3, PoolingKind.LAST), (0, None), (None, None)]
)
def test_a_gguf_file_says_it_with_a_number(tmp_path: Path, value: int | None, kind: PoolingKind | None) -> None:
    file = MemoryCheckpoint("gguf", {"general.architecture": "qwen3", "qwen3.pooling_type": value}, {})
    assert read_pooling(file, tmp_path, is_whole=False) == Pooling(kind=kind or PoolingKind.LAST)


def test_a_default_prompt_stands_before_every_text(tmp_path: Path) -> None:
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": "query"}
    folder = write(tmp_path, MODULES, {"pooling_mode_cls_token": True}, config_sentence_transformers=prompts)
    assert read_pooling(FOLDER, folder, is_whole=True).prefix == "query: "


@pytest.mark.parametrize(
    ("modules", "mode", "files", "message"),
    [
        (
            [*MODULES, "sentence_transformers.models.Dense"],
            {"pooling_mode": "cls"},
            {},
            "Pooling, Dense: not supported",
        ),
        (["sentence_transformers.models.CLIPModel"], {}, {}, "modules CLIPModel: not supported"),
        (MODULES, {"pooling_mode_max_tokens": True}, {}, "pooling mode 'max_tokens': not supported"),
        (MODULES, {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, {}, "max_tokens, mean_tokens"),
        (MODULES, {}, {}, "pooling mode ''"),
        (MODULES, {"pooling_mode": ["mean"]}, {}, "pooling mode"),
        (MODULES, {"pooling_mode": "cls"}, {"sentence_bert_config": {"max_seq_length": "x"}}, "max_seq_length = 'x'"),
        (MODULES, {"pooling_mode": "cls"}, {"sentence_bert_config": {"do_lower_case": True}}, "do_lower_case = True"),
        (
            MODULES,
            {"pooling_mode": "cls"},
            {"config_sentence_transformers": {"default_prompt_name": "q", "prompts": {}}},
            "default_prompt_name = 'q'",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, modules: list[str], mode: dict[str, Any], files: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_pooling(FOLDER, write(tmp_path, modules, mode, **files), is_whole=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "not a JSON list"),
        ("[1]", "not a module with type and path"),
        ('[{"type": "a.Transformer", "path": "../x"}]', "not the name of a folder beside it"),
        ('[{"type": "a.Transformer", "path": "/etc"}]', "not the name of a folder beside it"),
        ("[", "not valid JSON"),
    ],
)
def test_a_list_of_modules_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ModelFileError, match=message):
        read_pooling(FOLDER, tmp_path, is_whole=True)


def test_a_pooling_module_whose_config_is_missing_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, MODULES, {})
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"1_Pooling/config\.json: cannot be read"):
        read_pooling(FOLDER, folder, is_whole=True)


def test_a_gguf_pooling_that_is_unknown_is_refused(tmp_path: Path) -> None:
    for value in (7, [1], "mean"):
        file = MemoryCheckpoint("gguf", {"general.architecture": "bert", "bert.pooling_type": value}, {})
        with pytest.raises(ModelFileError, match=r"bert\.pooling_type = "):
            read_pooling(file, tmp_path, is_whole=True)


def test_a_vector_is_brought_to_length_one_and_again_when_it_is_cut() -> None:
    pooling = Pooling(kind=PoolingKind.MEAN)
    vector = np.array([3.0, 4.0, 12.0], np.float32)
    assert np.allclose(pooling.finish(vector), vector / 13)
    assert np.allclose(pooling.finish(vector, 2), [0.6, 0.8])
    assert pooling.finish(np.zeros(3, np.float32)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("metadata", "num_labels", "activation"),
    [
        ({}, 1, ScoreActivation.SIGMOID),
        ({}, 3, ScoreActivation.IDENTITY),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, 1, ScoreActivation.IDENTITY),
        (
            {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
            2,
            ScoreActivation.SIGMOID,
        ),
        ({"sentence_transformers": {"version": "5"}}, 1, ScoreActivation.SIGMOID),
    ],
)
def test_a_score_passes_through_what_the_config_says(
    metadata: dict[str, Any], num_labels: int, activation: ScoreActivation
) -> None:
    assert read_activation(MemoryCheckpoint("safetensors", metadata, {}), num_labels) is activation


def test_an_activation_that_is_unknown_is_refused() -> None:
    metadata = {"sentence_transformers": {"activation_fn": "torch.nn.Softmax"}}
    with pytest.raises(ModelFileError, match=r"'torch\.nn\.Softmax'"):
        read_activation(MemoryCheckpoint("safetensors", metadata, {}), 1)


def test_the_sigmoid_neither_overflows_nor_loses_small_probabilities() -> None:
    apply = ScoreActivation.SIGMOID.apply
    assert [apply(0.0), apply(1000.0), apply(-1000.0)] == [0.5, 1.0, 0.0]
    assert math.isclose(apply(-30.0), math.exp(-30), rel_tol=1e-9)
    assert ScoreActivation.IDENTITY.apply(-7.5) == -7.5
