"""OpenAI's Chat Completions, Completions and Embeddings as protocols of a backend, with rerank and score beside them.

    chat_body.py    messages out             chat_reader.py    streams as events
    completions.py  prompts out              chat_scanner.py   streams and bodies that pass through
    embeddings.py   texts out, results in    chat_refusals.py  errors

Which of the routes a request takes follows from what is in it.
"""

from typing import Final

from headrace.api.outbound.chat_body import PATH as CHAT_PATH
from headrace.api.outbound.chat_body import encode_chat, unsupported
from headrace.api.outbound.chat_reader import ChatReader, TextReader
from headrace.api.outbound.chat_refusals import read_error
from headrace.api.outbound.chat_scanner import ChatScanner, usage_of
from headrace.api.outbound.codec import OutboundCall, OutboundCodec, Quirks, Reader, Scanner
from headrace.api.outbound.completions import MAX_TOKENS, encode_completion
from headrace.api.outbound.completions import PATH as COMPLETION_PATH
from headrace.api.outbound.embeddings import EMBED_PATH, decode_inputs, encode_embed, encode_score
from headrace.api.outbound.reframing import (
    ask_usage,
    bound_answer,
    rewrite,
    wants_stream,
    wants_usage,
    write_fields,
)
from headrace.core.gateway import RawBody
from headrace.core.request import Request, Task

_PATHS: Final = {"chat": CHAT_PATH, "completions": COMPLETION_PATH, "embeddings": EMBED_PATH}


def encode(request: Request, model: str, quirks: Quirks) -> OutboundCall:
    """The call that a request becomes. Raises UnsupportedField for what the provider cannot be told."""
    if request.task is Task.EMBED:
        return encode_embed(request, model, quirks)
    if request.task is Task.SCORE:
        return encode_score(request, model, quirks)
    if request.task is not Task.GENERATE:
        raise unsupported("count_tokens")
    if request.messages is None:
        return encode_completion(request, model, quirks)
    return encode_chat(request, model, quirks)


def reader(request: Request, model: str) -> Reader:
    """Who reads the stream that answers a request."""
    return TextReader(request, model) if request.messages is None else ChatReader(request, model)


def reframe(raw: RawBody, model: str, max_tokens: int | None, quirks: Quirks) -> OutboundCall:
    """A body as it came but for what a gateway may change. Raises InvalidRequest for a bound that is no number."""
    fields = rewrite(raw.fields, model, quirks)
    is_stream = False
    if raw.dialect != "embeddings":
        field = quirks.max_tokens_field if raw.dialect == "chat" else MAX_TOKENS
        bound_answer(fields, field, max_tokens)
        if fields.get(field) == b"0":
            raise unsupported("max_tokens")  # some servers (llama-cpp-python) read it as no bound at all
        is_stream = wants_stream(fields)
        if is_stream:
            ask_usage(fields, quirks)
    return OutboundCall(path=_PATHS[raw.dialect], body=write_fields(fields), is_stream=is_stream)


def scanner(raw: RawBody) -> Scanner:
    """Who looks at the stream that answers a body."""
    return ChatScanner(asked=wants_usage(raw.fields))


def secret_header(secret: str) -> tuple[bytes, bytes]:
    """How credentials are shown."""
    return b"authorization", b"Bearer " + secret.encode()


CHAT: Final = OutboundCodec(
    name="chat",
    takes=frozenset(_PATHS),
    encode=encode,
    reader=reader,
    decode=decode_inputs,
    reframe=reframe,
    scanner=scanner,
    usage_of=usage_of,
    read_error=read_error,
    secret_header=secret_header,
)
