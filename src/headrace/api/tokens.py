"""`/tokenize` and `/detokenize` as vLLM has them, and as llama.cpp does: its bodies are told by `content`.

    {"prompt"} or {"messages", "tools"}   ->  {"count", "max_model_len", "tokens", "token_strs"}
    {"content"}                           ->  {"tokens": [id, ...]}, or with `with_pieces` [{"id", "piece"}, ...]
    {"tokens"}                            ->  {"prompt", "content"}, one text under both names

`model` may be left out where vLLM and llama.cpp serve one model: the first that is served is meant.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from headrace.api.openai import Caller
from headrace.api.openai_fields import FIELDS_AT, Message, Tool
from headrace.api.openai_input import messages, tokens
from headrace.api.openai_refusal import refuse_body, refuse_inert
from headrace.api.openai_tools import given_tools
from headrace.core.errors import InvalidRequest
from headrace.core.request import Limits, Request, Task
from headrace.core.service import Tokenized

# Field -> values that mean "off" (null always does). Everything else is refused by name.
INERT_TOKENIZE: Final[dict[str, tuple[Any, ...] | None]] = {
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "mm_processor_kwargs": ({},),
    "parse_special": (True,),
}


class TokenizeBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /tokenize`: one of prompt, messages and content."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    content: str | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None
    add_special: bool | None = None
    with_pieces: bool | None = None
    chat_template: Any = None
    chat_template_kwargs: Any = None
    continue_final_message: Any = None
    mm_processor_kwargs: Any = None
    parse_special: Any = None


class DetokenizeBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /detokenize`."""

    tokens: list[int]
    model: str | None = None


# Whose fields go with which kind of input, beside `model`.
_KINDS: Final = {
    "prompt": ("add_special_tokens", "return_token_strs"),
    "messages": ("add_special_tokens", "add_generation_prompt", "return_token_strs", "tools"),
    "content": ("add_special", "with_pieces"),
}
_decode_tokenize = msgspec.json.Decoder(TokenizeBody).decode
_decode_detokenize = msgspec.json.Decoder(DetokenizeBody).decode


@dataclass(frozen=True, slots=True)
class TokenizeCall:
    """What a body asks for. `is_short`: the answer is llama.cpp's; `shows_pieces`: it tells each token's text."""

    request: Request
    adds_special: bool
    opens_answer: bool
    shows_pieces: bool
    is_short: bool

    def encode(self, found: Tokenized) -> bytes:
        """The answer."""
        if not self.is_short:
            names = [piece.decode("utf-8", "replace") for piece in found.pieces] if self.shows_pieces else None
            count = {"count": len(found.tokens), "max_model_len": found.max_tokens}
            return msgspec.json.encode(count | {"tokens": found.tokens, "token_strs": names})
        if not self.shows_pieces:
            return msgspec.json.encode({"tokens": found.tokens})
        entries = zip(found.tokens, found.pieces, strict=True)
        return msgspec.json.encode({"tokens": [{"id": token, "piece": _piece(piece)} for token, piece in entries]})


def _piece(piece: bytes) -> str | list[int]:
    """llama.cpp tells bytes that are no whole characters as numbers."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def decode_tokenize(data: bytes, caller: Caller, default_model: str) -> TokenizeCall:
    """Read the body of `POST /tokenize`. Raises InvalidRequest or UnsupportedField."""
    try:
        body = _decode_tokenize(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, TokenizeBody, FIELDS_AT)
    refuse_inert(body, INERT_TOKENIZE, "")
    kind = _kind(body)
    request = _request(body.model, caller, default_model)
    if kind == "messages":
        request = replace(request, messages=messages(body.messages or []), tools=given_tools(body.tools or ()))
    else:
        request = replace(request, prompt=body.prompt if kind == "prompt" else body.content)
    request.check()
    if kind == "messages" and body.add_special_tokens:
        raise InvalidRequest(
            "add_special_tokens: the chat template writes them; leave it out or send false.",
            param="add_special_tokens",
        )
    is_short = kind == "content"
    return TokenizeCall(
        request,
        adds_special=bool(body.add_special) if is_short else body.add_special_tokens is not False,
        opens_answer=body.add_generation_prompt is not False,
        shows_pieces=bool(body.with_pieces if is_short else body.return_token_strs),
        is_short=is_short,
    )


def decode_detokenize(data: bytes, caller: Caller, default_model: str) -> Request:
    """Read the body of `POST /detokenize`. Raises InvalidRequest."""
    try:
        body = _decode_detokenize(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, DetokenizeBody, {})
    request = replace(_request(body.model, caller, default_model), tokens=tokens(body.tokens, "tokens"))
    request.check()
    return request


def encode_detokenized(text: str) -> bytes:
    """The answer to `POST /detokenize`."""
    return msgspec.json.encode({"prompt": text, "content": text})


def _kind(body: TokenizeBody) -> str:
    given = [kind for kind in _KINDS if getattr(body, kind) is not None]
    if len(given) != 1:
        raise InvalidRequest(
            f"one of prompt, messages and content is needed; given: {' and '.join(given) or 'none'}.",
            param=given[-1] if given else "prompt",
        )
    (kind,) = given
    for others in _KINDS.values():
        for name in others:
            if getattr(body, name) is not None and name not in _KINDS[kind]:
                raise InvalidRequest(f"{name}: does not go with {kind}; leave it out.", param=name)
    return kind


def _request(model: str | None, caller: Caller, default_model: str) -> Request:
    if model == "":
        raise InvalidRequest("model: must not be empty; leave it out for the first that is served.", param="model")
    return Request(
        id=caller.request_id,
        model=default_model if model is None else model,
        task=Task.COUNT,
        limits=Limits(deadline_s=caller.deadline_s),
        principal=caller.principal,
        session=caller.session,
        parent=caller.parent,
        labels=caller.labels,
        tags=caller.tags,
    )
