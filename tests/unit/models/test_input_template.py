"""Whole inputs: the tokens that models want around one text or two, and where texts that are too long are cut."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from headrace.core.errors import InvalidRequest, ModelFileError
from headrace.models.input_template import FIRST, SECOND, fill, lengths_within, read_post_processor, room_of
from headrace.models.tokenizer import Tokenizer

IDS = {"[CLS]": 5, "[SEP]": 6, "</s>": 7}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}},
    ],
    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [5], "tokens": ["[CLS]"]}},
}


def test_a_template_is_filled_with_tokens_and_segments() -> None:
    slots = [(5, 0), (FIRST, 0), (6, 0), (SECOND, 1), (6, 1)]
    assert fill(slots, [1, 2], [3]) == ([5, 1, 2, 6, 3, 6], [0, 0, 0, 0, 1, 1])
    assert fill(slots[:3], [], None) == ([5, 6], [0, 0])
    assert room_of(slots, 10) == 7
    assert room_of(slots, 2) == 0


def test_texts_give_way_as_those_of_the_library_do() -> None:
    library = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    for room, first, second in itertools.product((0, 1, 2, 5, 8, 9), range(12), range(12)):
        library.enable_truncation(room, strategy="longest_first")
        ids = library.encode("a " * first, "b " * second).ids
        assert lengths_within(room, first, second) == (ids.count(0), ids.count(1)), (room, first, second)


@pytest.mark.parametrize(
    ("post_processor", "single", "pair"),
    [
        (None, [], []),
        ({"type": "ByteLevel"}, [], []),
        (TEMPLATE, [(5, 0), (FIRST, 0)], [(FIRST, 0), (6, 0), (SECOND, 1)]),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, TEMPLATE]}, [(5, 0), (FIRST, 0)], None),
        (
            {"type": "BertProcessing", "cls": ["[CLS]", 5], "sep": ["[SEP]", 6]},
            [(5, 0), (FIRST, 0), (6, 0)],
            [(5, 0), (FIRST, 0), (6, 0), (SECOND, 1), (6, 1)],
        ),
        (
            {"type": "RobertaProcessing", "cls": ["<s>", 5], "sep": ["</s>", 7]},
            [(5, 0), (FIRST, 0), (7, 0)],
            [(5, 0), (FIRST, 0), (7, 0), (7, 0), (SECOND, 0), (7, 0)],
        ),
    ],
)
def test_every_kind_of_post_processor_is_read(post_processor: Any, single: Any, pair: Any) -> None:
    found = read_post_processor(post_processor, IDS)
    assert found[0] == single
    assert pair is None or found[1] == pair


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "Sequence"},
        {"type": "Sequence", "processors": 3},
        {"type": "TemplateProcessing", "single": [3], "pair": []},
        {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "C"}}], "pair": []},
        {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[MASK]"}}], "pair": []},
        TEMPLATE | {"special_tokens": {"[CLS]": {"ids": [99]}}},
        {"type": "BertProcessing", "cls": ["[CLS]"], "sep": ["[SEP]", 6]},
    ],
)
def test_a_post_processor_that_cannot_be_read_is_refused(broken: Any) -> None:
    with pytest.raises(ModelFileError, match="post_processor cannot be read"):
        read_post_processor(broken, IDS)


def decoder(folder: Path, template: str | None, **config: Any) -> Tokenizer:
    """A folder of a byte-level decoder whose texts are single letters."""
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    library = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.add_special_tokens(["<s>", "<|endoftext|>"])
    if template is not None:
        special = [(name, library.token_to_id(name)) for name in ("<s>", "<|endoftext|>") if name in template]
        library.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.deserialize(Tokenizer.from_files(folder).serialize())


@pytest.mark.parametrize(
    ("template", "config", "around"),
    [
        ("$A <|endoftext|>", {}, ("", "<|endoftext|>")),  # Qwen3-Embedding
        ("<s> $A <|endoftext|>", {}, ("<s>", "<|endoftext|>")),
        ("<s> $A", {}, ("<s>", "")),
        ("<s> $A", {"add_eos_token": True, "eos_token": "<|endoftext|>"}, ("<s>", "<|endoftext|>")),
        (None, {}, ("", "")),
        (None, {"add_bos_token": True, "bos_token": "<s>"}, ("<s>", "")),
        (None, {"add_eos_token": True, "eos_token": {"content": "<|endoftext|>"}}, ("", "<|endoftext|>")),
        (None, {"add_eos_token": False, "eos_token": "<|endoftext|>"}, ("", "")),
    ],
)
def test_a_decoders_input_ends_as_its_files_say(
    tmp_path: Path, template: str | None, config: dict[str, Any], around: tuple[str, str]
) -> None:
    tokenizer = decoder(tmp_path, template, **config)
    ids, segments = tokenizer.encode_input("ab", max_tokens=10)
    before, after = ([tokenizer.special_tokens[name]] if name else [] for name in around)
    assert ids == [*before, *tokenizer.encode("ab"), *after]
    assert segments == [0] * len(ids)
    cut = tokenizer.encode_input("abcdef", max_tokens=4)[0]
    room = 4 - len(before) - len(after)
    assert cut == [*before, *tokenizer.encode("abcdef"[:room]), *after]


def test_a_gguf_file_says_whether_texts_end() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    keys = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": ["<s>", "<e>", *alphabet],
        "token_type": [3, 3] + [1] * len(alphabet),
        "merges": [],
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    for adds_bos, adds_eos in itertools.product((False, True), repeat=2):
        named = keys | {"add_bos_token": adds_bos, "add_eos_token": adds_eos}
        tokenizer = Tokenizer.from_gguf({f"tokenizer.ggml.{key}": value for key, value in named.items()})
        ids = tokenizer.encode_input("a")[0]
        assert (ids[0] == 0, ids[-1] == 1) == (adds_bos, adds_eos)


def test_a_second_text_is_refused_where_the_model_takes_one(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": sorted(pre_tokenizers.ByteLevel.alphabet()),
            "tokenizer.ggml.merges": [],
        }
    )
    with pytest.raises(InvalidRequest, match="pair: this model reads one text at a time") as caught:
        tokenizer.encode_input("a", "b")
    assert caught.value.param == "pair"
