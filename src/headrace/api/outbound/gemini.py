"""Gemini's native API as a backend speaks it: the codec, put together.

    gemini_body.py     neutral requests out                 gemini_models.py   what models are known to do
    gemini_answer.py   answers in, as events                gemini_frames.py   the wire's types and counts
    gemini_error.py    refusals                             call_ids.py        where thoughts' signatures travel

Source: ai.google.dev, Gemini API reference, v1beta; a backend's URL ends with the version. No client of ours speaks it,
so nothing of it passes through as bytes. Knows nothing that these do not.
"""

from typing import Final, NoReturn

from headrace.api.outbound.codec import OutboundCodec, Quirks
from headrace.api.outbound.gemini_answer import GeminiReader, decode, usage_of
from headrace.api.outbound.gemini_body import encode
from headrace.api.outbound.gemini_error import read_error
from headrace.core.errors import EngineFault
from headrace.core.gateway import RawBody


def _reframe(raw: RawBody, model: str, max_tokens: int | None, quirks: Quirks) -> NoReturn:
    raise EngineFault(f"a body of {raw.dialect} was to pass through to Gemini, which speaks nothing that clients do.")


def _scanner(raw: RawBody) -> NoReturn:
    raise EngineFault(f"an answer of Gemini was to pass through to a client that speaks {raw.dialect}.")


GEMINI: Final = OutboundCodec(
    name="gemini",
    takes=frozenset(),
    encode=encode,
    reader=GeminiReader,
    decode=decode,
    reframe=_reframe,
    scanner=_scanner,
    usage_of=usage_of,
    read_error=read_error,
    secret_header=lambda secret: (b"x-goog-api-key", secret.encode("latin-1")),
)
