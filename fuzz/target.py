"""What a fuzz target is, and what every codec is held to: a request that could be run, or an error of ours that can be
sent in its dialect. Never anything else, and never a message larger than a page.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.api.errors import OPENAI, ErrorDialect
from headrace.api.openai import Caller
from headrace.core.errors import HeadraceError
from headrace.core.request import Principal, Request, Role

CALLER = Caller(request_id="fuzz", principal=Principal())


Check = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Target:
    """One codec: bytes that it takes, and a check that raises if it breaks the rule. A slow target gets a smaller
    `share` of the inputs. `paths` are the routes whose bodies go through it. A check tells whether the input was
    accepted; it refuses the last `num_refused` of the seeds, which are what a backend says instead of an answer."""

    name: str
    seeds: Sequence[bytes]
    check: Check
    share: float = 1.0
    paths: tuple[str, ...] = ()
    num_refused: int = 0


def decoding(decode: Callable[[bytes, Caller], Any], dialect: ErrorDialect = OPENAI) -> Check:
    """The check of a decoder of whole bodies that gives a call with its `request`."""

    def check(data: bytes) -> bool:
        try:
            call = decode(data, CALLER)
        except HeadraceError as error:
            check_refusal(error, dialect)
            return False
        for request in (call.request, *getattr(call, "others", ())):
            check_request(request)
        return True

    return check


def check_refusal(error: HeadraceError, dialect: ErrorDialect = OPENAI) -> None:
    """An error of ours that blames the caller and can be sent."""
    assert 400 <= error.status < 500, repr(error)
    body = dialect.body(error, "req_fuzz")
    assert len(body) < 16_000
    told = json.loads(body)["error"]
    assert told if isinstance(told, str) else told["message"]


def check_request(request: Request) -> None:
    """A request that a backend may be given: in range, and every text of it is text."""
    request.check()
    for message in request.messages or ():
        for text in (message.text, message.reasoning, *(call.arguments for call in message.tool_calls)):
            text.encode()
        assert message.tool_call_id or message.role is not Role.TOOL
        assert all(call.id and call.name is not None for call in message.tool_calls)
    for one in request.inputs or ():
        assert one.text or one.pair
