"""The engine as a backend: requests in, text events out; here the event loop and the engine's thread meet.

A request becomes token ids (chat template, raw prompt or ids as given), one piece of work for `engine.py`, and a
mailbox, whose items are turned into text per choice and told as events. Long inputs are tokenised and grammars compiled
in threads of their own, so that the loop does not stall. Leaving `run` in any way gives back what the request held.
Knows no protocol.

Decided here: `max_tokens` beyond the context is refused, as vLLM does, not cut. A raw `prompt` may contain control
tokens, because its caller writes the template itself; text inside `messages` never becomes one.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from headrace.core.backend import ModelCard, Probe
from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import ContextTooLong, HeadraceError, InvalidRequest, Unavailable
from headrace.core.events import Event, Finished, FinishReason, Started, Usage
from headrace.core.request import Request, Task
from headrace.core.service import Adapters, Residence, Residents, Tokens
from headrace.core.watching import LiveEngine
from headrace.engine.admission import check_fits
from headrace.engine.answer import Answer
from headrace.engine.config import EngineConfig, detect_hardware, resolve
from headrace.engine.engine import Engine
from headrace.engine.grammar.compiler import Form
from headrace.engine.grammar.matcher import Grammar
from headrace.engine.guests import Guests, Hold
from headrace.engine.inputs import Inputs, encode_inputs
from headrace.engine.kv.disk import DiskTier
from headrace.engine.kv.gate import Decision
from headrace.engine.lane import ModelSnapshot
from headrace.engine.mailbox import Mailbox
from headrace.engine.picture import with_residences
from headrace.engine.queue import Rank
from headrace.engine.residency import Need, Residency
from headrace.engine.roster import Roster
from headrace.engine.sequence import Keep, Work
from headrace.engine.served import Served, Setup, card_of
from headrace.engine.shelves import Shelves
from headrace.engine.source import Source
from headrace.engine.terms import check_deadline, held_to, make_work, refuse_unsupported
from headrace.engine.ticket import Ticket
from headrace.engine.tokens import EngineTokens
from headrace.engine.tracing import WorkTrace
from headrace.observe.engine_states import AdapterUse
from headrace.observe.metrics import Metrics

if TYPE_CHECKING:
    from headrace.models.load import LoadedModel

__all__ = ["Setup", "Source", "TextEngine"]

_Made = TypeVar("_Made")
_TOOL_CHARS = 500  # about as many as a tool's parameters have; who wants to know must write them


class TextEngine:
    """A `Backend` over one engine thread. `start` it before the first request and `close` it at the end.

    `threads` is the native thread pool (None: one is made); `seeds` gives a seed to requests that bring none; `setups`
    say how models are served, by name; `sources` are models that come and go: those of `models` that have one are in
    memory at the start, and `config.memory_bytes` bounds what they hold together; `disk` keeps pages between runs and
    starts and closes with the engine; `rank` puts some of a tenant's waiting work first (`queue.py`); `check_adapter`
    is told the path of an adapter before it is read, and raises if it must not be. At a model's first start the gate of
    8-bit keys and values takes a moment.

    Raises InvalidRequest if the memory budget holds not even one page, threads cannot be bound as the config says, a
    model cannot have the configured `kv_type`, or the folder of adapters is not there.
    """

    def __init__(  # noqa: PLR0913 - the parts that a composition root joins
        self,
        models: "Sequence[LoadedModel]",
        config: EngineConfig | None = None,
        *,
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        threads: Any = None,
        seeds: Callable[[], int] = lambda: secrets.randbits(64),
        setups: Mapping[str, Setup] | None = None,
        sources: Sequence[Source] = (),
        disk: DiskTier | None = None,
        rank: Rank | None = None,
        check_adapter: Callable[[Path], object] | None = None,
    ) -> None:
        try:
            self.config = resolve(config or EngineConfig(), detect_hardware())
        except ValueError as error:  # threads that cannot be bound as asked for
            raise InvalidRequest(str(error), param="pin_threads") from error
        self.metrics = metrics or Metrics()
        self._clock = clock or SystemClock()
        self._seeds = seeds
        self._threads = _make_threads(self.config) if threads is None else threads
        self._disk = disk
        setups = setups or {}
        self._sources = {source.name: source for source in sources}
        fixed = [one for one in models if one.name not in self._sources]
        tasks = [*(one.tasks for one in fixed), *(one.card.tasks for one in self._sources.values())]
        num_sharing = sum(Task.GENERATE in able for able in tasks)
        self._engine = Engine(self.config, [], self._threads, self._clock, rank=rank)
        cards = [card_of(one, setups.get(one.name, Setup())) for one in fixed] + [one.card for one in sources]
        self._roster = Roster(self._engine, cards, num_sharing, metrics=self.metrics, disk=disk)
        self._shelves = self._roster.shelves = self._open_shelves(check_adapter)
        needs = {}
        for model in models:
            source = self._sources.get(model.name)
            setup = setups.get(model.name, Setup()) if source is None else source.setup
            needs[model.name] = self._roster.open(model, setup, self._threads)
        self._guests = self._invite(needs, num_sharing)
        self._tokenizers = ThreadPoolExecutor(self.config.tokenizer_threads, "headrace-tokenizer")
        self._compilers = ThreadPoolExecutor(1, "headrace-grammar")

    @property
    def kv_decisions(self) -> Mapping[str, Decision]:
        """How keys and values are stored, of every model that was in memory and generates."""
        return self._roster.kv_decisions

    def _open_shelves(self, check: Callable[[Path], object] | None) -> Shelves | None:
        folder = self.config.adapters
        if folder is None:
            return None
        if not folder.is_dir():
            raise InvalidRequest(f"adapters: {folder} is no folder; make it or name another.", param="adapters")
        self.metrics.states.max_adapters = self.config.max_sequences
        return Shelves(self._roster.names, folder, self.config.adapter_memory_bytes, self._hold, check)

    def _invite(self, needs: Mapping[str, Need], num_sharing: int) -> Guests | None:
        """What lets those models come and go that have a source; `needs` are of those that are there."""
        if not self._sources:
            return None
        residency = Residency(self.config.memory_bytes)
        try:
            for name, source in self._sources.items():
                need = needs.get(name) or source.need(self.config, num_sharing)
                residency.add(name, need, ttl_s=source.ttl_s, is_ready=name in needs)
        except ValueError as error:  # a budget that no page of this model fits into
            raise InvalidRequest(str(error), param="kv_memory_bytes") from error
        return Guests(residency, self._clock, self.config.max_waiting, self._load, self._roster.close)

    def _load(self, name: str) -> Need:
        """On the loader thread: bring a model into service; its own one kernel thread measures what there is to."""
        source = self._sources[name]
        model = source.load()
        own = _make_threads(EngineConfig(threads=1)) if hasattr(self._threads, "close") else self._threads
        try:
            return self._roster.open(model, source.setup, own)
        finally:
            if own is not self._threads:
                own.close()

    def start(self) -> None:
        """Start the engine's thread, and those of the disk and of the models that come and go, if there are such."""
        if self._disk is not None:
            self._disk.start()
        self._engine.start()
        if self._guests is not None:
            self._guests.start()

    async def close(self, drain_s: float = 0.0) -> bool:
        """Refuse new requests, give the running ones `drain_s` seconds, fail the rest; whether all ended in time."""
        loop = asyncio.get_running_loop()
        if self._guests is not None:
            await loop.run_in_executor(None, self._guests.stop)
        drained = await loop.run_in_executor(None, self._engine.drain, drain_s)
        await loop.run_in_executor(None, self._engine.close)
        if self._disk is not None:
            await loop.run_in_executor(None, self._disk.close)
        for executor in (self._tokenizers, self._compilers):
            executor.shutdown(wait=False, cancel_futures=True)
        await loop.run_in_executor(None, self._roster.close_all)
        if self._shelves is not None:
            self._shelves.close()
        if hasattr(self._threads, "close"):
            self._threads.close()
        return drained

    def models(self) -> tuple[ModelCard, ...]:
        """The served models, in memory or not, each followed by the adapters that there are for it."""
        return self._roster.cards()

    @property
    def residents(self) -> Residents | None:
        """Loading and unloading of models, if some come and go."""
        return None if self._guests is None else self

    @property
    def memory_bytes(self) -> int | None:
        """See `core.service.Residents`."""
        return self.config.memory_bytes

    async def load_model(self, name: str) -> Residence:
        """See `core.service.Residents`."""
        guests, found = self._guest(name)
        return await guests.load_model(found)

    async def unload_model(self, name: str, *, waits: bool = True) -> Residence:
        """See `core.service.Residents`."""
        guests, found = self._guest(name)
        return await guests.unload_model(found, waits=waits)

    def residences(self) -> tuple[Residence, ...]:
        """See `core.service.Residents`."""
        return () if self._guests is None else self._guests.residences(self._sources)

    def _guest(self, name: str) -> tuple[Guests, str]:
        found, _ = self._roster.find(name)
        if self._guests is None or found not in self._sources:
            raise InvalidRequest(f"model: {found} stays in memory; it is not served as a guest.", param="model")
        return self._guests, found

    @property
    def adapters(self) -> Adapters | None:
        """Loading and unloading of adapters, if the config names a folder of them."""
        return self._shelves

    @property
    def tokens(self) -> Tokens:
        """Texts and conversations as token ids."""
        return EngineTokens(self._open, self._prepare)

    def snapshot(self, model: str) -> ModelSnapshot:
        """Pages and queues of a model, by its served name, as last published."""
        return self._engine.snapshot(model)

    async def look(self, *, is_whole: bool = True) -> LiveEngine:
        """See `core.watching.Watching`."""
        lanes = await asyncio.wrap_future(self._engine.look(is_whole=is_whole))
        if not is_whole:
            return LiveEngine(lanes)
        return LiveEngine(with_residences(lanes, self.residences()), None if self._disk is None else self._disk.live())

    async def probe(self, request: Request) -> Probe:
        """Prompt tokens, warm tokens and whether it fits, from published values only.

        Raises Unavailable if the model is not in memory.
        """
        served, hold = await self._open(request, loads=False)
        try:
            return await self._probe(served, request)
        finally:
            hold.release()

    async def _probe(self, served: Served, request: Request) -> Probe:
        tokens = await self._encode(served, request)
        work = self._work(served, request, tokens, 0.0)
        name = served.model.name
        warm = self._engine.warm_tokens(name, work.salt, tokens.tobytes())
        try:
            check_fits(work, served.model.context_length, self._engine.snapshot(name).total_pages)
        except ContextTooLong:
            return Probe(len(tokens), warm, fits=False)
        return Probe(len(tokens), warm, fits=True)

    async def release(self, session: str, tenant: str = "local") -> None:
        """Let go of the pages that were kept for a tenant's session."""
        self._engine.release(session, tenant)

    def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request; see `core.backend.Backend.run`."""
        trace = WorkTrace.begin(request, self._clock)
        events = self._generate(request, trace) if request.inputs is None else self._take_inputs(request)
        return events if trace is None else trace.around(events)

    async def _take_inputs(self, request: Request) -> AsyncGenerator[Event, None]:
        arrived = self._clock.monotonic_s()
        request.check()
        served, hold = await self._open(request)
        outcome = "abort"
        try:
            refuse_unsupported(request, served)
            encoded = await self._prepare(request, partial(encode_inputs, served))
            async with aclosing(Inputs(self._engine, served, request, encoded, arrived).events()) as events:
                async for event in events:
                    yield event
            outcome = FinishReason.STOP.value
        except HeadraceError:
            outcome = "error"
            raise
        finally:
            hold.release()
            self.metrics.count_end(served.model.name, outcome)

    async def _generate(self, request: Request, trace: WorkTrace | None) -> AsyncGenerator[Event, None]:
        arrived = self._clock.monotonic_s()
        request.check()
        served, hold = await self._open(request)
        answer: Answer | None = None
        ticket: Ticket | None = None
        outcome = "abort"
        try:
            refuse_unsupported(request, served)
            tokens = await self._encode(served, request)
            if request.task is Task.COUNT:
                outcome = FinishReason.STOP.value
                yield Started(request.id, served.name, len(tokens), 0, served.digests)
                yield Finished(Usage(len(tokens), 0))
                return
            keeps: tuple[Keep, ...] = ()
            if request.cache.breakpoints:
                found = await self._prepare(request, served.keeps, tokens)
                keeps = tuple(one for one in found if one.num_tokens >= self.config.cache_min_tokens)
            work = self._work(served, request, tokens, arrived, keeps)
            if request.limits.max_tokens != 0:
                form = served.idiom.form(request, is_open=served.has_open_thought(tokens))
                grammar = None if form is None else await self._grammar(served, form)
                work = held_to(work, grammar, served, request)
            mailbox = Mailbox(asyncio.get_running_loop())
            ticket = self._engine.submit(work, mailbox)
            use = None if served.adapter is None else self._use(served, hold)
            answer = Answer(served, request, work, arrived, use)
            if trace is not None:
                trace.follow(answer)
            while answer.open_choices:
                events = answer.accept(await mailbox.take(), self._clock)
                for choice in answer.take_stopped():
                    self._engine.cancel(ticket, choice)
                for event in events:
                    yield event
            if answer.error is not None:
                raise answer.error
            for event in answer.best():
                yield event
            outcome = answer.finish(self._clock)
            yield Finished(answer.usage)
        except HeadraceError:
            outcome = "error"
            raise
        finally:
            if ticket is not None and (answer is None or answer.open_choices):
                self._engine.cancel(ticket)
            hold.release()
            self.metrics.count_end(served.model.name, outcome)

    async def _open(self, request: Request, *, loads: bool = True) -> tuple[Served, Hold]:
        """What a request names, a model or `model:adapter`, in memory until the hold is released."""
        name, adapter = self._roster.find(request.model)
        _check_task(self._roster.card(name), request)
        hold = await self._hold(name, request.limits.deadline_s, loads=loads)
        try:
            served = self._roster.served(name)
            if adapter is not None:
                assert self._shelves is not None
                served, lease = await self._shelves.open(served, adapter)
                hold.add(lease.release)
        except BaseException:
            hold.release()
            raise
        return served, hold

    def _use(self, served: Served, hold: Hold) -> AdapterUse:
        use = self.metrics.states.use(served.name)
        hold.add(use.leave)
        return use

    async def _hold(self, name: str, limit_s: float | None = None, *, loads: bool = True) -> Hold:
        if self._guests is None or name not in self._sources:
            return Hold()
        if not loads:
            return self._guests.hold_now(name)
        check_deadline(limit_s)
        return await self._guests.hold(name, limit_s)

    async def _encode(self, served: Served, request: Request) -> NDArray[np.int32]:
        return await self._prepare(request, served.encode)

    async def _prepare(self, request: Request, function: Callable[..., _Made], *more: Any) -> _Made:
        """What a function makes of the request; away from the loop if there is much to do."""
        size = len(request.prompt or "") + len(request.suffix or "") + len(request.tokens or ())
        size += sum(len(part.text) for message in request.messages or () for part in message.parts)
        size += sum(len(tool.description) + _TOOL_CHARS for tool in request.tools)
        size += sum(len(one.text) + len(one.pair or "") for one in request.inputs or ())
        if size <= self.config.inline_prompt_chars:
            return function(request, *more)
        return await _run_in(self._tokenizers, function, request, *more)

    async def _grammar(self, served: Served, form: Form) -> Grammar:
        """What was compiled before does not wait for what others have compiled now."""
        known = served.grammars.find(form)
        return await _run_in(self._compilers, served.grammars.compile, form) if known is None else known

    def _work(
        self,
        served: Served,
        request: Request,
        tokens: NDArray[np.int32],
        arrived: float,
        keeps: tuple[Keep, ...] = (),
    ) -> Work:
        sampling, name = request.sampling, served.model.name
        seed = self._seeds() if sampling.seed is None else sampling.seed
        room = max(1, self._engine.capacity(name) - len(tokens))
        return make_work(served, request, tokens, seed=seed, room=room, arrived=arrived, keeps=keeps)


def _check_task(card: ModelCard, request: Request) -> None:
    """Refuse what a model cannot be asked for, before it is loaded for that. Raises InvalidRequest."""
    if request.task not in card.tasks:
        able = ", ".join(sorted(card.tasks - {Task.COUNT}))
        raise InvalidRequest(f"model: {card.id} cannot {request.task}; it can {able}.", param="model")


async def _run_in(executor: ThreadPoolExecutor, work: Callable[..., _Made], *given: Any) -> _Made:
    """Wait for something that another thread makes. Raises Unavailable once the executor was shut down."""
    try:
        made = asyncio.get_running_loop().run_in_executor(executor, work, *given)
    except RuntimeError as error:
        raise Unavailable("The server is stopping; try again.") from error
    return await made


def _make_threads(config: EngineConfig) -> Any:
    from headrace.kernels import native  # noqa: PLC0415 - tests with a double of the program need no compiled module

    return native.Threads(config.threads or 1, cpus=config.cpus)
