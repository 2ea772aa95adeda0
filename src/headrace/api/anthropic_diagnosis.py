"""Why the prompt cache did not have what an earlier message's request had put there: Anthropic's cache diagnostics.

A request leaves a fingerprint of what its prompt is made of. The next one, which names the message that answered it, is
compared with it part by part. What the backend says of the miss decides only where all parts agree: then memory was
needed, or time had passed, and the protocol has no word for that but `unavailable`. Keeps nothing: who remembers
fingerprints, and for how long, is the server's affair.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from headrace.core.events import MissReason, Started
from headrace.core.request import Message, Request, Role

# Reasons for which a prompt that only grew was nevertheless not found.
_LOST: Final = frozenset({
    MissReason.EVICTED,
    MissReason.EXPIRED,
    MissReason.COLD,
    MissReason.TEMPLATE_CHANGED,
    MissReason.SALT_CHANGED,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a prompt is made of, in digests; `num_messages` of them stand behind the system turn."""

    model: str
    system: bytes
    tools: bytes
    messages: bytes
    num_messages: int
    rest: bytes
    prompt_tokens: int


def fingerprint(request: Request, started: Started) -> Fingerprint:
    """Of a request that was admitted."""
    system, messages = _split(request)
    return Fingerprint(
        model=_model(started),
        system=_digest(system),
        tools=_digest(request.tools),
        messages=_digest(messages),
        num_messages=len(messages),
        rest=_digest([request.reasoning, request.tool_choice, request.response_format]),
        prompt_tokens=started.prompt_tokens,
    )


def diagnose(request: Request, started: Started, previous: Fingerprint | None) -> dict[str, Any] | None:
    """`cache_miss_reason` beside the request of an earlier message; None: nothing kept its prefix from being reused.

    `previous` None: nobody remembers that message.
    """
    if previous is None:
        return {"type": "previous_message_not_found"}
    system, messages = _split(request)
    kept = messages[: previous.num_messages]
    changed = [
        ("model_changed", _model(started) != previous.model),
        ("system_changed", _digest(system) != previous.system),
        ("tools_changed", _digest(request.tools) != previous.tools),
        ("messages_changed", _digest(kept) != previous.messages),
    ]
    kind = next((name for name, is_so in changed if is_so), None)
    if kind is not None:
        missed = max(0, previous.prompt_tokens - started.cached_tokens)
        return {"type": kind, "cache_missed_input_tokens": missed}
    is_lost = started.cache_miss is not None and started.cache_miss.reason in _LOST
    rest = _digest([request.reasoning, request.tool_choice, request.response_format])
    return {"type": "unavailable"} if is_lost or rest != previous.rest else None


def _model(started: Started) -> str:
    return " ".join([started.model, *(f"{name}={digest}" for name, digest in sorted(started.digests.items()))])


def _split(request: Request) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    messages = request.messages or ()
    count = 1 if messages and messages[0].role is Role.SYSTEM else 0
    return messages[:count], messages[count:]


def _digest(parts: Iterable[object]) -> bytes:
    # The representation of a frozen value is made of all its fields, in order.
    state = hashlib.sha256()
    for part in parts:
        state.update(repr(part).encode("utf-8", "backslashreplace") + b"\0")
    return state.digest()[:16]
