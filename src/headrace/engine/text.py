"""The engine as a backend: requests in, text events out; here the event loop and the engine's thread meet.

A request becomes token ids (chat template, raw prompt or ids as given), one piece of work for `engine.py`, and a
mailbox, whose items are turned into text per choice and told as events. Long inputs are tokenised in threads of their
own, so that the loop does not stall. Leaving `run` in any way gives back what the request held. Knows no protocol.

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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.backend import ModelCard, Probe
from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import ContextTooLong, HeadraceError, InvalidRequest, NotFound, Unavailable, UnsupportedField
from headrace.core.events import ChoiceFinished, Event, Finished, FinishReason, Started, TextDelta, Usage
from headrace.core.request import FormatKind, Message, Request, Role, Task, TextPart
from headrace.engine.admission import check_fits
from headrace.engine.config import KV_TYPES, EngineConfig, detect_hardware, resolve
from headrace.engine.detokenizer import Detokenizer
from headrace.engine.engine import Engine, Ticket
from headrace.engine.item import Begun, Dropped, Failed, Item, Token
from headrace.engine.kv.gate import Decision, choose_kind
from headrace.engine.lane import EngineModel, ModelSnapshot
from headrace.engine.mailbox import Mailbox
from headrace.engine.sequence import Work
from headrace.engine.stop import StopMatcher
from headrace.observe.metrics import Metrics

if TYPE_CHECKING:
    from headrace.models.load import LoadedModel

_log = logging.getLogger("headrace.engine")


class _Choice:
    """The text side of one choice: bytes to characters, stop strings, and what the next delta will carry."""

    __slots__ = ("_detokenizer", "_matcher", "index", "num_tokens", "reason", "stop_match", "text")

    def __init__(self, index: int, detokenizer: Detokenizer, stops: tuple[str, ...]) -> None:
        self.index = index
        self.text = ""
        self.num_tokens = 0
        self.reason: FinishReason | None = None
        self.stop_match: str | None = None
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stops) if stops else None

    def push(self, token: int, reason: FinishReason | None) -> None:
        """Take a token; afterwards `text` and `num_tokens` are what is new, and `reason` is set if it was the last."""
        self.num_tokens += 1
        # A stop token ends the answer and is not part of it.
        text = "" if reason is FinishReason.STOP else self._detokenizer.push(token)
        if reason is not None:
            text += self._detokenizer.flush()
            self.reason = reason
        if self._matcher is None:
            self.text += text
            return
        emitted, self.stop_match = self._matcher.push(text)
        self.text += emitted
        if self.stop_match is not None:
            self.reason = FinishReason.STOP
        elif reason is not None:
            self.text += self._matcher.flush()

    def take_delta(self) -> TextDelta:
        """What has gathered since the last delta."""
        delta = TextDelta(self.index, self.text, self.num_tokens)
        self.text, self.num_tokens = "", 0
        return delta


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a model is served: further names, and the system turn for conversations that bring none."""

    aliases: tuple[str, ...] = ()
    system: str | None = None


class _Served:
    """A loaded model with what is made of it once."""

    def __init__(self, model: "LoadedModel", metrics: Metrics, setup: Setup) -> None:
        self.model = model
        self._opening = (Message(Role.SYSTEM, (TextPart(setup.system),)),) if setup.system else ()
        self.metrics = metrics.for_model(model.name)
        # A model may have more rows than its tokenizer has tokens; such rows add nothing to a text.
        byte_table = model.tokenizer.byte_table
        self.byte_table = [*byte_table, *[b""] * (model.plan.vocab_size - len(byte_table))]
        self.digests = {"model": model.digest}
        if model.template is not None:
            self.digests["template"] = model.template.digest
        if setup.system:
            self.digests["system"] = "sha256:" + hashlib.sha256(setup.system.encode()).hexdigest()
        self.card = ModelCard(
            id=model.name,
            created=model.created,
            owned_by="headrace",
            context_length=model.context_length,
            digest=model.digest,
            aliases=setup.aliases,
        )

    def salt(self, request: Request) -> bytes:
        """What bounds sharing: tenant, model, adapter (none yet), template and the caller's own salt."""
        parts = (request.principal.tenant, self.model.digest, "", self.digests.get("template", ""), request.cache.salt)
        encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
        # Lengths in front, so that no two lists of parts look alike.
        return b"".join(len(part).to_bytes(4, "little") + part for part in encoded)

    def detokenizer(self, request: Request) -> Detokenizer:
        """For one choice. An answer in a chat begins a text of its own; after a raw prompt it continues that one."""
        strips = self.model.tokenizer.strips_leading_space and request.messages is not None
        return Detokenizer(self.byte_table, strips_leading_space=strips)

    def encode(self, request: Request) -> NDArray[np.int32]:
        """Token ids of a request's input."""
        model = self.model
        if request.tokens is not None:
            return self._given(request.tokens)
        if request.prompt is not None:
            ids = model.tokenizer.encode(request.prompt, special=True, bos=True)
        else:
            assert request.messages is not None
            if model.template is None:
                raise InvalidRequest(
                    f"Model {model.name} has no chat template: it continues text and does not converse. Send a prompt "
                    "to /v1/completions, or give it to `headrace generate --raw`.",
                    param="messages",
                )
            ids = model.template.encode_chat(model.tokenizer, self._conversation(request.messages))
        if not ids:
            raise InvalidRequest("The input has no tokens; give at least one character.", param="prompt")
        return np.array(ids, np.int32)

    def _conversation(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        if any(message.role in {Role.SYSTEM, Role.DEVELOPER} for message in messages):
            return messages
        return (*self._opening, *messages)

    def _given(self, tokens: tuple[int, ...]) -> NDArray[np.int32]:
        size = self.model.plan.vocab_size
        for position, token in enumerate(tokens):
            if not 0 <= token < size:
                raise InvalidRequest(
                    f"prompt[{position}]: {token} is not in [0, {size - 1}], the model's vocabulary.", param="prompt"
                )
        return np.array(tokens, np.int32)


class _Answer:
    """One request's way from mailbox items to events, and its accounts. No I/O."""

    def __init__(self, served: _Served, request: Request, work: Work, arrived: float) -> None:
        self._served = served
        self._request = request
        self._arrived = arrived
        self._choices = [
            _Choice(index, served.detokenizer(request), request.limits.stop)
            for index in range(work.sampling.num_choices)
        ]
        self._stopped: list[int] = []
        self._first_token: float | None = None
        self._num_cached = 0
        self._num_prompt = len(work.tokens)
        self._num_generated = 0
        self.open_choices = len(self._choices)  # whose sequence the engine may still hold
        self.error: HeadraceError | None = None

    @property
    def usage(self) -> Usage:
        """What was read and generated so far."""
        return Usage(self._num_prompt, self._num_generated, self._num_cached)

    def accept(self, items: list[Item], clock: Clock) -> list[Event]:
        """Events for what a mailbox brought: one delta per choice, however many steps have gathered.

        If the request failed, `error` is set afterwards.
        """
        events: list[Event] = []
        touched: list[_Choice] = []
        for item in items:
            if type(item) is Token:
                choice = self._choices[item.choice]
                if item.reason is not None:
                    self.open_choices -= 1
                # Tokens computed before the engine learnt of a stop string are neither shown nor counted.
                if choice.reason is None:
                    if choice.num_tokens == 0:
                        touched.append(choice)
                    choice.push(item.token, item.reason)
            elif type(item) is Begun:
                self._num_cached = item.cached_tokens
                served = self._served
                events.append(
                    Started(self._request.id, served.model.name, self._num_prompt, item.cached_tokens, served.digests)
                )
            else:
                self._end(item)
        if touched:
            self._tell(touched, events, clock)
        return events

    def _tell(self, touched: list[_Choice], events: list[Event], clock: Clock) -> None:
        if self._first_token is None:
            self._first_token = clock.monotonic_s()
            self._served.metrics.time_to_first_token.observe(self._first_token - self._arrived)
        for choice in touched:
            self._num_generated += choice.num_tokens
            events.append(choice.take_delta())
            if choice.reason is not None:
                events.append(ChoiceFinished(choice.index, choice.reason, choice.stop_match))
                if choice.stop_match is not None:
                    self._stopped.append(choice.index)

    def _end(self, item: Item) -> None:
        if type(item) is Dropped:
            self.open_choices -= item.was_live
        elif type(item) is Failed:
            self.open_choices = 0
            # Once every choice has told its end, a failure could only concern tokens that nobody will see.
            if any(choice.reason is None for choice in self._choices):
                self.error = item.error

    def take_stopped(self) -> list[int]:
        """Choices that a stop string has ended since the last call: the engine must be told."""
        stopped, self._stopped = self._stopped, []
        return stopped

    def finish(self, clock: Clock) -> str:
        """Record the times of a complete answer; returns how it ended."""
        now = clock.monotonic_s()
        metrics = self._served.metrics
        metrics.request_latency.observe(now - self._arrived)
        if self._first_token is not None and self._num_generated > len(self._choices):
            gaps = self._num_generated / len(self._choices) - 1
            metrics.time_per_output_token.observe((now - self._first_token) / gaps)
        return str(self._choices[-1].reason)


class TextEngine:
    """A `Backend` over one engine thread. `start` it before the first request and `close` it at the end.

    `threads` is the native thread pool (None: one is made); `seeds` gives a seed to requests that bring none; `setups`
    say how models are served, by name. At a model's first start the gate of 8-bit keys and values takes a moment.

    Raises InvalidRequest if the memory budget holds not even one page, threads cannot be bound as the config says, or a
    model cannot have the configured `kv_type`.
    """

    def __init__(
        self,
        models: "Sequence[LoadedModel]",
        config: EngineConfig | None = None,
        *,
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        threads: Any = None,
        seeds: Callable[[], int] = lambda: secrets.randbits(64),
        setups: Mapping[str, Setup] | None = None,
    ) -> None:
        try:
            self.config = resolve(config or EngineConfig(), detect_hardware())
        except ValueError as error:  # threads that cannot be bound as asked for
            raise InvalidRequest(str(error), param="pin_threads") from error
        self.metrics = metrics or Metrics()
        self._clock = clock or SystemClock()
        self._seeds = seeds
        setups = setups or {}
        self._served = {model.name: _Served(model, self.metrics, setups.get(model.name, Setup())) for model in models}
        self._names = {
            alias: served for served in self._served.values() for alias in served.card.aliases
        } | self._served
        self._threads = _make_threads(self.config) if threads is None else threads
        self.kv_decisions = {name: self._decide(served.model) for name, served in self._served.items()}
        self._engine = self._build()
        self._tokenizers = ThreadPoolExecutor(self.config.tokenizer_threads, "headrace-tokenizer")

    def _decide(self, model: "LoadedModel") -> Decision:
        decision = choose_kind(model, KV_TYPES[self.config.kv_type], self._threads)
        _log.info("%s: keys and values in %s: %s", model.name, decision.kv_type, decision.reason)
        return decision

    def _build(self) -> Engine:
        models = [
            EngineModel(
                name=served.model.name,
                program=served.model.program,
                cache=served.model.plan.cache,
                context_length=served.model.context_length,
                kv_kind=self.kv_decisions[served.model.name].kind,
                metrics=served.metrics,
            )
            for served in self._served.values()
        ]
        try:
            return Engine(self.config, models, self._threads, self._clock)
        except ValueError as error:  # a budget that no page of this model fits into
            raise InvalidRequest(str(error), param="kv_memory_bytes") from error

    def start(self) -> None:
        """Start the engine's thread."""
        self._engine.start()

    async def close(self, drain_s: float = 0.0) -> bool:
        """Refuse new requests, give the running ones `drain_s` seconds, fail the rest; whether all ended in time."""
        loop = asyncio.get_running_loop()
        drained = await loop.run_in_executor(None, self._engine.drain, drain_s)
        await loop.run_in_executor(None, self._engine.close)
        self._tokenizers.shutdown(wait=False, cancel_futures=True)
        if hasattr(self._threads, "close"):
            self._threads.close()
        return drained

    def models(self) -> tuple[ModelCard, ...]:
        """The served models."""
        return tuple(served.card for served in self._served.values())

    def snapshot(self, model: str) -> ModelSnapshot:
        """Pages and queues of a model, by its served name, as last published."""
        return self._engine.snapshot(model)

    async def probe(self, request: Request) -> Probe:
        """Prompt tokens, warm tokens and whether it fits, from published values only."""
        served = self._find(request)
        tokens = await self._encode(served, request)
        work = self._work(served, request, tokens, 0.0)
        name = served.model.name
        warm = self._engine.warm_tokens(name, work.salt, tokens.tobytes())
        try:
            check_fits(work, served.model.context_length, self._engine.snapshot(name).total_pages)
        except ContextTooLong:
            return Probe(len(tokens), warm, fits=False)
        return Probe(len(tokens), warm, fits=True)

    async def release(self, session: str) -> None:
        """Nothing is pinned for sessions yet."""

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request; see `core.backend.Backend.run`."""
        arrived = self._clock.monotonic_s()
        request.check()
        served = self._find(request)
        answer: _Answer | None = None
        ticket: Ticket | None = None
        outcome = "abort"
        try:
            _refuse_unsupported(request)
            tokens = await self._encode(served, request)
            if request.task is Task.COUNT:
                outcome = FinishReason.STOP.value
                yield Started(request.id, served.model.name, len(tokens), 0, served.digests)
                yield Finished(Usage(len(tokens), 0))
                return
            work = self._work(served, request, tokens, arrived)
            mailbox = Mailbox(asyncio.get_running_loop())
            ticket = self._engine.submit(work, mailbox)
            answer = _Answer(served, request, work, arrived)
            while answer.open_choices:
                events = answer.accept(await mailbox.take(), self._clock)
                for choice in answer.take_stopped():
                    self._engine.cancel(ticket, choice)
                for event in events:
                    yield event
            if answer.error is not None:
                raise answer.error
            outcome = answer.finish(self._clock)
            yield Finished(answer.usage)
        except HeadraceError:
            outcome = "error"
            raise
        finally:
            if ticket is not None and (answer is None or answer.open_choices):
                self._engine.cancel(ticket)
            self.metrics.request_success.labels(served.model.name, outcome).inc()

    def _find(self, request: Request) -> _Served:
        served = self._names.get(request.model)
        if served is None:
            names = ", ".join(sorted(self._served))
            raise NotFound(
                f"Model {request.model} is not served here; served: {names}.", param="model", code="model_not_found"
            )
        return served

    async def _encode(self, served: _Served, request: Request) -> NDArray[np.int32]:
        size = len(request.prompt or "") + len(request.tokens or ())
        size += sum(len(part.text) for message in request.messages or () for part in message.parts)
        if size <= self.config.inline_prompt_chars:
            return served.encode(request)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._tokenizers, served.encode, request)
        except RuntimeError as error:  # the executor was shut down
            raise Unavailable("The server is stopping; try again.") from error

    def _work(self, served: _Served, request: Request, tokens: NDArray[np.int32], arrived: float) -> Work:
        limits, sampling = request.limits, request.sampling
        name = served.model.name
        stop_ids = frozenset(limits.stop_token_ids)
        if not limits.ignore_eos:
            stop_ids |= served.model.tokenizer.eos_ids
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
            deadline=math.inf if limits.deadline_s is None else arrived + limits.deadline_s,
            field="prompt" if request.messages is None else "messages",
        )


def _refuse_unsupported(request: Request) -> None:
    """Refuse by name what the protocol knows and this backend does not do yet. Raises UnsupportedField."""
    tool_talk = any(message.role is Role.TOOL or message.tool_calls for message in request.messages or ())
    refusals = (
        ("task", request.task not in (Task.GENERATE, Task.COUNT), f"{request.task} is not supported"),
        ("tools", bool(request.tools), "tools are not supported"),
        ("messages", tool_talk, "tool calls and tool results are not supported"),
        ("response_format", request.response_format.kind is not FormatKind.TEXT, "only text is supported"),
        ("logprobs", request.logprobs is not None, "log-probabilities are not supported"),
        ("session", request.session is not None, "sessions are not supported"),
    )
    for name, refused, why in refusals:
        if refused:
            raise UnsupportedField(f"{name}: {why} by this model's engine yet; leave the field out.", param=name)
    deadline_s = request.limits.deadline_s
    if deadline_s is not None and not 0 < deadline_s < math.inf:
        raise InvalidRequest(f"deadline_s: {deadline_s!r} is not above 0; give seconds.", param="deadline_s")


def _make_threads(config: EngineConfig) -> Any:
    from headrace.kernels import native  # noqa: PLC0415 - tests with a double of the program need no compiled module

    return native.Threads(config.threads or 1, cpus=config.cpus)
