"""Anthropic's routes: messages, and the counting of their tokens.

Remembers, for cache diagnostics, what the requests of recent messages were made of. Knows no fields: those are the
codec's in `api/anthropic*.py`.
"""

from collections import OrderedDict
from functools import partial
from typing import Any, Final

from headrace.api.anthropic import Call, decode_count, decode_messages
from headrace.api.anthropic_answers import PING, AnswerWriter, CountWriter, StreamWriter, Watch
from headrace.api.anthropic_diagnosis import Fingerprint, diagnose, fingerprint
from headrace.api.errors import ANTHROPIC
from headrace.api.peek import COUNT_TOKENS, MESSAGES
from headrace.core.events import Started
from headrace.server.answers import Answering, GenerationRoute, generation_routes
from headrace.server.routes import Route

MAX_TENANTS: Final = 1024
MAX_MESSAGES: Final = 256
"""Messages of a tenant whose requests are remembered; older ones are `previous_message_not_found`."""


class RecentMessages:
    """Fingerprints of the requests that asked for diagnostics, by tenant and message; of each the latest are kept."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[str, Fingerprint]] = OrderedDict()

    def find(self, tenant: str, message_id: str) -> Fingerprint | None:
        """What a tenant's message was the answer to, if that is still known."""
        messages = self._tenants.get(tenant)
        return None if messages is None else messages.get(message_id)

    def add(self, tenant: str, message_id: str, given: Fingerprint) -> None:
        """Remember what a message is the answer to."""
        messages = self._tenants.setdefault(tenant, OrderedDict())
        self._tenants.move_to_end(tenant)
        messages[message_id] = given
        if len(messages) > MAX_MESSAGES:
            messages.popitem(last=False)
        if len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)

    def watch(self, call: Call) -> Watch:
        """What a call's writer asks for its diagnostics."""
        return partial(self._diagnose, call)

    def _diagnose(self, call: Call, started: Started) -> dict[str, Any] | None:
        if not call.is_diagnosed:
            return None
        request, tenant = call.request, call.request.principal.tenant
        self.add(tenant, request.id, fingerprint(request, started))
        if call.previous_id is None:
            return None
        reason = diagnose(request, started, self.find(tenant, call.previous_id))
        return None if reason is None else {"cache_miss_reason": reason}


def anthropic_routes(answering: Answering) -> list[Route]:
    """`/v1/messages` and `/v1/messages/count_tokens`."""
    recent = RecentMessages()

    def stream(call: Call, _: int) -> StreamWriter:
        return StreamWriter(call, recent.watch(call))

    def whole(call: Call, _: int) -> AnswerWriter:
        return AnswerWriter(call, recent.watch(call))

    def count(call: Call, _: int) -> CountWriter:
        return CountWriter(call)

    messages = GenerationRoute("msg_", decode_messages, stream, whole, ANTHROPIC, keep_alive=PING, kind=MESSAGES)
    counting = GenerationRoute("msg_", decode_count, stream, count, ANTHROPIC, kind=COUNT_TOKENS)
    return generation_routes(answering, {"/v1/messages": messages, "/v1/messages/count_tokens": counting})
