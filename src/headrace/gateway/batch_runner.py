"""Runs batches: one task that goes through those that are not over, and one short task for each line that runs.

    validating -> the input is read, its lines become rows -> in progress -> each line: backend, codec, row ->
    finalizing -> files of results -> completed, expired or cancelled

Everything that counts is a row before the next thing is done, so a process may die anywhere: who starts next goes on
from the rows. Of several processes with one state directory one runs batches (`Turn`). How many lines may begin is
`batches.num_to_start`'s decision; time is a clock and a tick from outside.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from headrace.api.batch_lines import BatchDialect, LineCodec, LineNames
from headrace.api.openai import Caller
from headrace.api.openai_models import check_task
from headrace.core.backend import Backend
from headrace.core.batch import Batch, BatchStatus, LineProblem
from headrace.core.clock import Clock
from headrace.core.errors import DiskFull, EngineFault, HeadraceError, InvalidRequest, NotFound, Unavailable
from headrace.core.events import Finished, Usage
from headrace.core.file import BATCH_OUTPUT, FileNote, FileRecord
from headrace.core.gateway import EXCHANGE_ID
from headrace.core.ledger import NO_PRICES, PriceList
from headrace.core.request import Principal
from headrace.core.tracing import Tracer
from headrace.gateway.batch_input import InputCheck, LineSplitter
from headrace.gateway.batches import BatchService, Load, background, num_to_start
from headrace.gateway.foreground import Foreground
from headrace.gateway.tracing import LineTrace
from headrace.memory import batches as rows
from headrace.memory.batches import Line, LineEnd
from headrace.memory.files import FileStore
from headrace.memory.store import Store
from headrace.observe.metrics import Metrics

MAX_TRIES: Final = 3
TICK_S: Final = 1.0
SWEEP_S: Final = 3600.0
_ROWS_AT_ONCE: Final = 256

_logger = logging.getLogger("headrace.batches")


async def _tick() -> None:
    await asyncio.sleep(TICK_S)


class LineService(Protocol):
    """What answers lines that no single request to the backend answers."""

    @property
    def id_prefix(self) -> str:
        """How ids of its answers begin."""
        ...

    async def ask(self, body: bytes, caller: Caller) -> tuple[bytes, Usage | None]:
        """The answer to a body, behind everybody who waits for one, and what it used. Raises HeadraceError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What runs the lines and what a test replaces: time and chance. `tick` returns when it is time to look again.

    An endpoint is asked through its codec, or through its entry in `services`. `still_may` raises what ends a line
    whose batch was ordered with a key that is none any more; `tracer` begins a trace for each line, None: there are
    none.
    """

    backend: Backend
    foreground: Foreground
    clock: Clock
    new_id: Callable[[], str]
    dialects: Mapping[str, BatchDialect]
    codecs: Mapping[str, LineCodec]
    services: Mapping[str, LineService] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    prices: PriceList = NO_PRICES
    tick: Callable[[], Awaitable[None]] = _tick
    still_may: Callable[[Principal], None] = lambda _: None
    tracer: Tracer | None = None


class Turn:
    """The right to run batches, which one process holds at a time and the system takes back when it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Whether it is ours. Raises Unavailable if nobody can hold it."""
        if self._descriptor is not None:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be opened ({error.strerror or error}).") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def give_back(self) -> None:
        """Let another process have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class BatchRunner:
    """Runs the batches of a service. `start` it on the loop and `close` it before the backend."""

    def __init__(
        self, service: BatchService, store: Store, files: FileStore, surroundings: Surroundings, turn: Turn
    ) -> None:
        self._limits = service.limits
        self._origins = service.origins
        self._store = store
        self._files = files
        self._around = surroundings
        self._turn = turn
        self._wake = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._lines: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._tries: dict[tuple[str, int], int] = {}
        self._is_resting = False  # the backend takes nothing now: wait for the next tick
        self._began_s = surroundings.clock.monotonic_s()
        self._swept_s = self._began_s
        self._last_tenant = ""
        self._said = ""
        self._has_work = False
        service.on_change.append(self._wake.set)
        surroundings.foreground.on_idle.append(self._go_on)

    def _go_on(self) -> None:
        """The foreground has become idle; a server without batches need not be woken for that."""
        if self._has_work:
            self._wake.set()

    def start(self) -> None:
        """Begin, or go on where a process before ended."""
        self._main = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop. Lines that run are given up, and run again when somebody starts."""
        if self._main is not None:
            self._main.cancel()
            await asyncio.wait([self._main])
        await self._give_up(list(self._lines))
        self._turn.give_back()

    async def _run(self) -> None:
        tick = asyncio.ensure_future(self._around.tick())
        try:
            while True:
                self._wake.clear()
                try:
                    if self._turn.take():
                        await self._look()
                except HeadraceError as error:
                    self._rest(f"batches wait: {error.message}")
                woken = asyncio.ensure_future(self._wake.wait())
                try:
                    await asyncio.wait({tick, woken}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    woken.cancel()
                if tick.done():
                    tick = asyncio.ensure_future(self._around.tick())
                    self._is_resting = False
        finally:
            tick.cancel()

    async def _look(self) -> None:
        """Bring every batch one step on, then let lines begin."""
        now_s = self._around.clock.monotonic_s()
        if now_s - self._swept_s >= SWEEP_S:
            self._swept_s = now_s
            await self._files.sweep()
        going = []
        unfinished = await self._store.call(rows.unfinished_batches)
        self._has_work = bool(unfinished)
        self._around.metrics.batches.set(len(unfinished))
        for batch in unfinished:
            try:
                following = await self._advance(batch)
            except HeadraceError as error:
                self._rest(f"{batch.id} waits: {error.message}")
                continue
            if following is not None and following.status is BatchStatus.IN_PROGRESS:
                going.append(following)
        if not self._is_resting:
            await self._begin_lines(going)

    def _rest(self, why: str) -> None:
        """Let some time pass, and say why unless that was said just before."""
        self._is_resting = True
        if why != self._said:
            self._said = why
            _logger.error(why)

    async def _advance(self, batch: Batch) -> Batch | None:
        is_late = self._now_s() >= batch.expires_s
        if batch.status is BatchStatus.VALIDATING:
            return await self._validate(batch)
        if batch.status is BatchStatus.IN_PROGRESS and (is_late or batch.num_ended >= batch.num_lines):
            await self._end_rest(batch, "expired")
            moved = await self._store.call(rows.move_batch, batch.id, BatchStatus.FINALIZING, self._now_s())
            return None if moved is None else await self._finalize(moved)
        if batch.status is BatchStatus.CANCELLING:
            await self._end_rest(batch, "cancelled")
            return await self._finalize(batch)
        if batch.status is BatchStatus.FINALIZING:
            return await self._finalize(batch)
        return batch

    async def _validate(self, batch: Batch) -> Batch | None:
        dialect = self._around.dialects[batch.order.dialect]
        names = {name for card in self._around.backend.models() for name in (card.id, *card.aliases)}

        def knows_model(name: str) -> bool:
            # An adapter that nobody has asked for yet is on no card; its model is.
            return name in names or name.rpartition(":")[0] in names

        check = InputCheck(dialect, batch.order.endpoint, self._limits, knows_model)
        splitter = LineSplitter(self._limits.max_line_bytes)
        await self._store.call(rows.clear_lines, batch.id)
        try:
            file = await self._files.get(batch.principal.tenant, batch.order.input_file_id)
            async with contextlib.aclosing(self._files.read(file)) as pieces:
                async for piece in pieces:
                    lines = await asyncio.to_thread(check.read, splitter.split(piece))
                    await self._store.call(rows.add_lines, batch.id, lines)
                    if check.is_hopeless:
                        break
                else:
                    lines = check.read(splitter.finish())
                    await self._store.call(rows.add_lines, batch.id, lines)
                    check.finish()
            problems = check.problems
        except NotFound as error:
            problems = [LineProblem("file_not_found", error.message, param="input_file_id")]
        now_s = self._now_s()
        if problems:
            failed = BatchStatus.FAILED
            return await self._store.call(rows.move_batch, batch.id, failed, now_s, problems=problems)
        return await self._store.call(rows.begin_batch, batch.id, now_s, check.model)

    async def _begin_lines(self, going: list[Batch]) -> None:
        idle_s = self._around.clock.monotonic_s() - self._began_s
        load = Load(self._around.foreground.num_running, len(self._lines), idle_s)
        room = num_to_start(load, self._limits)
        if not room or not going:
            return
        # Tenants in turn, and of a tenant the oldest batch that has lines left.
        queues: dict[str, list[Batch]] = {}
        for batch in sorted(going, key=lambda batch: batch.principal.tenant <= self._last_tenant):
            queues.setdefault(batch.principal.tenant, []).append(batch)
        while room and queues:
            for tenant, batches in list(queues.items()):
                line = None
                while batches and (line := await self._next_line(batches[0])) is None:
                    batches.pop(0)
                if line is None:
                    del queues[tenant]
                elif room:
                    self._begin(batches[0], line)
                    room -= 1

    async def _next_line(self, batch: Batch) -> Line | None:
        """The first line of a batch that neither ran nor runs."""
        running = {number for batch_id, number in self._lines if batch_id == batch.id}
        found = await self._store.call(rows.waiting_lines, batch.id, 0, len(running) + 1)
        return next((line for line in found if line.number not in running), None)

    def _begin(self, batch: Batch, line: Line) -> None:
        key = (batch.id, line.number)
        self._began_s = self._around.clock.monotonic_s()
        self._last_tenant = batch.principal.tenant
        task = asyncio.get_running_loop().create_task(self._run_line(batch, line))
        self._lines[key] = task
        task.add_done_callback(partial(self._line_done, key))

    def _line_done(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        self._lines.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its end could not be written down: it runs again, when the memory may be there again.
            _logger.error("the end of line %d of %s was not kept", key[1], key[0], exc_info=error)
            self._is_resting = True
        self._wake.set()

    async def _run_line(self, batch: Batch, line: Line) -> None:
        key = (batch.id, line.number)
        dialect = self._around.dialects[batch.order.dialect]
        asked = self._asked(batch.order.endpoint)
        names = self._names(line, asked.id_prefix + self._around.new_id())
        EXCHANGE_ID.set(names.request_id)
        trace = None
        if (tracer := self._around.tracer) is not None:
            trace = LineTrace(tracer, self._origins.find(batch.id), self._around.clock, key)
        try:
            body, usage = await self._ask(batch, line, asked, names.request_id)
            end = LineEnd(dialect.succeeded(names, body), is_failed=False, usage=usage)
        except HeadraceError as error:
            if self._tries_again(key, error):
                return
            end = LineEnd(dialect.failed(names, error), is_failed=True)
        except Exception:
            # A defect that one line meets must not end the others.
            _logger.exception("line %d of %s met a defect", line.number, batch.id)
            fault = EngineFault("an unexpected defect ended this request; it is logged.")
            end = LineEnd(dialect.failed(names, fault), is_failed=True)
        await self._end_lines(batch, {line.number: end})
        self._tries.pop(key, None)
        if trace is not None:
            trace.end(is_failed=end.is_failed)

    def _tries_again(self, key: tuple[str, int], error: HeadraceError) -> bool:
        if not error.retryable or isinstance(error, DiskFull):
            return False
        self._is_resting = True
        # A full queue or a backend that is not there says nothing of the line; what else may be tried again is counted.
        if error.status != 503:
            self._tries[key] = self._tries.get(key, 0) + 1
        return self._tries.get(key, 0) < MAX_TRIES

    def _asked(self, endpoint: str) -> LineCodec | LineService:
        return self._around.services.get(endpoint) or self._around.codecs[endpoint]

    async def _ask(
        self, batch: Batch, line: Line, asked: LineCodec | LineService, request_id: str
    ) -> tuple[bytes, Usage | None]:
        self._around.still_may(batch.principal)
        data = await self._files.read_at(batch.order.input_file_id, line.offset, line.num_bytes)
        body = self._around.dialects[batch.order.dialect].read(data, batch.order.endpoint).body
        caller = Caller(request_id=request_id, principal=batch.principal, prices=self._around.prices)
        if not isinstance(asked, LineCodec):
            return await asked.ask(body, caller)
        return await self._ask_backend(asked, body, caller)

    async def _ask_backend(self, codec: LineCodec, body: bytes, caller: Caller) -> tuple[bytes, Usage | None]:
        call = codec.decode(body, caller)
        request = replace(call.request, principal=background(call.request.principal))
        check_task(self._around.backend.models(), request)
        answer = codec.answer(call, self._now_s())
        usage = None
        try:
            async with contextlib.aclosing(self._around.backend.run(request)) as events:
                async for event in events:
                    answer.add((event,))
                    if isinstance(event, Finished):
                        usage = event.usage
        except InvalidRequest as error:
            raise codec.reword(call, error) from None
        return answer.encode(), usage

    async def _end_rest(self, batch: Batch, why: str) -> None:
        """Give up the lines that run, and end those that did not."""
        await self._give_up([key for key in self._lines if key[0] == batch.id])
        dialect = self._around.dialects[batch.order.dialect]
        while lines := await self._store.call(rows.waiting_lines, batch.id, 0, _ROWS_AT_ONCE):
            ends = {
                line.number: LineEnd(dialect.unrun(self._names(line, ""), why), is_failed=True, is_run=False)
                for line in lines
            }
            await self._end_lines(batch, ends)

    async def _end_lines(self, batch: Batch, ends: Mapping[int, LineEnd]) -> None:
        await self._store.call(rows.end_lines, batch.id, ends)
        for end in ends.values():
            outcome = "unrun" if not end.is_run else "failed" if end.is_failed else "succeeded"
            self._around.metrics.batch_lines.labels(outcome).inc()

    async def _give_up(self, keys: list[tuple[str, int]]) -> None:
        tasks = [self._lines[key] for key in keys]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _finalize(self, batch: Batch) -> Batch | None:
        """Write the files of results that are not there yet; then the batch is over."""
        splits = self._around.dialects[batch.order.dialect].splits
        for is_failed in (True, False) if splits else (None,):
            if (batch.error_file_id if is_failed else batch.output_file_id) is None:
                await self._write(batch, is_failed)
        batch = await self._store.call(rows.reread_batch, batch.id)
        end = BatchStatus.EXPIRED if batch.num_unrun else BatchStatus.COMPLETED
        if batch.status is BatchStatus.CANCELLING:
            end = BatchStatus.CANCELLED
        over = await self._store.call(rows.move_batch, batch.id, end, self._now_s())
        if over is not None:
            _logger.info("%s is %s: %d lines, %d of them failed", over.id, over.status, over.num_lines, over.num_failed)
        return over

    async def _write(self, batch: Batch, is_failed: bool | None) -> None:
        found = await self._store.call(rows.results, batch.id, 0, _ROWS_AT_ONCE, is_failed=is_failed)
        if not found:
            return
        upload = await self._files.begin(batch.principal.tenant, is_bounded=False)
        try:
            while found:
                await upload.write(b"".join(result + b"\n" for _, result in found))
                after = found[-1][0]
                found = await self._store.call(rows.results, batch.id, after, _ROWS_AT_ONCE, is_failed=is_failed)
            note = FileNote(
                filename=f"{batch.id}_{'error' if is_failed else 'output'}.jsonl",
                purpose=BATCH_OUTPUT,
                lifetime_s=batch.order.output_lifetime_s,
            )

            def name_it(connection: sqlite3.Connection, record: FileRecord) -> None:
                rows.note_file(connection, batch.id, record.id, is_failed=bool(is_failed))

            await upload.commit(note, name_it)
        finally:
            await upload.abort()

    def _names(self, line: Line, request_id: str) -> LineNames:
        return LineNames(f"batch_req_{self._around.new_id()}", line.custom_id, request_id)

    def _now_s(self) -> int:
        return int(self._around.clock.unix_s())
