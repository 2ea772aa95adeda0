"""The engine as a backend: legal event order, text across token borders, stops, refusals, and nothing left behind."""

import asyncio
import gc
import itertools
import math
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest
from tests.doubles import (
    GREEDY,
    TOY_PAGE_BYTES,
    ManualClock,
    TickingClock,
    ToyModel,
    ToyProgram,
    ToyTokenizer,
    toy_answer,
    toy_logprob,
    toy_text,
)

from headrace.core.errors import (
    ContextTooLong,
    DeadlineExceeded,
    EngineFault,
    InvalidRequest,
    NotFound,
    Unavailable,
    UnsupportedField,
)
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    PromptLogprobs,
    Started,
    TextDelta,
    Usage,
)
from headrace.core.request import (
    CacheHints,
    FormatKind,
    Limits,
    Message,
    Principal,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    Task,
    TextPart,
    Tool,
)
from headrace.engine.answer import Answer
from headrace.engine.config import EngineConfig
from headrace.engine.item import Begun, Dropped, Token
from headrace.engine.text import Setup, TextEngine
from headrace.observe.metrics import Metrics

BOUND_S = 5.0
PROMPT = "Say something long about mills and the water that drives them."
IDS = ToyTokenizer().encode(PROMPT)


def make(
    program: ToyProgram | None = None, *, template: bool = True, system: str | None = None, **options: Any
) -> TextEngine:
    setup = Setup(aliases=("plaything",), system=system)
    config = EngineConfig(
        **(
            {"max_batch_tokens": 64, "max_sequences": 4, "prefill_chunk": 32, "checks": True, "threads": 1}
            | {"kv_memory_bytes": options.pop("pages", 32) * TOY_PAGE_BYTES}
            | options
        )
    )
    models: list[Any] = [ToyModel(program=program or ToyProgram())]
    if not template:
        models = [ToyModel(program=program or ToyProgram(), template=None)]
    return TextEngine(models, config, clock=ManualClock(), threads=object(), seeds=lambda: 5, setups={"toy": setup})


def ask(*, max_tokens: int | None = 20, temperature: float = 0.0, num_choices: int = 1, **options: Any) -> Request:
    names = ("stop", "stop_token_ids", "ignore_eos", "deadline_s", "fits_context")
    limits = Limits(max_tokens=max_tokens, **{name: options.pop(name) for name in names if name in options})
    if not {"messages", "tokens"} & options.keys():
        options.setdefault("prompt", PROMPT)
    options.setdefault("model", "toy")
    names = ("seed", "best_of", "logit_bias")
    own = {name: options.pop(name) for name in names if name in options}
    sampling = Sampling(temperature=temperature, num_choices=num_choices, **own)
    return Request(id="r1", sampling=sampling, limits=limits, **options)


async def collect(events: AsyncGenerator[Event, None]) -> list[Event]:
    async with asyncio.timeout(BOUND_S):
        return [event async for event in events]


def text_of(events: list[Event], choice: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta) and event.choice == choice)


def run(engine: TextEngine, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's body beside a started engine and see that nothing is left behind."""

    async def body() -> None:
        engine.start()
        try:
            await main()
        finally:
            drained = await engine.close(BOUND_S)
        assert drained
        snapshot = engine.snapshot("toy")
        assert (snapshot.running, snapshot.waiting) == (0, 0)
        assert snapshot.free_pages + snapshot.idle_pages == snapshot.total_pages

    asyncio.run(body())
    engine._engine.check()


def greedy(count: int, ids: list[int] = IDS) -> list[int]:
    return toy_answer(ids, count, GREEDY)


def test_an_answer_starts_streams_ends_its_choice_and_accounts_for_every_token() -> None:
    engine = make()

    async def main() -> None:
        events = await collect(engine.run(ask(max_tokens=20, ignore_eos=True)))
        digests = {"model": "sha256:toy", "template": "sha256:toy-template", "keys_and_values": "fp16"}
        assert events[0] == Started("r1", "toy", len(IDS), 0, digests)
        assert text_of(events) == toy_text(greedy(20))
        deltas = [event for event in events if isinstance(event, TextDelta)]
        assert sum(delta.num_tokens for delta in deltas) == 20
        assert events[-2:] == [ChoiceFinished(0, FinishReason.LENGTH), Finished(Usage(len(IDS), 20, 0))]
        again = await collect(engine.run(ask(max_tokens=20, ignore_eos=True)))
        assert again[-1] == Finished(Usage(len(IDS), 20, 32))
        assert text_of(again) == text_of(events)

    run(engine, main)


def test_the_three_forms_of_input_reach_the_model_as_the_same_tokens() -> None:
    engine = make()
    halves = (Message(Role.USER, (TextPart(PROMPT[:9]),)), Message(Role.USER, (TextPart(PROMPT[9:]),)))

    async def main() -> None:
        answers = [
            text_of(await collect(engine.run(ask(**form))))
            for form in ({"prompt": PROMPT}, {"tokens": tuple(IDS)}, {"messages": halves})
        ]
        assert answers[0] == answers[1] == answers[2] != ""

    run(engine, main)


def test_a_long_prompt_is_tokenised_off_the_loop_and_a_short_one_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(inline_prompt_chars=10)
    encode = ToyTokenizer.encode
    threads = []

    def spy(self: ToyTokenizer, text: str, **options: bool) -> list[int]:
        threads.append(threading.current_thread() is threading.main_thread())
        return encode(self, text, **options)

    monkeypatch.setattr(ToyTokenizer, "encode", spy)

    async def main() -> None:
        await collect(engine.run(ask(prompt="short")))
        await collect(engine.run(ask(prompt="much longer than that")))
        assert threads == [True, False]

    run(engine, main)


def test_every_choice_gets_its_own_answer_and_its_own_end() -> None:
    engine = make()

    async def main() -> None:
        request = ask(max_tokens=15, temperature=1.0, num_choices=3, seed=9, ignore_eos=True)
        events = await collect(engine.run(request))
        for choice in range(3):
            assert text_of(events, choice) == toy_text(toy_answer(IDS, 15, Sampling(), 9, choice))
            assert events.count(ChoiceFinished(choice, FinishReason.LENGTH)) == 1
        assert events[-1] == Finished(Usage(len(IDS), 45, 0))

    run(engine, main)


def test_a_request_without_a_seed_gets_one_from_outside() -> None:
    engine = make()

    async def main() -> None:
        request = ask(max_tokens=12, temperature=1.0, ignore_eos=True)
        assert text_of(await collect(engine.run(request))) == toy_text(toy_answer(IDS, 12, Sampling(), 5))

    run(engine, main)


def test_a_stop_string_ends_the_answer_before_it_and_nothing_after_it_is_shown_or_counted() -> None:
    engine = make()
    answer = greedy(60)
    full = toy_text(answer)
    stop = full[21:24]
    end = full.index(stop)

    async def main() -> None:
        events = await collect(engine.run(ask(max_tokens=60, stop=("never", stop), ignore_eos=True)))
        assert text_of(events) == full[:end]
        assert events[-2] == ChoiceFinished(0, FinishReason.STOP, stop)
        usage = events[-1]
        assert isinstance(usage, Finished)
        counted = usage.usage.completion_tokens
        assert toy_text(answer[:counted]).endswith(stop)
        assert not toy_text(answer[: counted - 1]).endswith(stop)

    run(engine, main)


def test_tokens_that_arrive_together_become_one_delta_and_end_at_the_stop() -> None:
    engine = make()
    answer = greedy(30)
    stop = toy_text(answer)[10:13]
    request = ask(stop=(stop,), max_tokens=30)
    served = engine._roster.served("toy")
    told = Answer(served, request, engine._work(served, request, served.encode(request), 0.0), 0.0)
    events = told.accept([Begun(0), *(Token(0, token, None) for token in answer)], ManualClock())
    assert [type(event) for event in events] == [Started, TextDelta, ChoiceFinished]
    assert text_of(events) == toy_text(answer).partition(stop)[0]
    assert told.usage.completion_tokens < 30
    assert told.take_stopped() == [0]
    assert told.accept([Token(0, answer[0], None), Dropped(0, was_live=True)], ManualClock()) == []
    assert told.open_choices == 0
    assert told.usage.completion_tokens == sum(event.num_tokens for event in events if isinstance(event, TextDelta))


def test_a_stop_string_in_one_choice_leaves_the_others_alone() -> None:
    engine = make()
    answers = [toy_text(toy_answer(IDS, 40, Sampling(), 9, choice)) for choice in range(2)]
    stop = answers[0][10:14]
    assert stop not in answers[1]

    async def main() -> None:
        request = ask(max_tokens=40, temperature=1.0, num_choices=2, seed=9, stop=(stop,), ignore_eos=True)
        events = await collect(engine.run(request))
        assert text_of(events, 0) == answers[0][: answers[0].index(stop)]
        assert text_of(events, 1) == answers[1]

    run(engine, main)


def test_a_stop_token_ends_the_answer_and_is_not_part_of_its_text() -> None:
    engine = make()
    answer = greedy(30)
    token = answer[12]
    end = answer.index(token)

    async def main() -> None:
        events = await collect(engine.run(ask(max_tokens=30, stop_token_ids=(token,), ignore_eos=True)))
        assert text_of(events) == toy_text(answer[:end])
        assert events[-2:] == [ChoiceFinished(0, FinishReason.STOP), Finished(Usage(len(IDS), end + 1, 0))]

    run(engine, main)


def test_the_models_own_end_token_counts_unless_it_is_ignored() -> None:
    eos = 94
    prompt = next(ids for ids in ([first, 7] for first in range(90)) if eos in greedy(20, ids))
    answer = greedy(20, prompt)
    engine = make()

    async def main() -> None:
        stopped = await collect(engine.run(ask(max_tokens=20, tokens=tuple(prompt))))
        assert stopped[-2] == ChoiceFinished(0, FinishReason.STOP)
        assert text_of(stopped) == toy_text(answer[: answer.index(eos)])
        ignored = await collect(engine.run(ask(max_tokens=20, tokens=tuple(prompt), ignore_eos=True)))
        assert text_of(ignored) == toy_text(answer)

    run(engine, main)


def test_without_max_tokens_an_answer_fills_the_context() -> None:
    engine = make()

    async def main() -> None:
        events = await collect(engine.run(ask(max_tokens=None, ignore_eos=True)))
        assert events[-1] == Finished(Usage(len(IDS), 512 - len(IDS), 0))

    run(engine, main)


def test_max_tokens_that_may_be_lowered_is_lowered_to_the_context_and_the_pool() -> None:
    for engine, room in ((make(), 512), (make(pages=4), 128)):

        async def main(engine: TextEngine = engine, room: int = room) -> None:
            wide = ask(max_tokens=64_000, fits_context=True, ignore_eos=True)
            assert (await engine.probe(wide)).fits
            assert (await collect(engine.run(wide)))[-1] == Finished(Usage(len(IDS), room - len(IDS), 0))
            narrow = ask(max_tokens=5, fits_context=True, ignore_eos=True)
            assert (await collect(engine.run(narrow)))[-1] == Finished(Usage(len(IDS), 5, len(IDS) // 32 * 32))

        run(engine, main)


def test_an_answer_goes_on_from_the_start_that_it_was_given() -> None:
    engine = make()
    said = Message(Role.USER, (TextPart(PROMPT[:40]),))

    async def main() -> None:
        events = await collect(engine.run(ask(messages=(said,), answer_start=PROMPT[40:], ignore_eos=True)))
        assert events[-1] == Finished(Usage(len(IDS), 20, 0))
        assert text_of(events) == text_of(await collect(engine.run(ask(ignore_eos=True))))
        with pytest.raises(InvalidRequest, match="answer_start: needs messages"):
            await collect(engine.run(ask(answer_start="x")))

    run(engine, main)


def test_without_max_tokens_a_small_pool_is_the_limit() -> None:
    engine = make(pages=4)

    async def main() -> None:
        events = await collect(engine.run(ask(max_tokens=None, ignore_eos=True)))
        assert events[-1] == Finished(Usage(len(IDS), 128 - len(IDS), 0))

    run(engine, main)


@pytest.mark.parametrize(
    ("options", "error", "param"),
    [
        ({"model": "other"}, NotFound, "model"),
        ({"tools": (Tool("f"),)}, UnsupportedField, "tools"),
        ({"suffix": "x"}, UnsupportedField, "suffix"),
        ({"response_format": ResponseFormat(FormatKind.LARK)}, InvalidRequest, "response_format"),
        ({"logprobs": 21}, InvalidRequest, "logprobs"),
        ({"logit_bias": ((99, 1.0),)}, InvalidRequest, "logit_bias"),
        ({"logit_bias": ((5, 1.0), (5, 2.0))}, InvalidRequest, "logit_bias"),
        ({"task": Task.EMBED}, InvalidRequest, "inputs"),
        ({"task": Task.SCORE}, InvalidRequest, "inputs"),
        ({"messages": ()}, InvalidRequest, "messages"),
        ({"prompt": ""}, InvalidRequest, "prompt"),
        ({"tokens": (1, 99)}, InvalidRequest, "prompt"),
        ({"tokens": (-1,)}, InvalidRequest, "prompt"),
        ({"temperature": math.nan}, InvalidRequest, "temperature"),
        ({"deadline_s": 0.0}, InvalidRequest, "deadline_s"),
        ({"deadline_s": math.nan}, InvalidRequest, "deadline_s"),
        ({"prompt": "x" * 512}, ContextTooLong, "prompt"),
        ({"prompt": "x" * 500, "max_tokens": 13}, ContextTooLong, "max_tokens"),
        ({"prompt": "x" * 512, "max_tokens": None}, ContextTooLong, "prompt"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    options: dict[str, Any], error: type[InvalidRequest], param: str
) -> None:
    engine = make()

    async def main() -> None:
        with pytest.raises(error) as caught:
            await collect(engine.run(ask(**options)))
        assert caught.value.param == param

    run(engine, main)


def test_an_unknown_model_is_told_which_are_served_and_an_alias_is_known() -> None:
    engine = make()

    async def main() -> None:
        with pytest.raises(NotFound, match=r"served: toy\."):
            await collect(engine.run(ask(model="other")))
        events = await collect(engine.run(ask(model="plaything")))
        assert isinstance(events[0], Started) and events[0].model == "toy"
        (card,) = engine.models()
        assert (card.id, card.aliases, card.context_length) == ("toy", ("plaything",), 512)

    run(engine, main)


def test_a_chat_with_a_model_without_template_is_refused() -> None:
    engine = make(template=False)

    async def main() -> None:
        with pytest.raises(InvalidRequest, match="no chat template"):
            await collect(engine.run(ask(messages=(Message(Role.USER, (TextPart("hi"),)),))))
        assert text_of(await collect(engine.run(ask()))) != ""

    run(engine, main)


def test_the_models_system_turn_opens_only_conversations_that_bring_none() -> None:
    engine, plain = make(system="Be brief."), make()

    def turns(*said: tuple[Role, str]) -> tuple[Message, ...]:
        return tuple(Message(role, (TextPart(text),)) for role, text in said)

    async def read(backend: TextEngine, *said: tuple[Role, str]) -> tuple[int, str]:
        events = await collect(backend.run(ask(messages=turns(*said), max_tokens=8, ignore_eos=True)))
        assert isinstance(events[0], Started)
        assert ("system" in events[0].digests) is (backend is engine)
        return events[0].prompt_tokens, text_of(events)

    async def main() -> None:
        plain.start()
        user = (Role.USER, "hello there")
        assert await read(engine, user) == await read(plain, (Role.SYSTEM, "Be brief."), user)
        assert await read(engine, user) != await read(plain, user)
        for role in (Role.SYSTEM, Role.DEVELOPER):
            assert await read(engine, (role, "Ramble."), user) == await read(plain, (role, "Ramble."), user)
        await plain.close()

    run(engine, main)


def test_counting_runs_nothing() -> None:
    program = ToyProgram()
    engine = make(program)

    async def main() -> None:
        events = await collect(engine.run(ask(task=Task.COUNT)))
        assert events[-1] == Finished(Usage(len(IDS), 0))
        assert program.steps == []

    run(engine, main)


def test_a_tenant_never_meets_what_another_has_cached() -> None:
    engine = make()

    async def main() -> None:
        async def cached(**options: Any) -> int:
            started = (await collect(engine.run(ask(**options))))[0]
            assert isinstance(started, Started)
            return started.cached_tokens

        one, two = Principal(tenant="one"), Principal(tenant="two")
        assert await cached(principal=one) == 0
        assert await cached(principal=two) == 0
        assert await cached(principal=one) == 32
        assert await cached(principal=one, cache=CacheHints(salt="x")) == 0

    run(engine, main)


def test_no_tenant_can_be_named_so_that_its_salt_is_anothers() -> None:
    engine = make()
    middle = "sha256:toysha256:toy-template"
    forged = ask(principal=Principal(tenant=f"a{middle}b"))
    victim = ask(principal=Principal(tenant="a"), cache=CacheHints(salt=f"b{middle}"))
    served = engine._roster.served("toy")
    assert served.salt(forged) != served.salt(victim)


def test_a_probe_tells_what_is_warm_and_what_fits_without_running() -> None:
    program = ToyProgram()
    engine = make(program)

    async def main() -> None:
        cold = await engine.probe(ask())
        assert (cold.prompt_tokens, cold.warm_tokens, cold.fits) == (len(IDS), 0, True)
        await collect(engine.run(ask()))
        steps = len(program.steps)
        assert (await engine.probe(ask())).warm_tokens == 32
        assert not (await engine.probe(ask(max_tokens=500))).fits
        assert len(program.steps) == steps
        await engine.release("nobody")

    run(engine, main)


@pytest.mark.parametrize("way", ["aclose", "cancel", "garbage"])
def test_an_answer_that_nobody_reads_any_more_is_stopped(way: str) -> None:
    """The program holds still in its third step until the reader is gone, so that it cannot win by being fast."""
    program = ToyProgram()
    is_held, is_gone = threading.Event(), threading.Event()

    def hold() -> None:
        if len(program.steps) == 2:
            is_held.set()
            assert is_gone.wait(BOUND_S)

    program.before_step = hold
    engine = make(program)

    async def main() -> None:
        events = engine.run(ask(max_tokens=None, num_choices=3, ignore_eos=True))
        async with asyncio.timeout(BOUND_S):
            if way == "cancel":
                task = asyncio.create_task(collect(events))
                assert await asyncio.to_thread(is_held.wait, BOUND_S)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                await anext(events)
                await anext(events)
            if way == "aclose":
                await events.aclose()
        if way == "garbage":
            del events
            gc.collect()
            for _ in range(3):  # the loop closes a collected generator in a task of its own
                await asyncio.sleep(0)
        is_gone.set()

    run(engine, main)
    assert len(program.steps) <= 4, "it went on although nobody read"


def test_a_failed_step_is_the_requests_error_and_the_next_one_is_served() -> None:
    engine = make(ToyProgram(failures=1))

    async def main() -> None:
        with pytest.raises(EngineFault):
            await collect(engine.run(ask()))
        assert text_of(await collect(engine.run(ask()))) != ""

    run(engine, main)


def test_a_deadline_counts_from_arrival() -> None:
    program = ToyProgram()
    engine = make(program)
    clock: Any = engine._clock

    def move() -> None:
        clock.now += 1.0

    program.before_step = move

    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            await collect(engine.run(ask(max_tokens=100, deadline_s=5.0, ignore_eos=True)))

    run(engine, main)
    assert 4 <= len(program.steps) <= 6


def test_a_wall_clock_that_jumps_ends_nothing_and_a_machine_that_slept_ends_what_had_a_time_limit() -> None:
    program = ToyProgram()
    engine = make(program)
    clock: Any = engine._clock
    years = itertools.cycle([-1e9, 1e9, 0.0])
    clock.unix_s = lambda: 1_700_000_000.0 + next(years)
    nap_s = 0.0

    def move() -> None:
        clock.now += nap_s

    program.before_step = move

    async def main() -> None:
        nonlocal nap_s
        events = await collect(engine.run(ask(max_tokens=10, deadline_s=5.0, ignore_eos=True)))
        assert isinstance(events[-1], Finished)
        nap_s = 1e7
        patient = collect(engine.run(ask(max_tokens=30, ignore_eos=True)))
        hurried = collect(engine.run(ask(max_tokens=30, ignore_eos=True, deadline_s=5.0)))
        ends = await asyncio.gather(patient, hurried, return_exceptions=True)
        assert isinstance(ends[1], DeadlineExceeded)
        assert not isinstance(ends[0], BaseException)
        assert text_of(ends[0]) == toy_text(greedy(30))

    run(engine, main)


def test_after_close_requests_are_turned_away() -> None:
    engine = make()

    async def main() -> None:
        engine.start()
        assert await engine.close()
        for prompt in ("short", "long " * 80):
            with pytest.raises(Unavailable):
                await collect(engine.run(ask(prompt=prompt)))

    asyncio.run(main())


def test_metrics_tell_how_requests_ended() -> None:
    metrics = Metrics()
    program = ToyProgram(failures=1)
    model: Any = ToyModel(program=program)
    config = EngineConfig(threads=1, kv_memory_bytes=10**6)
    engine = TextEngine([model], config, metrics=metrics, clock=ManualClock(), threads=object())

    async def main() -> None:
        with pytest.raises(EngineFault):
            await collect(engine.run(ask()))
        await collect(engine.run(ask(max_tokens=3, ignore_eos=True)))
        events = engine.run(ask(max_tokens=200, ignore_eos=True))
        await anext(events)
        await events.aclose()

    run(engine, main)
    text = metrics.expose()[0].decode()
    for reason in ("error", "length", "abort"):
        assert f'vllm:request_success_total{{engine="0",finished_reason="{reason}",model_name="toy"}} 1.0' in text
    assert 'vllm:time_to_first_token_seconds_count{engine="0",model_name="toy"} 2.0' in text or (
        'vllm:time_to_first_token_seconds_count{engine="0",model_name="toy"} 1.0' in text
    )


def test_metrics_tell_where_the_time_of_a_whole_answer_went() -> None:
    metrics = Metrics()
    model: Any = ToyModel(program=ToyProgram())
    config = EngineConfig(threads=1, kv_memory_bytes=10**6, speculation="off")
    engine = TextEngine([model], config, metrics=metrics, clock=TickingClock(), threads=object())

    async def main() -> None:
        await collect(engine.run(ask(max_tokens=5, ignore_eos=True)))
        await collect(engine.run(ask(max_tokens=5, ignore_eos=True, num_choices=2)))

    run(engine, main)

    def told(name: str) -> float:
        value = metrics.registry.get_sample_value(f"vllm:{name}", {"model_name": "toy", "engine": "0"})
        assert value is not None, name
        return value

    for name in ("queue", "inference", "prefill", "decode"):
        assert told(f"request_{name}_time_seconds_count") == 2
        assert told(f"request_{name}_time_seconds_sum") > 0
    parts = told("request_prefill_time_seconds_sum") + told("request_decode_time_seconds_sum")
    assert told("request_inference_time_seconds_sum") == pytest.approx(parts)
    # Three choices of five tokens each: four gaps, which add up to what decoding took where there is one choice.
    assert told("request_generation_tokens_count") == 3
    assert told("request_generation_tokens_sum") == told("generation_tokens_total") == 15
    assert told("inter_token_latency_seconds_count") == 12
    assert told("request_prompt_tokens_count") == 2
    assert told("request_prompt_tokens_sum") == told("prompt_tokens_total") == 2 * len(IDS)
    steps = metrics.registry.get_sample_value("headrace:engine_step_seconds_count", {"model_name": "toy"})
    assert told("iteration_tokens_total_count") == steps


def test_a_budget_without_room_for_a_page_is_refused_by_name() -> None:
    config = EngineConfig(threads=1, kv_memory_bytes=TOY_PAGE_BYTES - 1)
    model: Any = ToyModel(program=ToyProgram())
    with pytest.raises(InvalidRequest, match="kv_memory_bytes") as caught:
        TextEngine([model], config, threads=object())
    assert caught.value.param == "kv_memory_bytes"


def test_log_probabilities_come_with_their_tokens_and_name_what_a_vocabulary_writes() -> None:
    engine = make()

    async def main() -> None:
        events = await collect(engine.run(ask(max_tokens=20, ignore_eos=True, logprobs=0)))
        told = [one for event in events if isinstance(event, TextDelta) for one in event.logprobs]
        expected = [toy_logprob(token, len(IDS) + place) for place, token in enumerate(greedy(20))]
        assert [one.logprob for one in told] == expected
        assert b"".join(one.token_bytes for one in told if one.token != "<end>").decode("utf-8", "replace") == text_of(
            events
        )
        assert all((one.token == "<end>") == (token == 94) for one, token in zip(told, greedy(20), strict=True))

    run(engine, main)


def test_a_scored_prompt_tells_every_token_but_the_first_whatever_is_cached() -> None:
    engine = make()

    async def main() -> None:
        await collect(engine.run(ask(max_tokens=20)))
        events = await collect(engine.run(ask(max_tokens=3, prompt_logprobs=2)))
        assert isinstance(events[0], Started) and events[0].cached_tokens == 0
        assert isinstance(events[1], PromptLogprobs)
        first, *others = events[1].tokens
        assert first is None
        assert [one and one.logprob for one in others] == [
            toy_logprob(token, place) for place, token in enumerate(IDS[1:], 1)
        ]
        assert [one and one.token_id for one in others] == IDS[1:]
        assert all(one and len(one.alternative_ids) == len(one.alternatives) for one in others)
        assert events[1].text == toy_text(IDS)
        assert text_of(events) == toy_text(greedy(3))

    run(engine, main)


def test_one_token_of_prompt_has_nothing_to_score() -> None:
    engine = make()

    async def main() -> None:
        events = await collect(engine.run(ask(prompt="x", max_tokens=1, prompt_logprobs=0)))
        assert events[1] == PromptLogprobs((None,), "x")

    run(engine, main)


def test_the_best_of_several_choices_are_told_at_the_end_and_all_are_paid_for() -> None:
    engine = make()

    async def main() -> None:
        options: dict[str, Any] = {"max_tokens": 10, "ignore_eos": True, "temperature": 1.0, "seed": 5}
        events = await collect(engine.run(ask(num_choices=2, best_of=5, **options)))
        answers = [toy_answer(IDS, 10, Sampling(), 5, choice) for choice in range(5)]
        means = [sum(toy_logprob(t, len(IDS) + at) for at, t in enumerate(answer)) / 10 for answer in answers]
        best = sorted(range(5), key=lambda choice: -means[choice])[:2]
        assert [text_of(events, index) for index in range(2)] == [toy_text(answers[choice]) for choice in best]
        assert [event.choice for event in events if isinstance(event, ChoiceFinished)] == [0, 1]
        assert not any(event.logprobs for event in events if isinstance(event, TextDelta))
        assert events[-1] == Finished(Usage(len(IDS), 50, 0))

    run(engine, main)
