"""The client over real sockets: what it sends, what it counts, and every way in which a server can fail at it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from tests.upstream_answers import frame
from tests.upstreams import (
    Received,
    Script,
    Step,
    Upstream,
    die_midstream,
    error_stream,
    failed,
    garbage,
    half_frame,
    hang_before,
    hang_midstream,
    limited,
    stream,
    upstream,
    well,
    whole,
    wrong_type,
)

from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest, Unavailable
from headrace.loadtest.client import Client, read_target
from headrace.loadtest.plan import Bounds, Plan, Stage
from headrace.loadtest.reading import Failed, Reading
from headrace.loadtest.run import Run, Tally
from headrace.loadtest.workload import MadeUp, Ratio, Sizes

Work = Callable[[Upstream, Client], Awaitable[Any]]
SAY = frame({"choices": [{"delta": {"content": "Hi"}}]})


@asynccontextmanager
async def asking(key: str | None = None, **bounds: Any) -> AsyncIterator[tuple[Upstream, Client]]:
    async with upstream() as up:
        client = Client(read_target(up.url), key, Bounds(**bounds), SystemClock())
        try:
            yield up, client
        finally:
            await client.close()
        await up.wait_open(0)


def tried(work: Work, key: str | None = None, **bounds: Any) -> Any:
    async def run() -> Any:
        async with asking(key, **bounds) as (up, client):
            return await work(up, client)

    return uvloop.run(run())


def kind_of(script: Script, **bounds: Any) -> tuple[str, str]:
    async def meet(up: Upstream, client: Client) -> tuple[str, str]:
        up.script.append(script)
        with pytest.raises(Failed) as caught:
            await client.ask("chat", b"{}", Reading())
        return caught.value.kind, caught.value.detail

    found: tuple[str, str] = tried(meet, **bounds)
    return found


def test_an_answer_is_read_with_its_counts_and_its_cost() -> None:
    async def ask(up: Upstream, client: Client) -> Reading:
        up.respond = lambda request: stream_with_cost(up, request)
        reading = Reading()
        body = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "messages": []}
        await client.ask("chat", json.dumps(body).encode(), reading)
        (received,) = up.received
        assert (received.method, received.path) == ("POST", "/v1/chat/completions")
        assert received.header("authorization") == "Bearer sk-1" and received.fields["model"] == "m"
        return reading

    def stream_with_cost(up: Upstream, request: Received) -> Script:
        for step in well(up, request):
            yield (step.replace(b"x-request-id: up-1", b"x-headrace-cost: 0.125") if isinstance(step, bytes) else step)

    reading = tried(ask, key="sk-1")
    point = reading.point(index=0, turn=0, is_warm=False, due_s=0.0, end_s=1.0, failed=None)
    assert (point.output_tokens, point.prompt_tokens, point.is_counted, point.cost) == (3, 7, True, 0.125)
    assert reading.text == "Hello there." and point.num_pieces == 2 and point.status == 200


def test_completions_are_asked_for_at_their_own_path() -> None:
    async def ask(up: Upstream, client: Client) -> str:
        reading = Reading()
        await client.ask("completions", b'{"stream": true, "prompt": "x"}', reading)
        assert up.received[0].path == "/v1/completions"
        return reading.text

    assert tried(ask) == "Hello there."


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        (limited("1"), "http-429", "Rate limit reached"),
        (failed(500), "http-500", "The server had an error"),
        (whole(b"<html>Bad gateway</html>", 502, content_type="text/html"), "http-502", "Bad gateway"),
        (garbage(), "connection", "is not HTTP"),
        ([Step.CLOSE], "connection", "before it answered"),
        (die_midstream(SAY), "broken", "in the midst of its answer"),
        (wrong_type(), "not-a-stream", "text/html"),
        (whole({"choices": []}), "not-a-stream", "application/json"),
        (error_stream(), "stream-error", "overloaded"),
        (half_frame([SAY], b'data: {"choices": ['), "cut", "1 pieces"),
        (stream([b"data: {no json}\n\n"]), "malformed", "no JSON"),
        (stream([frame("[DONE]")]), "empty", "no token"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_failure_has_a_kind_of_its_own(script: Script, kind: str, said: str) -> None:
    found, detail = kind_of(script)
    assert found == kind and said in detail


def test_an_answer_that_makes_no_sense_is_not_read_to_its_end() -> None:
    async def ask(up: Upstream, client: Client) -> None:
        up.script.append(hang_midstream(b"data: {no json}\n\n"))
        with pytest.raises(Failed):
            await client.ask("chat", b"{}", Reading())
        await up.wait_open(0)

    tried(ask)


@pytest.mark.parametrize("script", [hang_before(), hang_midstream(SAY)])
def test_a_server_that_says_nothing_more_is_a_timeout(script: Script) -> None:
    assert kind_of(script, request_s=0.05)[0] == "timeout"


def test_a_server_that_is_not_there_is_a_failed_connection() -> None:
    async def ask(up: Upstream, client: Client) -> str:
        up.refuse()
        with pytest.raises(Failed) as caught:
            await client.ask("chat", b"{}", Reading())
        return caught.value.kind

    assert tried(ask) == "connection"


def test_the_first_listed_model_is_taken() -> None:
    async def ask(up: Upstream, client: Client) -> str:
        up.script.append(whole({"data": [{"id": "one"}, {"id": "two"}]}))
        return await client.first_model()

    assert tried(ask) == "one"


@pytest.mark.parametrize("listed", [{"data": []}, {"data": [{"id": 3}]}, {"data": "x"}, {}])
def test_a_server_without_models_needs_one_named(listed: dict[str, Any]) -> None:
    async def ask(up: Upstream, client: Client) -> None:
        up.script.append(whole(listed))
        with pytest.raises(InvalidRequest, match="--model"):
            await client.first_model()

    tried(ask)


def test_a_refused_key_is_told_with_its_remedy_and_without_the_key() -> None:
    async def ask(up: Upstream, client: Client) -> str:
        up.script.append(whole({"error": {"message": "Incorrect API key provided"}}, 401))
        with pytest.raises(Unavailable) as caught:
            await client.first_model()
        return str(caught.value)

    told = tried(ask, key="sk-very-secret")
    assert "Incorrect API key" in told and "--key-file" in told and "sk-very-secret" not in told


def test_what_words_come_to_is_learnt_from_two_counts() -> None:
    async def ask(up: Upstream, client: Client) -> Ratio:
        def respond(request: Received) -> Script:
            words = len(request.fields["messages"][0]["content"].split())
            return whole({"choices": [], "usage": {"prompt_tokens": 12 + 2 * words, "completion_tokens": 1}})

        up.respond = respond
        ratio = await client.measure_ratio("chat", {"model": "m"})
        assert all(one.fields["max_tokens"] == 1 and one.fields["model"] == "m" for one in up.received)
        return ratio

    assert tried(ask) == Ratio(2.0, 12.0, True)


def test_a_server_that_counts_nothing_is_taken_at_a_token_a_word() -> None:
    async def ask(up: Upstream, client: Client) -> Ratio:
        up.respond = lambda request: whole({"choices": []})
        return await client.measure_ratio("chat", {"model": "m"})

    assert tried(ask) == Ratio()


@pytest.mark.parametrize(
    ("url", "path"),
    [("http://h:1", "http://h:1/v1"), ("http://h:1/", "http://h:1/v1"), ("https://h/api/v3/", "https://h/api/v3")],
)
def test_the_version_in_a_url_may_be_left_out(url: str, path: str) -> None:
    assert str(read_target(url)) == path


@pytest.mark.parametrize("url", ["h:1", "ftp://h", "http://me:pw@h", "http://h?x=1", "http://169.254.169.254"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_target(url)
    assert "pw@" not in str(caught.value)


def held(up: Upstream, client: Client, stage: Stage, **bounds: Any) -> Awaitable[Tally]:
    plan = Plan(stages=(stage,), bounds=Bounds(duration_s=None, **bounds))
    work = MadeUp(Sizes(prompt_tokens=8, output_tokens=3), 0, Ratio(), "chat")
    fields = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
    return Run(plan, work, client, SystemClock(), fields=fields, cpu_s=lambda: 0.0).run_stage(stage)


def test_a_run_counts_every_request_once_by_what_became_of_it() -> None:
    async def run(up: Upstream, client: Client) -> Tally:
        up.script.extend([limited(), well_once(up), die_midstream(SAY), failed(503), error_stream()])
        return await held(up, client, Stage(concurrency=1), max_requests=20)

    def well_once(up: Upstream) -> Script:
        return stream([SAY, frame({"choices": [{"delta": {}, "finish_reason": "stop"}]}), frame("[DONE]")])

    tally = tried(run)
    assert tally.outcomes == {"ok": 16, "http-429": 1, "broken": 1, "http-503": 1, "stream-error": 1}
    assert len(tally.points) == 20 and {point.index for point in tally.points} == set(range(20))
    assert [point.is_counted for point in tally.points if point.index == 1] == [False]


def test_a_server_that_dies_midway_is_counted_and_the_run_ends() -> None:
    async def run(up: Upstream, client: Client) -> Tally:
        task = asyncio.ensure_future(held(up, client, Stage(concurrency=1), max_requests=40))
        await up.wait_received(10)
        up.refuse()
        up.drop()
        return await task

    tally = tried(run)
    assert sum(tally.outcomes.values()) == 40
    assert tally.outcomes["ok"] >= 9 and tally.outcomes["connection"] >= 29


def test_stopping_closes_what_was_under_way() -> None:
    async def run(up: Upstream, client: Client) -> Tally:
        up.respond = lambda request: hang_midstream(SAY)
        plan = Plan(stages=(Stage(concurrency=5),), bounds=Bounds(duration_s=600.0))
        work = MadeUp(Sizes(), 0, Ratio(), "chat")
        stage_run = Run(plan, work, client, SystemClock(), fields={}, cpu_s=lambda: 0.0)
        task = asyncio.ensure_future(stage_run.run_stage(plan.stages[0]))
        await up.wait_received(5)
        stage_run.stop.set()
        tally = await task
        await up.wait_open(0)
        return tally

    assert tried(run).outcomes == {"unfinished": 5}
