"""What other gateways' budgets let through, through a whole server of ours: every way to a model is counted, and
refused where a budget says so.

LiteLLM: concurrent requests (34732), fresh deployments (26672), pass-through (13882), end users (9658), keys (23714),
one large request (4829), a bad price that locked out those without a budget (20615). Bifrost: pass-through (2873).
"""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_http import Reply
from tests.loopback import listening
from tests.served import HI, Served, near, serving
from tests.socket_client import SocketClient
from tests.upstreams import hang_before, upstream
from websockets.asyncio.client import connect

from headrace.cli.keys import KeyRights, add_key

BUDGET = '[[budgets]]\nname = "little"\nsubject = "{subject}"\nwindow = "total"\n{measure}\n'
TEXT = {"type": "text", "text": "Hi"}

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "passed through": ("/v1/chat/completions", {"messages": HI}),
    "streamed": ("/v1/chat/completions", {"messages": HI, "stream": True}),
    "several choices": ("/v1/chat/completions", {"messages": HI, "n": 2}),
    "completed": ("/v1/completions", {"prompt": "Hi"}),
    "embedded": ("/v1/embeddings", {"input": ["Hi"]}),
    "translated": ("/v1/messages", {"messages": HI, "max_tokens": 20}),
    "translated and streamed": ("/v1/messages", {"messages": HI, "max_tokens": 20, "stream": True}),
    "responded": ("/v1/responses", {"input": "Hi"}),
    "responded and streamed": ("/v1/responses", {"input": "Hi", "stream": True}),
    "chatted": ("/api/chat", {"messages": HI}),
}


def issue(folder: Path, **rights: Any) -> str:
    path = folder / "home" / "keys.toml"
    path.parent.mkdir(exist_ok=True)
    return add_key(path, "anna", KeyRights(tenant="acme", **rights), datetime.now(UTC))


async def records(served: Served) -> list[dict[str, Any]]:
    (accounts,) = [route for route in served.app.routes if route.name == "/v1/accounts/usage"]
    assert accounts.scope == "accounts"
    path = served.home / "keys.toml"
    boss = add_key(path, f"boss-{len(path.read_text())}", KeyRights(scopes=("accounts",)), datetime.now(UTC))
    assert served.app.keys is not None
    served.app.keys.reload()
    listed: list[dict[str, Any]] = (await served.ask("GET", "/v1/accounts/usage", key=boss)).json()["data"]
    return listed


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_model_is_in_the_records_under_its_key(way: str, tmp_path: Path) -> None:
    path, fields = WAYS[way]

    async def main() -> None:
        key = issue(tmp_path)
        async with upstream() as up, serving(tmp_path, near(up)) as served:
            reply = await served.ask("POST", path, {"model": "chat"} | fields, key)
            assert reply.status == 200, reply.json()
            (record,) = await records(served)
            assert (record["tenant"], record["key"], record["route"]) == ("acme", "anna", "chat")
            assert (record["outcome"], record["prompt_tokens"]) == ("ok", 7)
            assert record["cost_nanos"] == 7000 + 2000 * record["completion_tokens"] > 0

    asyncio.run(main())


@pytest.mark.parametrize("subject", ["all", "tenant:acme", "key:*", "user:*", "tag:night", "route:chat"])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_a_model_leads_past_a_budget_on_a_fresh_deployment(way: str, subject: str, tmp_path: Path) -> None:
    path, fields = WAYS[way]

    async def main() -> None:
        key = issue(tmp_path, user="anna", tags=("night",))
        text = BUDGET.format(subject=subject, measure="money = 1e-6")
        async with upstream() as up, serving(tmp_path, near(up, text)) as served:
            reply = await served.ask("POST", path, {"model": "chat"} | fields, key)
            assert up.received == []
            assert "'little'" in _said(reply)
            assert await records(served) == []

    asyncio.run(main())


@pytest.mark.parametrize("is_over", [False, True])
def test_a_turn_over_a_websocket_is_counted_and_refused_like_every_other(is_over: bool, tmp_path: Path) -> None:
    async def main() -> None:
        key = issue(tmp_path)
        text = BUDGET.format(subject="key:anna", measure="money = 1e-6") if is_over else ""
        async with upstream() as up, serving(tmp_path, near(up, text)) as served, listening(served.app) as (_, port):
            headers = {"authorization": f"Bearer {key}"}
            async with connect(f"ws://127.0.0.1:{port}/v1/responses", additional_headers=headers) as connection:
                client = SocketClient(connection)
                last = await client.turn("Hi", model="chat")
                assert (last["type"] == "response.completed") != is_over
                assert ("'little'" in json.dumps(last)) == is_over
            assert len(up.received) == (not is_over)
            found = await records(served)
            assert [(one["key"], one["cost_nanos"]) for one in found] == ([] if is_over else [("anna", 13_000)])

    asyncio.run(main())


def test_requests_at_once_cannot_spend_a_budget_twice(tmp_path: Path) -> None:
    """Three worst cases fit: of twenty requests that come together, three are asked."""

    async def main() -> None:
        key = issue(tmp_path)
        # A prompt is bounded by its bytes, an answer by max_tokens: what one request sets aside is told by a refusal.
        text = BUDGET.format(subject="key:*", measure="tokens = 1")
        async with upstream() as up, serving(tmp_path, near(up, text)) as served:
            said = (await served.chat(key, max_tokens=20)).json()["error"]["message"]
        worst = int(said.partition("could cost ")[2].partition(" ")[0])
        text = BUDGET.format(subject="key:*", measure=f"tokens = {3 * worst + worst // 2}")
        async with upstream() as up, serving(tmp_path, near(up, text)) as served:
            up.script.extend([hang_before()] * 3)
            asked = [asyncio.create_task(served.chat(key, max_tokens=20)) for _ in range(20)]
            await up.wait_received(3)
            done, running = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 17:
                more, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            assert {task.result().status for task in done} == {429}
            assert len(up.received) == 3
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    asyncio.run(main())


def test_a_batch_is_counted_line_by_line_under_the_key_that_ordered_it(tmp_path: Path) -> None:
    async def main() -> None:
        key = issue(tmp_path)
        async with upstream() as up, serving(tmp_path, near(up)) as served:
            lines = [
                json.dumps(
                    {
                        "custom_id": f"l{number}",
                        "method": "POST",
                        "url": "/v1/chat/completions",
                        "body": {"model": "chat", "messages": HI},
                    }
                )
                for number in range(3)
            ]
            form = (
                '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\ncontent-disposition: '
                'form-data; name="file"; filename="x.jsonl"\r\n\r\n' + "\n".join(lines) + "\r\n--b--\r\n"
            ).encode()
            sent = await served.ask("POST", "/v1/files", form, key, content_type="multipart/form-data; boundary=b")
            order = {"input_file_id": sent.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            batch = (await served.ask("POST", "/v1/batches", order, key)).json()
            while batch["status"] not in {"completed", "failed"}:
                await asyncio.sleep(0.01)
                batch = (await served.ask("GET", f"/v1/batches/{batch['id']}", key=key)).json()
            assert batch["request_counts"]["completed"] == 3
            found = await records(served)
            assert [(one["key"], one["tenant"], one["cost_nanos"]) for one in found] == [("anna", "acme", 13_000)] * 3

    asyncio.run(main())


def test_an_answer_that_is_given_again_is_counted_too(tmp_path: Path) -> None:
    async def main() -> None:
        key = issue(tmp_path)
        text = "[answer_cache]\non = true\n"
        async with upstream() as up, serving(tmp_path, near(up) + text) as served:
            for _ in range(2):
                assert (await served.chat(key, temperature=0)).status == 200
            assert len(up.received) == 1
            again, first = await records(served)
            assert (first["cache"], first["cost_nanos"]) == ("", 13_000)
            assert (again["cache"], again["cost_nanos"], again["key"]) == ("exact", 0, "anna")
            assert again["saved_nanos"] == 13_000

    asyncio.run(main())


def test_a_price_that_is_absurd_keeps_out_nobody_who_has_no_budget(tmp_path: Path) -> None:
    async def main() -> None:
        key = issue(tmp_path)
        text = BUDGET.format(subject="tenant:other", measure="money = 1")
        async with upstream() as up:
            dear = near(up, text).replace("input = 1,", "input = 1e6,")
            async with serving(tmp_path, dear) as served:
                assert (await served.chat(key)).status == 200

    asyncio.run(main())


def test_one_request_that_is_larger_than_all_that_is_left_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        key = issue(tmp_path)
        text = BUDGET.format(subject="all", measure="tokens = 500")
        async with upstream() as up, serving(tmp_path, near(up, text)) as served:
            large = [{"role": "user", "content": "x" * 600}]
            refused = await served.chat(key, messages=large)
            assert (refused.status, refused.json()["error"]["code"]) == (429, "budget_exceeded")
            assert (await served.chat(key)).status == 200

    asyncio.run(main())


@pytest.mark.parametrize("tokens", [10**12, 2**62, 2**63, 10**40])
def test_a_backend_that_tells_absurd_counts_stops_neither_the_books_nor_who_comes_next(
    tokens: int, tmp_path: Path
) -> None:
    async def main() -> None:
        key = issue(tmp_path)
        async with upstream() as up:
            dear = near(up).replace("input = 1,", "input = 1e6,")
            async with serving(tmp_path, dear) as served:
                up.usage = (tokens, 3)
                for is_stream in (False, True):
                    await served.chat(key, stream=is_stream)
                up.usage = (7, 3)
                assert (await served.chat(key)).status == 200
                last, *others = await records(served)
                assert last["cost_nanos"] == 7 * 10**9 + 6000
                # What can be kept of them: a hundred thousand of the unit, or what was set aside.
                assert len(others) == 2
                assert all(0 < one["cost_nanos"] <= 10**14 for one in others)

    asyncio.run(main())


def test_names_that_are_no_text_are_refused_or_kept_and_stop_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        key = issue(tmp_path)
        async with upstream() as up, serving(tmp_path, near(up)) as served:
            for user in (b'"\\ud800"', b'"\\u0000"', b'"' + "\u00e9".encode() + b'"'):
                body = b'{"model":"chat","messages":[{"role":"user","content":"Hi"}],"user":' + user + b"}"
                assert (await served.ask("POST", "/v1/chat/completions", body, key)).status in {200, 400}
            assert (await served.chat(key)).status == 200
            assert len(await records(served)) >= 2

    asyncio.run(main())


def _said(reply: Reply) -> str:
    """The refusal: a status of its own, or, where a protocol keeps failed answers, the answer's error."""
    if reply.status == 429:
        return reply.body.decode()
    assert reply.status == 200
    assert b"failed" in reply.body or b"error" in reply.body
    return reply.body.decode()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models", None),
        ("GET", "/api/tags", None),
        ("GET", "/api/ps", None),
        ("POST", "/api/show", {"model": "small"}),
        ("POST", "/api/generate", {"model": "small"}),
    ],
)
def test_a_key_is_told_of_the_models_alone_that_it_may_ask_for(
    method: str, path: str, body: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        key = issue(tmp_path, routes=("chat",))
        async with upstream() as up, serving(tmp_path, near(up)) as served:
            reply = await served.ask(method, path, body, key)
            assert reply.status == (200 if body is None else 404)
            assert body is not None or (b"chat" in reply.body and b"small" not in reply.body)

    asyncio.run(main())
