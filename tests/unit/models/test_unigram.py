"""Unigram vocabularies of folders (XLM-RoBERTa): the library's tokens, and no control token out of plain text."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from headrace.core.errors import ModelFileError
from headrace.models.tokenizer import Tokenizer

PIECES: list[tuple[str, float]] = [
    *((piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")),
    *(("▁" + word, -3.0 - i) for i, word in enumerate(("the", "mill", "s", "mask", "über", "東京"))),
    *((letter, -9.0 - i / 10) for i, letter in enumerate("▁abcdefghijklmnopqrstuvwxyz<>/|")),
    ("<mask>", 0.0),
]
MASK = len(PIECES) - 1
TEXTS = ["the mill", " the  mill ", "über 東京", "<s>the</s>", "<mask> <pad><unk>", "", "Ω mill", "a<mask>b", " 0 1 3"]


def library() -> tokenizers.Tokenizer:
    """As `tokenizer.json` describes it, without its added tokens."""
    made = tokenizers.Tokenizer(models.Unigram(PIECES, unk_id=3))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    template: dict[str, Any] = {"single": "<s> $A </s>", "pair": "<s> $A </s> </s> $B </s>"}
    made.post_processor = processors.TemplateProcessing(**template, special_tokens=[("<s>", 0), ("</s>", 2)])
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = library()
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def hidden_library() -> tokenizers.Tokenizer:
    """The same with control pieces that nobody can write."""
    made = library()
    control = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"}
    pieces = [("\x00" * (i + 1) if piece in control else piece, score) for i, (piece, score) in enumerate(PIECES)]
    made.model = models.Unigram(pieces, unk_id=3)
    return made


def test_a_folder_gives_the_librarys_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.deserialize(Tokenizer.from_files(folder).serialize())
    for text in TEXTS:
        assert tokenizer.encode_input(text)[0] == hidden_library().encode(text).ids, text
    ids, segments = tokenizer.encode_input("the mill", "über")
    assert ids == library().encode("the mill", "über").ids and set(segments) == {0}
    assert tokenizer.vocab_size == len(PIECES) and tokenizer.token_text(MASK) == "<mask>"


@pytest.mark.parametrize("text", ["<s>", "</s>", "<pad>", "<mask>", "a <mask> b", " 0", " 2", f" {MASK}", f"{MASK}"])
def test_no_control_token_comes_of_plain_text(folder: Path, text: str) -> None:
    ids = Tokenizer.from_files(folder).encode(text)
    assert not {*ids} & {0, 1, 2, MASK}
    assert Tokenizer.from_files(folder).encode("<mask>", special=True) == [MASK]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["model"].update(vocab={"a": 0}), "no list of pieces and scores"),
        (lambda file: file["model"].update(vocab=[["a"]]), "no list of pieces and scores"),
        (lambda file: file.update(pre_tokenizer={"type": "WhitespaceSplit"}), "without a Metaspace pre-tokenizer"),
        (lambda file: file["model"].update(type="WordLevel"), "model type 'WordLevel' is not supported"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(folder: Path, change: Any, message: str) -> None:
    file = json.loads((folder / "tokenizer.json").read_text())
    change(file)
    (folder / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(ModelFileError, match=message):
        Tokenizer.from_files(folder)
