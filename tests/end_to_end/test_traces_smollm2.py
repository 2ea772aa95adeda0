"""One trace of a streamed chat, from a client through a gateway's process to an engine's, as a collector has it."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.otlp_receiver import Received, collecting

PROGRAM = [sys.executable, "-c", "from headrace.cli.main import main; main()"]
TRACE_ID, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ENGINE, GATEWAY = "engine-here", "gateway-here"
INTERNAL, SERVER, CLIENT = 1, 2, 3


@asynccontextmanager
async def program(file: Path, environ: dict[str, str]) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    """A server and its port; it is stopped as by an operator."""
    pipe = asyncio.subprocess.PIPE
    log = (file.parent / "log").open("wb")
    given = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "OTEL_"))}
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, "serve", "--config", str(file), env={**given, **environ}, stdout=pipe, stderr=log
    )
    assert process.stdout is not None
    try:
        greeting = (await process.stdout.readline()).decode()
        found = re.search(r" on http://127\.0\.0\.1:(\d+)", greeting)
        assert found, (file.parent / "log").read_text("utf-8")
        yield int(found[1]), process
        process.terminate()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        log.close()


async def ask(port: int, what: str, body: object, *headers: str) -> str:
    data = b"" if body is None else json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{what} HTTP/1.1", f"host: localhost:{port}", "connection: close", *headers]
    writer.write("\r\n".join([*lines, f"content-length: {len(data)}", "", ""]).encode() + data)
    answer = (await reader.read()).decode()
    writer.close()
    return answer


def test_a_streamed_chat_through_a_gateway_to_an_engine_is_one_trace(smollm2_path: Path, tmp_path: Path) -> None:
    async def main(url: str) -> tuple[str, int, str]:
        behind, front = tmp_path / "behind", tmp_path / "front"
        for folder in (behind, front):
            folder.mkdir()
        (behind / "headrace.toml").write_text(f'port = 0\nmodel = "{smollm2_path}"\nkv_memory = "64MiB"\n', "utf-8")
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SERVICE_NAME": ENGINE}
        async with program(behind / "headrace.toml", {"HEADRACE_HOME": str(behind / "home"), **otel}) as (port, _):
            listed = re.search(r'"id":"([^"]+)"', await ask(port, "GET /v1/models", None))
            assert listed is not None
            model = listed[1]
            text = f'port = 0\n[backends.near]\nkind = "headrace"\nurl = "http://127.0.0.1:{port}/v1"\n'
            text += f'models = ["{model}"]\n[routes.chat]\ncandidates = ["near/{model}"]\n'
            text += f'[traces]\nendpoint = "{url}"\nservice = "{GATEWAY}"\ndelay = 0.05\n'
            (front / "headrace.toml").write_text(text, "utf-8")
            async with program(front / "headrace.toml", {"HEADRACE_HOME": str(front / "home")}) as (at, _):
                body = {"model": "chat", "stream": True, "max_tokens": 6, "temperature": 0}
                body["messages"] = [{"role": "user", "content": "Name the colour xanthous in one word, please."}]
                parent = f"traceparent: 00-{TRACE_ID}-{CALLER}-01"
                what = "POST /v1/chat/completions"
                return model, port, await ask(at, what, body, parent, "tracestate: vendor=opaque")

    with collecting() as collector:
        model, port, answer = asyncio.run(main(collector.url))
        spans = collector.wait(lambda found: sum(one.trace_id == TRACE_ID for one in found) == 10)
        sent = b"".join(collector.bodies)
    assert "data: [DONE]" in answer
    spans = [one for one in spans if one.trace_id == TRACE_ID]  # the list of models has a trace of its own
    by = {(one.service, one.name): one for one in spans}
    assert len(by) == len(spans)
    own = re.search(r"traceresponse: 00-([0-9a-f]{32})-([0-9a-f]{16})-01", answer)
    assert own is not None

    # One trace; each span below the one that caused it, over both processes, and the first below the client's.
    tree = {
        (GATEWAY, "POST /v1/chat/completions"): (CALLER, SERVER),
        (GATEWAY, "gateway chat"): ((GATEWAY, "POST /v1/chat/completions"), INTERNAL),
        (GATEWAY, f"chat {model}"): ((GATEWAY, "gateway chat"), CLIENT),
        (ENGINE, "POST /v1/chat/completions"): ((GATEWAY, f"chat {model}"), SERVER),
    }
    inner = [one for one in by if one[0] == ENGINE and one not in tree]
    assert {one.trace_id for one in spans} == {TRACE_ID} == {own[1]}
    assert own[2] == by[GATEWAY, "POST /v1/chat/completions"].span_id
    for name, (parent, kind) in tree.items():
        assert by[name].kind == kind, name
        assert by[name].parent_id == (parent if isinstance(parent, str) else by[parent].span_id), name
    assert {name for _, name in inner} >= {"engine queue", "engine prefill", "engine decode"}
    _check_engine([by[one] for one in inner], by[ENGINE, "POST /v1/chat/completions"])
    assert {one.state for one in spans} == {"vendor=opaque"}

    asked = by[GATEWAY, f"chat {model}"].attributes
    assert asked["gen_ai.operation.name"] == "chat"
    assert asked["gen_ai.provider.name"] == "headrace"
    assert (asked["server.address"], asked["server.port"]) == ("127.0.0.1", port)
    assert asked["gen_ai.usage.output_tokens"] == 6
    server = by[GATEWAY, "POST /v1/chat/completions"].attributes
    assert (server["http.response.status_code"], server["http.route"]) == (200, "/v1/chat/completions")
    assert {one.schema_url for one in spans} == {"https://opentelemetry.io/schemas/1.44.0"}
    # Nothing of what was said.
    assert b"xanthous" not in sent
    assert not any(name.endswith(".messages") for one in spans for name in one.attributes)


def _check_engine(spans: list[Received], server: Received) -> None:
    by = {one.name: one for one in spans}
    passage = next(one for one in spans if one.name.startswith("gateway"))
    attempt = next(one for one in spans if one.name.startswith("attempt"))
    whole = next(one for one in spans if one.name.startswith("chat"))
    assert (passage.parent_id, attempt.parent_id, whole.parent_id) == (
        server.span_id,
        passage.span_id,
        attempt.span_id,
    )
    assert whole.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert whole.attributes["gen_ai.usage.output_tokens"] == 6
    queue, prefill, decode = (by[f"engine {phase}"] for phase in ("queue", "prefill", "decode"))
    assert {one.parent_id for one in (queue, prefill, decode)} == {whole.span_id}
    assert queue.end_ns == prefill.start_ns and prefill.end_ns == decode.start_ns
    assert queue.start_ns <= queue.end_ns < prefill.end_ns < decode.end_ns
    assert decode.attributes["headrace.engine.tokens"] == 6
    assert prefill.attributes["headrace.engine.steps"] >= 1
