"""What accounts ask, watched beside a gate: crawls are flagged, split ones too, and a harness that evaluates a model is
in nobody's way; what is watched never slows a request down."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from bench.trust.traffic import CRAWLS, Draw, inputs, person
from tests.doubles_gateway import ANSWER, in_loop
from tests.unit.gateway.test_theft import FREE, PLAIN, Scene, asking, neutral, scoring

from headrace.core.errors import Forbidden, HeadraceError, RateLimited
from headrace.core.request import Input, Message, Principal, Request, Role, Task, TextPart
from headrace.gateway.oversight.theft_watch import MAX_WAITING, TheftWatch, text_of
from headrace.trust.monitors.theft.settings import Mode, TheftSettings

SIZE = 40
SETTINGS = TheftSettings(
    mode=Mode.ENFORCE, window_size=SIZE, window_false_share=0.02, window_action="throttle", link_action="label"
)


@contextmanager
def watched(settings: TheftSettings = SETTINGS) -> Iterator[tuple[Scene, TheftWatch]]:
    watch = TheftWatch(settings, np.random.default_rng(0))
    watch.open()
    try:
        yield Scene(settings, *ANSWER, watch=watch), watch
    finally:
        watch.close()


def who(name: str, tenant: str = "") -> Principal:
    return Principal(tenant=tenant or f"tenant-{name}", key=name, subject=f"key:{name}")


async def crawl(scene: Scene, watch: TheftWatch, account: Principal, draw: Draw, count: int = SIZE) -> int:
    """How many of so many questions were answered."""
    num_answered = 0
    for text in inputs(draw, Random(str(account)), count):
        try:
            await scene.ask(asking("chat", account, messages=[{"role": "user", "content": text}]))
            num_answered += 1
        except (RateLimited, Forbidden):
            continue
        watch.join()
    return num_answered


async def teach(scene: Scene, watch: TheftWatch, count: int = 70) -> None:
    for index in range(count):
        assert await crawl(scene, watch, who(f"person-{index}"), person(index)) == SIZE


@in_loop
async def test_a_crawl_is_noted_then_slowed_down_and_people_are_neither() -> None:
    with watched() as (scene, watch):
        await teach(scene, watch)
        before = {flag.account for flag in scene.overseer.flags()}
        draw = CRAWLS["chain of thought"]
        assert await crawl(scene, watch, who("crawler"), draw, 2 * SIZE) == 2 * SIZE
        (flag,) = (flag for flag in scene.overseer.flags() if flag.account.endswith("key:crawler"))
        assert (flag.monitor, flag.action, flag.count) == ("theft.window", "throttle", 2)
        assert await crawl(scene, watch, who("crawler"), draw, 20) == 1  # the clock stands still
        assert await crawl(scene, watch, who("person-1"), person(1), 20) == 20
        assert len(before) <= 5


@in_loop
async def test_a_crawl_split_over_fifty_accounts_is_linked_before_any_of_them_fills_a_window() -> None:
    with watched() as (scene, watch):
        for index in range(50):
            await crawl(scene, watch, who(f"part-{index}"), CRAWLS["translation"], 20)
        flags = scene.overseer.flags()
        assert {flag.monitor for flag in flags} == {"theft.link"}
        assert len(flags) == 50
        await scene.ask(asking("chat", who("part-7")))
        assert [(one.monitor, one.action) for one in scene.verdicts if not one.is_shadow][-1] == ("theft.link", "label")
        assert len(scene.ledger.items) == 50


@in_loop
async def test_linked_accounts_share_what_one_may_try() -> None:
    settings = replace(SETTINGS, tenant_bias_vectors=10)
    with watched(settings) as (scene, watch):
        for index in range(20):
            await crawl(scene, watch, who(f"part-{index}"), CRAWLS["translation"], 20)
        num_answered = 0
        for index in range(20):
            for turn in range(5):
                number = 5 * index + turn
                messages = [{"role": "user", "content": f"context {number}"}]
                probe = asking("chat", who(f"part-{index}"), logit_bias={str(number): 9}, messages=messages)
                try:
                    await scene.ask(probe)
                    num_answered += 1
                except RateLimited:
                    continue
        assert num_answered == 10


def harness_requests(count: int) -> Iterator[Request]:
    """As lm-eval asks a server of its own: likelihoods of choices, log-probabilities of prompts, and a few-shot
    template over a data set, fast."""
    random = Random(5)
    questions = inputs(CRAWLS["multiple choice"], random, count)
    for index, question in enumerate(questions):
        about: dict[str, Any] = {"id": f"eval-{index}", "model": "smart", "principal": FREE}
        kind = index % 3
        if kind == 0:
            choices = tuple(Input(question, f" {letter}") for letter in "ABCD")
            yield Request(task=Task.SCORE, inputs=choices, logprobs=0, **about)
        elif kind == 1:
            yield Request(prompt=question + " A", prompt_logprobs=5, logprobs=5, **about)
        else:
            yield Request(messages=(Message(Role.USER, (TextPart(question),)),), logprobs=20, **about)


@in_loop
async def test_a_harness_that_evaluates_a_model_with_the_scope_is_never_refused_slowed_down_or_narrowed() -> None:
    settings = replace(SETTINGS, window_action="refuse", link_action="refuse")
    with watched(settings) as (scene, watch):
        await teach(scene, watch)
        for request in harness_requests(600):
            await scene.ask(neutral(request))
            watch.join()
        assert scene.upstream.requests[-1].logprobs == 20
        mine = [flag for flag in scene.overseer.flags() if flag.account == "t/key:k"]
        assert {flag.monitor for flag in mine} <= {"theft.window"}  # it is unlike what people ask, and that is noted
        assert {one.action for one in scene.verdicts if one.monitor == "theft.window"} <= {"note"}


@in_loop
async def test_a_program_that_asks_much_by_one_template_is_labelled_and_goes_on() -> None:
    """Without the scope, and by the defaults: a batch of 2,000 classifications with one bias."""
    with watched(TheftSettings(mode=Mode.ENFORCE, window_size=SIZE, window_false_share=0.02)) as (scene, watch):
        await teach(scene, watch)
        random = Random(1)
        for text in inputs(CRAWLS["multiple choice"], random, 2000):
            messages = [{"role": "user", "content": text}]
            bias = {str(one): 50 for one in (32, 33, 34, 35)}
            await scene.ask(asking("chat", PLAIN, messages=messages, temperature=0, logit_bias=bias, max_tokens=1))
        assert {one.action for one in scene.verdicts} <= {"note", "label"}


@in_loop
async def test_what_is_too_much_to_watch_is_counted_and_answered_all_the_same() -> None:
    settings = SETTINGS
    watch = TheftWatch(settings, np.random.default_rng(0))  # not open: nothing is taken out
    scene = Scene(settings, *ANSWER, watch=watch)
    for _ in range(MAX_WAITING + 10):
        await scene.ask(asking("chat"))
    assert scene.overseer.num_unwatched == 10


@in_loop
async def test_what_cannot_be_read_is_not_watched_and_everything_else_is(caplog: pytest.LogCaptureFixture) -> None:
    with watched() as (scene, watch):
        for messages in ([], [{}], [[[]]], "x", [{"role": "user", "content": "\ud800"}], [{"role": 1, "content": {}}]):
            try:
                await scene.ask(asking("chat", messages=messages))
            except HeadraceError:
                continue
        await scene.ask(scoring(FREE))
        watch.join()
        assert "could not be watched" not in caplog.text
        assert scene.overseer.num_unwatched == 0


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("hi", "hi"),
        ([{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}], "one"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "b"),
        ([{"role": "system", "content": "rules"}], ""),
        ([{"type": "message", "content": [{"type": "input_text", "text": "asked"}]}], "asked"),
        ([5, None, True], ""),
    ],
)
def test_the_last_turn_that_is_the_callers_is_what_is_watched(said: Any, text: str) -> None:
    assert text_of(json.dumps(said).encode()) == text


def test_the_end_of_a_long_conversation_is_watched_unparsed() -> None:
    assert text_of(b"no JSON " * 1000).endswith("no JSON ")
    assert len(text_of(b"[" * 100_000)) <= 4096


@in_loop
async def test_a_watch_that_may_take_little_of_the_interpreter_rests_after_each_input_and_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rests: list[float] = []
    work_s = iter(range(1000))
    monkeypatch.setattr("headrace.gateway.oversight.theft_watch.time.thread_time", lambda: float(next(work_s)))
    watch = TheftWatch(SETTINGS, np.random.default_rng(0), share=0.1)
    monkeypatch.setattr(watch._closing, "wait", rests.append)
    watch.open()
    scene = Scene(SETTINGS, *ANSWER, watch=watch)
    for _ in range(3):
        await scene.ask(asking("chat"))
    watch.join()
    watch.close()
    # Each input took one second of the interpreter, after which it has the other nine for others.
    assert rests == pytest.approx([9.0, 9.0, 9.0])
