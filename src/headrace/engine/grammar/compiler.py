"""Turns what a request says about its answer's form into a grammar over one model's tokens, and remembers it.

A form is written as llguidance's source (`source.py`), tried out in another process (`probe.py`), then compiled here: a
millisecond as a rule, up to seconds for the largest schemas, so callers use a thread that may wait. Knows no sequence
and no scheduler.
"""

import hashlib
import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

import llguidance
import numpy as np

from headrace.core.errors import EngineFault, InvalidRequest, UnsupportedField
from headrace.core.request import FormatKind, ResponseFormat
from headrace.engine.grammar.composed import Composed
from headrace.engine.grammar.matcher import Grammar
from headrace.engine.grammar.probe import MAX_LEXER_STATES, Probe
from headrace.engine.grammar.source import find_keyword, write_source

MAX_GRAMMARS = 64  # remembered; each holds its lexer's states, some MB at most
# Ours, so that nothing that they cannot say is waited for or crashes on.
_SAFE = frozenset({FormatKind.CHOICE, FormatKind.JSON_OBJECT})
_UNIMPLEMENTED = re.compile(r'Unimplemented keys: \["([^"]+)"')
_MAX_REASON_CHARS = 300

Form = ResponseFormat | Composed

_log = logging.getLogger("headrace.engine")


class Vocabulary(Protocol):
    """What is needed of `models.tokenizer.Tokenizer`."""

    @property
    def byte_table(self) -> list[bytes]:
        """What each token adds to a text."""
        ...

    eos_ids: frozenset[int]
    special_tokens: Mapping[str, int]

    def encode_inside(self, text: str) -> list[int]:
        """Token ids of text that goes on after other text."""
        ...


class GrammarCompiler:
    """Grammars for one model; safe to use from several threads.

    `num_tokens` is the width of the model's head, at least the vocabulary. `is_forcing` False leaves what the grammar
    dictates to be drawn token by token, in any tokenisation: for tests and comparisons.

    Cache: digest of the form -> grammar, least recently used of 64 dropped; dropped too when a matcher fails.
    """

    def __init__(self, vocabulary: Vocabulary, num_tokens: int, *, is_forcing: bool = True) -> None:
        self._vocabulary = vocabulary
        self._num_tokens = num_tokens
        self._probe = Probe(num_tokens, vocabulary.special_tokens, min(vocabulary.eos_ids, default=0))
        self._is_forcing = is_forcing
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._making = threading.Lock()
        self._lock = threading.Lock()  # never held for long
        self._grammars: OrderedDict[bytes, Grammar] = OrderedDict()

    def compile(self, form: Form) -> Grammar:
        """The grammar of `form`, which is not plain text. May take seconds: not for an event loop.

        Raises InvalidRequest and UnsupportedField, which say what is wrong with it and where.
        """
        if not self._vocabulary.eos_ids:
            param = "tools" if isinstance(form, Composed) and form.calls is not None else "response_format"
            raise UnsupportedField(
                f"{param}: this model has no token that ends an answer, so that nothing can hold it to a form; leave"
                " that out.",
                param=param,
            )
        if (known := self.find(form)) is not None:
            return known
        if isinstance(form, Composed):
            source, is_safe = form.write(self._vocabulary.special_tokens), False
        else:
            source, is_safe = write_source(form, self._vocabulary.special_tokens), form.kind in _SAFE
        if not is_safe and (reason := self._probe.try_out(source)) is not None:
            raise _refusal(form, reason)
        grammar = self._build(form, source)
        with self._lock:
            self._grammars[_digest(form)] = grammar
            if len(self._grammars) > MAX_GRAMMARS:
                self._grammars.popitem(last=False)
        return grammar

    def close(self) -> None:
        """End the other process; closing twice is no error."""
        self._probe.close()

    def find(self, form: Form) -> Grammar | None:
        """The grammar of a form that was compiled before; waits for nobody who compiles."""
        try:
            digest = _digest(form)
        except (TypeError, ValueError, RecursionError):  # no JSON: `compile` will say so
            return None
        with self._lock:
            grammar = self._grammars.get(digest)
            if grammar is None:
                return None
            if grammar.is_spent:
                del self._grammars[digest]
                return None
            self._grammars.move_to_end(digest)
            return grammar

    def _build(self, form: Form, source: str) -> Grammar:
        with self._making:
            if self._tokenizer is None:
                tokens: Any = _Tokens(self._vocabulary, self._num_tokens, is_forcing=self._is_forcing)
                self._tokenizer = llguidance.LLTokenizer(tokens, eos_token=sorted(self._vocabulary.eos_ids))
        if not self._is_forcing:
            source = _without_forcing(source)
        limits = llguidance.LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)
        prototype = llguidance.LLMatcher(self._tokenizer, source, log_level=0, limits=limits)
        if prototype.is_error():
            raise _refusal(form, prototype.get_error())
        grammar = Grammar(prototype, self._num_tokens, self._vocabulary.eos_ids)
        try:
            grammar.start().mask(np.empty(grammar.num_words, np.uint32))
        except EngineFault as error:
            raise _refusal(form, "NoExtension") from error
        return grammar


def _digest(form: Form) -> bytes:
    # Not sorted: the order of properties is that of the answer.
    if isinstance(form, Composed):
        said = json.dumps(form.said())
    else:
        said = json.dumps([form.kind, form.schema, form.choices, form.source, form.after])
    return hashlib.sha256(said.encode()).digest()


class _Tokens:
    """A vocabulary as llguidance asks for it: bytes by id, and text to ids."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, num_tokens: int, *, is_forcing: bool) -> None:
        self.eos_token_id = min(vocabulary.eos_ids)
        # A row of the head without a token has no bytes, and is in no mask.
        table = [*vocabulary.byte_table, *[b""] * (num_tokens - len(vocabulary.byte_table))]
        for text, token in vocabulary.special_tokens.items():
            table[token] = text.encode()
        self.tokens = table
        self.special_token_ids = sorted(vocabulary.special_tokens.values())
        self._encode = vocabulary.encode_inside

    def __call__(self, text: str | bytes) -> list[int]:
        # It must not raise: the caller has no way to pass that on.
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _without_forcing(source: str) -> str:
    grammars = json.loads(source)["grammars"]
    top = '%llguidance {"no_forcing": true}\nstart: @inner\n'
    return json.dumps(
        {"grammars": [{"name": "top", "lark_grammar": top}, {**grammars[0], "name": "inner"}, *grammars[1:]]}
    )


def _refusal(form: Form, reason: str) -> InvalidRequest:
    """llguidance's reason, on one line and with the place where that can be told."""
    _log.debug("A form was refused: %s", reason)
    found = _UNIMPLEMENTED.search(reason)
    if isinstance(form, Composed):
        return form.refuse(None if found is None else found[1], _sentence(reason))
    if found is not None and form.kind is FormatKind.JSON_SCHEMA:
        where = find_keyword(form.schema, found[1]) or "#"
        return UnsupportedField(
            f"response_format: json_schema: the keyword {found[1]!r} at {where} is not supported; remove it.",
            param="response_format",
        )
    return InvalidRequest(f"response_format: {form.kind}: {_sentence(reason)}; change it.", param="response_format")


def _sentence(reason: str) -> str:
    if reason.startswith("NoExtension"):
        reason = "no text that this model can write has this form"
    return " ".join(reason.removesuffix("\n<non-verbose/>").split())[:_MAX_REASON_CHARS]
