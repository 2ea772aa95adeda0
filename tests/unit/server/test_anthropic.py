"""Anthropic's routes beside what codecs do: keys, silences, errors of the server, what is remembered for whom."""

import json
from typing import Any

import pytest
from tests.doubles_http import Client, HandTimers, Pause, Reply, ScriptedBackend, answer, make_app, run, started
from tests.unit.server.test_keys import entry

from headrace.api.anthropic_diagnosis import Fingerprint
from headrace.core.events import ChoiceFinished, Finished, FinishReason, TextDelta, Usage
from headrace.core.request import Request
from headrace.server.anthropic import MAX_MESSAGES, MAX_TENANTS, RecentMessages
from headrace.server.app import App
from headrace.server.keys import KeyRing

MESSAGES = "/v1/messages"
ENTRIES = [
    entry("hr_anna", "anna", "generate"),
    entry("hr_ben", "ben", "generate"),
    entry("hr_watch", "ops", "metrics"),
]


def body(**fields: Any) -> bytes:
    standard: dict[str, Any] = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    return json.dumps(standard | fields).encode()


def ask(app: App, data: bytes, headers: dict[str, str] | None = None, path: str = MESSAGES) -> Reply:
    client = Client(app, "POST", path, data, headers)

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({}, 401, "authentication_error"),
        ({"x-api-key": "hr_mallory"}, 401, "authentication_error"),
        ({"authorization": "Basic hr_anna"}, 401, "authentication_error"),
        ({"x-api-key": "hr_watch"}, 403, "permission_error"),
        ({"x-api-key": "hr_anna"}, 200, None),
        ({"authorization": "Bearer hr_anna", "anthropic-version": "2023-06-01"}, 200, None),
    ],
)
def test_a_key_comes_in_either_header_and_refusals_have_anthropics_shape(
    headers: dict[str, str], status: int, kind: str | None
) -> None:
    reply = ask(make_app(ScriptedBackend(answer("x")), keys=KeyRing(lambda: ENTRIES)), body(), headers)
    assert reply.status == status
    assert reply.headers["request-id"] == reply.headers["x-request-id"]
    if kind is not None:
        told = reply.json()
        assert (told["type"], told["error"]["type"], told["request_id"]) == ("error", kind, reply.headers["request-id"])


def test_paths_that_are_not_there_are_refused_in_the_dialect_of_the_caller() -> None:
    app = make_app(ScriptedBackend(answer("x")))
    reply = ask(app, body(), {"anthropic-version": "2023-06-01"}, "/v1/nothing")
    assert (reply.status, reply.json()["error"]["type"]) == (404, "not_found_error")


def test_a_body_that_is_too_long_is_refused_by_its_own_name() -> None:
    app = make_app(ScriptedBackend(answer("x")))
    reply = ask(app, body(system="x" * app.config.max_body_bytes))
    assert (reply.status, reply.json()["error"]["type"]) == (413, "request_too_large")


def test_a_silence_is_broken_by_pings_and_errors_then_travel_inside_the_stream() -> None:
    pause, timers = Pause(), HandTimers()
    backend = ScriptedBackend(lambda request: [started(request), pause, TextDelta(0, "a", 1)])
    client = Client(make_app(backend, timers=timers), "POST", MESSAGES, body(stream=True))

    async def main() -> None:
        task = client.start()
        await pause.reached.wait()
        timers.fire()
        await client.until(lambda reply: bool(reply.writes))
        assert client.reply.body == b'event: ping\ndata: {"type":"ping"}\n\n'
        pause.go.set()
        await task

    run(main())
    frames = [frame.split("\n")[0] for frame in client.reply.body.decode().split("\n\n")]
    # The script ends without an end, which is the backend's defect.
    assert frames == ["event: ping", "event: message_start", "event: content_block_start", "event: content_block_delta",
                      "event: error", ""]  # fmt: skip
    told = json.loads(client.reply.body.decode().split("event: error\ndata: ")[1])
    assert (told["type"], told["error"]["type"]) == ("error", "api_error")


def test_a_message_of_another_tenant_is_not_found() -> None:
    def script(request: Request) -> list[Any]:
        return [started(request), TextDelta(0, "a", 1), ChoiceFinished(0, FinishReason.STOP), Finished(Usage(7, 1, 4))]

    app = make_app(ScriptedBackend(script), keys=KeyRing(lambda: ENTRIES))

    def reason(key: str, previous: str | None) -> tuple[str, Any]:
        told = ask(app, body(diagnostics={"previous_message_id": previous}), {"x-api-key": key}).json()
        return told["id"], told["diagnostics"]

    first, none = reason("hr_anna", None)
    assert none is None
    assert reason("hr_anna", first)[1] is None
    assert reason("hr_ben", first)[1] == {"cache_miss_reason": {"type": "previous_message_not_found"}}


def test_no_more_messages_and_tenants_are_remembered_than_there_is_room_for() -> None:
    recent = RecentMessages()
    made = Fingerprint("m", b"", b"", b"", 0, b"", 1)
    for number in range(MAX_MESSAGES + 1):
        recent.add("anna", str(number), made)
    assert recent.find("anna", "0") is None
    assert recent.find("anna", "1") is made
    for number in range(MAX_TENANTS):
        recent.add(f"tenant{number}", "x", made)
    assert recent.find("anna", str(MAX_MESSAGES)) is None
    assert recent.find("tenant0", "x") is made
