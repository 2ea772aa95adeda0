"""Objects of the Responses and Conversations routes, outwards: plain values that are ready to become JSON.

Every field that the API calls mandatory is there, null where there is nothing to say: typed clients refuse objects that
lack one. What a response repeats of its settings comes with its call; times and ids come from outside.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from headrace.api.openai_logprobs import ChatRenderer
from headrace.api.openai_usage import cost_field
from headrace.api.responses_cache import TTLS_S
from headrace.api.responses_service import CreateCall, Item
from headrace.core.errors import HeadraceError, InvalidRequest, RateLimited
from headrace.core.events import Started, TokenLogprob, Usage
from headrace.core.ledger import Ledger

# The few codes that a failed response may carry, by the nearest class; every other error is the server's.
_FAILURES: Final[Mapping[type[HeadraceError], str]] = {
    InvalidRequest: "invalid_prompt",
    RateLimited: "rate_limit_exceeded",
    HeadraceError: "server_error",
}

encode = msgspec.json.Encoder().encode


def response_object(
    call: CreateCall,
    created: int,
    status: str,
    output: Sequence[Item] = (),
    usage: Usage | None = None,
    model: str = "",
    **ending: Any,
) -> dict[str, Any]:
    """A response as it stands. Times are Unix seconds; `model` is the one that answered, `ending` may tell
    `completed_at`, `error` and `incomplete_details`."""
    return {
        "id": call.request.id,
        "object": "response",
        "created_at": created,
        "status": status,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "output": list(output),
        "usage": None if usage is None else usage_object(usage, call, model or call.request.model),
        **ending,
        **call.echo,
    }


def failure(error: HeadraceError) -> dict[str, str]:
    """Why a response failed."""
    code = next(_FAILURES[cls] for cls in type(error).__mro__ if cls in _FAILURES)
    return {"code": code, "message": error.message}


def usage_object(usage: Usage, call: CreateCall, model: str) -> dict[str, Any]:
    """Token counts, and what they cost where the model has a price. Writes to the cache are told by time to live.

    Raises EngineFault for counts that contradict each other.
    """
    ledger = Ledger.of(usage)
    details: dict[str, Any] = {"cached_tokens": ledger.cached_tokens, "cache_write_tokens": ledger.written_tokens}
    if ledger.writes:
        details["cache_write_tokens_details"] = {
            f"ttl_{name}_tokens": ledger.written_for(seconds) for name, seconds in TTLS_S.items()
        }
    return {
        "input_tokens": ledger.prompt_tokens,
        "input_tokens_details": details,
        "output_tokens": ledger.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": ledger.reasoning_tokens},
        "total_tokens": ledger.total_tokens,
        **cost_field(ledger, model, call.prices),
    }


def explanation(started: Started) -> dict[str, Any]:
    """Why the cache did not have more of the input."""
    miss = started.cache_miss
    told = None if miss is None else {"reason": miss.reason.value, "token": miss.token, "message": miss.message}
    return {"cache_miss": told}


def logprob_objects(tokens: Iterable[TokenLogprob], num_alternatives: int) -> list[Any]:
    """Log-probabilities of output text."""
    made: list[Any] = ChatRenderer(num_alternatives).render(tokens)["content"]
    return [msgspec.to_builtins(entry) for entry in made]


def compaction_object(call: CreateCall, created: int, output: Sequence[Item], usage: Usage) -> dict[str, Any]:
    """What `POST /v1/responses/compact` answers."""
    return {
        "id": call.request.id,
        "object": "response.compaction",
        "created_at": created,
        "output": list(output),
        "usage": usage_object(usage, call, call.request.model),
    }


def conversation_object(conversation_id: str, created: int, metadata: Mapping[str, str]) -> dict[str, Any]:
    """A conversation, without its items."""
    return {"id": conversation_id, "object": "conversation", "created_at": created, "metadata": dict(metadata)}


def encode_list(items: Sequence[Item], *, has_more: bool) -> bytes:
    """A page of items. An empty page has empty ids, as typed clients want strings."""
    ids = [item["id"] for item in items] or [""]
    return encode({"object": "list", "data": items, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more})


def encode_deleted(kind: str, object_id: str) -> bytes:
    """That an object of a kind is gone."""
    return encode({"id": object_id, "object": kind, "deleted": True})


def encode_count(num_tokens: int) -> bytes:
    """What `POST /v1/responses/input_tokens` answers."""
    return encode({"object": "response.input_tokens", "input_tokens": num_tokens})
