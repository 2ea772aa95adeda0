"""What a neutral request begins with, as chained hashes of blocks: for requests that were not peeked into as bytes.

They mean something in this process only, and are no hashes of the same conversation's bytes: a client that changes its
protocol begins anew. Knows no targets.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial

from headrace.api.peek import BLOCK_BYTES, MAX_BLOCKS
from headrace.core.request import Request


def opening_of(request: Request) -> Callable[[], tuple[int, ...]]:
    """For `Shape.of`: found out when somebody first asks. A last block that is not full is left out."""
    return cache(partial(_blocks, request))


def _blocks(request: Request) -> tuple[int, ...]:
    data = "\0".join(_texts(request)).encode("utf-8", "surrogatepass")
    found, last = [], hash(("neutral", request.model))
    for start in range(0, min(len(data) - BLOCK_BYTES + 1, BLOCK_BYTES * MAX_BLOCKS), BLOCK_BYTES):
        last = hash((last, data[start : start + BLOCK_BYTES]))
        found.append(last)
    return tuple(found)


def _texts(request: Request) -> Iterator[str]:
    for tool in request.tools:
        yield f"{tool.name}\0{tool.description}\0{tool.parameters!r}"
    for message in request.messages or ():
        yield f"{message.role}\0{message.reasoning}\0{message.text}"
        for call in message.tool_calls:
            yield f"{call.name}\0{call.arguments}"
    if request.tokens is not None:
        yield repr(request.tokens)
    yield request.prompt or ""
