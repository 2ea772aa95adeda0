"""What a client sees with speculation on is what it sees with it off: text, stops, choices, likelihoods, usage."""

import asyncio
import threading
from typing import Any

import pytest
from tests.doubles import TOY_PAGE_BYTES, EchoProgram, ManualClock, ToyModel

from headrace.core.events import Event, Finished, TextDelta
from headrace.core.request import Limits, Request, Sampling
from headrace.engine.config import EngineConfig
from headrace.engine.text import TextEngine
from headrace.observe.metrics import Metrics

PROMPT = "one two three one two three one two three "
BOUND_S = 5.0


class EngineTicks(ManualClock):
    """Time that passes whenever the engine's thread looks, so that what a step takes depends on no other thread."""

    def monotonic_s(self) -> float:
        if threading.current_thread().name == "headrace-engine":
            self.now += 0.001
        return self.now


class Asked:
    """An engine over the toy that repeats itself; what it answered, and what its metrics say of drafts."""

    def __init__(self, speculation: str, **options: Any) -> None:
        config = EngineConfig(
            max_batch_tokens=64,
            max_sequences=4,
            prefill_chunk=32,
            threads=1,
            kv_memory_bytes=64 * TOY_PAGE_BYTES,
            checks=True,
            speculation=speculation,
        )
        self.metrics = Metrics()
        models: list[Any] = [ToyModel(program=EchoProgram())]
        clock = options.pop("clock", None) or EngineTicks()
        self.engine = TextEngine(models, config, clock=clock, threads=object(), seeds=lambda: 5, metrics=self.metrics)
        self.events: list[list[Event]] = []

    def ask(self, *requests: Request) -> "Asked":
        async def body() -> None:
            self.engine.start()
            try:
                async with asyncio.timeout(BOUND_S):
                    self.events = await asyncio.gather(*map(self._one, requests))
            finally:
                assert await self.engine.close(BOUND_S)

        asyncio.run(body())
        snapshot = self.engine.snapshot("toy")
        assert snapshot.free_pages + snapshot.idle_pages == snapshot.total_pages
        return self

    async def _one(self, request: Request) -> list[Event]:
        return [event async for event in self.engine.run(request)]

    def count(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(
            f"vllm:spec_decode_{name}_total", {"model_name": "toy", "engine": "0"}
        )
        return 0.0 if value is None else value


def request(**options: Any) -> Request:
    limits = Limits(max_tokens=options.pop("max_tokens", 90), stop=options.pop("stop", ()), ignore_eos=True)
    fields = ("temperature", "num_choices", "presence_penalty", "logit_bias")
    sampling = {"temperature": 0.0} | {name: options.pop(name) for name in fields if name in options}
    return Request(id="r", model="toy", prompt=PROMPT, sampling=Sampling(**sampling), limits=limits, **options)


def joined(events: list[Event]) -> dict[int, str]:
    """Text by choice, however it was cut into deltas."""
    texts: dict[int, str] = {}
    for event in events:
        if isinstance(event, TextDelta):
            texts[event.choice] = texts.get(event.choice, "") + event.text
    return texts


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0},
        {"stop": ('!"', "$!")},
        {"temperature": 1.0, "stop": ("!!",), "num_choices": 3},
        {"num_choices": 2, "max_tokens": 1},
        {"logit_bias": ((3, 2.0),), "max_tokens": 50},
    ],
    ids=str,
)
def test_answers_are_those_without_speculation(options: dict[str, Any]) -> None:
    on, off = (Asked(speculation).ask(request(**options), request(**options)) for speculation in ("auto", "off"))
    assert off.count("num_draft_tokens") == 0
    for mine, other in zip(on.events, off.events, strict=True):
        assert joined(mine) == joined(other)
        usage, expected = mine[-1], other[-1]
        assert isinstance(usage, Finished) and isinstance(expected, Finished)
        assert usage.usage.completion_tokens == expected.usage.completion_tokens
    if options.get("max_tokens", 90) > 40 and not options.get("stop"):
        assert 0 < on.count("num_accepted_tokens") <= on.count("num_draft_tokens")
        assert 0 < on.count("num_drafts") <= on.count("num_draft_tokens")


def test_log_probabilities_are_those_without_speculation() -> None:
    on, off = (Asked(speculation).ask(request(logprobs=2)) for speculation in ("auto", "off"))
    details = [
        [logprob for event in asked.events[0] if isinstance(event, TextDelta) for logprob in event.logprobs]
        for asked in (on, off)
    ]
    assert details[0] == details[1] and len(details[0]) == 90
    assert on.count("num_accepted_tokens") > 0


def test_whoever_has_penalties_is_not_drafted_for() -> None:
    """They count the tokens before a row, and a draft's are not there yet."""
    on, off = (Asked(speculation).ask(request(presence_penalty=0.5)) for speculation in ("auto", "off"))
    assert joined(on.events[0]) == joined(off.events[0])
    assert on.count("num_drafts") == 0


def test_nothing_is_drafted_by_a_clock_that_stands_still() -> None:
    asked = Asked("auto", clock=ManualClock()).ask(request())
    assert asked.count("num_drafts") == 0


def test_an_unknown_setting_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"speculation: 'always' is not one of auto, off"):
        EngineConfig(speculation="always")
