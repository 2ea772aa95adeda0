"""WordPiece from GGUF metadata and from folders: the library's tokens, and no control token out of plain text."""

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from headrace.core.errors import ModelFileError
from headrace.models.tokenizer import Tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]"]
WORDS += ["un", "##aff", "##able", "run", "##ning", "mask", "cls", "sep", "[", "]", ",", "cafe", "東", "京", "a", "##b"]
NO_IDS = dict.fromkeys(("cls_token_id", "seperator_token_id", "unknown_token_id"))
TEXTS = [
    "unaffable, running",
    "UNAFFABLE Café",
    "東京 run",
    "[CLS] [MASK] sep",
    "nothing known",
    "",
    " ab  ab ",
    "a\x00b\n",
]


def gguf(**changes: Any) -> dict[str, Any]:
    """As the converter writes it: a mark before what begins a word, none before what continues one."""
    tokens = [w if w.startswith("[") and w.endswith("]") else w[2:] if w.startswith("##") else "▁" + w for w in WORDS]
    values = {
        "model": "bert",
        "tokens": tokens,
        "token_type": [3, 2, 3, 3, 3] + [1] * (len(tokens) - 5),
        "cls_token_id": 2,
        "seperator_token_id": 3,
        "unknown_token_id": 1,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def library(lowercase: bool = True) -> tokenizers.Tokenizer:
    """The same tokenizer as a `tokenizer.json` describes it."""
    vocab = {word: i for i, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def test_a_gguf_file_gives_the_librarys_tokens() -> None:
    tokenizer = Tokenizer.deserialize(Tokenizer.from_gguf(gguf()).serialize())
    for text in TEXTS:
        assert tokenizer.encode(text) == library().encode(text).ids, text
    assert tokenizer.token_text(7) == "##aff" and tokenizer.token_text(6) == "un"


def test_a_folder_gives_the_librarys_tokens(tmp_path: Path) -> None:
    made = library()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_files(tmp_path)
    for text in TEXTS:
        assert tokenizer.encode_input(text)[0] == made.encode(text).ids, text
        ids, segments = tokenizer.encode_input(text, "run")
        wanted = made.encode(text, "run")
        assert (ids, segments) == (wanted.ids, wanted.type_ids), text


def test_inputs_of_either_source_are_alike(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(gguf())
    assert tokenizer.encode_input("run") == ([2, 9, 3], [0, 0, 0])
    assert tokenizer.encode_input("run", "a") == ([2, 9, 3, 20, 3], [0, 0, 0, 1, 1])
    assert (tokenizer.bos_id, tokenizer.add_bos) == (2, True)


def test_a_vocabulary_with_capitals_keeps_case() -> None:
    metadata = gguf()
    metadata["tokenizer.ggml.tokens"][9] = "▁Run"
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.encode("Run run") == [9, 1]


@pytest.mark.parametrize("name", ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "[unused0]"])
def test_no_control_token_comes_of_plain_text(name: str) -> None:
    tokenizer = Tokenizer.from_gguf(gguf())
    ids = tokenizer.encode(f"{name} a {name}a a{name}")
    assert not {*ids} & {0, 2, 3, 4, 5}
    # Without its added tokens the library cuts brackets off, so that what is left is a word, known or not.
    assert ids == library().encode(f"{name} a {name}a a{name}").ids


def test_ids_that_are_not_stated_are_found_by_their_names() -> None:
    tokenizer = Tokenizer.from_gguf(gguf(**NO_IDS))
    assert tokenizer.encode_input("run") == ([2, 9, 3], [0, 0, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cls_token_id": 99}, "cls_token_id: 99 is outside"),
        ({"tokens": ["▁a", "b"], "token_type": [1, 1], **NO_IDS}, "cls_token_id: missing"),
        ({"tokens": None}, r"tokenizer.ggml.tokens: missing"),
        ({"token_type": [1]}, "token_type: 1 types"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        Tokenizer.from_gguf(gguf(**changes))
