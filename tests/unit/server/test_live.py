"""The live feed: who may watch, what a frame says of requests, and that nothing is made for nobody."""

import asyncio
import json
from typing import Any

import pytest
from tests.doubles_http import (
    Client,
    HandClock,
    HandTimers,
    Pause,
    Reply,
    ScriptedBackend,
    answer,
    chat,
    make_app,
    run,
    started,
)
from tests.scripted_services import ScriptedWatching
from tests.unit.server.test_keys import entry

from headrace.api.live import MAX_MODELS
from headrace.core.events import ChoiceFinished, Finished, FinishReason, TextDelta, Usage
from headrace.core.watching import ORIGIN, LiveEngine, LiveModel, LiveSequence, Phase
from headrace.server.app import App
from headrace.server.keys import KeyRing
from headrace.server.live import MAX_OF_ONE, MAX_VIEWERS
from headrace.server.sights import MAX_SHOWN

CHAT = "/v1/chat/completions"
LIVE = "/v1/live"
ONCE = f"{LIVE}?once=true"
SECRET = "what nobody else may read"


def frames(reply: Reply) -> list[Any]:
    return [json.loads(part.partition("data: ")[2]) for part in reply.body.decode().split("\n\n") if part]


class Watched:
    """An application with time by hand, and a viewer."""

    def __init__(self, backend: Any = None, **more: Any) -> None:
        self.clock, self.timers = HandClock(), HandTimers()
        self.backend = backend or ScriptedBackend(answer("x"))
        self.app: App = make_app(self.backend, clock=self.clock, timers=self.timers, **more)

    def watch(self, **headers: str) -> tuple[Client, "asyncio.Task[Reply]"]:
        client = Client(self.app, "GET", LIVE, headers=headers)
        return client, client.start()

    async def ask(self, path: str, **headers: str) -> Reply:
        return await Client(self.app, "GET", path, headers=headers).run()

    async def next(self, client: Client) -> Any:
        """The frame of the next second."""
        seen = len(frames(client.reply))
        self.clock.now_s += 1.0
        self.timers.fire()
        await client.until(lambda reply: len(frames(reply)) > seen)
        return frames(client.reply)[-1]


async def leave(client: Client, task: "asyncio.Task[Reply]") -> None:
    client.leave()
    await task


class Inside:
    """An engine in whose one model all that runs is of the request that was asked last."""

    def __init__(self) -> None:
        self.phase = Phase.QUEUED
        self.origin: object = None
        self.num_looks = 0

    async def look(self, *, is_whole: bool = True) -> LiveEngine:
        self.num_looks += 1
        one = LiveSequence(
            origin=self.origin,
            tenant="local",
            phase=self.phase,
            priority=3,
            age_s=1.0,
            begun_s=0.5 if self.phase is not Phase.QUEUED else None,
            first_s=0.75 if self.phase is Phase.DECODE else None,
            prompt_tokens=100,
            computed_tokens={Phase.QUEUED: 0, Phase.PREFILL: 40, Phase.DECODE: 100}[self.phase],
            reused_tokens=32,
            output_tokens=4 if self.phase is Phase.DECODE else 0,
        )
        return LiveEngine((LiveModel(name="tiny", sequences=() if self.origin is None else (one,)),))


def test_a_request_is_seen_from_its_queue_to_its_end() -> None:
    pause, inside = Pause(), Inside()

    def script(request: Any) -> Any:
        inside.origin = ORIGIN.get()
        usage = Usage(prompt_tokens=100, completion_tokens=5, cached_tokens=32)
        yield pause
        yield from (started(request), TextDelta(0, "x", 5), ChoiceFinished(0, FinishReason.STOP), Finished(usage))

    watched = Watched(ScriptedBackend(script), watching=inside)

    async def main() -> None:
        client, task = watched.watch()
        await client.until(lambda reply: len(frames(reply)) == 1)
        asked = Client(watched.app, "POST", CHAT, chat(messages=[{"role": "user", "content": SECRET}]))
        asking = asked.start()
        await pause.reached.wait()
        for phase, begun, first, computed, output in (
            (Phase.QUEUED, None, None, 0, 0),
            (Phase.PREFILL, 1500, None, 40, 0),
            (Phase.DECODE, 2500, 2750, 100, 4),
        ):
            inside.phase = phase
            (one,) = (await watched.next(client))["requests"]
            assert (one["phase"], one["begun_ms"], one["first_ms"]) == (phase.value, begun, first)
            assert (one["prompt_tokens"], one["computed_tokens"], one["cached_tokens"]) == (100, computed, 32)
            assert (one["output_tokens"], one["priority"]) == (output, 3)
        assert (one["id"], one["tenant"], one["model"], one["route"]) == ("req_0001", "local", "tiny", CHAT)
        inside.origin = None
        pause.go.set()
        await asking
        frame = await watched.next(client)
        assert frame["requests"] == []
        (ended,) = frame["ended"]
        assert (ended["id"], ended["outcome"], ended["output_tokens"]) == ("req_0001", "ok", 5)
        assert ended["begun_ms"] == ended["first_ms"] == ended["duration_ms"] == 3000
        assert (await watched.next(client))["ended"] == []
        assert SECRET not in client.reply.body.decode()
        await leave(client, task)

    run(main())


def test_a_request_that_no_engine_knows_waits_and_then_streams() -> None:
    pauses = [Pause(), Pause()]

    def script(request: Any) -> Any:
        usage = Usage(prompt_tokens=7, completion_tokens=2, cached_tokens=0)
        yield pauses[0]
        yield from (started(request), TextDelta(0, "x", 1), pauses[1], TextDelta(0, "y", 1))
        yield from (ChoiceFinished(0, FinishReason.STOP), Finished(usage))

    watched = Watched(ScriptedBackend(script))

    async def main() -> None:
        client, task = watched.watch()
        await client.until(lambda reply: len(frames(reply)) == 1)
        assert frames(client.reply)[0]["models"] == []
        asked = Client(watched.app, "POST", CHAT, chat(stream=True))
        asking = asked.start()
        await pauses[0].reached.wait()
        (one,) = (await watched.next(client))["requests"]
        assert (one["phase"], one["first_ms"]) == ("waiting", None)
        pauses[0].go.set()
        await pauses[1].reached.wait()
        await asked.until(lambda reply: bool(reply.writes))
        frame = await watched.next(client)
        (one,) = frame["requests"]
        assert (one["phase"], one["first_ms"], one["age_ms"]) == ("streaming", 1000, 2000)
        assert counted(frame, "first_token") == {"1000 to 2000": 1}
        watched.clock.now_s += 1.0
        pauses[1].go.set()
        await asking
        frame = await watched.next(client)
        assert counted(frame, "between_tokens") == {"1000 to 2000": 1}
        assert counted(frame, "first_token") == {}
        await leave(client, task)

    run(main())


def counted(frame: Any, name: str) -> dict[str, int]:
    told = frame["latency"][name]
    edges = [0, *told["bounds_ms"], "more"]
    return {f"{edges[at]} to {edges[at + 1]}": count for at, count in enumerate(told["counts"]) if count}


def test_nothing_is_made_before_the_first_viewer_and_after_the_last() -> None:
    inside = Inside()
    watched = Watched(watching=inside)

    async def main() -> None:
        await Client(watched.app, "POST", CHAT, chat()).run()
        assert (inside.num_looks, watched.timers.num_set) == (0, 0)
        first, one = watched.watch()
        await first.until(lambda reply: len(frames(reply)) == 1)
        second, two = watched.watch()
        await second.until(lambda reply: len(frames(reply)) == 1)
        assert (await watched.next(first))["server"]["num_viewers"] == 2
        await second.until(lambda reply: len(frames(reply)) == 2)
        assert frames(first.reply)[-1] == frames(second.reply)[-1]
        assert inside.num_looks == 2  # one for each frame, whoever watches
        await leave(first, one)
        assert inside.num_looks == 2
        assert (await watched.next(second))["server"]["num_viewers"] == 1
        await leave(second, two)
        looks = inside.num_looks
        watched.timers.fire()
        await Client(watched.app, "POST", CHAT, chat()).run()
        assert inside.num_looks == looks
        assert (await watched.ask(ONCE)).json()["ended"] == []

    run(main())


def test_who_comes_while_the_last_one_leaves_is_shown_frames() -> None:
    watched = Watched()

    async def main() -> None:
        feed = watched.app.live
        first = feed.open()
        assert await first.frame() is not None
        leaving = asyncio.get_running_loop().create_task(feed.close(first))
        await asyncio.sleep(0)
        second = feed.open()
        await leaving
        assert await second.frame() is not None
        watched.timers.fire()
        assert await second.frame() is not None
        await feed.close(second)

    run(main())


def test_a_slow_viewer_skips_frames_and_holds_up_nobody() -> None:
    watched = Watched(watching=ScriptedWatching())

    async def main() -> None:
        slow, one = watched.watch()
        quick, two = watched.watch()
        for client in (slow, quick):
            await client.until(lambda reply: len(frames(reply)) == 1)
        slow.may_write.clear()
        for _ in range(5):
            await watched.next(quick)
        assert len(frames(slow.reply)) == 1
        slow.may_write.set()
        await slow.until(lambda reply: len(frames(reply)) == 3)
        # One was on its way, and of the others it gets the newest.
        assert [frame["server"]["uptime_ms"] for frame in frames(slow.reply)] == [0, 1000, 5000]
        assert [frame["server"]["uptime_ms"] for frame in frames(quick.reply)] == [0, 1000, 2000, 3000, 4000, 5000]
        await leave(slow, one)
        await leave(quick, two)

    run(main())


@pytest.mark.parametrize(
    ("key", "status"), [("hr_root", 200), ("hr_eye", 200), ("hr_user", 403), ("hr_meter", 403), ("", 401)]
)
def test_only_who_observes_or_administers_may_watch(key: str, status: int) -> None:
    ring = KeyRing(
        lambda: [
            entry("hr_root", "ops", "admin"),
            entry("hr_eye", "ops", "observe"),
            entry("hr_user", "acme", "generate", "accounts"),
            entry("hr_meter", "ops", "metrics"),
        ]
    )
    watched = Watched(keys=ring)

    async def main() -> None:
        shown = {"authorization": f"Bearer {key}"} if key else {}
        assert (await watched.ask(ONCE, **shown)).status == status
        if status != 200:
            assert (await watched.ask(LIVE, **shown)).status == status

    run(main())


def test_frames_end_when_the_viewers_key_is_taken_back() -> None:
    keys = [entry("hr_root", "ops", "admin"), entry("hr_eye", "ops", "observe")]
    ring = KeyRing(lambda: keys)
    watched = Watched(keys=ring)

    async def main() -> None:
        client, task = watched.watch(authorization="Bearer hr_eye")
        await client.until(lambda reply: len(frames(reply)) == 1)
        del keys[1]
        ring.reload()
        watched.timers.fire()
        reply = await task
        assert reply.is_complete
        assert frames(reply)[-1]["error"]["code"] == "invalid_api_key"

    run(main())


def test_a_server_that_stops_waits_for_answers_and_not_for_viewers() -> None:
    pause = Pause()

    def script(request: Any) -> Any:
        yield pause
        yield from answer("x")(request)

    watched = Watched(ScriptedBackend(script))

    async def main() -> None:
        client, task = watched.watch()
        await client.until(lambda reply: len(frames(reply)) == 1)
        asking = Client(watched.app, "POST", CHAT, chat()).start()
        await pause.reached.wait()
        watched.app.lifecycle.start_draining()
        assert (await watched.next(client))["server"]["phase"] == "draining"
        pause.go.set()
        await asking
        watched.timers.fire()
        assert (await task).is_complete

    run(main())


def test_more_is_open_than_is_told_and_the_rest_is_counted() -> None:
    pause, all_there = Pause(), asyncio.Event()

    def script(request: Any) -> Any:
        if watched.backend.num_open == MAX_SHOWN + 7:
            all_there.set()
        yield pause
        yield from answer("x")(request)

    watched = Watched(ScriptedBackend(script))

    async def main() -> None:
        asking = [Client(watched.app, "POST", CHAT, chat()).start() for _ in range(MAX_SHOWN + 7)]
        await all_there.wait()
        frame = (await watched.ask(ONCE)).json()
        assert (len(frame["requests"]), frame["requests_left_out"]) == (MAX_SHOWN, 7)
        client, task = watched.watch()
        await client.until(lambda reply: len(frames(reply)) == 1)
        pause.go.set()
        await asyncio.wait(asking)
        frame = await watched.next(client)
        assert (len(frame["ended"]), frame["ended_left_out"]) == (MAX_SHOWN, 7)
        await leave(client, task)

    run(main())


def test_work_that_no_client_waits_for_is_shown_without_an_id() -> None:
    inside = Inside()
    inside.origin, inside.phase = "a batch", Phase.DECODE
    watched = Watched(watching=inside)

    async def main() -> None:
        (one,) = (await watched.ask(ONCE)).json()["requests"]
        assert (one["id"], one["route"], one["model"], one["phase"]) == (None, "", "tiny", "decode")
        assert (one["age_ms"], one["begun_ms"], one["first_ms"]) == (1000, 500, 750)

    run(main())


def test_an_engine_in_a_long_step_is_not_waited_for_and_its_age_is_told() -> None:
    class Busy(ScriptedWatching):
        """It answers once, and then not before it is told to."""

        def __init__(self) -> None:
            self.go = asyncio.Event()
            self.go.set()

        async def look(self, *, is_whole: bool = True) -> LiveEngine:
            await self.go.wait()
            return await super().look()

    async def main() -> None:
        busy = Busy()
        watched = Watched(watching=busy)
        watched.app.live.interval_s = 0.01
        client, task = watched.watch()
        await client.until(lambda reply: len(frames(reply)) == 1)
        busy.go.clear()
        assert (await watched.next(client))["engine_age_ms"] == 1000
        frame = await watched.next(client)
        assert (frame["engine_age_ms"], [one["id"] for one in frame["models"]]) == (2000, ["scripted"])
        busy.go.set()
        assert (await watched.next(client))["engine_age_ms"] == 0
        await leave(client, task)

    run(main())


def test_of_a_thousand_models_those_in_memory_are_told_and_the_rest_is_counted() -> None:
    class Many(ScriptedWatching):
        async def look(self, *, is_whole: bool = True) -> LiveEngine:
            absent = tuple(LiveModel(name=f"m{number}", state="absent") for number in range(1000))
            return LiveEngine((LiveModel(name="here"), *absent))

    watched = Watched(watching=Many())

    async def main() -> None:
        frame = (await watched.ask(ONCE)).json()
        assert (len(frame["models"]), frame["models_left_out"]) == (MAX_MODELS, 1001 - MAX_MODELS)
        assert (frame["models"][0]["id"], frame["models"][0]["state"]) == ("here", "ready")

    run(main())


def test_one_viewer_too_many_is_refused() -> None:
    watched = Watched()

    async def main() -> None:
        viewers = [watched.watch() for _ in range(MAX_VIEWERS)]
        for client, _ in viewers:
            await client.until(lambda reply: bool(frames(reply)))
        assert (await watched.ask(LIVE)).status == 503
        assert (await watched.ask(ONCE)).status == 200
        for client, task in viewers:
            await leave(client, task)

    run(main())


def test_one_caller_cannot_take_every_place() -> None:
    watched = Watched(keys=KeyRing(lambda: [entry("hr_root", "ops", "admin"), entry("hr_eye", "wall", "observe")]))

    async def main() -> None:
        viewers = [watched.watch(authorization="Bearer hr_eye") for _ in range(MAX_OF_ONE)]
        for client, _ in viewers:
            await client.until(lambda reply: bool(frames(reply)))
        refused = await watched.ask(LIVE, authorization="Bearer hr_eye")
        assert refused.status == 503 and "of yours" in refused.error()["message"]
        viewers.append(watched.watch(authorization="Bearer hr_root"))
        await viewers[-1][0].until(lambda reply: bool(frames(reply)))
        for client, task in viewers:
            await leave(client, task)

    run(main())


@pytest.mark.parametrize("query", ["once=maybe", "twice=true"])
def test_a_query_that_means_nothing_is_refused(query: str) -> None:
    watched = Watched()

    async def main() -> None:
        reply = await watched.ask(f"{LIVE}?{query}")
        assert (reply.status, reply.error()["param"]) == (400, query.partition("=")[0])

    run(main())
