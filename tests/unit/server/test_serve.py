"""Starting and stopping on a real socket: signals drain, the second one does not wait."""

import asyncio
import hashlib
import signal
from dataclasses import dataclass

import pytest
from tests.doubles_http import Pause, ScriptedBackend, Step, answer, chat, make_app, run, started
from tests.loopback import exchange, listening

from headrace.core.errors import InvalidRequest, Unavailable
from headrace.core.events import ChoiceFinished, Finished, FinishReason, TextDelta, Usage
from headrace.core.request import Request
from headrace.server.config import ServerConfig
from headrace.server.keys import KeyRing
from headrace.server.serve import Server, listen, serve

LINES = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"


@dataclass(frozen=True)
class Entry:
    name: str
    tenant: str
    scopes: frozenset[str]
    sha256: str
    priority: int = 0
    share: float = 1.0
    user: str | None = None
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    expires: None = None
    is_disabled: bool = False


def entry(key: str) -> Entry:
    return Entry("k", "acme", frozenset({"generate"}), hashlib.sha256(key.encode()).hexdigest())


def streamed() -> bytes:
    body = chat(stream=True)
    return LINES + b"content-length: %d\r\n\r\n%s" % (len(body), body)


def script_with(pause: Pause) -> ScriptedBackend:
    def script(request: Request) -> list[Step]:
        end = [TextDelta(0, "end", 1), ChoiceFinished(0, FinishReason.STOP), Finished(Usage(7, 2))]
        return [started(request), TextDelta(0, "begin", 1), pause, *end]

    return ScriptedBackend(script)


def test_the_first_signal_lets_running_answers_finish_and_refuses_new_connections() -> None:
    async def main() -> None:
        pause = Pause()
        app = make_app(script_with(pause), ServerConfig(port=0))
        async with listening(app) as (server, port):
            answering = asyncio.ensure_future(exchange(port, streamed()))
            await pause.reached.wait()
            server.handle_exit(signal.SIGTERM, None)
            while True:  # until the listener is closed
                try:
                    reply = await exchange(port, b"GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n")
                except OSError:
                    break
                assert reply.startswith(b"HTTP/1.1 503 ") or reply == b""
            pause.go.set()
            assert b"[DONE]" in await answering

    run(main())


def test_when_draining_takes_too_long_the_answer_ends_with_an_error() -> None:
    async def main() -> None:
        pause = Pause()
        backend = script_with(pause)
        async with listening(make_app(backend, ServerConfig(port=0, drain_s=0))) as (server, port):
            answering = asyncio.ensure_future(exchange(port, streamed()))
            await pause.reached.wait()
            server.handle_exit(signal.SIGTERM, None)
            reply = await answering
            assert b"the server is stopping" in reply
            assert b"[DONE]" not in reply
        assert backend.num_open == 0

    run(main())


def test_a_second_signal_does_not_wait() -> None:
    async def main() -> None:
        pause = Pause()
        backend = script_with(pause)
        async with listening(make_app(backend, ServerConfig(port=0, drain_s=3600))) as (server, port):
            answering = asyncio.ensure_future(exchange(port, streamed()))
            await pause.reached.wait()
            server.handle_exit(signal.SIGINT, None)
            server.handle_exit(signal.SIGINT, None)
            assert b"the server is stopping" in await answering
        assert backend.num_open == 0

    run(main())


def test_a_real_signal_stops_the_server_without_killing_the_process() -> None:
    async def main() -> None:
        app = make_app(ScriptedBackend(answer("x")), ServerConfig(port=0))
        told: list[str] = []

        def on_ready(url: str) -> None:
            told.append(url)
            signal.raise_signal(signal.SIGTERM)

        listener = listen(app.config)
        port = listener.getsockname()[1]
        await serve(app, listener, on_ready)
        assert told == [f"http://127.0.0.1:{port}"]

    run(main())


def test_a_hangup_reads_the_keys_again_and_a_broken_file_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        reads = [[entry("hr_old")], [entry("hr_new")], []]
        ring = KeyRing(lambda: reads.pop(0))
        app = make_app(ScriptedBackend(answer("x")), ServerConfig(port=0), keys=ring)
        loop = asyncio.get_running_loop()

        def on_ready(_: str) -> None:
            signal.raise_signal(signal.SIGHUP)
            loop.call_later(0.01, signal.raise_signal, signal.SIGHUP)
            loop.call_later(0.02, signal.raise_signal, signal.SIGTERM)

        await serve(app, listen(app.config), on_ready)
        assert reads == []
        assert ring.authenticate("hr_new").principal.tenant == "acme"
        assert "those in force stay" in caplog.text

    run(main())


def test_a_keyless_server_refuses_to_listen_for_everybody() -> None:
    async def main() -> None:
        app = make_app(ScriptedBackend(answer("x")), ServerConfig(host="0.0.0.0", port=0))
        with listen(app.config) as listener, pytest.raises(InvalidRequest, match="keys file"):
            await serve(app, listener)

    run(main())


def test_a_port_that_is_taken_is_refused_with_a_remedy() -> None:
    with listen(ServerConfig(port=0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port}.*--port"):
            listen(ServerConfig(port=port))


def test_the_servers_class_hides_no_signal_from_a_loop_that_never_started() -> None:
    server = Server(make_app(ScriptedBackend(answer("x")), ServerConfig(port=0)), None)
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit
