"""A whole server from one settings file that records: whatever the protocol, whole or streamed, in bytes or in events,
each answer has one record, and what is signed there is what the client received.

The bytes are hashed here by hand, and the record is read as any reader of DSSE and in-toto would.
"""

import asyncio
import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_http import Client, Reply
from tests.gateway_server import ServedGateway, backend, serving
from tests.upstreams import die_midstream, hang_midstream, stream, upstream

from headrace.core.transcript import records_in
from headrace.memory import provenance

HI = [{"role": "user", "content": "Hi"}]
ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 20},
    "/v1/responses": {"input": "Hi"},
    "/api/chat": {"messages": HI},
}
CHAT = "/v1/chat/completions"
JUDGES = '[policy]\nmode = "enforce"\n[theft]\nmode = "shadow"\n'
RECORDS = '[records]\nmode = "enforce"\nnode = "test"\n'


async def ask(served: ServedGateway, path: str, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
    body = json.dumps({"model": "up/small"} | ASKS[path] | fields).encode()
    return await Client(served.app, "POST", path, body, headers).run()


async def record_of(served: ServedGateway, reply: Reply) -> dict[str, Any]:
    """The statement behind the answer's link."""
    link = reply.headers["link"]
    path = link.partition("<")[2].partition(">")[0]
    found = await Client(served.app, "GET", f"{path}?wait_s=5").run()
    assert found.status == 200, found.body
    return statement(json.loads(found.body)["record"]["envelope"])


async def records(served: ServedGateway) -> list[dict[str, Any]]:
    """The statements of all records, in the order of the log."""
    recorder: Any = served.gate.parts.overseers[-1]
    notary: Any = recorder.means.notary
    for item_id in list(notary._waiting):
        await notary.merged(item_id)
    found = await notary._store.read(provenance.in_range, 0, 1000)
    return [statement(one.item.envelope.decode()) for one in found if one.item.kind == "record"]


def statement(text: str) -> dict[str, Any]:
    envelope = json.loads(text)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    told: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return told


def digest_of(reply: Reply) -> str:
    data = reply.body
    if reply.headers["content-type"].startswith("text/event-stream"):
        data = b"".join(block + b"\n\n" for block in data.split(b"\n\n")[:-1] if not block.startswith(b":"))
    return hashlib.sha256(data).hexdigest()


def num_sealed(served: ServedGateway) -> int:
    recorder: Any = served.gate.parts.overseers[-1]
    count: int = recorder.counts.num_sealed
    assert recorder.counts.num_lost == 0
    return count


def body_of(told: dict[str, Any]) -> list[str]:
    return [one["digest"]["sha256"] for one in told["subject"] if one["name"] == "body"]


CASES = [
    (path, kind, is_stream)
    for path in ASKS
    for kind in ("openai", "anthropic")
    for is_stream in (False, True)
    if (path, kind) != ("/v1/completions", "anthropic")  # who has no word for it
]


@pytest.mark.parametrize(("path", "kind", "is_stream"), CASES)
def test_each_answer_has_one_record_and_it_is_signed_over_what_the_client_received(
    tmp_path: Path, path: str, kind: str, *, is_stream: bool
) -> None:
    async def main() -> None:
        async with upstream() as up, serving(tmp_path, backend(up, "up", kind) + RECORDS + JUDGES) as served:
            reply = await ask(served, path, stream=is_stream)
            assert reply.status == 200, reply.body
            told = await record_of(served, reply)
            assert body_of(told) == [digest_of(reply)]
            assert told["predicate"]["buildDefinition"]["internalParameters"]["outcome"]["state"] == "whole"
            assert told["predicate"]["buildDefinition"]["internalParameters"]["decisions"]
            assert num_sealed(served) == len(up.received) == 1
            metrics = (await Client(served.app, "GET", "/metrics").run()).body.decode()
            assert "headrace:trust_sealing_seconds_count 1.0" in metrics

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_a_stream_can_bring_its_record_along(tmp_path: Path, path: str, kind: str) -> None:
    async def main() -> None:
        async with upstream() as up, serving(tmp_path, backend(up, "up", kind) + RECORDS) as served:
            reply = await ask(served, path, {"x-headrace-record": "inline"}, stream=True)
            (comment,) = [block for block in reply.body.split(b"\n\n") if block.startswith(b": headrace-record ")]
            told = statement(base64.b64decode(comment.removeprefix(b": headrace-record ")).decode())
            assert told == await record_of(served, reply)
            assert body_of(told) == [digest_of(reply)]
            assert reply.body.split(b"\n\n").index(comment) == reply.body.count(b"\n\n") - 2, "before the last frame"

    asyncio.run(main())


def test_an_answer_whose_client_leaves_and_one_that_breaks_off_are_recorded_as_far_as_they_came(tmp_path: Path) -> None:
    frames = [b'data: {"id":"x","object":"chat.completion.chunk","choices":[]}\n\n']

    async def main() -> None:
        async with upstream() as up, serving(tmp_path, backend(up, "up", "openai") + RECORDS) as served:
            up.script += [hang_midstream(*frames), die_midstream(*frames)]
            body = json.dumps({"model": "up/small", "stream": True} | ASKS[CHAT]).encode()
            client = Client(served.app, "POST", CHAT, body)
            task = client.start()
            await client.until(lambda reply: bool(reply.writes))
            client.leave()
            await task
            broken = await ask(served, CHAT, stream=True)
            for reply, state in ((client.reply, "cancelled"), (broken, "failed")):
                told = await record_of(served, reply)
                outcome = told["predicate"]["buildDefinition"]["internalParameters"]["outcome"]
                assert (outcome["state"], outcome["is_truncated"]) == (state, True)
                assert body_of(told) == [digest_of(reply)]
            assert num_sealed(served) == 2

    asyncio.run(main())


def test_a_kept_answer_has_a_record_of_its_own_that_names_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with upstream() as up:
            text = backend(up, "up", "openai") + RECORDS + "[answer_cache]\n"
            async with serving(tmp_path, text) as served:
                first = await ask(served, CHAT, temperature=0)
                again = await ask(served, CHAT, temperature=0)
                assert again.headers["x-headrace-cache"] == "exact"
                assert first.headers["x-headrace-record"] != again.headers["x-headrace-record"]
                told = await record_of(served, again)
                assert body_of(told) == [digest_of(again)]
                assert first.headers["x-headrace-record"] in json.dumps(told["predicate"]["buildDefinition"])

    asyncio.run(main())


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("broken", ["new_id", "random"])
def test_where_records_are_monitored_a_broken_recorder_is_told_by_metrics_alone(
    tmp_path: Path, broken: str, *, is_stream: bool
) -> None:
    def defect(*_: object) -> bytes:
        raise KeyError("a defect")

    async def main() -> None:
        text = RECORDS.replace("enforce", "monitor")
        async with upstream() as up, serving(tmp_path, backend(up, "up", "openai") + text) as served:
            whole = await ask(served, CHAT, stream=is_stream)
            recorder: Any = served.gate.parts.overseers[-1]
            recorder.means = replace(recorder.means, **{broken: defect})
            reply = await ask(served, CHAT, {"x-headrace-record": "inline"}, stream=is_stream)
            assert (reply.status, reply.body) == (200, whole.body)
            assert ("x-headrace-record" in reply.headers) is (broken == "random")
            metrics = (await Client(served.app, "GET", "/metrics").run()).body.decode()
            assert "headrace:trust_lost_records_total 1.0" in metrics

    asyncio.run(main())


def test_what_a_policy_denies_goes_nowhere_and_metrics_tell_it(tmp_path: Path) -> None:
    (tmp_path / "deny.cedar").write_text(
        '@id("no-small") forbid(principal, action == Action::"request", resource) when { resource.name == "up/small" };'
    )
    policy = f'[policy]\nmode = "enforce"\nfiles = ["{tmp_path / "deny.cedar"}"]\n'

    async def main() -> None:
        async with upstream() as up, serving(tmp_path, backend(up, "up", "openai") + RECORDS + policy) as served:
            reply = await ask(served, CHAT)
            assert (reply.status, reply.error()["code"]) == (403, "policy_denied")
            assert not up.received
            metrics = (await Client(served.app, "GET", "/metrics").run()).body.decode()
            assert 'headrace:trust_decisions_total{action="request",outcome="denied"} 1.0' in metrics
            assert "headrace:trust_denials_total" in metrics
            assert "headrace:trust_records_total 0.0" in metrics

    asyncio.run(main())


def test_what_goes_on_without_its_client_is_recorded_when_it_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with upstream() as up, serving(tmp_path, backend(up, "up", "openai") + RECORDS) as served:
            up.script.append(hang_midstream())
            body = json.dumps({"model": "up/small", "input": "Hi", "background": True, "stream": True}).encode()
            client = Client(served.app, "POST", "/v1/responses", body)
            task = client.start()
            await client.until(lambda reply: bool(reply.writes))
            response_id = json.loads(client.reply.body.partition(b"data: ")[2].partition(b"\n")[0])["response"]["id"]
            client.leave()
            await task
            assert num_sealed(served) == 0
            up.go.set()
            followed = await Client(served.app, "GET", f"/v1/responses/{response_id}?stream=true").run()
            assert followed.is_complete
            assert num_sealed(served) == 1
            (kept,) = await records(served)
            assert body_of(kept) == [], "nobody knows the bytes that its answer will be told in"
            assert kept["predicate"]["buildDefinition"]["internalParameters"]["outcome"]["state"] == "whole", (
                "the backend was asked again"
            )

    asyncio.run(main())


def test_several_prompts_have_a_record_each_and_one_of_them_the_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        async with upstream() as up, serving(tmp_path, backend(up, "up", "openai") + RECORDS) as served:
            reply = await ask(served, "/v1/completions", prompt=["One", "Two"])
            assert reply.status == 200
            assert num_sealed(served) == 2
            told = await records(served)
            assert sorted(body_of(one) for one in told) == [[], [digest_of(reply)]]
            assert body_of(await record_of(served, reply)) == [digest_of(reply)]

    asyncio.run(main())


def test_requests_that_call_themselves_the_same_have_records_of_their_own(tmp_path: Path) -> None:
    same = {"x-request-id": "one", "idempotency-key": "one", "x-headrace-session": "one"}

    async def main() -> None:
        async with upstream() as up, serving(tmp_path, backend(up, "up", "openai") + RECORDS) as served:
            asked = [ask(served, CHAT, same, stream=bool(number % 2)) for number in range(6)]
            replies = await asyncio.gather(*asked)
            assert len({reply.headers["x-headrace-record"] for reply in replies}) == 6
            for reply in replies:
                assert body_of(await record_of(served, reply)) == [digest_of(reply)]
            assert num_sealed(served) == 6

    asyncio.run(main())


def test_a_record_that_a_backend_or_a_model_puts_into_a_stream_is_not_the_servers(tmp_path: Path) -> None:
    forged = b": headrace-record " + base64.b64encode(b'{"payload":"e30=","signatures":[]}')
    said = {"id": "x", "object": "chat.completion.chunk", "model": "small", "created": 1}
    said["choices"] = [{"index": 0, "delta": {"content": f"\n{forged.decode()}\n\n"}, "finish_reason": "stop"}]  # type: ignore[assignment]
    frames = [forged + b"\n\n", b"data: " + json.dumps(said).encode() + b"\n\n", b"data: [DONE]\n\n"]

    async def main() -> None:
        async with upstream() as up, serving(tmp_path, backend(up, "up", "openai") + RECORDS) as served:
            up.respond = lambda _: stream(frames)
            reply = await ask(served, CHAT, {"x-headrace-record": "inline"}, stream=True)
            assert body_of(await record_of(served, reply)) == [digest_of(reply)]
            *others, own = [base64.b64decode(one) for one in records_in(reply.body)]
            assert len(others) <= 1, "what the model says in its text is none"
            assert statement(own.decode()) == await record_of(served, reply)

    asyncio.run(main())
