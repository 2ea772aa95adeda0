"""Several requests that are answered together: one stream of events, as if they were one request of many choices.

OpenAI's completions take several prompts at once. Each is a request of its own for the backend, which may run all of
them in one batch; choice `c` of prompt `p` becomes choice `p * n + c`. The first failure ends all of them.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from headrace.core.backend import Backend
from headrace.core.errors import EngineFault
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    PromptLogprobs,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.request import Request

# Events that wait for their reader; what comes after them waits in the backend.
MAX_WAITING: Final = 256

_OF_CHOICE = TextDelta | ReasoningDelta | ToolCallDelta | ChoiceFinished | PromptLogprobs


@dataclass(frozen=True, slots=True)
class _Failed:
    """The task of this index will raise what ended it."""

    index: int


def run_together(backend: Backend, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
    """The events of all requests, which have as many choices each."""
    return backend.run(requests[0]) if len(requests) == 1 else _run_all(backend, requests)


async def _run_all(backend: Backend, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
    queue: asyncio.Queue[Event | _Failed] = asyncio.Queue(MAX_WAITING)
    tasks = [asyncio.create_task(_pump(backend, request, index, queue)) for index, request in enumerate(requests)]
    usages: list[Usage] = []
    is_started = False
    try:
        while len(usages) < len(requests):
            item = await queue.get()
            if isinstance(item, _Failed):
                await tasks[item.index]  # raises
            elif isinstance(item, Finished):
                usages.append(item.usage)
            elif not isinstance(item, Started):
                yield item
            elif not is_started:  # one is like another but for what it counts, and the end says that
                is_started = True
                yield item
        yield Finished(_sum(usages))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _pump(backend: Backend, request: Request, index: int, queue: "asyncio.Queue[Event | _Failed]") -> None:
    first = index * request.sampling.num_choices
    failed: _Failed | None = _Failed(index)
    try:
        async with aclosing(backend.run(request)) as events:
            async for event in events:
                await queue.put(replace(event, choice=first + event.choice) if isinstance(event, _OF_CHOICE) else event)
                if isinstance(event, Finished):
                    failed = None
                    return
        raise EngineFault("the backend ended the answer without saying that it was finished; send it again.")
    except asyncio.CancelledError:
        failed = None  # nobody listens any more
        raise
    finally:
        if failed is not None:
            await queue.put(failed)


def _sum(usages: Sequence[Usage]) -> Usage:
    writes: dict[float, int] = {}
    for usage in usages:
        for ttl_s, tokens in usage.cache_writes:
            writes[ttl_s] = writes.get(ttl_s, 0) + tokens
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        disk_tokens=sum(usage.disk_tokens for usage in usages),
        cache_writes=tuple(sorted(writes.items(), reverse=True)),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
    )
