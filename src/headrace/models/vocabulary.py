"""What a model's files say about its vocabulary, as one value that can be written to bytes and read back quickly.

Three sources: GGUF metadata (`gpt2`: byte-level BPE, `llama`: scored SentencePiece BPE, `bert`: WordPiece) and a folder
with `tokenizer.json` (BPE, WordPiece, Unigram). The rule kept here: a control token is never reachable from plain text,
so control tokens leave every table that text is looked up in. Does not encode anything; `tokenizer.py` does.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from headrace.core.errors import ModelFileError
from headrace.models.filling import find_filling
from headrace.models.input_template import FIRST, Slots, read_post_processor
from headrace.models.pretokenizers import PRE_TOKENIZATIONS
from headrace.models.wordpiece import definition_of, pair_template, texts_of

_FORMAT = 4  # of the written form; raised when a field changes its meaning
_MAX_TOKENS = 4_000_000  # far above any published vocabulary; keeps absurd files from filling memory
# Names under which model families end a turn or a text, whatever the metadata says.
END_NAMES = frozenset(
    [
        *("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>"),
        *("<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>", "<end_of_utterance>"),
    ]
)


class Algorithm(StrEnum):
    """How text becomes tokens."""

    BYTE_LEVEL = "byte_level"
    SCORED = "scored"
    LIBRARY = "library"


class TokenType(IntEnum):
    """GGUF's token types."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens by id with their types, and what the algorithm needs. `definition` is a bare tokenizer.json.

    `scores` holds one little-endian float32 a token: hundreds of thousands of Python numbers would cost tens of MB.
    `single` and `pair` are what a whole input of one text or of two looks like (`input_template`); empty: unknown.
    `strips_before` and `strips_after`: special tokens that take away the white space next to them. `filling` and
    `filling_ends`: see `filling.find_filling`.
    """

    format: int = _FORMAT
    algorithm: Algorithm
    tokens: list[str]
    types: bytes
    pre: str = ""
    merges: list[tuple[str, str]] = []
    scores: bytes = b""
    definition: str = ""
    byte_level: bool = True
    bos_id: int | None = None
    eos_ids: list[int] = []
    add_bos: bool = False
    add_space_prefix: bool = False
    single: Slots = []
    pair: Slots = []
    strips_before: list[int] = []
    strips_after: list[int] = []
    filling: list[int] = []
    filling_ends: list[int] = []

    def serialize(self) -> bytes:
        """Bytes from which `deserialize` makes an equal value."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def deserialize(data: bytes) -> "Vocabulary":
        """Raises ModelFileError when the bytes are damaged or of another version."""
        try:
            vocabulary = msgspec.msgpack.decode(data, type=Vocabulary)
        except msgspec.DecodeError as error:
            raise ModelFileError(f"cached tokenizer: {error}; delete it and it will be made again.") from error
        num_tokens = len(vocabulary.tokens)
        is_whole = len(vocabulary.types) == num_tokens and len(vocabulary.scores) in (0, 4 * num_tokens)
        if vocabulary.format != _FORMAT or not is_whole:
            raise ModelFileError("cached tokenizer: of another version; delete it and it will be made again.")
        return vocabulary

    def reachable(self) -> dict[str, int]:
        """Tokens that plain text may become, by text."""
        hidden = {*self.ids_of(TokenType.CONTROL), *self.ids_of(TokenType.UNKNOWN)}
        ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        if len(ids) != len(self.tokens):  # a control token may stand in front of an ordinary one of the same text
            return {text: i for i, text in enumerate(self.tokens) if i not in hidden}
        for i in hidden:
            del ids[self.tokens[i]]
        return ids

    def of_type(self, kind: TokenType) -> dict[str, int]:
        """Tokens of one type, by text; empty texts are left out."""
        return {self.tokens[i]: i for i in self.ids_of(kind) if self.tokens[i]}

    def ids_of(self, kind: TokenType) -> Iterator[int]:
        """Ids of the tokens of one type, ascending."""
        i = self.types.find(kind)  # a byte search, because special tokens are few among many
        while i >= 0:
            yield i
            i = self.types.find(kind, i + 1)


def vocabulary_from_gguf(metadata: Mapping[str, Any]) -> Vocabulary:
    """Read `tokenizer.ggml.*`. Raises ModelFileError naming the key and its value."""
    model = metadata.get("tokenizer.ggml.model")
    if model not in ("gpt2", "llama", "bert"):
        raise ModelFileError(
            f"tokenizer.ggml.model: {model!r} is not supported; models with 'gpt2' (byte-level BPE), 'llama'"
            " (SentencePiece BPE) or 'bert' (WordPiece) tokenizers are."
        )
    tokens = [str(token) for token in _sequence(metadata, "tokenizer.ggml.tokens", required=True)]
    if not 0 < len(tokens) <= _MAX_TOKENS:
        raise ModelFileError(f"tokenizer.ggml.tokens: {len(tokens)} tokens; 1 to {_MAX_TOKENS} are possible.")
    types = _types(metadata, tokens)
    if model == "bert":
        return _wordpiece_from_gguf(metadata, tokens, types)
    special = {name: _token_id(metadata, name, len(tokens)) for name in ("bos", "eos", "eot", "eom")}
    ends = {special[name] for name in ("eos", "eot", "eom")} | {i for i, t in enumerate(tokens) if t in END_NAMES}
    scored = model == "llama"
    merges = [] if scored else _sequence(metadata, "tokenizer.ggml.merges", required=True)
    scores = np.asarray(_sequence(metadata, "tokenizer.ggml.scores", required=scored), dtype="<f4")
    add_bos = _flag(metadata, "add_bos_token", default=scored)
    adds_eos = _flag(metadata, "add_eos_token", default=False)
    marks, mark_ends = find_filling({text: i for i, text in enumerate(tokens)}, metadata, len(tokens))
    if scored and len(scores) != len(tokens):
        raise ModelFileError(f"tokenizer.ggml.scores: {len(scores)} scores for {len(tokens)} tokens.")
    return Vocabulary(
        algorithm=Algorithm.SCORED if scored else Algorithm.BYTE_LEVEL,
        tokens=tokens,
        types=types,
        pre="" if scored else str(metadata.get("tokenizer.ggml.pre", "default")),
        merges=_merges([str(merge) for merge in merges], tokens, types),
        scores=scores.tobytes() if scored else b"",
        byte_level=not scored,
        bos_id=special["bos"],
        eos_ids=sorted(i for i in ends if i is not None),
        add_bos=add_bos,
        add_space_prefix=_flag(metadata, "add_space_prefix", default=scored),
        single=_ends_of(special["bos"] if add_bos else None, special["eos"] if adds_eos else None),
        strips_after=_stripping(tokens, types) if scored and metadata.get("general.architecture") == "phi3" else [],
        filling=[*marks],
        filling_ends=[*mark_ends],
    )


def _wordpiece_from_gguf(metadata: Mapping[str, Any], tokens: list[str], types: bytes) -> Vocabulary:
    # The keys' names are GGUF's, its spelling of the separator included.
    names = {"cls": "[CLS]", "seperator": "[SEP]", "unknown": "[UNK]"}
    ids = {name: _token_id(metadata, name, len(tokens)) for name in names}
    for name, text in names.items():
        if ids[name] is None and text in tokens:
            ids[name] = tokens.index(text)
        if ids[name] is None:
            raise ModelFileError(f"tokenizer.ggml.{name}_token_id: missing, and no token is called {text}.")
    texts, kinds = texts_of(tokens), bytearray(types)
    start, end, unknown = (int(ids[name] or 0) for name in names)
    for i, text in enumerate(tokens):
        if i in (start, end) or text in ("[CLS]", "[SEP]", "[PAD]", "[MASK]"):
            kinds[i] = TokenType.CONTROL
    kinds[unknown] = TokenType.UNKNOWN
    hidden = {i for i, kind in enumerate(kinds) if kind == TokenType.CONTROL}
    single, pair = pair_template(start, end)
    return Vocabulary(
        algorithm=Algorithm.LIBRARY,
        tokens=texts,
        types=bytes(kinds),
        definition=definition_of(texts, unknown, hidden),
        byte_level=False,
        bos_id=start,
        add_bos=True,
        single=single,
        pair=pair,
    )


def _ends_of(start: int | None, end: int | None) -> Slots:
    """The template of a model that knows only what comes first and last."""
    slots = [(start, 0), (FIRST, 0), (end, 0)]
    return [(token, segment) for token, segment in slots if token is not None]


def _stripping(tokens: list[str], types: bytes) -> list[int]:
    """Special tokens of Phi-3 that take away the white space behind them, which GGUF files have no key for."""
    plain = {"<unk>", "<s>", "<|endoftext|>"}
    kinds = (TokenType.CONTROL, TokenType.USER_DEFINED)
    return [i for i, text in enumerate(tokens) if types[i] in kinds and text not in plain]


def vocabulary_from_files(folder: Path) -> Vocabulary:
    """Read `tokenizer.json` and what stands beside it. Raises ModelFileError naming the file."""
    library = _json(folder / "tokenizer.json", required=True)
    config = _json(folder / "tokenizer_config.json")
    generation = _json(folder / "generation_config.json")
    model = library.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind not in ("BPE", "WordPiece", "Unigram"):
        raise ModelFileError(
            f"{folder / 'tokenizer.json'}: model type {kind!r} is not supported; BPE, WordPiece and Unigram are."
        )
    texts = _texts_of(library, folder / "tokenizer.json")
    added = [token for token in library.get("added_tokens") or [] if isinstance(token, dict)]
    texts.update({token["id"]: token["content"] for token in added})
    num_tokens = max(texts, default=-1) + 1
    if not 0 < num_tokens <= _MAX_TOKENS or min(texts) < 0:
        raise ModelFileError(f"{folder / 'tokenizer.json'}: {num_tokens} token ids; 1 to {_MAX_TOKENS} are possible.")
    types = bytearray(TokenType.NORMAL if i in texts else TokenType.UNUSED for i in range(num_tokens))
    for token in added:
        types[token["id"]] = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
    ids = {text: i for i, text in texts.items()}
    ends = {ids[name] for name in END_NAMES | {_token_text(config.get("eos_token"))} if name in ids}
    ends.update(i for i in _int_list(generation.get("eos_token_id")) if i in texts)
    for i in ends:
        types[i] = TokenType.CONTROL
    bos_id = ids.get(_token_text(config.get("bos_token")))
    single, pair = read_post_processor(library.get("post_processor"), ids)
    starts_with_bos = single[0][0] if single and single[0][0] != FIRST else None
    add_bos = bool(config.get("add_bos_token", starts_with_bos is not None))
    if starts_with_bos is not None:
        bos_id = starts_with_bos
    if config.get("add_eos_token") is True and single[-1:] in ([], [(FIRST, 0)]):
        single = _ends_of(bos_id if add_bos else None, ids.get(_token_text(config.get("eos_token"))))
    marks, mark_ends = find_filling(ids)
    _make_bare(library, {texts[i] for i in range(num_tokens) if types[i] == TokenType.CONTROL})
    return Vocabulary(
        algorithm=Algorithm.LIBRARY,
        tokens=[texts.get(i, "") for i in range(num_tokens)],
        types=bytes(types),
        definition=json.dumps(library, ensure_ascii=False),
        byte_level="ByteLevel" in json.dumps([library.get("pre_tokenizer"), library.get("decoder")]),
        bos_id=bos_id,
        eos_ids=sorted(ends),
        add_bos=add_bos,
        add_space_prefix=_prepends_space(library),
        single=single or _ends_of(bos_id if add_bos else None, None),
        pair=pair,
        strips_before=[token["id"] for token in added if token.get("lstrip")],
        strips_after=[token["id"] for token in added if token.get("rstrip")],
        filling=[*marks],
        filling_ends=[*mark_ends],
    )


def _texts_of(library: Mapping[str, Any], file: Path) -> dict[int, str]:
    """The model's own tokens by id."""
    vocab = library["model"].get("vocab")
    if library["model"].get("type") == "Unigram":
        # Spaces become another character there, which is what keeps hidden tokens out of reach.
        if "Metaspace" not in json.dumps(library.get("pre_tokenizer")):
            raise ModelFileError(f"{file}: a Unigram model without a Metaspace pre-tokenizer is not supported.")
        if not isinstance(vocab, list) or any(not isinstance(e, list) or len(e) != 2 for e in vocab):
            raise ModelFileError(f"{file}: vocab is no list of pieces and scores; fetch the file again.")
        return {i: str(piece) for i, (piece, _) in enumerate(vocab)}
    if not isinstance(vocab, dict):
        raise ModelFileError(f"{file}: vocab is {type(vocab).__name__}, not an object; fetch the file again.")
    return {i: text for text, i in vocab.items()}


def _make_bare(library: dict[str, Any], control: set[str]) -> None:
    # Special tokens are split off before the library sees text, so that whether they count is decided per call.
    for key in ("added_tokens", "post_processor", "truncation", "padding"):
        library[key] = [] if key == "added_tokens" else None
    model = library["model"]
    if model.get("type") == "Unigram":
        # A piece's place is its id, and its score counts in that of unknown characters: only the text can go. No text
        # has a space when it gets there.
        model["vocab"] = [
            [f" {i}" if piece in control else piece, score] for i, (piece, score) in enumerate(model["vocab"])
        ]
        return
    control.discard(model.get("unk_token"))
    model["vocab"] = {text: i for text, i in model["vocab"].items() if text not in control}
    vocab = model["vocab"]
    kept = []
    for merge in model.get("merges", []):
        left, right = merge if isinstance(merge, list) else merge.split(" ", 1)
        if left in vocab and right in vocab and left + right in vocab:
            kept.append([left, right])
    if model.get("type") != "WordPiece":
        model["merges"] = kept


def _prepends_space(library: Mapping[str, Any]) -> bool:
    parts = json.dumps([library.get("normalizer"), library.get("pre_tokenizer")])
    return '"Prepend"' in parts or '"prepend_scheme": "first"' in parts or '"prepend_scheme": "always"' in parts


def _types(metadata: Mapping[str, Any], tokens: list[str]) -> bytes:
    given = _sequence(metadata, "tokenizer.ggml.token_type", required=False)
    types = bytearray(int(kind) & 0xFF for kind in given) if len(given) else bytearray([TokenType.NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise ModelFileError(f"tokenizer.ggml.token_type: {len(types)} types for {len(tokens)} tokens.")
    for i, text in enumerate(tokens):
        if text in END_NAMES:  # some converters forget to say so
            types[i] = TokenType.CONTROL
    return bytes(types)


def _merges(merges: list[str], tokens: list[str], types: bytes) -> list[tuple[str, str]]:
    hidden = (TokenType.CONTROL, TokenType.UNKNOWN)
    known = {text for text, kind in zip(tokens, types, strict=True) if kind not in hidden}
    pairs = ((merge[:cut], merge[cut + 1 :]) for merge in merges if (cut := merge.find(" ", 1)) > 0)
    # A merge into a control token would let plain text become one.
    return [pair for pair in pairs if pair[0] in known and pair[1] in known and pair[0] + pair[1] in known]


def _token_id(metadata: Mapping[str, Any], name: str, num_tokens: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if value is None or int(value) == 0xFFFFFFFF:  # GGUF's "there is none"
        return None
    if not 0 <= int(value) < num_tokens:
        raise ModelFileError(f"tokenizer.ggml.{name}_token_id: {value} is outside the {num_tokens} tokens.")
    return int(value)


def _flag(metadata: Mapping[str, Any], name: str, *, default: bool) -> bool:
    family = PRE_TOKENIZATIONS.get(str(metadata.get("tokenizer.ggml.pre")))
    if name == "add_bos_token" and family is not None:
        default = default or family.add_bos
    return bool(metadata.get(f"tokenizer.ggml.{name}", default))


def _sequence(metadata: Mapping[str, Any], key: str, *, required: bool) -> Any:
    value = metadata.get(key)
    if value is None and not required:
        return []
    if value is None or isinstance(value, (str, bytes, int, float)) or not isinstance(value, Iterable):
        raise ModelFileError(
            f"{key}: {'missing' if value is None else 'not a list'}; the file has no usable tokenizer."
        )
    return value


def _json(path: Path, *, required: bool = False) -> dict[str, Any]:
    if not required and not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: {error}; fetch the model's tokenizer files again.") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: holds {type(value).__name__}, not an object; fetch the file again.")
    return value


def _token_text(value: Any) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _int_list(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]
