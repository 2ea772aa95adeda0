"""Requests of many inputs: texts to embed and pairs to score, run a few at a time, each told when it has ended.

An input is a piece of work of its own, so that the scheduler batches, shares and interleaves inputs of all requests
alike. A model that judges pairs reads both texts at once; one that generates is asked how likely the second is after
the first. Knows no schedule and no protocol.
"""

import asyncio
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ContextTooLong, InvalidRequest
from headrace.core.events import Embedding, Event, Finished, Score, Started, Usage
from headrace.core.request import Request, Sampling, Task
from headrace.engine.batch import Detail
from headrace.engine.engine import Engine
from headrace.engine.item import Begun, Embedded, Failed, Item, PromptScored, Token
from headrace.engine.lanes import pooled_lane
from headrace.engine.mailbox import Mailbox
from headrace.engine.sequence import Work
from headrace.engine.served import Encoded, Served
from headrace.engine.ticket import Ticket

MOST_AT_ONCE = 128
"""Inputs of one request inside the engine: two steps' worth of short ones."""


def encode_inputs(served: Served, request: Request) -> list[Encoded]:
    """Token ids of every input. Raises InvalidRequest or ContextTooLong naming the input."""
    _check_dimensions(served, request)
    encoded = []
    for index, one in enumerate(request.inputs or ()):
        made = served.encode_input(one, index, request.task, truncates=request.truncates)
        limit = served.input_limit
        if len(made.tokens) > limit:
            raise ContextTooLong(
                f"inputs[{index}]: {len(made.tokens)} tokens, the model takes {limit}; shorten it, or let it be cut.",
                param="input",
            )
        encoded.append(made)
    return encoded


def _check_dimensions(served: Served, request: Request) -> None:
    if request.dimensions is not None and request.dimensions > served.vector_width:
        raise InvalidRequest(
            f"dimensions: {request.dimensions} asked for, but vectors of {served.name} have {served.vector_width}; "
            "ask for no more.",
            param="dimensions",
        )


@dataclass(slots=True)
class _Open:
    """An input inside the engine."""

    encoded: Encoded
    ticket: Ticket | None = None
    details: list[Detail] | None = None


class Inputs:
    """One request on its way through the engine. `arrived` is on the engine's clock."""

    def __init__(
        self, engine: Engine, served: Served, request: Request, encoded: list[Encoded], arrived: float
    ) -> None:
        self._engine = engine
        self._served = served
        self._request = request
        self._encoded = encoded
        self._is_pooled = request.task is Task.EMBED or served.judges
        deadline_s = request.limits.deadline_s
        self._deadline = math.inf if deadline_s is None else arrived + deadline_s
        self._open: dict[int, _Open] = {}
        self._num_begun = 0
        self._cached_tokens = 0
        self._disk_tokens = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        """Started, one result for each input as they end, Finished. Raises HeadraceError."""
        mailbox = Mailbox(asyncio.get_running_loop())
        num_prompt = sum(len(one.tokens) for one in self._encoded)
        num_submitted, num_left, is_started = 0, len(self._encoded), False
        try:
            while num_left:
                while num_submitted < len(self._encoded) and len(self._open) < MOST_AT_ONCE:
                    self._submit(num_submitted, mailbox)
                    num_submitted += 1
                for item in await mailbox.take():
                    event = self._accept(item)
                    if self._num_begun and not is_started:
                        is_started = True
                        served = self._served
                        yield Started(self._request.id, served.name, num_prompt, self._cached_tokens, served.digests)
                    if event is not None:
                        num_left -= 1
                        yield event
            yield Finished(Usage(num_prompt, 0, self._cached_tokens, self._disk_tokens))
        finally:
            for one in self._open.values():
                if one.ticket is not None:
                    self._engine.cancel(one.ticket)

    def _submit(self, index: int, mailbox: Mailbox) -> None:
        one = _Open(self._encoded[index])
        one.ticket = self._engine.submit(self._work(one.encoded), mailbox, index, is_more=index > 0)
        self._open[index] = one

    def _work(self, encoded: Encoded) -> Work:
        served, request = self._served, self._request
        name, principal = served.model.name, request.principal
        return Work(
            model=pooled_lane(name) if self._is_pooled else name,
            tokens=encoded.tokens,
            sampling=Sampling(temperature=0.0),
            seed=0,
            max_tokens=0 if self._is_pooled else 1,
            salt=served.salt(request),
            priority=principal.priority,
            tenant=principal.tenant,
            share=principal.share,
            prompt_logprobs=None if self._is_pooled else 1,
            score_from=encoded.score_from,
            adapter=None if served.adapter is None else served.adapter.bound,
            deadline=self._deadline,
            session=request.session,
            parent=request.parent,
            pooling=served.pooling_of(request.task) if self._is_pooled else None,
            segments=encoded.segments,
            field="input",
        )

    def _accept(self, item: Item) -> Event | None:
        """What an item completes, if it does."""
        if isinstance(item, Failed):
            raise item.error
        if isinstance(item, Begun):
            self._num_begun += 1
            self._cached_tokens += item.cached_tokens
            self._disk_tokens += item.disk_tokens
        elif isinstance(item, PromptScored):
            one = self._open[item.choice]
            one.details = [*(one.details or ()), *item.details]
        elif isinstance(item, Embedded):
            return self._finish(item.choice, item.vector)
        elif isinstance(item, Token):
            return self._finish(item.choice, None)
        return None

    def _finish(self, index: int, vector: NDArray[np.float32] | None) -> Event:
        one = self._open.pop(index)
        num_tokens = len(one.encoded.tokens)
        if vector is None:
            return self._continuation_score(index, one)
        if self._request.task is Task.EMBED:
            return Embedding(index, self._served.vector_bytes(vector, self._request.dimensions), num_tokens)
        return Score(index, self._served.judgement(vector), num_tokens)

    def _continuation_score(self, index: int, one: _Open) -> Score:
        details = one.details or []
        scored = one.encoded.tokens[one.encoded.score_from :].tolist()
        logprobs = tuple(self._served.logprob(token, detail) for token, detail in zip(scored, details, strict=True))
        is_greedy = all(detail.top[0][0] == token for token, detail in zip(scored, details, strict=True))
        value = math.fsum(detail.logprob for detail in details)
        return Score(index, value, len(one.encoded.tokens), logprobs, is_greedy)
