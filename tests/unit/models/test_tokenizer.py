"""Tokenizers built from GGUF metadata and from folders: what they hold, what they refuse, and what text may become."""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from headrace.core.errors import InvalidRequest, ModelFileError
from headrace.models import sentencepiece
from headrace.models.pretokenizers import PRE_TOKENIZATIONS
from headrace.models.sentencepiece import ScoredMerges
from headrace.models.tokenizer import MAX_TEXT_CHARS, SpecialTokens, Tokenizer

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TEXTS = [
    "Hello, world! 123",
    "naïve 你好 👋🏽",
    "<|im_end|>",
    "a<|im_end|>b<tool>c",
    "\x00\t\r\n  x",
    " ",
    "",
    "low lower lowest",
]


def gguf(**changes: Any) -> dict[str, Any]:
    tokens = ["<|im_start|>", "<|im_end|>", "<tool>", *ALPHABET, "lo", "low", "Ġlow"]
    values = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3, 3, 4] + [1] * (len(tokens) - 3),
        "merges": ["l o", "lo w", "Ġ low"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def scored(**changes: Any) -> dict[str, Any]:
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
        "▁ab",
        "s>",
        "<s",
    ]
    values = {
        "model": "llama",
        "tokens": tokens,
        "token_type": [2, 3, 3] + [6] * 256 + [1] * 8,
        "scores": [0.0] * 259 + [-float(i) for i in range(8)],
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as `save_pretrained` writes it, with a byte-level BPE trained on a few words."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False, initial_alphabet=ALPHABET)
    library.train_from_iterator(TEXTS * 3, trainer)
    library.add_special_tokens(["<s>", "<|im_end|>"])
    library.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", library.token_to_id("<s>"))]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}})
    )
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [library.token_to_id("<|im_end|>")]}))
    return tmp_path


def test_a_tokenizers_digest_is_that_of_all_it_knows_and_lasts_over_a_warm_start() -> None:
    one, same = Tokenizer.from_gguf(gguf()), Tokenizer.from_gguf(gguf())
    assert one.digest == same.digest == Tokenizer.deserialize(one.serialize()).digest
    assert one.digest != Tokenizer.from_gguf(gguf(merges=[])).digest


def test_special_tokens_and_ids_come_from_the_metadata() -> None:
    tokenizer = Tokenizer.from_gguf(gguf())

    assert tokenizer.vocab_size == len(ALPHABET) + 6
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.add_bos) == (0, {1}, False)
    assert dict(tokenizer.special_tokens) == {"<|im_start|>": 0, "<|im_end|>": 1}


def test_every_token_that_ends_a_turn_is_an_end() -> None:
    tokens = ["<end>", "<eot>", "<|eot_id|>", "<|im_end|>", "<s>", *ALPHABET]
    types = [3] * 5 + [1] * len(ALPHABET)

    tokenizer = Tokenizer.from_gguf(gguf(tokens=tokens, token_type=types, merges=[], eos_token_id=0, eot_token_id=1))

    assert tokenizer.eos_ids == {0, 1, 2, 3}


def test_an_end_token_that_a_file_calls_ordinary_is_a_control_token_all_the_same() -> None:
    tokens = ["<|im_end|>", *ALPHABET]

    tokenizer = Tokenizer.from_gguf(gguf(tokens=tokens, token_type=[1] * len(tokens), merges=[], bos_token_id=None))

    assert tokenizer.special_tokens == {"<|im_end|>": 0}
    assert 0 not in tokenizer.encode("<|im_end|>")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ababab", [0, "bab"]),
        ("xabax", ["x", 0, "x"]),
        ("a]b", ["a]b"]),
        ("\n\n\n", [2, 1]),
        ("aab[ab[ab]", ["aab", "[ab", 3]),
        ("aababa", ["a", 0, "ba"]),
        ("<|abc<|abx", [5, 4, "x"]),
        ("", []),
    ],
)
def test_special_tokens_are_found_leftmost_and_longest_first(text: str, pieces: list[str | int]) -> None:
    found = list(SpecialTokens({"aba": 0, "\n": 1, "\n\n": 2, "[ab]": 3, "<|ab": 4, "<|abc": 5}).split(text))

    joined: list[str | int] = []
    for piece in pieces:  # the expectation may cut ordinary text for the eye
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    assert found == joined


def test_no_special_tokens_leave_the_text_whole() -> None:
    assert list(SpecialTokens({}).split("a<b")) == ["a<b"]


def test_text_that_looks_like_a_control_token_becomes_one_only_when_asked() -> None:
    tokenizer = Tokenizer.from_gguf(gguf())

    assert tokenizer.encode("<|im_end|>", special=True) == [1]
    plain = tokenizer.encode("<|im_end|>")
    assert 1 not in plain
    assert b"".join(map(tokenizer.token_bytes, plain)) == b"<|im_end|>"


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZATIONS))
def test_no_merge_and_no_whole_word_makes_a_control_token(pre: str) -> None:
    metadata = gguf(
        pre=pre, tokens=["abc", "d", *ALPHABET[ALPHABET.index("e") :], *ALPHABET[: ALPHABET.index("d")], "ab"]
    )
    metadata["tokenizer.ggml.token_type"] = [3, 3] + [1] * (len(metadata["tokenizer.ggml.tokens"]) - 2)
    metadata["tokenizer.ggml.merges"] = ["a b", "ab c"]

    assert not {0, 1} & set(Tokenizer.from_gguf(metadata).encode("abc abcd d"))


def test_sentencepiece_text_never_merges_into_a_control_token() -> None:
    tokenizer = Tokenizer.from_gguf(scored())

    assert not {1, 2} & set(tokenizer.encode("<s>a</s>"))
    assert tokenizer.encode("<s>", special=True) == [1]


def test_the_first_token_is_put_where_the_model_wants_it_and_the_caller_too() -> None:
    wanting = Tokenizer.from_gguf(gguf(add_bos_token=True))

    assert wanting.encode("low", bos=True) == [0, *wanting.encode("low")]
    assert Tokenizer.from_gguf(gguf()).encode("low", bos=True) == wanting.encode("low")
    assert Tokenizer.from_gguf(gguf(pre="llama-bpe")).add_bos
    assert Tokenizer.from_gguf(scored()).add_bos


def test_token_bytes_are_raw_and_empty_for_control_tokens() -> None:
    tokenizer = Tokenizer.from_gguf(gguf())

    assert [tokenizer.token_bytes(i) for i in (0, 2)] == [b"", b"<tool>"]
    assert b"".join(tokenizer.token_bytes(3 + i) for i in range(256)) != b""
    assert sorted(tokenizer.token_bytes(3 + i) for i in range(256)) == [bytes([i]) for i in range(256)]
    assert tokenizer.token_bytes(tokenizer.vocab_size - 1) == b" low"
    for outside in (-1, tokenizer.vocab_size):
        with pytest.raises(IndexError):
            tokenizer.token_bytes(outside)


def test_sentencepiece_bytes_and_spaces_are_raw() -> None:
    tokenizer = Tokenizer.from_gguf(scored())

    assert [tokenizer.token_bytes(i) for i in (0, 1, 3 + 0x0A, 3 + 0xE2, 264)] == [b"", b"", b"\n", b"\xe2", b" ab"]


def test_sentencepiece_puts_a_space_before_the_first_word_unless_told_not_to() -> None:
    assert Tokenizer.from_gguf(scored()).encode("ab") == [264]
    assert Tokenizer.from_gguf(scored(add_space_prefix=False)).encode("ab") == [263]


def test_text_inside_another_text_gets_no_space_and_no_control_token() -> None:
    tokenizer = Tokenizer.from_gguf(scored())

    assert tokenizer.encode_inside("ab") == [263]
    assert tokenizer.encode_inside(" ab") == [264]
    text = "<|im_end|>low"
    byte_level = Tokenizer.from_gguf(gguf())
    assert byte_level.encode_inside(text) == byte_level.encode(text)


def test_bytes_that_a_vocabulary_lacks_separate_their_neighbours() -> None:
    tokens = [char for char in ALPHABET if char != "x"] + ["lo"]
    metadata = gguf(tokens=tokens, token_type=[1] * len(tokens), merges=["l o"], bos_token_id=None, eos_token_id=None)
    tokenizer = Tokenizer.from_gguf(metadata)

    assert tokenizer.encode("lxo") == [tokens.index("l"), tokens.index("o")]


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({}, "tokenizer.ggml.model: None"),
        (gguf(model="t5"), "tokenizer.ggml.model: 't5'"),
        (gguf(pre="no-such-thing"), "tokenizer.ggml.pre: 'no-such-thing'"),
        (gguf(tokens=None), "tokenizer.ggml.tokens: missing"),
        (gguf(tokens=[]), "tokenizer.ggml.tokens: 0 tokens"),
        (gguf(tokens=7), "tokenizer.ggml.tokens: not a list"),
        (gguf(merges=None), "tokenizer.ggml.merges: missing"),
        (gguf(token_type=[1]), "tokenizer.ggml.token_type: 1 types"),
        (gguf(eos_token_id=10**6), "tokenizer.ggml.eos_token_id: 1000000"),
        (scored(scores=None), "tokenizer.ggml.scores: missing"),
        (scored(scores=[1.0]), "tokenizer.ggml.scores: 1 scores"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused_by_name(metadata: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelFileError, match=named):
        Tokenizer.from_gguf(metadata)


def test_a_missing_pre_tokenizer_name_means_the_default_one() -> None:
    assert Tokenizer.from_gguf(gguf(pre=None)).encode("low") == Tokenizer.from_gguf(gguf(pre="default")).encode("low")


@pytest.mark.parametrize("text", TEXTS)
def test_a_folders_tokens_equal_the_librarys(folder: Path, text: str) -> None:
    ours = Tokenizer.from_files(folder)
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    assert ours.encode(text, special=True) == library.encode(text, add_special_tokens=False).ids
    assert ours.encode(text, special=True, bos=True) == library.encode(text).ids
    library.encode_special_tokens = True
    assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "text",
    ["<|user|>\n Hi <|end|>\n<|tool|> x", "a \n<|user|>", "<|end|>  \u2003\x1f y", "<|tool|> \n<|tool|> <|end|>"],
)
def test_tokens_that_take_white_space_away_do_so_as_in_the_library(folder: Path, text: str) -> None:
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.add_special_tokens([tokenizers.AddedToken(f"<|{name}|>", rstrip=True) for name in ("user", "end")])
    library.add_tokens([tokenizers.AddedToken("<|tool|>", lstrip=True, rstrip=True, normalized=False)])
    library.save(str(folder / "tokenizer.json"))
    ours = Tokenizer.from_files(folder)

    assert ours.encode(text, special=True) == library.encode(text, add_special_tokens=False).ids
    assert Tokenizer.deserialize(ours.serialize()).encode(text, special=True) == ours.encode(text, special=True)
    library.encode_special_tokens = True
    assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_white_space_behind_the_roles_of_phi3_is_dropped_as_its_own_tokenizer_does() -> None:
    metadata = scored(tokens=[*scored()["tokenizer.ggml.tokens"][:-2], "<|user|>", "<|end|>"])
    metadata["tokenizer.ggml.token_type"][-2:] = [3, 3]
    text = "<s> a<|user|>\n ab<|end|> \n"
    kept = Tokenizer.from_gguf(metadata)
    dropped = Tokenizer.from_gguf(metadata | {"general.architecture": "phi3"})

    assert list(dropped.split(text)) == [1, " a", 265, "ab", 266]
    assert list(kept.split(text)) == [1, " a", 265, "\n ab", 266, " \n"]


def test_a_folder_says_how_texts_begin_and_end(folder: Path) -> None:
    tokenizer = Tokenizer.from_files(folder)

    assert tokenizer.bos_id == tokenizer.special_tokens["<s>"]
    assert tokenizer.add_bos
    assert tokenizer.eos_ids == {tokenizer.special_tokens["<|im_end|>"]}
    assert "<tool>" not in tokenizer.special_tokens
    text = "naïve 你好 <|im_end|>\n"
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()


def test_a_sentencepiece_style_folder_gives_the_librarys_tokens_and_raw_bytes(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "l", "o", "lo", "▁lo"]
    model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[("l", "o"), ("▁", "lo")],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    library = tokenizers.Tokenizer(model)
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.add_special_tokens(["<s>"])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_files(tmp_path)

    for text in ("lo", "lo lo é", "<s>lo", "x\n"):
        assert tokenizer.encode(text, special=True) == library.encode(text, add_special_tokens=False).ids
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode("lo é\n"))) == " lo é\n".encode()
    for text in ("lo é\n", " lo", "x"):
        assert b"".join(map(tokenizer.token_bytes, tokenizer.encode_inside(text))) == text.encode()
    assert tokenizer.encode_inside("lo") == [tokens.index("lo")]
    assert tokenizer.strips_leading_space


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "tokenizer.json"),
        ("{", "tokenizer.json"),
        ("[]", "not an object"),
        ("{}", "model type None"),
        ('{"model": {"type": "WordLevel", "vocab": {}}}', "model type 'WordLevel'"),
        ('{"model": {"type": "BPE", "vocab": {"a": 999999999999}, "merges": []}}', "1000000000000 token ids"),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "0 token ids"),
        (
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "Odd"}}',
            "tokenizer.json",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_by_file(tmp_path: Path, content: str | None, named: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)

    with pytest.raises(ModelFileError, match=named):
        Tokenizer.from_files(tmp_path)


@pytest.mark.parametrize("source", ["gguf", "scored", "folder"])
def test_a_tokenizer_survives_being_written_and_read(source: str, folder: Path) -> None:
    build = {"gguf": lambda: Tokenizer.from_gguf(gguf()), "scored": lambda: Tokenizer.from_gguf(scored())}
    tokenizer = build.get(source, lambda: Tokenizer.from_files(folder))()
    again = Tokenizer.deserialize(tokenizer.serialize())

    for text in TEXTS:
        assert again.encode(text, special=True, bos=True) == tokenizer.encode(text, special=True, bos=True)
    assert again.byte_table == tokenizer.byte_table
    assert (again.eos_ids, again.bos_id, again.special_tokens) == (
        tokenizer.eos_ids,
        tokenizer.bos_id,
        tokenizer.special_tokens,
    )


def test_damaged_bytes_are_refused() -> None:
    data = Tokenizer.from_gguf(gguf()).serialize()

    for damaged in (b"", b"junk", data[:-1], data.replace(b"format\x04", b"format\x7f")):
        with pytest.raises(ModelFileError, match="cached tokenizer"):
            Tokenizer.deserialize(damaged)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"surrogate pair .* at character 1"):
        Tokenizer.from_gguf(gguf()).encode("a\ud800")


def test_more_text_than_the_limit_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=f"at most {MAX_TEXT_CHARS}"):
        Tokenizer.from_gguf(gguf()).encode("a" * (MAX_TEXT_CHARS + 1))


@pytest.mark.parametrize("text", ["a", " ", "aA", "\n", "1", "<", "<|im_"])
@pytest.mark.parametrize("pre", ["gpt-2", "tekken", "deepseek-v3"])
def test_half_a_million_characters_without_a_border_are_tokenised(pre: str, text: str) -> None:
    """A quadratic algorithm would need 10**11 steps here; the suite would not end."""
    tokenizer = Tokenizer.from_gguf(gguf(pre=pre))
    text *= 500_000 // len(text)

    ids = tokenizer.encode(text, special=True)

    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


class CountingIds(dict[str, int]):
    lookups = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.lookups += 1
        return super().get(key, default)


def test_a_long_sentencepiece_word_costs_a_few_lookups_a_character() -> None:
    ids = CountingIds({"a" * length: length for length in (1, 2, 4, 8, 16)})
    merges = ScoredMerges(ids, [0.0] * 17, [None] * 256)

    assert merges.encode("a" * 32_768) == [16] * 2048
    assert ids.lookups <= 5 * 32_768


def merged_plainly(word: str, ids: dict[str, int], scores: list[float]) -> list[str]:
    """The slow twin: look at all neighbours, merge the best, start again."""
    pieces = list(word)
    while True:
        best = max(
            ((scores[ids[a + b]], -i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in ids),
            default=None,
        )
        if best is None:
            return pieces
        at = -best[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


@pytest.mark.parametrize("seed", range(40))
def test_sentencepiece_merges_as_looking_at_all_neighbours_would(seed: int) -> None:
    rng = random.Random(seed)
    pieces = ["a", "b", "c", *{"".join(rng.choices("abc", k=rng.randint(2, 4))) for _ in range(20)}]
    ids = {piece: i for i, piece in enumerate(pieces)}
    scores = [float(rng.randint(0, 4)) for _ in pieces]  # many equal
    merges = ScoredMerges(ids, scores, [None] * 256)

    for _ in range(20):
        word = "".join(rng.choices("abc", k=rng.randint(0, 30)))
        assert merges.encode(word) == [ids[piece] for piece in merged_plainly(word, ids, scores)]


@pytest.mark.parametrize("seed", range(40))
def test_words_end_only_where_no_token_goes_on(seed: int) -> None:
    rng = random.Random(seed)
    crossing = {rng.choice(["b▁", "b▁▁c", "ab▁a", "▁b▁"]) for _ in range(rng.randint(0, 2))}
    pieces = ["a", "b", "\0", "▁", "▁▁", "▁a", "▁b", *crossing, *(["\0▁"] if seed % 3 == 0 else [])]
    ids = {piece: i for i, piece in enumerate(pieces)}
    scores = [float(rng.randint(0, 4)) for _ in pieces]
    merges = ScoredMerges(ids, scores, [None] * 256)

    for _ in range(40):
        text = "".join(rng.choices("ab▁\0", k=rng.randint(0, 20)))
        assert merges.encode(text) == [ids[piece] for piece in merged_plainly(text, ids, scores)]


def test_a_vocabulary_with_a_space_inside_one_token_still_remembers_words() -> None:
    ids = {piece: i for i, piece in enumerate([">", "▁", "<", ">▁<", "a"])}
    merges = ScoredMerges(ids, [0.0] * 5, [None] * 256)

    assert merges.encode("a a > < a a") == [4, 1, 4, 1, 0, 1, 2, 1, 4, 1, 4]
    assert {"a", "▁a"} < set(merges._remembered)


def test_sentencepiece_bytes_are_right_in_a_vocabulary_that_holds_every_character() -> None:
    tokens = [*scored()["tokenizer.ggml.tokens"], "\0", "▁\0x", "é"]
    metadata = scored(tokens=tokens, scores=[0.0] * len(tokens), token_type=[2, 3, 3, *[1] * (len(tokens) - 3)])
    tokenizer = Tokenizer.from_gguf(metadata)

    assert [tokenizer.token_bytes(i) for i in range(len(tokens) - 3, len(tokens))] == [b"\0", b" \0x", "é".encode()]
    assert [tokenizer.token_bytes(3 + byte) for byte in (0, 10, 255)] == [b"\0", b"\n", b"\xff"]


def test_the_remembered_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentencepiece, "_MAX_REMEMBERED", 10)
    merges = ScoredMerges({"a": 0}, [0.0], list(range(256)))

    for i in range(100):
        assert merges.encode(str(i)) == [48 + int(digit) for digit in str(i)]
        assert len(merges._remembered) <= 10
    merges.encode("9" * 1000)
    assert max(map(len, merges._remembered)) < 1000
