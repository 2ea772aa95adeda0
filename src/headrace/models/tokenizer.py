"""Text to token ids and back, for one model.

The rule kept here: whether text that looks like a control token counts as one is decided by the caller, per call, and
the answer is no unless it says otherwise. Special tokens are split off first; only ordinary text reaches the algorithm,
whose tables hold no control token at all. Knows nothing of chat templates or of streams of tokens.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from headrace.core.errors import InvalidRequest, ModelFileError
from headrace.models.input_template import FIRST, fill, lengths_within, room_of
from headrace.models.pretokenizers import find_pre_tokenization
from headrace.models.sentencepiece import SPACE, ScoredMerges
from headrace.models.vocabulary import (
    Algorithm,
    TokenType,
    Vocabulary,
    vocabulary_from_files,
    vocabulary_from_gguf,
)

MAX_TEXT_CHARS = 2_000_000  # a few seconds of work at worst; no context that Headrace serves holds as much
_MARK = "\x02"
# What Unicode calls white space, as the library strips it; Python's own idea of it holds four characters more.
_WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_MISSING_BYTE = "\ufdd0missing"  # stands for bytes that a vocabulary lacks, so that their neighbours do not merge


_WHITES = frozenset(_WHITE)


class SpecialTokens:
    """Finds whole tokens in text: leftmost first, longest at one place.

    `strips_before` and `strips_after` name those that take the white space next to them away (Phi-3's roles do so).
    """

    def __init__(
        self, ids: Mapping[str, int], strips_before: Collection[int] = (), strips_after: Collection[int] = ()
    ) -> None:
        self.ids = dict(ids)
        self._strips_before, self._strips_after = frozenset(strips_before), frozenset(strips_after)
        lengths: dict[str, set[int]] = {}
        for text in ids:
            lengths.setdefault(text[:3], set()).add(len(text))
        # Found by their first three characters, so that text full of `<` costs one look a place and not one a token.
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        rests: dict[str, list[str]] = {}
        for start in sorted(lengths):
            rests.setdefault(start[0], []).append(re.escape(start[1:]))
        starts = "|".join(f"{re.escape(char)}(?={'|'.join(rest)})" for char, rest in rests.items())
        self._start = re.compile(starts) if starts else None

    def split(self, text: str) -> Iterator[str | int]:
        """Pieces of ordinary text and ids of whole tokens, in order; no empty pieces."""
        done = 0
        for match in self._start.finditer(text) if self._start else ():
            start = match.start()
            if start >= done and (found := self._at(text, start)):
                token = self.ids[found]
                before = text[done:start].rstrip(_WHITE) if token in self._strips_before else text[done:start]
                if before:
                    yield before
                yield token
                done = start + len(found)
                while token in self._strips_after and text[done : done + 1] in _WHITES:
                    done += 1
        if done < len(text):
            yield text[done:]

    def _at(self, text: str, start: int) -> str | None:
        for width in (3, 2, 1):
            for length in self._lengths.get(text[start : start + width], ()):
                if (candidate := text[start : start + length]) in self.ids:
                    return candidate
        return None


class Tokenizer:
    """One model's tokenizer; safe to use from several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = vocabulary.bos_id
        self.eos_ids = frozenset(vocabulary.eos_ids)
        self.add_bos = vocabulary.add_bos
        self.special_tokens: Mapping[str, int] = vocabulary.of_type(TokenType.CONTROL)
        self.filling = tuple(vocabulary.filling)
        self.filling_ends = frozenset(vocabulary.filling_ends)
        self.strips_leading_space = vocabulary.add_space_prefix
        user_defined = vocabulary.of_type(TokenType.USER_DEFINED)
        strips = vocabulary.strips_before, vocabulary.strips_after
        self._always = SpecialTokens(user_defined, *strips)
        unknown = vocabulary.of_type(TokenType.UNKNOWN)
        self._all = SpecialTokens({**user_defined, **unknown, **self.special_tokens}, *strips)
        self._bytes = _token_bytes(vocabulary)
        self._library: tokenizers.Tokenizer | None = None
        self._merges: ScoredMerges | None = None
        self._drops_ids = False
        if vocabulary.algorithm is Algorithm.SCORED:
            self._merges = _scored(vocabulary)
        elif vocabulary.algorithm is Algorithm.BYTE_LEVEL:
            self._library, self._drops_ids = _byte_level(vocabulary)
        else:
            self._library = _from_library(vocabulary)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """From GGUF key-values. Raises ModelFileError naming the key."""
        return cls(vocabulary_from_gguf(metadata))

    @classmethod
    def from_files(cls, folder: Path) -> "Tokenizer":
        """From a folder with `tokenizer.json`. Raises ModelFileError naming the file."""
        return cls(vocabulary_from_files(folder))

    @classmethod
    def deserialize(cls, data: bytes) -> "Tokenizer":
        """From `serialize`'s bytes. Raises ModelFileError when they are damaged or of another version."""
        return cls(Vocabulary.deserialize(data))

    def serialize(self) -> bytes:
        """Bytes for a warm start: no parsing of the model's own files."""
        return self._vocabulary.serialize()

    @cached_property
    def digest(self) -> str:
        """`sha256:...` over all that it knows: tokens, merges, and how texts are cut and joined."""
        return "sha256:" + hashlib.sha256(self.serialize()).hexdigest()

    def encode(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Token ids. `special` lets text become control tokens; `bos` puts the model's BOS first where it wants one.

        Raises InvalidRequest for text that is too long or no valid Unicode.
        """
        check_text(text)
        ids = [self.bos_id] if bos and self.add_bos and self.bos_id is not None else []
        for piece in self.split(text) if special else self._always.split(text):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids.extend(self._encode_plain(piece))
        return ids

    def encode_inside(self, text: str) -> list[int]:
        """Token ids of text that goes on after other text: nothing in front of it, and no control token in it.

        For short texts without halves of surrogate pairs; raises nothing.
        """
        ids: list[int] = []
        for piece in self._always.split(text):
            ids.extend([piece] if isinstance(piece, int) else self._encode_plain(piece, is_start=False))
        return ids

    def encode_input(
        self, text: str, pair: str | None = None, *, max_tokens: int | None = None
    ) -> tuple[list[int], list[int]]:
        """Token ids and segments of a whole input, one text or two, with the tokens that the model wants around them.

        Nothing in the texts becomes a control token. With `max_tokens` longer inputs are cut at the end of their text;
        of two texts the longer one gives way first.

        Raises InvalidRequest for text that is too long or no valid Unicode, and for a pair where the model takes none.
        """
        slots = self._vocabulary.single or [(FIRST, 0)]
        if pair is not None:
            slots = self._vocabulary.pair
            if not slots:
                raise InvalidRequest("pair: this model reads one text at a time; leave the second out.", param="pair")
        first = self.encode(text)
        second = None if pair is None else self.encode(pair)
        if max_tokens is not None:
            lengths = lengths_within(room_of(slots, max_tokens), len(first), len(second or ()))
            first, second = first[: lengths[0]], second and second[: lengths[1]]
        return fill(slots, first, second)

    def split(self, text: str) -> Iterator[str | int]:
        """Cut `text` at every special token in it: pieces of ordinary text, and ids."""
        return self._all.split(text)

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to a text; nothing for control tokens. Raises IndexError outside the vocabulary."""
        if token < 0:
            raise IndexError(token)
        return self._bytes[token]

    def token_text(self, token: int) -> str:
        """The token as the vocabulary writes it, for templates and people."""
        return self._vocabulary.tokens[token]

    @property
    def byte_table(self) -> list[bytes]:
        """`token_bytes` of every id, for loops that cannot afford a call; not to be written to."""
        return self._bytes

    def _encode_plain(self, text: str, *, is_start: bool = True) -> list[int]:
        if self._merges is not None:
            return self._merges.encode(SPACE + text if self.strips_leading_space and is_start else text)
        assert self._library is not None
        if self.strips_leading_space and not is_start:
            return self._encode_after_space(text)
        # The batch call lets go of the interpreter while it works, the single one does not.
        ids: list[int] = self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return [i for i in ids if i < self.vocab_size] if self._drops_ids else ids

    def _encode_after_space(self, text: str) -> list[int]:
        """For a library that puts a space in front: what follows a character that merges with nothing."""
        assert self._library is not None
        mark = self._library.encode_batch_fast([_MARK], add_special_tokens=False)[0].ids
        ids: list[int] = self._library.encode_batch_fast([_MARK + text], add_special_tokens=False)[0].ids
        return ids[len(mark) :]


def check_text(text: str) -> None:
    """Raise InvalidRequest for text that no tokenizer may be given."""
    if len(text) > MAX_TEXT_CHARS:
        raise InvalidRequest(f"text: {len(text)} characters; at most {MAX_TEXT_CHARS} are taken, shorten it.")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            char = text[error.start]
            raise InvalidRequest(
                f"text: half of a surrogate pair ({char!r}) at character {error.start} is no Unicode; remove it."
            ) from error


def _byte_level(vocabulary: Vocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    family = find_pre_tokenization(vocabulary.pre)
    ids = vocabulary.reachable()
    incomplete = not ids.keys() >= set(ByteLevel.alphabet())
    if incomplete:
        ids[_MISSING_BYTE] = len(vocabulary.tokens)
    unknown = _MISSING_BYTE if incomplete else None
    model = BPE(vocab=ids, merges=vocabulary.merges, unk_token=unknown, ignore_merges=family.ignore_merges)
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = family.build()
    return library, incomplete


def _scored(vocabulary: Vocabulary) -> ScoredMerges:
    ids = vocabulary.reachable()
    unknown = next(iter(vocabulary.of_type(TokenType.UNKNOWN).values()), None)
    byte_ids = [ids.get(f"<0x{byte:02X}>", unknown) for byte in range(256)]
    return ScoredMerges(ids, np.frombuffer(vocabulary.scores, dtype="<f4").data, byte_ids)


def _from_library(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(vocabulary.definition)
    except Exception as error:  # the library raises nothing narrower
        raise ModelFileError(f"tokenizer.json: {error}; fetch the model's tokenizer files again.") from error


def _byte_level_alphabet() -> dict[int, str]:
    # GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100 up, in order.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {**{byte: chr(byte) for byte in printable}, **{256 + i: chr(byte) for i, byte in enumerate(others)}}


def _token_bytes(vocabulary: Vocabulary) -> list[bytes]:
    tokens = vocabulary.tokens
    table = [_decode_byte_level(text) for text in tokens] if vocabulary.byte_level else _decode_scored(tokens)
    for kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED):
        for i in vocabulary.ids_of(kind):
            table[i] = b""
    for i in vocabulary.ids_of(TokenType.USER_DEFINED):
        table[i] = vocabulary.tokens[i].encode()
    return table


_ALPHABET = _byte_level_alphabet()


def _decode_byte_level(text: str) -> bytes:
    if text.isascii() and " " not in text:
        return text.encode()
    try:
        return text.translate(_ALPHABET).encode("latin-1")
    except UnicodeEncodeError:  # not written in the byte alphabet
        return text.encode()


_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>\Z")


def _decode_scored(tokens: list[str]) -> list[bytes]:
    # All at once, because one by one takes a tenth of a second for a vocabulary of 262k.
    joined = "\0".join(tokens)
    if joined.count("\0") == len(tokens) - 1:
        table = joined.replace(SPACE, " ").encode().split(b"\0")
    else:
        table = [text.replace(SPACE, " ").encode() for text in tokens]
    for i, text in enumerate(tokens):
        if text.startswith("<0x") and (match := _BYTE_TOKEN.match(text)):
            table[i] = bytes.fromhex(match[1])
    return table
