"""Lines of a batch that ask for a response: run by the service of responses, over a backend that nobody waits at.

Stored ones are found again as any response is. Knows no files and no rows of batches.
"""

from contextlib import aclosing
from dataclasses import replace
from typing import Final

import msgspec

from headrace.api.openai import Caller
from headrace.api.responses import ID_PREFIX, decode_create
from headrace.api.responses_service import ResponsesService
from headrace.core.errors import EngineFault, HeadraceError, UnsupportedField
from headrace.core.events import Usage
from headrace.gateway.batches import background

ENDPOINT: Final = "/v1/responses"

_encode_json = msgspec.json.Encoder().encode


class ResponseLines:
    """Asks a service of responses for one line after the other; `id_prefix` is how ids of its answers begin."""

    id_prefix = ID_PREFIX

    def __init__(self, responses: ResponsesService) -> None:
        self._responses = responses

    async def ask(self, body: bytes, caller: Caller) -> tuple[bytes, Usage | None]:
        """The response to a body, and what it used. Raises HeadraceError in this dialect's words."""
        call = decode_create(body, caller)
        for name in ("stream", "background"):
            if getattr(call, name):
                raise UnsupportedField(f"{name}: an answer in a batch is always whole; leave it out.", param=name)
        request = replace(call.request, principal=background(call.request.principal))
        try:
            async with aclosing(self._responses.run(replace(call, request=request))) as events:
                async for event in events:
                    if event.error is not None:
                        raise event.error
                    if event.is_last and event.response is not None:
                        return _encode_json(event.response), _usage(event.response.get("usage"))
        except HeadraceError as error:
            raise call.reword(error) from None
        raise EngineFault("the response ended without its last event.")


def _usage(told: object) -> Usage | None:
    if not isinstance(told, dict):
        return None
    return Usage(
        prompt_tokens=told["input_tokens"],
        completion_tokens=told["output_tokens"],
        cached_tokens=told["input_tokens_details"]["cached_tokens"],
        reasoning_tokens=told["output_tokens_details"]["reasoning_tokens"],
    )
