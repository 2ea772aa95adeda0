"""A whole server that traces: what goes to its backends and its callers, and what its collector is told."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.loopback import listening
from tests.otlp_receiver import Collector, Received, collecting
from tests.served import HI, Served, near, serving
from tests.socket_client import SocketClient
from tests.upstreams import Upstream, upstream
from websockets.asyncio.client import connect

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CLIENTS = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "a=b"}
SERVER, INTERNAL, CLIENT = 2, 1, 3

Body = Callable[[Served, Upstream], Awaitable[None]]


def traced(folder: Path, body: Body, more: str = "", table: str = "") -> tuple[dict[str, Received], Collector]:
    """What a collector is told of what was asked, by the names of spans."""

    async def main(url: str) -> None:
        settings = f'[traces]\nendpoint = "{url}"\n{table}\n'
        async with upstream() as up, serving(folder, near(up, more + settings)) as served:
            await body(served, up)

    with collecting() as collector:
        asyncio.run(main(collector.url))
        spans = collector.wait(lambda _: True)
    assert len({one.span_id for one in spans}) == len(spans)
    return {one.name: one for one in spans}, collector


@pytest.mark.parametrize("more", ["", "[answer_cache]\n"], ids=["in bytes", "in events"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_backend_is_asked_below_the_attempt_whichever_way_its_answer_comes(
    more: str, stream: bool, tmp_path: Path
) -> None:
    async def body(served: Served, up: Upstream) -> None:
        reply = await served.ask("POST", "/v1/chat/completions", {**CHAT, "stream": stream}, **CLIENTS)
        assert reply.status == 200
        sent.append((up.received[0].header("traceparent"), up.received[0].header("tracestate")))
        sent.append((reply.headers["traceresponse"], None))

    sent: list[tuple[str | None, str | None]] = []
    spans, _ = traced(tmp_path, body, more)
    server, gateway, attempt = spans["POST /v1/chat/completions"], spans["gateway chat"], spans["chat small"]
    assert (server.parent_id, gateway.parent_id, attempt.parent_id) == (CALLER, server.span_id, gateway.span_id)
    assert (server.kind, gateway.kind, attempt.kind) == (SERVER, INTERNAL, CLIENT)
    assert {one.trace_id for one in spans.values()} == {TRACE}
    assert sent == [(f"00-{TRACE}-{attempt.span_id}-01", "a=b"), (f"00-{TRACE}-{server.span_id}-01", None)]
    found = attempt.attributes
    assert (found["gen_ai.request.model"], found["gen_ai.provider.name"]) == ("small", "openai-compatible")
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (7, 3)
    assert found["server.address"] == "127.0.0.1"
    assert gateway.attributes["headrace.cost"] == pytest.approx(13e-6)
    assert (server.attributes["http.response.status_code"], server.attributes["headrace.outcome"]) == (200, "ok")
    if more:
        assert found["gen_ai.response.finish_reasons"] == ["stop"]


CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "A secret wish."}], "temperature": 0}


def test_what_was_said_is_told_only_where_an_operator_asked_for_it(tmp_path: Path) -> None:
    async def body(served: Served, _: Upstream) -> None:
        assert (await served.ask("POST", "/v1/chat/completions", CHAT)).status == 200

    spans, collector = traced(tmp_path, body)
    assert b"secret wish" not in b"".join(collector.bodies) and b"Hello there" not in b"".join(collector.bodies)
    spans, _ = traced(tmp_path, body, table="captures_content = true")
    found = spans["chat small"].attributes
    assert json.loads(found["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "A secret wish."}]}
    ]
    assert json.loads(found["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Hello there."}], "finish_reason": "stop"}
    ]


def test_content_that_only_its_backend_understands_passes_as_it_is_and_untold(tmp_path: Path) -> None:
    async def body(served: Served, _: Upstream) -> None:
        assert (await served.chat(new_field={"a": 1})).status == 200

    spans, _ = traced(tmp_path, body, table="captures_content = true")
    assert not any(name.endswith(".messages") for name in spans["chat small"].attributes)


def test_each_attempt_is_told_with_what_it_failed_by(tmp_path: Path) -> None:
    async def body(served: Served, up: Upstream) -> None:
        broken = b"HTTP/1.1 503 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        up.script += [[broken]]
        reply = await served.chat()
        assert reply.status == 200, reply.body

    with collecting() as collector:

        async def main() -> None:
            async with upstream() as up:
                far = f'[backends.far]\nkind = "openai-compatible"\nurl = "{up.url}/v1"\nmodels = ["other"]\n'
                traces = f'[traces]\nendpoint = "{collector.url}"\n'
                text = near(up, traces + far) + 'fallbacks = ["far/other"]\n'
                async with serving(tmp_path, text) as served:
                    await body(served, up)

        asyncio.run(main())
        spans = collector.wait(lambda _: True)
    attempts = sorted((one for one in spans if one.kind == CLIENT), key=lambda one: one.start_ns)
    (server,) = (one for one in spans if one.kind == SERVER)
    (gateway,) = (one for one in spans if one.name == "gateway chat")
    assert [one.error for one in attempts] == ["overloaded", ""]
    assert [one.attributes.get("error.type", "") for one in attempts] == [one.error for one in attempts]
    assert {one.parent_id for one in attempts} == {gateway.span_id}
    assert (server.error, gateway.error, gateway.attributes["headrace.attempts"]) == ("", "", 2)


def test_a_request_that_is_refused_is_told_and_is_the_callers_error(tmp_path: Path) -> None:
    async def body(served: Served, up: Upstream) -> None:
        assert (await served.chat(model="nowhere")).status == 404
        assert up.received == []

    spans, _ = traced(tmp_path, body)
    server, gateway = spans["POST /v1/chat/completions"], spans["gateway"]
    assert (server.error, server.attributes["error.type"]) == ("", "model_not_found")
    assert gateway.error == "model_not_found"


def test_embeddings_are_told_by_their_name(tmp_path: Path) -> None:
    async def body(served: Served, _: Upstream) -> None:
        assert (await served.ask("POST", "/v1/embeddings", {"model": "chat", "input": "a"})).status == 200

    spans, _ = traced(tmp_path, body)
    assert spans["embeddings small"].attributes["gen_ai.operation.name"] == "embeddings"


def test_machines_that_look_every_few_seconds_are_told_only_where_they_trace(tmp_path: Path) -> None:
    async def body(served: Served, _: Upstream) -> None:
        for path in ("/health", "/ready", "/metrics", "/v1/live?once=true"):
            await served.ask("GET", path)
        await served.ask("GET", "/health", **CLIENTS)

    spans, _ = traced(tmp_path, body)
    assert [(name, one.trace_id) for name, one in spans.items()] == [("GET /health", TRACE)]


def test_a_caller_who_samples_nothing_is_passed_on_and_not_told(tmp_path: Path) -> None:
    async def body(served: Served, up: Upstream) -> None:
        await served.ask("POST", "/v1/chat/completions", CHAT, traceparent=f"00-{TRACE}-{CALLER}-00")
        sent = up.received[0].header("traceparent")
        assert sent is not None and sent.startswith(f"00-{TRACE}-") and sent.endswith("-00") and CALLER not in sent

    spans, _ = traced(tmp_path, body)
    assert spans == {}


def test_no_share_no_spans_but_a_context_of_ours_for_backends(tmp_path: Path) -> None:
    async def body(served: Served, up: Upstream) -> None:
        await served.chat(traceparent="nonsense")
        sent = up.received[0].header("traceparent")
        assert sent is not None and sent.endswith("-00")

    spans, _ = traced(tmp_path, body, table="sample_ratio = 0")
    assert spans == {}


def test_without_traces_a_callers_context_passes_as_it_came(tmp_path: Path) -> None:
    async def main() -> None:
        async with upstream() as up, serving(tmp_path, near(up)) as served:
            reply = await served.ask("POST", "/v1/chat/completions", CHAT, **CLIENTS)
            assert up.received[0].header("traceparent") == CLIENTS["traceparent"]
            assert "traceresponse" not in reply.headers

    asyncio.run(main())


_OFF = """
import asyncio, pathlib, sys
from tests.served import near, serving
from tests.upstreams import upstream

async def main():
    async with upstream() as up, serving(pathlib.Path(sys.argv[1]), near(up)) as served:
        assert (await served.chat()).status == 200
    print(sorted(name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "requests", "google")))

asyncio.run(main())
"""


def test_a_server_without_traces_imports_nothing_for_them(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, "-c", _OFF, str(tmp_path)], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_lines_of_a_request_name_it_and_its_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(served: Served, _: Upstream) -> None:
        with caplog.at_level("INFO", "headrace.access"):
            await served.ask("POST", "/v1/chat/completions", {"model": "chat", "messages": HI}, **CLIENTS)

    traced(tmp_path, body)
    (line,) = (one.headrace_fields for one in caplog.records if hasattr(one, "headrace_fields"))
    assert line["trace_id"] == TRACE and line["request_id"].startswith("req_")


def test_a_line_of_a_batch_is_a_trace_of_its_own_linked_to_its_order(tmp_path: Path) -> None:
    async def body(served: Served, up: Upstream) -> None:
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
        form = (
            b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
            + json.dumps(line).encode()
            + b"\r\n--x--\r\n"
        )
        reply = await served.ask("POST", "/v1/files", form, content_type="multipart/form-data; boundary=x")
        order = {"input_file_id": reply.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = (await served.ask("POST", "/v1/batches", order, **CLIENTS)).json()
        async with asyncio.timeout(20):
            await up.wait_received(1)
            while (await served.ask("GET", f"/v1/batches/{batch['id']}")).json()["status"] != "completed":  # noqa: ASYNC110
                await asyncio.sleep(0)
        batches.append(batch["id"])

    batches: list[str] = []
    spans, _ = traced(tmp_path, body)
    line, order, attempt = spans["batch line"], spans["POST /v1/batches"], spans["chat small"]
    assert line.links == ((TRACE, order.span_id),)
    assert line.parent_id == "" and line.trace_id != TRACE
    assert line.attributes == {"headrace.batch.id": batches[0], "headrace.batch.line": 1}
    assert attempt.trace_id == spans["gateway chat"].trace_id == line.trace_id
    assert spans["gateway chat"].parent_id == line.span_id


def test_turns_of_a_websocket_are_below_its_handshake(tmp_path: Path) -> None:
    async def body(served: Served, _: Upstream) -> None:
        async with listening(served.app) as (_, port):
            url = f"ws://127.0.0.1:{port}/v1/responses"
            async with asyncio.timeout(30), connect(url, additional_headers=CLIENTS) as connection:
                for _ in range(2):
                    await SocketClient(connection).turn(model="chat")

    with collecting() as collector:

        async def main() -> None:
            text = f'port = 0\n[traces]\nendpoint = "{collector.url}"\n'
            async with upstream() as up, serving(tmp_path, near(up, text)) as served:
                await body(served, up)

        asyncio.run(main())
        spans = collector.wait(lambda _: True)
    (handshake,) = (one for one in spans if one.name == "GET /v1/responses")
    turns = [one for one in spans if one.name == "MESSAGE /v1/responses"]
    passages = [one for one in spans if one.name == "gateway chat"]
    assert (handshake.parent_id, {one.trace_id for one in spans}) == (CALLER, {TRACE})
    assert [one.parent_id for one in turns] == [handshake.span_id] * 2
    assert {one.parent_id for one in passages} == {one.span_id for one in turns}
