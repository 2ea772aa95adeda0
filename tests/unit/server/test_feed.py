"""Ends of an answer: clients that leave or stall, silence, and orders from outside. Nothing may be left behind."""

import asyncio

import pytest
from tests.doubles_http import (
    Client,
    HandClock,
    HandTimers,
    Pause,
    ScriptedBackend,
    Step,
    answer,
    chat,
    make_app,
    run,
    started,
)

from headrace.core.errors import EngineFault
from headrace.core.events import ChoiceFinished, Finished, FinishReason, TextDelta, Usage
from headrace.core.request import Request
from headrace.server.config import ServerConfig
from headrace.server.feed import MAX_PENDING

CHAT = "/v1/chat/completions"


def paused(*before: str, pause: Pause) -> ScriptedBackend:
    """Words, then a pause, then one word and the end."""

    def script(request: Request) -> list[Step]:
        words = [TextDelta(0, word, 1) for word in before]
        end = [TextDelta(0, "end", 1), ChoiceFinished(0, FinishReason.STOP), Finished(Usage(7, len(before) + 1))]
        return [started(request), *words, pause, *end]

    return ScriptedBackend(script)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("words", [(), ("a",)])
def test_a_client_that_leaves_cancels_its_request(stream: bool, words: tuple[str, ...]) -> None:
    async def main() -> None:
        pause = Pause()
        backend = paused(*words, pause=pause)
        app = make_app(backend)
        client = Client(app, "POST", CHAT, chat(stream=stream))
        task = client.start()
        await pause.reached.wait()
        assert backend.num_open == 1
        client.leave()
        await task
        assert (backend.num_open, backend.num_closed) == (0, 1)
        assert not app.lifecycle.running
        assert not client.reply.is_complete

    run(main())


def test_a_cancelled_server_task_closes_the_backends_stream() -> None:
    async def main() -> None:
        pause = Pause()
        backend = paused("a", pause=pause)
        task = Client(make_app(backend), "POST", CHAT, chat(stream=True)).start()
        await pause.reached.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (backend.num_open, backend.num_closed) == (0, 1)

    run(main())


def test_a_silence_commits_the_status_and_is_broken_by_comments() -> None:
    async def main() -> None:
        pause, timers = Pause(), HandTimers()
        client = Client(make_app(paused(pause=pause), timers=timers), "POST", CHAT, chat(stream=True))
        task = client.start()
        await pause.reached.wait()
        assert client.reply.status == 0
        for silences in (1, 2):
            timers.fire()
            await client.until(lambda reply, n=silences: len(reply.writes) == n)
            if silences == 1:  # the first beat after a write only notes that there was one
                timers.fire()
        assert client.reply.status == 200
        assert client.reply.body == b": keep-alive\n\n" * 2
        pause.go.set()
        await task
        assert client.reply.frames()[-1] == "[DONE]"
        assert timers.num_set == 0

    run(main())


def test_an_error_after_the_stream_began_is_its_last_line_and_no_done_follows() -> None:
    def script(request: Request) -> list[Step]:
        return [started(request), TextDelta(0, "half", 1), pause, EngineFault("a defect met this batch.")]

    pause = Pause()

    async def main() -> None:
        client = Client(make_app(ScriptedBackend(script)), "POST", CHAT, chat(stream=True))
        task = client.start()
        await client.until(lambda reply: len(reply.writes) == 1)
        pause.go.set()
        await task
        assert client.reply.is_complete
        last = client.reply.frames()[-1]
        assert last["error"]["code"] == "engine_fault"
        assert b"[DONE]" not in client.reply.body

    run(main())


def test_when_the_time_to_drain_is_over_every_answer_gets_an_end_that_says_why() -> None:
    async def main() -> None:
        pauses = [Pause(), Pause()]
        backends = [paused("a", pause=pause) for pause in pauses]
        for backend, pause, stream in zip(backends, pauses, (True, False), strict=True):
            app = make_app(backend)
            client = Client(app, "POST", CHAT, chat(stream=stream))
            task = client.start()
            await pause.reached.wait()
            app.lifecycle.start_draining()
            app.lifecycle.fail_running()
            reply = await task
            assert reply.is_complete
            assert backend.num_open == 0
            error = reply.frames()[-1]["error"] if reply.status == 200 else reply.error()
            assert error["code"] == "unavailable"

    run(main())


def test_running_answers_finish_while_the_server_drains() -> None:
    async def main() -> None:
        pause = Pause()
        app = make_app(paused("a", pause=pause))
        client = Client(app, "POST", CHAT, chat(stream=True))
        task = client.start()
        await pause.reached.wait()
        app.lifecycle.start_draining()
        pause.go.set()
        assert (await task).frames()[-1] == "[DONE]"

    run(main())


def test_a_client_that_takes_no_bytes_stops_the_backend_and_is_dropped_after_a_while() -> None:
    """Without a bound between them a stalled client would gather its whole answer in memory."""
    produced = 0

    def script(request: Request) -> object:
        nonlocal produced
        yield started(request)
        for _ in range(100 * MAX_PENDING):
            produced += 1
            yield TextDelta(0, "word", 1)

    async def main() -> None:
        clock, timers = HandClock(), HandTimers()
        backend = ScriptedBackend(script)
        app = make_app(backend, ServerConfig(write_timeout_s=60), clock=clock, timers=timers)
        client = Client(app, "POST", CHAT, chat(stream=True))
        client.may_write.clear()
        task = client.start()
        for _ in range(20):  # turns of the loop, in which the pump would run on if nothing stopped it
            await asyncio.sleep(0)
        assert produced <= 2 * MAX_PENDING
        clock.now_s += 59
        timers.fire()
        await asyncio.sleep(0)
        assert not task.done()
        clock.now_s += 1
        timers.fire()
        await task
        assert (backend.num_open, backend.num_closed) == (0, 1)
        assert not client.reply.is_complete

    run(main())


def test_a_slow_client_gets_everything() -> None:
    async def main() -> None:
        words = [f"w{index} " for index in range(3 * MAX_PENDING)]
        client = Client(make_app(ScriptedBackend(answer(*words))), "POST", CHAT, chat(stream=True))
        client.may_write.clear()
        task = client.start()
        for _ in range(20):
            await asyncio.sleep(0)
        client.may_write.set()
        reply = await task
        said = [frame["choices"][0]["delta"].get("content") for frame in reply.frames()[:-1]]
        assert "".join(word or "" for word in said) == "".join(words)

    run(main())


def test_a_hundred_clients_that_vanish_at_every_moment_leave_nothing() -> None:
    async def main() -> None:
        pauses: list[Pause] = []

        def script(request: Request) -> list[Step]:
            pauses.append(Pause())
            return [started(request), TextDelta(0, "a", 1), pauses[-1]]

        backend = ScriptedBackend(script)
        app = make_app(backend)
        tasks = []
        for turns in range(100):
            client = Client(app, "POST", CHAT, chat(stream=turns % 2 == 0))
            tasks.append(client.start())
            for _ in range(turns % 10):
                await asyncio.sleep(0)
            client.leave()
        await asyncio.gather(*tasks)
        assert backend.num_open == 0
        assert not app.lifecycle.running

    run(main())
