"""Copies of requests to a target that is being tried: answers nobody sees, made after the caller has theirs.

A copy never delays anybody and is charged to nobody who asked: it runs for the tenant `shadow` with the tag `shadow`,
under the route `shadow:NAME`, so that an operator bounds all of them with a budget of their own (`tenant:shadow`). It
is dropped where there is no room: above MAX_COPIES, while the gateway is half full, and where its backend has no place
free. Whether the target may see it was decided with the plan.
"""

import asyncio
import contextlib
from dataclasses import replace
from typing import Final

from headrace.core.errors import HeadraceError
from headrace.core.gateway import EXCHANGE_ID, Ask
from headrace.core.request import Principal
from headrace.gateway.attempts import Said, attempt
from headrace.gateway.contract import Candidate, Plan
from headrace.gateway.passage import Passage
from headrace.gateway.route_states import SHADOW

MAX_COPIES: Final = 32
PRIORITY: Final = -(2**31)
_PRINCIPAL: Final = Principal(tenant=SHADOW, tags=(SHADOW,), priority=PRIORITY)


class Shadows:
    """All copies under way. `num_dropped` were not made."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_dropped = 0

    @property
    def num_running(self) -> int:
        """Copies under way."""
        return len(self._tasks)

    def follow(self, passage: Passage) -> None:
        """A request with a shadow got its answer: copy it, if there is room."""
        admission = passage.parts.admission
        candidate = passage.plan.shadow
        assert candidate is not None
        line = admission.line(candidate.target.backend)
        is_full = len(self._tasks) >= MAX_COPIES or 2 * admission.num_in_flight > admission.max_in_flight
        if is_full or not line.has_room:
            self.num_dropped += 1
            return
        copied = _copied(passage, candidate)
        if copied is None:
            self.num_dropped += 1
            return
        task = asyncio.get_running_loop().create_task(self._copy(passage, copied))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all of them."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _copy(self, original: Passage, ask: Ask) -> None:
        EXCHANGE_ID.set("")  # no client's
        parts, plan = original.parts, original.plan
        assert plan.shadow is not None
        with contextlib.suppress(HeadraceError):
            parts.admission.enter(PRIORITY)
            passage = Passage(parts, ask, parts.clock.monotonic_s(), original.started_unix_s)
            passage.follow(Plan(route=f"{SHADOW}:{plan.route}", candidates=(plan.shadow,), reason=SHADOW))
            await _run(passage)


def _copied(original: Passage, candidate: Candidate) -> Ask | None:
    """What the shadow is asked: where somebody reads what is asked and answered, as they prepare it for this target;
    None if they will not."""
    asked, chain = original.ask, original.chain
    decode, raw = original.decode, asked.raw
    if chain is not None and chain.reads_answer:
        try:
            request = chain.prepare_copy(original.decode(), candidate.target)
        except HeadraceError:
            return None
        decode, raw = (lambda: request), None
    shape = replace(asked.shape, id=f"{asked.shape.id}.{SHADOW}", principal=_PRINCIPAL, tags=(SHADOW,), deadline_s=None)
    return Ask(shape=shape, decode=decode, raw=raw)


async def _run(passage: Passage) -> None:
    candidate = passage.candidates[0]
    try:
        passage.reservation = await passage.parts.accounts.reserve(
            passage.ask.shape, passage.plan.route, candidate.bound
        )
        said = await attempt(passage, candidate, 0)
        stream = said.stream(passage) if isinstance(said, Said) else None
    except BaseException as error:
        passage.fail(error)
        raise
    if isinstance(said, list):
        passage.fail(said[0].error)
    elif stream is not None:
        try:
            async for _ in stream:
                pass
        finally:
            await stream.aclose()
