"""The engine as a backend: requests in, text events out; here the event loop and the engine's thread meet.

A request becomes token ids (chat template, raw prompt or ids as given), one piece of work for `engine.py`, and a
mailbox, whose items are turned into text per choice and told as events. Long inputs are tokenised and grammars compiled
in threads of their own, so that the loop does not stall. Leaving `run` in any way gives back what the request held.
Knows no protocol.

Decided here: `max_tokens` beyond the context is refused, as vLLM does, not cut. A raw `prompt` may contain control
tokens, because its caller writes the template itself; text inside `messages` never becomes one.
"""

import asyncio
import hashlib
import logging
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from headrace.core.backend import ModelCard, Probe
from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import ContextTooLong, HeadraceError, InvalidRequest, NotFound, Unavailable, UnsupportedField
from headrace.core.events import Event, Finished, FinishReason, Started, Usage
from headrace.core.request import FormatKind, Request, ResponseFormat, Role, Task
from headrace.core.service import Adapters
from headrace.engine.admission import check_fits
from headrace.engine.answer import Answer
from headrace.engine.config import KV_TYPES, EngineConfig, detect_hardware, resolve
from headrace.engine.draft.drafter import Drafter
from headrace.engine.engine import Engine, Ticket
from headrace.engine.grammar.matcher import Grammar
from headrace.engine.inputs import Inputs, encode_inputs
from headrace.engine.kv.disk import DiskTier
from headrace.engine.kv.gate import Decision, choose_kind, kernel_variant
from headrace.engine.kv.page_file import PageLayout
from headrace.engine.lane import ModelSnapshot
from headrace.engine.lanes import generating_lane, pooling_lane
from headrace.engine.mailbox import Mailbox
from headrace.engine.queue import Rank
from headrace.engine.retention import DiskLink
from headrace.engine.sequence import Keep, Work
from headrace.engine.served import Served, Setup
from headrace.engine.shelves import Shelves
from headrace.kernels.plan import PAGE_TOKENS
from headrace.observe.metrics import Metrics

if TYPE_CHECKING:
    from headrace.adapters.shelf import Lease
    from headrace.models.load import LoadedModel

__all__ = ["Setup", "TextEngine"]

_log = logging.getLogger("headrace.engine")
_Made = TypeVar("_Made")


class TextEngine:
    """A `Backend` over one engine thread. `start` it before the first request and `close` it at the end.

    `threads` is the native thread pool (None: one is made); `seeds` gives a seed to requests that bring none; `setups`
    say how models are served, by name; `disk` keeps pages between runs and starts and closes with the engine; `rank`
    puts some of a tenant's waiting work first (`queue.py`). At a model's first start the gate of 8-bit keys and values
    takes a moment.

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
        disk: DiskTier | None = None,
        rank: Rank | None = None,
    ) -> None:
        try:
            self.config = resolve(config or EngineConfig(), detect_hardware())
        except ValueError as error:  # threads that cannot be bound as asked for
            raise InvalidRequest(str(error), param="pin_threads") from error
        self.metrics = metrics or Metrics()
        self._clock = clock or SystemClock()
        self._seeds = seeds
        setups = setups or {}
        self._served = {model.name: Served(model, self.metrics, setups.get(model.name, Setup())) for model in models}
        self._names = {
            alias: served for served in self._served.values() for alias in served.card.aliases
        } | self._served
        self._threads = _make_threads(self.config) if threads is None else threads
        self._shelves = self._open_shelves()
        self.kv_decisions = {
            name: self._decide(served.model) for name, served in self._served.items() if served.generates
        }
        self._disk = disk
        self._engine = self._build(rank)
        self._tokenizers = ThreadPoolExecutor(self.config.tokenizer_threads, "headrace-tokenizer")
        self._compilers = ThreadPoolExecutor(1, "headrace-grammar")

    def _decide(self, model: "LoadedModel") -> Decision:
        decision = choose_kind(model, KV_TYPES[self.config.kv_type], self._threads)
        _log.info("%s: keys and values in %s: %s", model.name, decision.kv_type, decision.reason)
        return decision

    def _open_shelves(self) -> Shelves | None:
        folder = self.config.adapters
        if folder is None:
            return None
        if not folder.is_dir():
            raise InvalidRequest(f"adapters: {folder} is no folder; make it or name another.", param="adapters")
        return Shelves(self._served, folder, self.config.adapter_memory_bytes)

    def _build(self, rank: Rank | None) -> Engine:
        programs = {} if self._shelves is None else self._shelves.programs
        models = [
            generating_lane(
                served,
                program=programs.get(name, served.model.program),
                kv_kind=self.kv_decisions[name].kind,
                speculator=Drafter() if self.config.speculation == "auto" else None,
                disk=self._link(served.model),
            )
            for name, served in self._served.items()
            if served.generates
        ]
        num_sharing = len(models)
        models += [pooling_lane(served) for served in self._served.values() if served.pooled_plan is not None]
        try:
            return Engine(self.config, models, self._threads, self._clock, rank=rank, num_sharing=num_sharing)
        except ValueError as error:  # a budget that no page of this model fits into
            raise InvalidRequest(str(error), param="kv_memory_bytes") from error

    def _link(self, model: "LoadedModel") -> DiskLink | None:
        if self._disk is None:
            return None
        kind = self.kv_decisions[model.name].kind
        layout = PageLayout(
            model=model.digest,
            plan=hashlib.sha256(repr(model.plan).encode()).hexdigest(),
            kv_type=f"{kind.name} {kind.dtype}",
            variant=kernel_variant(),
            shape=model.plan.cache.pool_shape(kind, 1)[1:],
            page_tokens=PAGE_TOKENS,
            page_bytes=model.plan.cache.page_bytes(kind),
        )
        return DiskLink(self._disk, layout)

    def start(self) -> None:
        """Start the engine's thread, and the disk's if there is one."""
        if self._disk is not None:
            self._disk.start()
        self._engine.start()

    async def close(self, drain_s: float = 0.0) -> bool:
        """Refuse new requests, give the running ones `drain_s` seconds, fail the rest; whether all ended in time."""
        loop = asyncio.get_running_loop()
        drained = await loop.run_in_executor(None, self._engine.drain, drain_s)
        await loop.run_in_executor(None, self._engine.close)
        if self._disk is not None:
            await loop.run_in_executor(None, self._disk.close)
        for executor in (self._tokenizers, self._compilers):
            executor.shutdown(wait=False, cancel_futures=True)
        for served in self._served.values():
            await loop.run_in_executor(None, served.close)
        if self._shelves is not None:
            self._shelves.close()
        if hasattr(self._threads, "close"):
            self._threads.close()
        return drained

    def models(self) -> tuple[ModelCard, ...]:
        """The served models, each followed by the adapters that there are for it."""
        cards = []
        for name, served in self._served.items():
            cards += [served.card, *([] if self._shelves is None else self._shelves.cards(name))]
        return tuple(cards)

    @property
    def adapters(self) -> Adapters | None:
        """Loading and unloading of adapters, if the config names a folder of them."""
        return self._shelves

    def snapshot(self, model: str) -> ModelSnapshot:
        """Pages and queues of a model, by its served name, as last published."""
        return self._engine.snapshot(model)

    async def probe(self, request: Request) -> Probe:
        """Prompt tokens, warm tokens and whether it fits, from published values only."""
        served, lease = await self._open(request)
        if lease is not None:  # only its digest is needed
            lease.release()
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
        return self._generate(request) if request.inputs is None else self._take_inputs(request)

    async def _take_inputs(self, request: Request) -> AsyncGenerator[Event, None]:
        arrived = self._clock.monotonic_s()
        request.check()
        served, lease = await self._open(request)
        outcome = "abort"
        try:
            _refuse_unsupported(request, served)
            encoded = await self._prepare(request, partial(encode_inputs, served))
            async with aclosing(Inputs(self._engine, served, request, encoded, arrived).events()) as events:
                async for event in events:
                    yield event
            outcome = FinishReason.STOP.value
        except HeadraceError:
            outcome = "error"
            raise
        finally:
            if lease is not None:
                lease.release()
            self.metrics.request_success.labels(served.model.name, outcome).inc()

    async def _generate(self, request: Request) -> AsyncGenerator[Event, None]:
        arrived = self._clock.monotonic_s()
        request.check()
        served, lease = await self._open(request)
        answer: Answer | None = None
        ticket: Ticket | None = None
        outcome = "abort"
        try:
            _refuse_unsupported(request, served)
            tokens = await self._encode(served, request)
            if request.task is Task.COUNT:
                outcome = FinishReason.STOP.value
                yield Started(request.id, served.name, len(tokens), 0, served.digests)
                yield Finished(Usage(len(tokens), 0))
                return
            keeps: tuple[Keep, ...] = ()
            if request.cache.breakpoints:
                keeps = await self._prepare(request, served.keeps, tokens)
            work = self._work(served, request, tokens, arrived, keeps)
            if request.response_format.kind is not FormatKind.TEXT:
                work = replace(work, grammar=await self._grammar(served, request.response_format))
            mailbox = Mailbox(asyncio.get_running_loop())
            ticket = self._engine.submit(work, mailbox)
            answer = Answer(served, request, work, arrived)
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
            if lease is not None:
                lease.release()
            self.metrics.request_success.labels(served.model.name, outcome).inc()

    def _find(self, request: Request) -> Served:
        served = self._names.get(request.model)
        if served is None:
            names = ", ".join(sorted(self._served))
            raise NotFound(
                f"Model {request.model} is not served here; served: {names}.", param="model", code="model_not_found"
            )
        return served

    async def _open(self, request: Request) -> "tuple[Served, Lease | None]":
        """What a request names: a model, or `model:adapter` with a lease that its holder releases."""
        model, _, adapter = request.model.rpartition(":")
        if self._shelves is None or request.model in self._names or model not in self._names:
            return self._find(request), None
        return await self._shelves.open(self._names[model], adapter)

    async def _encode(self, served: Served, request: Request) -> NDArray[np.int32]:
        return await self._prepare(request, served.encode)

    async def _prepare(self, request: Request, function: Callable[..., _Made], *more: Any) -> _Made:
        """What a function makes of the request; away from the loop if there is much to do."""
        size = len(request.prompt or "") + len(request.tokens or ())
        size += sum(len(part.text) for message in request.messages or () for part in message.parts)
        size += sum(len(one.text) + len(one.pair or "") for one in request.inputs or ())
        if size <= self.config.inline_prompt_chars:
            return function(request, *more)
        return await _run_in(self._tokenizers, function, request, *more)

    async def _grammar(self, served: Served, form: ResponseFormat) -> Grammar:
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
        limits, sampling = request.limits, request.sampling
        name = served.model.name
        stop_ids = frozenset(limits.stop_token_ids)
        # A grammar allows the end where the answer may end and nowhere else: there is nothing to ignore.
        if not limits.ignore_eos or request.response_format.kind is not FormatKind.TEXT:
            stop_ids |= served.model.tokenizer.eos_ids
        _check_bias(request, served.model.plan.vocab_size)
        logprobs = request.logprobs
        if logprobs is None and sampling.num_drawn > sampling.num_choices:
            logprobs = 0  # to know which are best
        max_tokens = limits.max_tokens
        if max_tokens is None:
            max_tokens = max(1, self._engine.capacity(name) - len(tokens))
        return Work(
            model=name,
            tokens=tokens,
            sampling=sampling,
            seed=self._seeds() if sampling.seed is None else sampling.seed,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            salt=served.salt(request),
            priority=request.principal.priority,
            tenant=request.principal.tenant,
            share=request.principal.share,
            logprobs=logprobs,
            prompt_logprobs=request.prompt_logprobs,
            session=request.session,
            parent=request.parent,
            adapter=None if served.adapter is None else served.adapter.bound,
            keeps=keeps,
            explains=request.cache.explain,
            deadline=math.inf if limits.deadline_s is None else arrived + limits.deadline_s,
            field="prompt" if request.messages is None else "messages",
        )


def _refuse_unsupported(request: Request, served: Served) -> None:
    """Refuse by name what the model cannot be asked for, and what the protocol knows and this backend does not do yet.

    Raises InvalidRequest.
    """
    if request.task not in served.card.tasks:
        able = ", ".join(sorted(served.card.tasks - {Task.COUNT}))
        raise InvalidRequest(f"model: {served.name} cannot {request.task}; it can {able}.", param="model")
    if request.task is Task.EMBED and served.adapter is not None:
        raise InvalidRequest(f"model: adapters do not embed; ask for {served.model.name}.", param="model")
    tool_talk = any(message.role is Role.TOOL or message.tool_calls for message in request.messages or ())
    refusals = (
        ("tools", bool(request.tools), "tools are not supported"),
        ("messages", tool_talk, "tool calls and tool results are not supported"),
    )
    for name, refused, why in refusals:
        if refused:
            raise UnsupportedField(f"{name}: {why} by this model's engine yet; leave the field out.", param=name)
    deadline_s = request.limits.deadline_s
    if deadline_s is not None and not 0 < deadline_s < math.inf:
        raise InvalidRequest(f"deadline_s: {deadline_s!r} is not above 0; give seconds.", param="deadline_s")


async def _run_in(executor: ThreadPoolExecutor, work: Callable[..., _Made], *given: Any) -> _Made:
    """Wait for something that another thread makes. Raises Unavailable once the executor was shut down."""
    try:
        made = asyncio.get_running_loop().run_in_executor(executor, work, *given)
    except RuntimeError as error:
        raise Unavailable("The server is stopping; try again.") from error
    return await made


def _check_bias(request: Request, vocab_size: int) -> None:
    """Raise InvalidRequest for a token that the model does not have."""
    seen = set()
    for token, _ in request.sampling.logit_bias:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"logit_bias: {token} is not in [0, {vocab_size - 1}], the model's vocabulary.", param="logit_bias"
            )
        if token in seen:
            raise InvalidRequest(f"logit_bias: {token} is given twice; give each token once.", param="logit_bias")
        seen.add(token)


def _make_threads(config: EngineConfig) -> Any:
    from headrace.kernels import native  # noqa: PLC0415 - tests with a double of the program need no compiled module

    return native.Threads(config.threads or 1, cpus=config.cpus)
