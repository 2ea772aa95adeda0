"""Anthropic's Messages routes, inwards: body bytes become a neutral request, or a refusal that names the field.

The invariant (held by `fuzz/anthropic_codec.py`): whatever bytes come in, `decode_messages` and `decode_count` return a
`Call` or raise a `HeadraceError`, never anything else. msgspec checks types while it parses; this file and its
neighbours add what types cannot say:

    anthropic_fields.py   which fields there are      anthropic_tools.py      tools and the choice among them
    anthropic_body.py     bytes to those fields       anthropic_thinking.py   thinking and its signature
    anthropic_input.py    the conversation            anthropic_cache.py      cache_control

Answers are written by `anthropic_answers.py`; which model names exist is the backend's knowledge, not ours.
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from headrace.api.anthropic_body import read_body
from headrace.api.anthropic_cache import TOOLS, Mark, Marks
from headrace.api.anthropic_fields import INERT_MESSAGES, INERT_PROMPT, MessagesBody, OutputFormat, PromptBody
from headrace.api.anthropic_input import conversation
from headrace.api.anthropic_thinking import is_hidden, reasoning
from headrace.api.anthropic_tools import tool_choice, tools
from headrace.api.errors import UNSUPPORTED_THREAD
from headrace.api.openai import Caller
from headrace.api.openai_refusal import bounded, refuse_inert, show
from headrace.core.errors import ContextTooLong, InvalidRequest, UnsupportedField
from headrace.core.ledger import NO_PRICES, PriceList
from headrace.core.request import (
    CacheHints,
    Effort,
    FormatKind,
    Limits,
    Principal,
    Request,
    ResponseFormat,
    Sampling,
    Task,
    ToolMode,
)

MAX_USER_CHARS: Final = 512
_INTERLEAVED: Final = "interleaved-thinking-2025-05-14"

# What Claude Code calls a conversation; one of ours wins.
_SESSION_HEADER: Final = b"x-claude-code-session-id"
_SESSION = re.compile(rb"[\x21-\x7e]{1,128}")

# What the neutral request calls a field, and Anthropic's protocol: a backend's refusals name the former.
_WORDS: Final = {
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "cache": "cache_control",
    "max_tool_calls": "tool_choice.disable_parallel_tool_use",
    "reasoning max_tokens": "thinking.budget_tokens",
    "answer_start": "messages",
}


@dataclass(frozen=True, slots=True)
class Call:
    """A decoded body: the neutral request and how its answer is to be written.

    `hides_thinking`: only its signature is shown. `left_out` are fields that nobody here knows. With `is_diagnosed` the
    answer says why the cache did not have what the request of message `previous_id` had put there (None: there is none
    yet). `lists_edits`: the answer says which edits of the context were made.
    """

    request: Request
    stream: bool = False
    hides_thinking: bool = False
    left_out: tuple[str, ...] = ()
    is_diagnosed: bool = False
    previous_id: str | None = None
    lists_edits: bool = False
    explains_cache: bool = False
    prices: PriceList = NO_PRICES

    def reword(self, error: InvalidRequest) -> InvalidRequest:
        """A backend's refusal in the caller's words."""
        if isinstance(error, ContextTooLong):
            # The words that Claude Code looks for: it then shortens the conversation.
            return type(error)(f"prompt is too long: {error.message}", param=error.param, code=error.code)
        word = _WORDS.get(error.param or "")
        if word is None or error.param is None:
            return error
        message = error.message
        if message.startswith(f"{error.param}:"):
            message = word + message.removeprefix(error.param)
        return type(error)(message, param=word, code=error.code)


def decode_messages(data: bytes, caller: Caller) -> Call:
    """Read the body of `POST /v1/messages`. Raises InvalidRequest or UnsupportedField."""
    betas = _betas(caller)
    body, left_out = read_body(data, MessagesBody, has_betas=bool(betas))
    refuse_inert(body, INERT_MESSAGES, "")
    limits = _limits(body, caller)
    request = replace(
        _request(body, caller, limits.max_tokens, is_interleaved=_INTERLEAVED in betas),
        sampling=_sampling(body),
        limits=limits,
        principal=_principal(body, caller.principal),
    )
    diagnostics = body.diagnostics
    if diagnostics is not None:
        request = replace(request, cache=replace(request.cache, explain=True))
    call = Call(
        request,
        bool(body.stream),
        is_hidden(body.thinking),
        left_out,
        is_diagnosed=diagnostics is not None,
        previous_id=None if diagnostics is None else diagnostics.previous_message_id,
        lists_edits=body.context_management is not None,
        explains_cache=caller.explains_cache,
        prices=caller.prices,
    )
    return _checked(call)


def decode_count(data: bytes, caller: Caller) -> Call:
    """Read the body of `POST /v1/messages/count_tokens`. Raises InvalidRequest or UnsupportedField."""
    betas = _betas(caller)
    body, left_out = read_body(data, PromptBody, has_betas=bool(betas))
    refuse_inert(body, INERT_PROMPT, "")
    request = replace(_request(body, caller, None, is_interleaved=True), task=Task.COUNT)
    return _checked(Call(request, left_out=left_out, lists_edits=body.context_management is not None))


def _checked(call: Call) -> Call:
    _check_start(call.request)
    try:
        call.request.check()
    except InvalidRequest as error:
        raise call.reword(error) from None
    return call


def _check_start(request: Request) -> None:
    """Refuse what an answer that has begun already cannot have any more."""
    if not request.answer_start:
        return
    taken = {
        "thinking": request.reasoning.effort is not Effort.NONE,
        "output_config.format": request.response_format.kind is not FormatKind.TEXT,
        "tool_choice": request.tool_choice.mode is ToolMode.REQUIRED,
    }
    for name, is_taken in taken.items():
        if is_taken:
            raise InvalidRequest(
                f"{name}: does not go with a conversation that ends with the assistant (prefill); end it with a user "
                "message, or leave this out.",
                param=name,
            )


def _betas(caller: Caller) -> frozenset[str]:
    """What `anthropic-beta` names; a name that we do not know is none of our business."""
    given = caller.headers.get(b"anthropic-beta", b"").decode("latin-1")
    return frozenset(name.strip() for name in given.split(",") if name.strip())


def _refuse_thread(body: PromptBody) -> None:
    """State that the server holds is not offered. Anthropic's clients ask for it in their tool loops, and go on without
    it when they are told so by this code."""
    if body.thread is not None:
        raise UnsupportedField(
            "thread: conversations are not held here; leave it out and send all messages.",
            param="thread",
            code=UNSUPPORTED_THREAD,
        )


def _request(body: PromptBody, caller: Caller, max_tokens: int | None, *, is_interleaved: bool) -> Request:
    """What both routes say alike."""
    if not body.model:
        raise InvalidRequest("model: must not be empty; GET /v1/models lists the names.", param="model")
    _refuse_thread(body)
    marks = Marks()
    for index, tool in enumerate(body.tools or []):
        if tool.cache_control is not None:
            marks.add(Mark(tool.cache_control, TOOLS, f"tools[{index}].cache_control"))
    talk = conversation(body, marks)
    marks.add_automatic(body.cache_control, len(talk.messages))
    return Request(
        id=caller.request_id,
        model=body.model,
        messages=tuple(talk.messages),
        answer_start=talk.answer_start,
        tools=tools(body.tools or [], talk.referenced),
        tool_choice=tool_choice(body.tool_choice, has_tools=bool(body.tools)),
        reasoning=reasoning(body.thinking, body.output_config, max_tokens, is_interleaved=is_interleaved),
        response_format=_format(body),
        limits=Limits(deadline_s=caller.deadline_s),
        cache=CacheHints(breakpoints=marks.breakpoints(), explain=caller.explains_cache, fresh=caller.is_fresh),
        principal=caller.principal,
        session=session_of(caller),
        parent=caller.parent,
        labels=caller.labels,
        tags=caller.tags,
    )


def _limits(body: MessagesBody, caller: Caller) -> Limits:
    if not 0 <= body.max_tokens < 2**31:
        raise InvalidRequest(
            f"max_tokens: {show(body.max_tokens)} is not in [0, {2**31 - 1}]; give a number inside.", param="max_tokens"
        )
    return Limits(
        max_tokens=body.max_tokens,
        fits_context=True,  # as with Anthropic's newer models; clients ask for what their own model could give
        stop=tuple(body.stop_sequences or ()),
        deadline_s=caller.deadline_s,
    )


def _sampling(body: MessagesBody) -> Sampling:
    # Anthropic's scale ends at 1; a larger value can only come from another protocol's habits.
    if body.temperature is not None and not 0 <= body.temperature <= 1:
        raise InvalidRequest(
            f"temperature: {show(body.temperature)} is not in [0, 1]; give a number inside.", param="temperature"
        )
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=bounded("top_k", body.top_k) or 0,
    )


def _format(body: PromptBody) -> ResponseFormat:
    config = body.output_config
    if config is not None and config.task_budget is not None:
        raise UnsupportedField(
            "output_config.task_budget: is not supported; leave it out, and bound the answer with max_tokens.",
            param="output_config.task_budget",
        )
    new = None if config is None else config.format
    if new is not None and body.output_format is not None:
        raise InvalidRequest(
            "output_format: output_config.format is given as well; send the latter.", param="output_format"
        )
    given, path = (new, "output_config.format") if new is not None else (body.output_format, "output_format")
    if given is None:
        return ResponseFormat()
    return ResponseFormat(FormatKind.JSON_SCHEMA, schema=_schema(given, path))


def _schema(given: OutputFormat, path: str) -> dict[str, object] | bool:
    if given.type != "json_schema":
        raise UnsupportedField(
            f"{path}.type: {show(given.type)} is not supported; use 'json_schema'.", param=f"{path}.type"
        )
    if given.schema is None:
        raise InvalidRequest(
            f"{path}.schema: is missing; it is what the answer is held to.",
            param=f"{path}.schema",
            code="missing_required_parameter",
        )
    return given.schema


def _principal(body: MessagesBody, principal: Principal) -> Principal:
    user = None if body.metadata is None else body.metadata.user_id
    if user is None:
        return principal
    if len(user) > MAX_USER_CHARS:
        raise InvalidRequest(
            f"metadata.user_id: {len(user)} characters given; at most {MAX_USER_CHARS} are allowed.",
            param="metadata.user_id",
        )
    return replace(principal, user=user)


def session_of(caller: Caller) -> str | None:
    """The conversation that a request belongs to, by our header or by Claude Code's."""
    given = caller.headers.get(_SESSION_HEADER, b"")
    if caller.session is None and _SESSION.fullmatch(given):
        return given.decode()
    return caller.session
