"""The monitor of theft in a whole server made of a settings file: every route under one rule, by what a key may; what
operators see and take back; and that nothing changes where the table is not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_http import Reply
from tests.served import HI, Served, near, serving
from tests.upstreams import upstream

KEYS = """
[[keys]]
name = "plain"
tenant = "acme"
secret = "env:PLAIN"
[[keys]]
name = "eval"
tenant = "acme"
scopes = ["generate", "logprobs"]
secret = "env:EVAL"
[[keys]]
name = "root"
scopes = ["admin", "metrics"]
secret = "env:ROOT"
"""
ENVIRON = {"PLAIN": "plain-key-4711", "EVAL": "eval-key-4711", "ROOT": "root-key-4711"}
SAY: dict[str, Any] = {"model": "chat", "max_tokens": 1}
BEYOND: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", SAY | {"messages": HI, "logprobs": True, "top_logprobs": 20}),
    ("/v1/chat/completions", SAY | {"messages": HI, "logprobs": True, "logit_bias": {"5": 100}}),
    ("/v1/chat/completions", SAY | {"messages": HI, "logprobs": True, "logit_bias": {"5": 100}, "stream": True}),
    ("/v1/completions", SAY | {"prompt": "a", "logprobs": 1, "echo": True}),
    ("/v1/completions", SAY | {"prompt": ["a", "b"], "logprobs": 1, "logit_bias": {"5": 100}}),
    ("/v1/responses", {"model": "chat", "input": "a", "top_logprobs": 20, "include": ["message.output_text.logprobs"]}),
    ("/api/chat", {"model": "chat", "messages": HI, "logprobs": True, "top_logprobs": 20}),
    ("/api/generate", {"model": "chat", "prompt": "a", "logprobs": True, "top_logprobs": 20}),
]


def serve(tmp_path: Path, theft: str, ask: Any) -> None:
    async def main() -> None:
        async with upstream() as up, serving(tmp_path, near(up) + theft + KEYS, ENVIRON) as at:
            await ask(at)

    asyncio.run(main())


async def post(at: Served, path: str, body: dict[str, Any], key: str) -> Reply:
    return await at.ask("POST", path, body, ENVIRON[key.upper()])


def test_every_route_refuses_what_is_beyond_the_surface_by_name_and_only_without_the_scope(tmp_path: Path) -> None:
    async def ask(at: Served) -> None:
        for path, body in BEYOND:
            refused = await post(at, path, body, "plain")
            assert refused.status == 403, (path, refused.body)
            assert b"scope 'logprobs'" in refused.body or b"scope \\u0027logprobs" in refused.body
            assert (await post(at, path, body, "eval")).status != 403, path
        assert (await post(at, "/v1/chat/completions", SAY | {"messages": HI}, "plain")).status == 200
        metrics = await at.ask("GET", "/metrics", key=ENVIRON["ROOT"])
        assert metrics.status == 200

    serve(tmp_path, "[theft]\nmode = 'enforce'\n", ask)


@pytest.mark.parametrize("theft", ["", "[theft]\n", "[theft]\nmode = 'off'\n"])
def test_without_the_table_in_shadow_mode_and_off_nothing_is_refused(tmp_path: Path, theft: str) -> None:
    async def ask(at: Served) -> None:
        for path, body in BEYOND:
            assert (await post(at, path, body, "plain")).status != 403, path

    serve(tmp_path, theft, ask)


def test_an_operator_sees_who_probed_and_takes_it_back(tmp_path: Path) -> None:
    async def probe(at: Served, first: int, count: int) -> list[int]:
        found = []
        for one in range(first, first + count):
            body = SAY | {"messages": HI, "temperature": 0, "logit_bias": {str(one): 50}}
            reply = await post(at, "/v1/chat/completions", body, "plain")
            assert reply.status == 200 or b"too many" in reply.body
            found.append(reply.status)
        return found

    async def ask(at: Served) -> None:
        assert await probe(at, 0, 6) == [200, 200, 200, 200, 429, 429]
        assert await probe(at, 0, 2) == [200, 200]
        shown = await at.ask("GET", "/v1/monitors", key=ENVIRON["ROOT"])
        (flag,) = shown.json()["data"]
        assert (flag["account"], flag["monitor"], flag["count"]) == ("acme/key:plain", "theft.bias", 2)
        assert (await at.ask("GET", "/v1/monitors", key=ENVIRON["PLAIN"])).status == 403
        cleared = await at.ask("POST", "/v1/monitors/clear", {"account": flag["account"]}, ENVIRON["ROOT"])
        assert [one["monitor"] for one in cleared.json()["data"]] == ["theft.bias"]
        assert (await at.ask("GET", "/v1/monitors", key=ENVIRON["ROOT"])).json()["data"] == []

    serve(tmp_path, "[theft]\nmode = 'enforce'\nbias_vectors = 4\nprompt_bias_vectors = 100\n", ask)
    assert (tmp_path / "home" / "theft.json").is_file()
