"""Ollama's routes that run a model, inwards: a body becomes a neutral request, a wish to load a model, or a refusal.

    ollama_fields.py   which fields and options there are      ollama_answers.py   how an answer is written
    ollama_input.py    what they mean                          ollama_models.py    which models there are

An empty conversation, prompt or input asks for no answer: the model is to be loaded, or with a keep_alive of 0 let go.
The invariant (held by a fuzz target): whatever bytes come in, a decoder returns a call or raises a HeadraceError.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import msgspec

from headrace.api.ollama_fields import (
    FIELDS_AT,
    INERT_GENERATE,
    OllamaAnswerBody,
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaEmbeddingsBody,
    OllamaGenerateBody,
    OllamaRunBody,
)
from headrace.api.ollama_input import (
    check_options,
    keep_alive_s,
    limits,
    logprobs,
    messages,
    model_name,
    reasoning,
    response_format,
    sampling,
    tools,
)
from headrace.api.openai import Caller
from headrace.api.openai_refusal import refuse_body, refuse_inert
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import (
    CacheHints,
    Input,
    Limits,
    Message,
    Request,
    Role,
    Task,
    TextPart,
)

_FORM: Final = "response_format"
_Body = TypeVar("_Body", bound=OllamaRunBody)


@dataclass(frozen=True, slots=True)
class OllamaCall:
    """A decoded body that asks for an answer. `model` is the name as it was given; with a `keep_alive_s` of 0 it is
    let go afterwards."""

    request: Request
    model: str
    stream: bool
    is_chat: bool
    keep_alive_s: float | None = None

    def reword(self, error: InvalidRequest) -> InvalidRequest:
        """A backend's refusal in this protocol's words."""
        if error.param != _FORM:
            return error
        return type(error)("format" + error.message.removeprefix(_FORM), param="format", code=error.code)


@dataclass(frozen=True, slots=True)
class EmbedCall:
    """A decoded body that asks for vectors. `is_legacy`: of the older route, which gives one."""

    request: Request
    model: str
    is_legacy: bool
    field: str
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class LoadCall:
    """A decoded body that asks for no answer. `kind`: chat, generate, embed or embeddings."""

    model: str
    name: str
    kind: str
    keep_alive_s: float | None = None


_decoders: Final[dict[type[OllamaRunBody], Any]] = {
    kind: msgspec.json.Decoder(kind).decode
    for kind in (OllamaChatBody, OllamaGenerateBody, OllamaEmbedBody, OllamaEmbeddingsBody)
}


def decode_chat(data: bytes, caller: Caller) -> OllamaCall | LoadCall:
    """Read the body of `POST /api/chat`. Raises InvalidRequest or UnsupportedField."""
    body = _read(OllamaChatBody, data, caller)
    if not body.messages:
        return _load(body, "chat")
    request = replace(_request(body, caller), messages=messages(body.messages), tools=tools(body.tools))
    return _call(body, request, is_chat=True)


def decode_generate(data: bytes, caller: Caller) -> OllamaCall | LoadCall:
    """Read the body of `POST /api/generate`. Raises InvalidRequest or UnsupportedField."""
    body = _read(OllamaGenerateBody, data, caller)
    refuse_inert(body, INERT_GENERATE, "")
    if not body.prompt and not body.suffix:
        return _load(body, "generate")
    request = _request(body, caller)
    if body.raw or body.suffix:
        if body.system:
            name = "raw" if body.raw else "suffix"
            raise InvalidRequest(
                f"system: goes into the model's template, which {name} leaves out; write it into the prompt.",
                param="system",
            )
        return _call(body, replace(request, prompt=body.prompt or "", suffix=body.suffix or None), is_chat=False)
    turns = [Message(Role.USER, (TextPart(body.prompt or ""),))]
    if body.system:
        turns.insert(0, Message(Role.SYSTEM, (TextPart(body.system),)))
    return _call(body, replace(request, messages=tuple(turns)), is_chat=False)


def decode_embed(data: bytes, caller: Caller) -> EmbedCall | LoadCall:
    """Read the body of `POST /api/embed`. Raises InvalidRequest or UnsupportedField."""
    body = _read(OllamaEmbedBody, data, caller)
    if not body.input:
        return _load(body, "embed")
    texts = [body.input] if isinstance(body.input, str) else body.input
    # Ollama cuts inputs that are too long unless it is told not to.
    request = _embedding(body, caller, texts, dimensions=body.dimensions, truncates=body.truncate is not False)
    return EmbedCall(request, body.model, is_legacy=False, field="input", keep_alive_s=keep_alive_s(body.keep_alive))


def decode_embeddings(data: bytes, caller: Caller) -> EmbedCall | LoadCall:
    """Read the body of `POST /api/embeddings`. Raises InvalidRequest or UnsupportedField."""
    body = _read(OllamaEmbeddingsBody, data, caller)
    if not body.prompt:
        return _load(body, "embeddings")
    request = _embedding(body, caller, [body.prompt], dimensions=None, truncates=body.truncate is not False)
    return EmbedCall(request, body.model, is_legacy=True, field="prompt", keep_alive_s=keep_alive_s(body.keep_alive))


def _read(kind: type[_Body], data: bytes, caller: Caller) -> _Body:
    if caller.explains_cache:
        raise UnsupportedField(
            "x-headrace-explain: this protocol has no place for it; leave the header out.", param="x-headrace-explain"
        )
    try:
        body: _Body = _decoders[kind](data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, kind, FIELDS_AT)
    check_options(body.options or {})
    return body


def _load(body: OllamaRunBody, kind: str) -> LoadCall:
    return LoadCall(body.model, model_name(body.model), kind, keep_alive_s(body.keep_alive))


def _request(body: OllamaAnswerBody, caller: Caller) -> Request:
    options = body.options or {}
    return Request(
        id=caller.request_id,
        model=model_name(body.model),
        sampling=sampling(options),
        limits=limits(options, caller.deadline_s),
        response_format=response_format(body.format),
        reasoning=reasoning(body.think),
        logprobs=logprobs(body),
        cache=CacheHints(fresh=caller.is_fresh),
        principal=caller.principal,
        session=caller.session,
        parent=caller.parent,
        labels=caller.labels,
        tags=caller.tags,
    )


def _call(body: OllamaAnswerBody, request: Request, *, is_chat: bool) -> OllamaCall:
    request.check()
    return OllamaCall(request, body.model, body.stream is not False, is_chat, keep_alive_s(body.keep_alive))


def _embedding(
    body: OllamaRunBody, caller: Caller, texts: list[str], *, dimensions: int | None, truncates: bool
) -> Request:
    request = Request(
        id=caller.request_id,
        model=model_name(body.model),
        task=Task.EMBED,
        inputs=tuple(Input(text) for text in texts),
        dimensions=dimensions,
        truncates=truncates,
        limits=Limits(deadline_s=caller.deadline_s),
        cache=CacheHints(fresh=caller.is_fresh),
        principal=caller.principal,
        session=caller.session,
        parent=caller.parent,
        labels=caller.labels,
        tags=caller.tags,
    )
    request.check()
    return request
