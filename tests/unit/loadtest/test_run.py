"""How a stage goes, in time that only passes when everybody waits: schedules, bounds, late answers, ends."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.virtual_time import VirtualClock, run_virtually

from headrace.loadtest.measures import stage_result
from headrace.loadtest.plan import Bounds, Plan, Protocol, Stage
from headrace.loadtest.reading import Failed, Reading
from headrace.loadtest.run import Run, Tally
from headrace.loadtest.workload import MadeUp, Ratio, Sizes


class Timed:
    """A server that answers after given times; `seen` are the moments at which it was asked, and bodies."""

    def __init__(self, first_s: float = 1.0, gaps_s: tuple[float, ...] = (0.5,), places: int | None = None) -> None:
        self._first_s = first_s
        self._gaps_s = gaps_s
        self._room = asyncio.Semaphore(places) if places is not None else None
        self.seen: list[tuple[float, dict[str, Any]]] = []
        self.num_now = self.num_most = 0
        self.fail: Callable[[int], Failed | None] = lambda number: None

    async def ask(self, protocol: Protocol, body: bytes, reading: Reading) -> None:
        loop = asyncio.get_running_loop()
        reading.sent_s = loop.time()
        self.seen.append((loop.time(), json.loads(body)))
        failed = self.fail(len(self.seen))
        if failed is not None:
            raise failed
        self.num_now += 1
        self.num_most = max(self.num_most, self.num_now)
        try:
            if self._room is None:
                await self._answer(reading)
            else:
                async with self._room:
                    await self._answer(reading)
        finally:
            self.num_now -= 1

    async def _answer(self, reading: Reading) -> None:
        loop = asyncio.get_running_loop()
        for wait_s in (self._first_s, *self._gaps_s):
            await asyncio.sleep(wait_s)
            reading.feed(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n', loop.time())
        reading.feed(b"data: [DONE]\n\n", loop.time())


def made(server: Timed, stage: Stage, *, turns: int = 1, fields: dict[str, Any] | None = None, **bounds: Any) -> Run:
    plan = Plan(stages=(stage,), bounds=Bounds(**bounds))
    work = MadeUp(Sizes(prompt_tokens=8, output_tokens=2, turns=turns), 0, Ratio(), "chat")
    return Run(plan, work, server, VirtualClock(), fields=fields or {}, cpu_s=lambda: 0.0)


async def held(server: Timed, stage: Stage, **more: Any) -> Tally:
    return await made(server, stage, **more).run_stage(stage)


def test_an_open_loop_goes_on_asking_a_server_that_does_not_answer() -> None:
    server = Timed(first_s=1000.0)
    tally = run_virtually(held(server, Stage(rate=2.0), duration_s=100.0, drain_s=5.0))
    assert 150 < len(server.seen) < 250
    assert server.num_most == len(server.seen) == tally.num_begun
    assert tally.outcomes == {"unfinished": len(server.seen)}
    assert tally.ended_s == pytest.approx(105.0) and server.num_now == 0


def test_requests_are_sent_when_they_are_due_and_at_the_same_moments_again() -> None:
    first, second = Timed(), Timed()
    run_virtually(held(first, Stage(rate=3.0), duration_s=50.0))
    tally = run_virtually(held(second, Stage(rate=3.0), duration_s=50.0))
    assert first.seen == second.seen
    assert [point.due_s for point in sorted(tally.points, key=lambda one: one.index)] == pytest.approx(
        [at_s for at_s, _ in second.seen]
    )


def test_waiting_for_a_server_with_one_place_counts_from_when_requests_were_due() -> None:
    """What a client that waits for each answer would never see."""
    server = Timed(first_s=1.0, gaps_s=(), places=1)
    stage = Stage(rate=2.0)
    run = made(server, stage, duration_s=60.0, drain_s=1000.0)
    told = stage_result(run_virtually(run.run_stage(stage)), Plan(stages=(stage,), bounds=Bounds(duration_s=60.0)))
    assert told["num_ok"] > 90
    assert told["spreads"]["ttft"]["quantiles"][2]["value"] > 40.0  # twice as many come as it can answer


def test_requests_beyond_those_that_may_be_under_way_wait_and_their_waiting_counts() -> None:
    server = Timed(first_s=1.0, gaps_s=())
    tally = run_virtually(held(server, Stage(rate=4.0), duration_s=20.0, max_in_flight=2, drain_s=1000.0))
    assert server.num_most == 2 and tally.outcomes["ok"] == tally.num_begun
    assert max(point.sent_s - point.due_s for point in tally.points if point.sent_s is not None) > 10.0


def test_a_closed_loop_holds_so_many_at_once_and_no_more() -> None:
    server = Timed(first_s=0.5, gaps_s=(0.5,))
    tally = run_virtually(held(server, Stage(concurrency=4), duration_s=10.5))
    assert server.num_most == 4
    assert len(server.seen) == 44 and tally.outcomes == {"ok": 44}  # each takes a second, the last begin at 10.0


def test_a_number_of_requests_bounds_a_stage_and_the_first_are_not_counted() -> None:
    server = Timed()
    tally = run_virtually(held(server, Stage(concurrency=3), duration_s=None, max_requests=10, num_warm=5))
    assert len(server.seen) == 15
    assert sorted(point.index for point in tally.points if point.is_warm) == [0, 1, 2, 3, 4]
    assert tally.counts_from_s == pytest.approx(1.5)


def test_turns_follow_each_other_and_hold_the_answers_before_them() -> None:
    server = Timed(first_s=1.0, gaps_s=(1.0,))
    tally = run_virtually(held(server, Stage(concurrency=1), turns=3, duration_s=None, max_requests=1))
    assert [at_s for at_s, _ in server.seen] == [0.0, 2.0, 4.0]
    assert [len(body["messages"]) for _, body in server.seen] == [1, 3, 5]
    assert server.seen[2][1]["messages"][1] == {"role": "assistant", "content": "xx"}
    assert [point.turn for point in tally.points] == [0, 1, 2]


def test_a_conversation_ends_where_a_turn_fails() -> None:
    server = Timed()
    server.fail = lambda number: Failed("http-500", "no") if number == 2 else None
    tally = run_virtually(held(server, Stage(concurrency=1), turns=3, duration_s=None, max_requests=1))
    assert tally.outcomes == {"ok": 1, "http-500": 1}


def test_refusals_do_not_stop_a_stage_and_a_closed_loop_does_not_spin_without_bound() -> None:
    server = Timed()
    server.fail = lambda number: Failed("http-429", "slow down")
    tally = run_virtually(held(server, Stage(concurrency=2), duration_s=None, max_requests=500))
    assert tally.outcomes == {"http-429": 500}


def test_a_request_that_takes_too_long_is_a_timeout() -> None:
    tally = run_virtually(
        held(Timed(first_s=99.0), Stage(concurrency=1), duration_s=None, max_requests=1, request_s=5.0)
    )
    assert tally.outcomes == {"timeout": 1} and tally.points[0].end_s == pytest.approx(5.0)


@pytest.mark.parametrize("stage", [Stage(rate=2.0), Stage(concurrency=3)])
def test_stopping_ends_at_once_and_keeps_what_there_is(stage: Stage) -> None:
    server = Timed(first_s=2.0, gaps_s=())
    run = made(server, stage, duration_s=1000.0)

    async def stopped() -> Tally:
        asyncio.get_running_loop().call_later(11.0, run.stop.set)
        return await run.run_stage(stage)

    tally = run_virtually(stopped())
    assert tally.is_stopped and tally.ended_s == pytest.approx(11.0) and server.num_now == 0
    assert tally.outcomes["ok"] > 5 and tally.outcomes["unfinished"] > 0
    assert sum(tally.outcomes.values()) == tally.num_begun  # not one is lost


def test_cancelling_leaves_nothing_under_way() -> None:
    server = Timed(first_s=1000.0)

    async def cancelled() -> int:
        task = asyncio.create_task(held(server, Stage(rate=5.0), duration_s=100.0))
        await asyncio.sleep(10.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(asyncio.all_tasks())

    assert run_virtually(cancelled()) == 1 and server.num_now == 0


def test_a_defect_of_this_program_ends_the_run() -> None:
    server = Timed()

    def break_down(number: int) -> Failed | None:
        raise ZeroDivisionError

    server.fail = break_down
    with pytest.raises(ZeroDivisionError):
        run_virtually(held(server, Stage(rate=5.0), duration_s=10.0))


def test_stages_ask_other_prompts_than_the_stages_before_them() -> None:
    server = Timed()
    run = made(server, Stage(concurrency=1), duration_s=None, max_requests=3)

    async def both() -> None:
        await run.run_stage(Stage(concurrency=1))
        await run.run_stage(Stage(concurrency=2))

    run_virtually(both())
    assert len({json.dumps(body["messages"]) for _, body in server.seen}) == 6


def test_fields_go_into_every_body_and_null_leaves_one_out() -> None:
    server = Timed()
    fields = {"model": "m", "max_tokens": None, "ignore_eos": True}
    run_virtually(held(server, Stage(concurrency=1), fields=fields, duration_s=None, max_requests=1))
    body = server.seen[0][1]
    assert body["model"] == "m" and body["ignore_eos"] is True and "max_tokens" not in body
