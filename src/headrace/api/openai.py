"""OpenAI's generation routes, inwards: body bytes become a neutral request, or a refusal that names the field.

The invariant (held by `fuzz/openai_codec.py`): whatever bytes come in, `decode_chat` and `decode_completion` return a
`Call` or raise a `HeadraceError`, never anything else. Types are checked by msgspec while it parses; this file and its
neighbours add what types cannot say:

    openai_fields.py    which fields there are       openai_format.py   the form that is asked for
    openai_input.py     messages, prompts, cache     openai_refusal.py  how no is said
    openai_tools.py     tools, calls and results     service_tier.py    how urgent a request is

Answers are written by `openai_answers.py`; which model names exist is the backend's knowledge, not ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from headrace.api.metadata import metadata
from headrace.api.openai_fields import (
    INERT_CHAT,
    INERT_COMPLETION,
    INERT_STREAM_OPTIONS,
    ChatBody,
    CompletionBody,
    RoutedBody,
    SharedBody,
)
from headrace.api.openai_fields import Message as WireMessage
from headrace.api.openai_format import FIELD, response_format
from headrace.api.openai_input import MAX_TOKEN_ID, cache_hints, chat_reasoning, messages, prompts, tokens
from headrace.api.openai_refusal import bounded, refuse_body, refuse_inert, show
from headrace.api.openai_tools import tools
from headrace.api.service_tier import serve_in_tier
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.ledger import NO_PRICES, PriceList
from headrace.core.request import MAX_CHOICES, MAX_TOP_LOGPROBS, Limits, Principal, Request, Role, Sampling

# OpenAI's own default for /v1/completions; chat has none and answers until the context ends.
COMPLETION_MAX_TOKENS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What the server knows of a call before it reads the body: who asks, and what the headers say.

    `headers` are all of the request's, names in lower case, for those that only one dialect has. `is_fresh`: an answer
    that was given before is not wanted.
    """

    request_id: str
    principal: Principal
    deadline_s: float | None = None
    session: str | None = None
    parent: str | None = None
    explains_cache: bool = False
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    prices: PriceList = NO_PRICES
    labels: frozenset[str] = frozenset()
    tags: tuple[str, ...] = ()
    is_fresh: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A decoded body: the neutral request and how its answer is to be written.

    `counts_on`: every chunk of a stream tells what was used so far (vLLM's). `prompt_logprobs` is what the answer shows
    under that name; the request may ask for more, because an echo shows log-probabilities of the prompt too. `others`
    are the requests of a completion's further prompts. `service_tier` is the tier that the answer names,
    `has_functions` says that it tells calls in OpenAI's older words, `custom_tools` names those that take free text. A
    call that `stores` is to be kept with its `messages`, as they came, and its `metadata`. `cached_content` names what
    stands before the request's messages.
    """

    request: Request
    stream: bool = False
    include_usage: bool = False
    counts_on: bool = False
    echo: bool = False
    prompt_logprobs: int | None = None
    format_field: str = FIELD
    prices: PriceList = NO_PRICES
    others: tuple[Request, ...] = ()
    service_tier: str | None = None
    has_functions: bool = False
    custom_tools: frozenset[str] = frozenset()
    stores: bool = False
    metadata: Mapping[str, str] | None = None
    messages: tuple[WireMessage, ...] = ()
    cached_content: str | None = None

    @property
    def requests(self) -> tuple[Request, ...]:
        """What the backend is asked: one request for each prompt."""
        return (self.request, *self.others)

    def reword(self, error: InvalidRequest) -> InvalidRequest:
        """A backend's refusal in the caller's words: vLLM has other names for the form of an answer."""
        if error.param != FIELD or self.format_field == FIELD:
            return error
        message = self.format_field + error.message.removeprefix(FIELD)
        return type(error)(message, param=self.format_field, code=error.code)


_decode_chat_body = msgspec.json.Decoder(ChatBody).decode
_decode_completion_body = msgspec.json.Decoder(CompletionBody).decode


def decode_chat(data: bytes, caller: Caller) -> Call:
    """Read the body of `POST /v1/chat/completions`. Raises InvalidRequest or UnsupportedField."""
    try:
        body = _decode_chat_body(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, ChatBody)
    refuse_inert(body, INERT_CHAT, "")
    caller, tier = _in_tier(body, caller)
    wanted = tools(body)
    request = replace(
        _request(body, caller),
        messages=messages(body.messages),
        tools=wanted.tools,
        tool_choice=wanted.choice,
        reasoning=chat_reasoning(body),
        logprobs=_chat_logprobs(body),
        limits=_limits(body, caller, _chat_max_tokens(body)),
    )
    call = replace(
        _call(body, request, caller),
        service_tier=tier,
        has_functions=wanted.has_functions,
        custom_tools=wanted.custom,
        metadata=None if body.metadata is None else metadata(body.metadata),
        cached_content=_cached_content(body),
    )
    return replace(call, stores=True, messages=tuple(body.messages)) if body.store else call


def decode_completion(data: bytes, caller: Caller) -> Call:
    """Read the body of `POST /v1/completions`. Raises InvalidRequest or UnsupportedField."""
    try:
        body = _decode_completion_body(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, CompletionBody)
    refuse_inert(body, INERT_COMPLETION, "")
    first, *more = prompts(body.prompt)
    common = _request(body, caller)
    common = replace(
        common,
        sampling=replace(common.sampling, best_of=_best_of(body)),
        suffix=body.suffix or None,
        logprobs=_alternatives("logprobs", body.logprobs),
        limits=_limits(body, caller, COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens),
    )
    call = _call(body, _asking(common, first, bool(body.echo)), caller, echo=bool(body.echo))
    if not more:
        return call
    if caller.explains_cache:
        raise UnsupportedField(
            "x-headrace-explain: one prompt at a time is explained; send one, or leave the header out.",
            param="x-headrace-explain",
        )
    _check_num_prompts(len(more) + 1, call.request)
    ids = (f"{caller.request_id}-{index}" for index in range(1, len(more) + 1))
    form = call.request.response_format
    common = replace(common, response_format=form)
    others = tuple(replace(_asking(common, one, call.echo), id=own) for own, one in zip(ids, more, strict=True))
    for other in others:
        other.check()
    return replace(call, others=others)


def _asking(request: Request, prompt: str | tuple[int, ...], echo: bool) -> Request:
    """The request with a prompt of its own."""
    text, ids = (prompt, None) if isinstance(prompt, str) else (None, prompt)
    request = replace(request, prompt=text, tokens=ids)
    if echo and (request.logprobs is not None or ids is not None):
        # What token ids read as is told together with their log-probabilities.
        return replace(request, prompt_logprobs=max(request.prompt_logprobs or 0, request.logprobs or 0))
    return request


def _check_num_prompts(count: int, request: Request) -> None:
    if count * request.sampling.num_drawn > MAX_CHOICES:
        raise InvalidRequest(
            f"prompt: {count} prompts with {request.sampling.num_drawn} choices each make more than {MAX_CHOICES}; "
            "send fewer of them in one request.",
            param="prompt",
        )


def _request(body: SharedBody, caller: Caller) -> Request:
    """What both routes say alike."""
    return Request(
        id=caller.request_id,
        model=model_name(body),
        sampling=_sampling(body),
        prompt_logprobs=_alternatives("prompt_logprobs", body.prompt_logprobs),
        cache=cache_hints(body, explain=caller.explains_cache, fresh=caller.is_fresh),
        principal=principal_of(body, caller.principal),
        session=caller.session,
        parent=caller.parent,
        labels=caller.labels,
        tags=caller.tags,
    )


def _cached_content(body: ChatBody) -> str | None:
    """The cache that a chat begins with, which brings all that stands before its turns. Raises InvalidRequest."""
    if body.cached_content is None:
        return None
    own = [name for name in ("tools", "tool_choice", "functions", "function_call") if getattr(body, name) is not None]
    roles = {message.role for message in body.messages} & {Role.SYSTEM.value, Role.DEVELOPER.value}
    if own or roles:
        what = own[0] if own else f"messages of {min(roles)}"
        raise InvalidRequest(
            f"cached_content: {what} cannot be sent with it; put system messages and tools into the cache.",
            param="cached_content",
        )
    return body.cached_content


def _in_tier(body: ChatBody, caller: Caller) -> tuple[Caller, str | None]:
    """The caller, as urgent as the service tier says, and what the answer calls the tier."""
    principal, tier = serve_in_tier(body.service_tier, caller.principal)
    if body.priority is not None and body.service_tier not in (None, "auto"):
        raise InvalidRequest(
            "priority: service_tier says how urgent the request is as well; send one of them.", param="priority"
        )
    return replace(caller, principal=principal), tier


def _call(body: SharedBody, request: Request, caller: Caller, *, echo: bool = False) -> Call:
    format_field, form = response_format(body)
    request = replace(request, response_format=form)
    request.check()
    stream = bool(body.stream)
    if stream and body.prompt_logprobs is not None:
        raise InvalidRequest("prompt_logprobs: not available in a stream; leave stream out.", param="prompt_logprobs")
    return Call(
        request,
        stream,
        _include_usage(body, stream),
        _counts_on(body),
        echo,
        body.prompt_logprobs,
        format_field,
        prices=caller.prices,
    )


def _sampling(body: SharedBody) -> Sampling:
    numbers = "temperature top_p min_p typical_p frequency_penalty presence_penalty repetition_penalty"
    given = {name: getattr(body, name) for name in numbers.split()}
    given |= {"top_k": bounded("top_k", body.top_k), "num_choices": bounded("n", body.n)}
    return Sampling(
        **{name: value for name, value in given.items() if value is not None},
        logit_bias=_logit_bias(body),
        seed=bounded("seed", body.seed),
    )


def _logit_bias(body: SharedBody) -> tuple[tuple[int, float], ...]:
    biases: list[tuple[int, float]] = []
    for key, value in (body.logit_bias or {}).items():
        # One spelling a token, so that no two keys mean the same one.
        token = int(key) if key.isascii() and key.isdecimal() and len(key) <= len(str(MAX_TOKEN_ID)) else -1
        if not 0 <= token <= MAX_TOKEN_ID or str(token) != key:
            raise InvalidRequest(
                f"logit_bias: {show(key)} is not a token id; keys are ids in [0, {MAX_TOKEN_ID}].", param="logit_bias"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequest(
                f"logit_bias.{key}: {show(value)} given, but a number is needed.",
                param="logit_bias",
                code="invalid_type",
            )
        if not -100 <= value <= 100:
            raise InvalidRequest(
                f"logit_bias.{key}: {show(value)} is not in [-100, 100]; give a number inside.", param="logit_bias"
            )
        biases.append((token, float(value)))
    return tuple(sorted(biases))


def _limits(body: SharedBody, caller: Caller, max_tokens: int | None) -> Limits:
    if max_tokens is not None and not 0 <= max_tokens <= MAX_TOKEN_ID:
        raise InvalidRequest(
            f"max_tokens: {show(max_tokens)} is not in [0, {MAX_TOKEN_ID}]; give a number inside.", param="max_tokens"
        )
    return Limits(
        max_tokens=max_tokens,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        stop_token_ids=tokens(body.stop_token_ids or [], "stop_token_ids"),
        ignore_eos=bool(body.ignore_eos),
        deadline_s=caller.deadline_s,
    )


def model_name(body: RoutedBody) -> str:
    """The model that is asked. Raises InvalidRequest for an empty name."""
    if not body.model:
        raise InvalidRequest("model: must not be empty; GET /v1/models lists the names.", param="model")
    return body.model


def principal_of(body: RoutedBody, principal: Principal) -> Principal:
    """Who asks, no more urgent than the key allows. As in vLLM, the smaller `priority` goes first."""
    if body.user is not None:
        principal = replace(principal, user=body.user)
    if body.priority is None:
        return principal
    if not -principal.priority <= body.priority < 2**31:
        raise InvalidRequest(
            f"priority: {show(body.priority)} is not in [{-principal.priority}, {2**31 - 1}]; smaller goes first, and "
            "the key says how small it may be.",
            param="priority",
        )
    return replace(principal, priority=-body.priority)


def _chat_logprobs(body: ChatBody) -> int | None:
    top = _alternatives("top_logprobs", body.top_logprobs)
    if body.logprobs:
        return top or 0
    if top:
        raise InvalidRequest(
            f"top_logprobs: {top} needs logprobs; send logprobs true, or leave both out.", param="top_logprobs"
        )
    return None


def _alternatives(name: str, count: int | None) -> int | None:
    if count is not None and not 0 <= count <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(
            f"{name}: {show(count)} is not in [0, {MAX_TOP_LOGPROBS}]; give a number inside.", param=name
        )
    return count


def _best_of(body: CompletionBody) -> int | None:
    best_of, wanted = bounded("best_of", body.best_of), 1 if body.n is None else body.n
    if best_of is None or best_of == wanted:
        return None  # all that are drawn are told
    if body.stream and best_of > wanted:
        raise UnsupportedField(
            f"best_of: {best_of} with n {show(wanted)} cannot be streamed, as the best is known at the end only; leave "
            "stream out.",
            param="best_of",
        )
    return best_of


def _chat_max_tokens(body: ChatBody) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequest(
            f"max_completion_tokens: {show(new)} disagrees with max_tokens {show(old)}; send one of them.",
            param="max_completion_tokens",
        )
    if new is not None and not 0 <= new <= MAX_TOKEN_ID:
        raise InvalidRequest(
            f"max_completion_tokens: {show(new)} is not in [0, {MAX_TOKEN_ID}]; give a number inside.",
            param="max_completion_tokens",
        )
    return old if new is None else new


def _include_usage(body: SharedBody, stream: bool) -> bool:
    options = body.stream_options
    if options is None:
        return False
    if not stream:
        raise InvalidRequest(
            "stream_options: only allowed when stream is true; leave it out or stream the answer.",
            param="stream_options",
        )
    refuse_inert(options, INERT_STREAM_OPTIONS, "stream_options.")
    return bool(options.include_usage)


def _counts_on(body: SharedBody) -> bool:
    options = body.stream_options
    if options is None or not options.continuous_usage_stats:
        return False
    if not options.include_usage:
        raise InvalidRequest(
            "stream_options.continuous_usage_stats: needs include_usage; send that too.",
            param="stream_options.continuous_usage_stats",
        )
    return True
