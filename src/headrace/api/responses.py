"""The Responses and Conversations routes, inwards: body bytes become a call, or a refusal that names the field.

The invariant: whatever bytes come in, every `decode_*` here returns its value or raises a `HeadraceError`, never
anything else. Types are checked by msgspec while it parses; the neighbours add what types cannot say:

    responses_fields.py     which fields there are        responses_settings.py   tools, form, sampling, their echo
    responses_items.py      items, and messages of them   responses_cache.py      what is worth keeping

Objects and events are written by `responses_objects.py` and `responses_events.py`; what was said before is the
service's knowledge (`responses_service.py`), not ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

import msgspec

from headrace.api.metadata import metadata
from headrace.api.openai import Caller, model_name, principal_of
from headrace.api.openai_refusal import bounded, refuse_body, refuse_inert, show
from headrace.api.responses_cache import cache_wish
from headrace.api.responses_fields import (
    FIELDS_AT,
    INERT_SETTINGS,
    INERT_STREAM_OPTIONS,
    AskedBody,
    CompactBody,
    ConversationBody,
    CountBody,
    CreateBody,
    ItemsBody,
)
from headrace.api.responses_items import read_items
from headrace.api.responses_service import CreateCall, Item, Page
from headrace.api.responses_settings import (
    Tools,
    read_format,
    read_include,
    read_reasoning,
    read_sampling,
    read_tool_choice,
    read_tools,
    read_verbosity,
)
from headrace.api.service_tier import serve_in_tier
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import CacheHints, Limits, Request, Sampling, Task

ID_PREFIX: Final = "resp_"
MAX_NEW_ITEMS: Final = 20
MAX_PAGE: Final = 100
_MAX_SALT_CHARS: Final = 256

_Body = TypeVar("_Body", bound=msgspec.Struct)


def decode_create(data: bytes, caller: Caller) -> CreateCall:
    """Read the body of `POST /v1/responses`. Raises InvalidRequest or UnsupportedField."""
    body = _decode(CreateBody, data)
    call = _create(body, data, caller)
    stream, background = bool(body.stream), bool(body.background)
    if body.stream_options is not None:
        if not stream:
            raise InvalidRequest(
                "stream_options: only allowed when stream is true; leave it out or stream the response.",
                param="stream_options",
            )
        refuse_inert(body.stream_options, INERT_STREAM_OPTIONS, "stream_options.")
    if background and not call.store:
        raise InvalidRequest(
            "background: needs store, as the response is fetched later; leave store out.", param="background"
        )
    return replace(call, stream=stream, background=background, echo={**call.echo, "background": background})


def decode_turn(data: bytes, caller: Caller, *, generates: bool) -> CreateCall:
    """Read the fields of a WebSocket's `response.create` that are those of `POST /v1/responses`.

    Raises InvalidRequest or UnsupportedField.
    """
    call = decode_create(data, caller)
    if generates:
        return call
    request = replace(call.request, limits=replace(call.request.limits, max_tokens=0))
    return replace(call, request=request, generates=False)


def decode_count(data: bytes, caller: Caller, default_model: str) -> CreateCall:
    """Read the body of `POST /v1/responses/input_tokens`. Raises InvalidRequest or UnsupportedField."""
    body = _decode(CountBody, data)
    if not body.model:
        body.model = default_model
    call = _asked(body, data, caller, {}, read_tools(body.tools, data))
    return replace(call, request=replace(call.request, task=Task.COUNT), store=False)


def decode_compact(data: bytes, caller: Caller) -> CreateCall:
    """Read the body of `POST /v1/responses/compact`. Raises InvalidRequest or UnsupportedField."""
    body = _decode(CompactBody, data)
    return replace(_asked(body, data, caller, {}, read_tools(body.tools, data)), store=False)


def decode_conversation(data: bytes, suffix: str) -> tuple[tuple[Item, ...], dict[str, str]]:
    """The items and metadata of `POST /v1/conversations`, whose body may be empty. Raises InvalidRequest."""
    body = _decode(ConversationBody, data or b"{}")
    return _new_items(body.items or [], data, suffix), metadata(body.metadata)


def decode_items(data: bytes, suffix: str) -> tuple[Item, ...]:
    """The items of `POST /v1/conversations/{id}/items`. Raises InvalidRequest or UnsupportedField."""
    body = _decode(ItemsBody, data)
    if not body.items:
        raise InvalidRequest(f"items: needs 1 to {MAX_NEW_ITEMS} items.", param="items")
    return _new_items(body.items, data, suffix)


def decode_page(query: Mapping[str, list[str]]) -> Page:
    """Which part of a list a query asks for. Raises InvalidRequest."""
    limit, order = query.get("limit", ["20"])[0], query.get("order", ["desc"])[0]
    number = int(limit) if limit.isascii() and limit.isdecimal() and len(limit) <= len(str(MAX_PAGE)) else 0
    if not 1 <= number <= MAX_PAGE:
        raise InvalidRequest(f"limit: {show(limit)} is not in [1, {MAX_PAGE}]; give a number inside.", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order: {show(order)} is none; use asc or desc.", param="order")
    after, before = query.get("after"), query.get("before")
    return Page(number, order == "asc", after[0] if after else None, before[0] if before else None)


def decode_follow(query: Mapping[str, list[str]]) -> tuple[bool, int | None]:
    """Whether `GET /v1/responses/{id}` asks for a stream, and behind which event it begins. Raises InvalidRequest."""
    stream = query.get("stream", ["false"])[0].lower()
    if stream not in ("true", "false"):
        raise InvalidRequest(f"stream: {show(stream)} given; use true or false.", param="stream")
    after = query.get("starting_after")
    if after is None:
        return stream == "true", None
    if stream != "true":
        raise InvalidRequest("starting_after: only goes with stream=true; leave it out.", param="starting_after")
    if not (after[0].isascii() and after[0].isdecimal() and len(after[0]) < 16):
        raise InvalidRequest(
            f"starting_after: {show(after[0])} is no sequence number; give that of the last event that you have.",
            param="starting_after",
        )
    return True, int(after[0])


def _decode(kind: type[_Body], data: bytes) -> _Body:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, kind, FIELDS_AT)


def _namer(suffix: str) -> Callable[[str], str]:
    """Names for items that bring none, which differ from those of other requests as `suffix` does."""
    count = iter(range(2**63))
    return lambda prefix: f"{prefix}_{suffix}i{next(count)}"


def _new_items(items: list[Any], data: bytes, suffix: str) -> tuple[Item, ...]:
    if len(items) > MAX_NEW_ITEMS:
        raise InvalidRequest(f"items: {len(items)} given; at most {MAX_NEW_ITEMS} can be added at once.", param="items")
    read = read_items(items, data, "items", _namer(suffix))
    for index, item in enumerate(read):
        if item["type"] == "item_reference":
            raise UnsupportedField(
                f"items[{index}].type: a conversation holds items and no references; send the item itself.",
                param=f"items[{index}].type",
            )
    return read


def _create(body: CreateBody, data: bytes, caller: Caller) -> CreateCall:
    sampling, (include, logprobs) = read_sampling(body), read_include(body)
    tools = read_tools(body.tools, data)
    max_tokens = body.max_output_tokens
    if max_tokens is not None and not 1 <= max_tokens < 2**31:
        raise InvalidRequest(
            f"max_output_tokens: {show(max_tokens)} is not in [1, {2**31 - 1}]; give a number inside.",
            param="max_output_tokens",
        )
    store = body.store is not False
    call = _asked(body, data, caller, _create_echo(body, sampling, store=store), tools)
    request = replace(
        call.request,
        sampling=sampling,
        logprobs=logprobs,
        limits=replace(call.request.limits, max_tokens=max_tokens),
    )
    request.sampling.check()
    return replace(call, request=request, include=include, store=store)


def _create_echo(body: CreateBody, sampling: Sampling, *, store: bool) -> dict[str, Any]:
    return {
        "background": False,
        "frequency_penalty": sampling.frequency_penalty,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": metadata(body.metadata),
        "presence_penalty": sampling.presence_penalty,
        "prompt_cache_key": body.prompt_cache_key,
        "safety_identifier": body.safety_identifier,
        "store": store,
        "temperature": sampling.temperature,
        "top_logprobs": bounded("top_logprobs", body.top_logprobs) or 0,
        "top_p": sampling.top_p,
        "user": body.user,
    }


def _asked(body: AskedBody, data: bytes, caller: Caller, echo: dict[str, Any], tools: Tools) -> CreateCall:
    """What an answer, a count and a compaction say alike."""
    refuse_inert(body, INERT_SETTINGS, "")
    if body.truncation not in (None, "auto", "disabled"):
        raise InvalidRequest(f"truncation: {show(body.truncation)} is none; use auto or disabled.", param="truncation")
    choice, shown_choice = read_tool_choice(body, tools)
    form, shown_form = read_format(body.text)
    verbosity = read_verbosity(body.text)
    reasoning, shown_reasoning = read_reasoning(body.reasoning)
    principal, tier = serve_in_tier(body.service_tier or "auto", principal_of(body, caller.principal))
    conversation_id = _conversation(body)
    request = Request(
        id=caller.request_id,
        model=model_name(body),
        tools=tuple(tools.tools),
        tool_choice=choice,
        reasoning=reasoning,
        response_format=form,
        limits=Limits(deadline_s=caller.deadline_s),
        cache=CacheHints(salt=_salt(body), explain=caller.explains_cache, fresh=caller.is_fresh),
        principal=principal,
        session=caller.session,
        parent=caller.parent,
        labels=caller.labels,
        tags=caller.tags,
    )
    echo |= {
        "conversation": None if conversation_id is None else {"id": conversation_id},
        "instructions": body.instructions,
        "model": request.model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": shown_reasoning,
        "service_tier": tier,
        "text": {"format": shown_form, "verbosity": verbosity},
        "tool_choice": shown_choice,
        "tools": tools.echo,
        "truncation": body.truncation or "disabled",
    }
    if tools.left_out:
        echo["headrace"] = {"left_out": tools.left_out}
    return CreateCall(
        request=request,
        items=read_items(body.input, data, "input", _namer(caller.request_id.rpartition("_")[2])),
        echo=echo,
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
        conversation_id=conversation_id,
        truncates=body.truncation == "auto",
        summarizes=shown_reasoning["summary"] is not None,
        tool_names=tools.names,
        cache=cache_wish(body.prompt_cache_options, body.prompt_cache_retention),
        prices=caller.prices,
    )


def _conversation(body: AskedBody) -> str | None:
    given = body.conversation
    if given is None:
        return None
    if isinstance(given, dict):
        given = given.get("id")
        if not isinstance(given, str):
            raise InvalidRequest(
                "conversation.id: is missing; it is required.",
                param="conversation.id",
                code="missing_required_parameter",
            )
    if body.previous_response_id is not None:
        raise InvalidRequest(
            "previous_response_id: does not go with conversation, as each says what was before; send one of them.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    return given


def _salt(body: AskedBody) -> str:
    salt = body.cache_salt
    if salt is not None and not 1 <= len(salt) <= _MAX_SALT_CHARS:
        raise InvalidRequest(
            f"cache_salt: {len(salt)} characters given; it must have 1 to {_MAX_SALT_CHARS}, or be left out.",
            param="cache_salt",
        )
    return salt or ""
