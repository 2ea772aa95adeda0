"""Responses: finds what was said before, asks the backend, tells what comes and remembers it.

One service for every transport: an HTTP route, background work and a WebSocket lane all read `run`. A response is saved
before the event that ends it is told, so that whoever has seen the end can continue from it. What cannot be saved is
still told: the response object then says `store` false; only where it belongs to a conversation, which would lose a
turn, does the response fail. What goes on is under every label that what was said before was under, and is kept so.
What a model wrote is kept with the label of what it had read, and is worth no more when it is read again, wherever.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from headrace.api.openai_models import check_task
from headrace.api.responses_events import failed, parse_events, restated
from headrace.api.responses_items import ID_PREFIXES, complete
from headrace.api.responses_objects import compaction_object
from headrace.api.responses_seal import seal
from headrace.api.responses_service import CreateCall, Halt, History, Item, LocalState, Page, ResponseEvent
from headrace.core.backend import Backend
from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError, InvalidRequest, NotFound, Overloaded, Unavailable
from headrace.core.request import Request
from headrace.core.trust import Label
from headrace.gateway.background import Job
from headrace.gateway.compaction import summarize
from headrace.gateway.response_run import Prepared, Run
from headrace.gateway.room import DEFAULT_QUOTA_BYTES, Room
from headrace.memory import responses as memory
from headrace.memory.item_flows import item_flows, owned_flows
from headrace.memory.store import Store

DAY_S: Final = 86_400.0
DEFAULT_DAYS: Final = 30
MAX_JOBS: Final = 256
# What of a response can be gone on from.
_CONTINUABLE: Final = ("completed", "incomplete")

_logger = logging.getLogger("headrace.gateway")


class Responses:
    """See `api.responses_service.ResponsesService`. `open` it before the first call and `close` it at the end."""

    def __init__(
        self,
        backend: Backend,
        store: Store,
        clock: Clock,
        *,
        days: int = DEFAULT_DAYS,
        room: Room | None = None,
        label_of: Callable[[Request], Label | None] = lambda _: None,
    ) -> None:
        """`label_of` labels everything that a request reads; None: nobody labels."""
        self._backend = backend
        self._store = store
        self._clock = clock
        self._days = days
        self._room = room or Room(store, clock, DEFAULT_QUOTA_BYTES)
        self._label_of = label_of
        self._jobs: dict[tuple[str, str], Job] = {}
        self._cleaner: asyncio.Task[None] | None = None

    async def open(self, is_running: Callable[[int], bool] = lambda _: False) -> None:
        """Mark what a killed process left unfinished as failed, forget what has expired, now and once a day.

        `is_running(process id)` says whether another server on the same state is at work. Raises HeadraceError.
        """
        why = {
            "code": "server_error",
            "message": "The server stopped while it worked on this response; send the request again.",
        }
        num_failed = await self._store.call(memory.fail_unfinished, is_running, why)
        if num_failed:
            _logger.warning("%d background responses were left unfinished by a killed server", num_failed)
        await self._forget()
        self._cleaner = asyncio.get_running_loop().create_task(self._clean())

    async def close(self) -> None:
        """End background work, each response as failed, and stop forgetting."""
        if self._cleaner is not None:
            self._cleaner.cancel()
            await asyncio.wait([self._cleaner])
        jobs = list(self._jobs.values())
        for job in jobs:
            job.stop(Unavailable("the server stopped while it worked on this response; send the request again."))
        for job in jobs:
            await job.ended()

    async def _clean(self) -> None:
        while True:
            await asyncio.sleep(DAY_S)
            try:
                await self._forget()
            except HeadraceError as error:
                _logger.warning("what has expired could not be forgotten: %s", error)

    async def _forget(self) -> None:
        num_gone, before_s = 0, self._clock.unix_s() - self._days * DAY_S
        while (gone := await self._store.call(memory.purge, before_s)) > 0:
            num_gone += gone
        if num_gone:
            _logger.info("%d chains of responses and conversations have expired", num_gone)

    # -- answering ----------------------------------------------------------------------------------------------------

    async def run(
        self, call: CreateCall, *, local: LocalState | None = None, halt: Halt | None = None
    ) -> AsyncGenerator[ResponseEvent, None]:
        """See `ResponsesService.run`; a background call goes on when this is closed."""
        if call.background:
            await self.begin(call)
            async for event in self.follow(call.request.principal.tenant, call.request.id):
                yield event
            return
        run: Run | None = None
        is_well = False
        try:
            run = Run(self._backend, self._clock, await self.prepare(call, local))
            for event in await run.open():
                yield event
            while not run.writer.is_done:
                for event in await self.settle(run, await run.advance(halt), local):
                    is_well = is_well or event.type in ("response.completed", "response.incomplete")
                    yield event
        finally:
            if run is not None:
                await run.close()
            if local is not None and call.previous_response_id is not None and not is_well:
                local.evict(call.previous_response_id)

    async def prepare(self, call: CreateCall, local: LocalState | None = None) -> Prepared:
        """Find what was said before a call. Raises InvalidRequest and NotFound."""
        check_task(self._backend.models(), call.request)
        tenant = call.request.principal.tenant
        if call.store:
            await self._room.check(tenant)
        thread, past, worth = call.request.id, tuple[Item, ...](), dict[str, Label]()
        labels = call.request.labels | call.request.principal.labels
        if call.previous_response_id is not None:
            history = await self._history(tenant, call.previous_response_id, local)
            thread, past, labels = history.thread, history.items, labels | history.labels
            worth |= history.worth
        elif call.conversation_id is not None:
            past = await self._store.call(memory.conversation_items, tenant, call.conversation_id)
            labels |= await self._store.call(memory.owned_labels, tenant, [call.conversation_id])
            worth |= await self._store.call(owned_flows, tenant, [call.conversation_id])
            _check_new(past, call.items)
        asked = await self._resolve(tenant, past, call.items)
        if referred := [item["id"] for item in call.items if item["type"] == "item_reference"]:
            labels |= await self._store.call(memory.item_labels, tenant, referred)
            worth |= await self._store.call(item_flows, tenant, [name for name in referred if name not in worth])
        request = complete(call.request, call.instructions, (*past, *asked), call.cache, worth)
        request = replace(request, labels=labels, parent=request.parent or call.previous_response_id)
        if past and request.session is None:
            request = replace(request, session=call.conversation_id or thread)
        request.check()
        label = self._label_of(request)
        return Prepared(call=call, request=request, thread=thread, past=past, asked=asked, worth=worth, label=label)

    async def _history(self, tenant: str, response_id: str, local: LocalState | None) -> History:
        known = None if local is None else local.find(response_id)
        if known is not None:
            return known
        chain = await self._store.call(memory.load_chain, tenant, response_id)
        if chain is None or chain.status not in _CONTINUABLE:
            why = "was not found" if chain is None else f"is {chain.status}, and cannot be continued"
            raise InvalidRequest(
                f"previous_response_id: {response_id[:100]!r} {why}; send the whole conversation as input instead.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return History(response_id, chain.thread, chain.items, chain.labels, chain.flows)

    async def _resolve(self, tenant: str, past: Sequence[Item], asked: Sequence[Item]) -> tuple[Item, ...]:
        """The items, each reference replaced by what it refers to."""
        wanted = [item["id"] for item in asked if item["type"] == "item_reference"]
        if not wanted:
            return tuple(asked)
        known = {item["id"]: item for item in past}
        missing = [item_id for item_id in wanted if item_id not in known]
        known |= await self._store.call(memory.find_items, tenant, missing)
        for item_id in wanted:
            if item_id not in known:
                raise NotFound(f"input: item {item_id[:100]!r} is not there; send the item itself.", param="input")
        return tuple(known[item["id"]] if item["type"] == "item_reference" else item for item in asked)

    async def settle(
        self, run: Run, events: list[ResponseEvent], local: LocalState | None = None, kept: bytes | None = None
    ) -> list[ResponseEvent]:
        """Save a response whose last event is among these; the events as they are to be told."""
        if not events or not events[-1].is_last:
            return events
        last = events[-1]
        if run.prepared.call.store:
            last = await self._save(run, last, kept)
        response = last.response or {}
        if local is not None and response["status"] in _CONTINUABLE:
            prepared = run.prepared
            said = (*prepared.past, *prepared.asked, *response["output"])
            worth = {**prepared.worth, **prepared.flows((*prepared.asked, *response["output"]))}
            local.keep(History(response["id"], prepared.thread, said, prepared.request.labels, worth))
        return [*events[:-1], last]

    async def _save(self, run: Run, last: ResponseEvent, kept: bytes | None) -> ResponseEvent:
        call, response = run.prepared.call, last.response or {}
        conversation = call.conversation_id if response["status"] in _CONTINUABLE else None
        try:
            await self._write(run.prepared, response, conversation=conversation, kept=_joined(kept, last))
        except HeadraceError as error:
            _logger.warning("response %s could not be stored: %s", call.request.id, error)
            return restated(last, store=False) if conversation is None else failed(last, error)
        return last

    async def _write(
        self,
        prepared: Prepared,
        response: Mapping[str, Any],
        *,
        conversation: str | None = None,
        runner: int | None = None,
        kept: bytes | None = None,
    ) -> None:
        record = memory.ResponseRecord(
            tenant=prepared.tenant,
            id=response["id"],
            thread=prepared.thread,
            previous=prepared.call.previous_response_id,
            body=response,
            runner=runner,
            events=kept,
            labels=prepared.request.labels,
            flows=prepared.flows((*prepared.asked, *response["output"])),
        )
        now_s = self._clock.unix_s()
        output = response["output"]
        save = memory.save_response
        added = await self._store.call(save, record, prepared.asked, output, now_s, conversation)
        self._room.add(prepared.tenant, added)

    # -- background ---------------------------------------------------------------------------------------------------

    async def begin(self, call: CreateCall) -> Mapping[str, Any]:
        """See `ResponsesService.begin`."""
        if len(self._jobs) >= MAX_JOBS:
            raise Overloaded(f"{MAX_JOBS} background responses are at work already.", retry_after_s=5.0)
        run = Run(self._backend, self._clock, await self.prepare(call))
        events = run.writer.queue()
        response = events[0].response or {}
        await self._write(run.prepared, response, runner=os.getpid())
        key = (run.prepared.tenant, call.request.id)
        job = Job(run, events, self.settle, lambda: self._jobs.pop(key, None))
        self._jobs[key] = job
        job.start()
        return response

    async def follow(
        self, tenant: str, response_id: str, after: int | None = None
    ) -> AsyncGenerator[ResponseEvent, None]:
        """See `ResponsesService.follow`."""
        first = 0 if after is None else after + 1
        job = self._jobs.get((tenant, response_id))
        if job is not None:
            if not job.is_streamed:
                raise _not_streamed(response_id)
            async with contextlib.aclosing(job.follow(first)) as events:
                async for event in events:
                    yield event
            return
        kept = await self._store.call(memory.load_events, tenant, response_id)
        if kept is None:
            raise _not_streamed(response_id)
        for event in parse_events(kept)[first:]:
            yield event

    async def cancel(self, tenant: str, response_id: str) -> Mapping[str, Any]:
        """See `ResponsesService.cancel`."""
        job = self._jobs.get((tenant, response_id))
        if job is not None:
            job.stop(None)
            await job.ended()
        response = await self.retrieve(tenant, response_id)
        if not response["background"]:
            raise InvalidRequest(
                "response_id: only a background response can be cancelled; close the connection of another one.",
                param="response_id",
            )
        return response

    # -- what is stored -----------------------------------------------------------------------------------------------

    async def retrieve(self, tenant: str, response_id: str) -> Mapping[str, Any]:
        """See `ResponsesService.retrieve`."""
        job = self._jobs.get((tenant, response_id))
        if job is not None:
            return job.response
        return await self._store.call(memory.load_response, tenant, response_id)

    async def delete(self, tenant: str, response_id: str) -> None:
        """See `ResponsesService.delete`; background work on it is cancelled."""
        job = self._jobs.get((tenant, response_id))
        if job is not None:
            job.stop(None)
            await job.ended()
        await self._store.call(memory.delete_response, tenant, response_id)

    async def input_items(self, tenant: str, response_id: str, page: Page) -> tuple[Sequence[Item], bool]:
        """See `ResponsesService.input_items`."""
        part = memory.Slice(page.limit, page.is_ascending, page.after, page.before)
        return await self._store.call(memory.input_items, tenant, response_id, part)

    # -- counting and compacting --------------------------------------------------------------------------------------

    async def count(self, call: CreateCall) -> int:
        """See `ResponsesService.count`."""
        prepared = await self.prepare(call)
        return (await self._backend.probe(prepared.request)).prompt_tokens

    async def compact(self, call: CreateCall) -> Mapping[str, Any]:
        """See `ResponsesService.compact`: what everybody but the assistant said, and a summary by the model."""
        prepared = await self.prepare(call)
        summary, usage = await summarize(self._backend, prepared)
        said = [item for item in (*prepared.past, *prepared.asked) if item["type"] == "message"]
        kept = [item for item in said if item["role"] != "assistant"]
        item_id = f"{ID_PREFIXES['compaction']}_{call.request.id.rpartition('_')[2]}"
        may_learn = None if prepared.label is None else prepared.label.confidentiality
        item = {"id": item_id, "type": "compaction", "encrypted_content": seal(summary, "summary", may_learn)}
        return compaction_object(call, int(self._clock.unix_s()), [*kept, item], usage)


def _check_new(past: Sequence[Item], asked: Sequence[Item]) -> None:
    """Raise InvalidRequest for an item that the conversation has already: it could not be appended afterwards."""
    known = {item["id"] for item in past}
    for item in asked:
        if item["id"] in known and item["type"] != "item_reference":
            raise InvalidRequest(
                f"input: {item['id'][:100]!r} is in the conversation already; send only what is new.", param="input"
            )
        known.add(item["id"])


def _joined(kept: bytes | None, last: ResponseEvent) -> bytes | None:
    return None if kept is None else kept + last.data


def _not_streamed(response_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"stream: response {response_id[:100]!r} was not begun with background and stream; fetch it without stream.",
        param="stream",
    )
