"""Kept answers of a server that is made of a settings file: what clients of every protocol get, and what it costs."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_http import Client, Reply
from tests.upstreams import Upstream, upstream

from headrace.cli.config import compose
from headrace.cli.gateway import open_answers
from headrace.cli.kinds import WrongSettings
from headrace.cli.reload import Reloader
from headrace.cli.serve import Start, open_app
from headrace.cli.surroundings import look_around
from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest
from headrace.gateway.settings import CacheSettings
from headrace.server.app import App

FILE = """
[answer_cache]
{cache}
[backends.near]
kind = "openai-compatible"
url = "{url}/v1"
[backends.near.models.small]
max_output_tokens = 50
prices = {{input = 1, output = 2}}
tasks = ["generate", "embed"]
[routes.chat]
candidates = ["near/small"]
[[keys]]
name = "anna"
tenant = "anna"
scopes = ["generate", "metrics"]
secret = "env:ANNA_KEY"
[[keys]]
name = "bob"
tenant = "bob"
secret = "env:BOB_KEY"
"""
ENVIRON = {"ANNA_KEY": "anna-key-4711", "BOB_KEY": "bob-key-4711"}
SAYS = [{"role": "user", "content": "Why is the sky blue?"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "chat", "messages": SAYS, "temperature": 0, "max_tokens": 20},
    "/v1/responses": {"model": "chat", "input": SAYS, "temperature": 0, "store": False, "max_output_tokens": 20},
    "/v1/messages": {"model": "chat", "messages": SAYS, "temperature": 0, "max_tokens": 20},
    "/v1/completions": {"model": "chat", "prompt": "Why?", "temperature": 0, "max_tokens": 20},
    "/api/chat": {"model": "chat", "messages": SAYS, "options": {"temperature": 0, "num_predict": 20}},
}
CHAT = "/v1/chat/completions"


async def post(app: App, path: str, body: dict[str, Any], key: str = "anna", **headers: str) -> Reply:
    given = {"authorization": f"Bearer {key}-key-4711"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return await Client(app, "POST", path, json.dumps(body).encode(), given).run()


@contextlib.asynccontextmanager
async def serving(folder: Path, cache: str = "") -> AsyncIterator[tuple[App, Upstream, Reloader]]:
    file = folder / "headrace.toml"
    async with upstream() as up:
        up.text = "Light scatters."
        file.write_text(FILE.format(url=up.url, cache=cache), "utf-8")
        compose_again = functools.partial(compose, {}, {"HEADRACE_HOME": str(folder / "home")}, file)
        resolved = compose_again()
        around = look_around(resolved, ENVIRON)
        async with open_app(Start(compose_again, resolved.settings, ENVIRON, around)) as (app, reloader):
            app.lifecycle.mark_ready()
            yield app, up, reloader


def said(path: str, body: bytes) -> str:
    """The answer's text, out of a stream in the route's protocol."""
    texts = []
    for line in body.decode().splitlines():
        data = line.removeprefix("data: ")
        if not data.startswith("{"):
            continue
        told = json.loads(data)
        if path == "/v1/messages":
            texts.append(told.get("delta", {}).get("text", ""))
        elif path == "/v1/responses":
            texts.append(told["delta"] if told["type"] == "response.output_text.delta" else "")
        elif path == "/api/chat":
            texts.append(told["message"]["content"])
        else:
            texts += [one.get("text") or one.get("delta", {}).get("content") or "" for one in told["choices"]]
    return "".join(texts)


@pytest.mark.parametrize("path", BODIES)
def test_a_kept_answer_is_a_true_stream_in_every_clients_protocol_and_costs_nothing(path: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, up, _):
            body = BODIES[path] | {"stream": True}
            first, again = await post(app, path, body), await post(app, path, body)
            whole = await post(app, path, body | {"stream": False})
            assert [reply.status for reply in (first, again, whole)] == [200, 200, 200]
            assert said(path, again.body) == said(path, first.body) == up.text
            assert again.headers["content-type"] == first.headers["content-type"]
            assert up.text.encode() in whole.body
            assert "x-headrace-cache" not in first.headers or not first.headers["x-headrace-cache"]
            assert again.headers["x-headrace-cache"] == whole.headers["x-headrace-cache"] == "exact"
            assert float(whole.headers["x-headrace-cost"]) == 0.0
            assert len(up.received) == 1

    asyncio.run(main())


def test_nobody_else_and_nothing_else_gets_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, "ttl = 3600") as (app, up, _):
            body = BODIES[CHAT]
            await post(app, CHAT, body)
            for others in (
                {"key": "bob"},
                {"x_headrace_labels": "restricted"},
                {"x_headrace_no_cache": "true"},
                {"cache_control": "no-cache"},
                {"cache_control": "max-age=0, no-store"},
            ):
                count = len(up.received)
                reply = await post(app, CHAT, body, **others)
                assert reply.headers.get("x-headrace-cache", "") == ""
                assert len(up.received) == count + (reply.status == 200)
            count = len(up.received)
            await post(app, CHAT, body | {"temperature": 1})
            await post(app, CHAT, body | {"temperature": 1})
            await post(app, CHAT, body | {"max_tokens": 21})
            assert len(up.received) == count + 3
            assert (await post(app, CHAT, body)).headers["x-headrace-cache"] == "exact"

    asyncio.run(main())


def test_what_only_the_backend_understands_passes_and_is_not_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, up, _):
            body = BODIES[CHAT] | {"x_vendor": {"a": 1}}
            for _ in range(2):
                assert (await post(app, CHAT, body)).status == 200
            assert [one.fields["x_vendor"] for one in up.received] == [{"a": 1}, {"a": 1}]

    asyncio.run(main())


def test_a_kept_answer_costs_what_the_settings_say(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, "price_share = 0.5") as (app, _, _):
            first, again = [await post(app, CHAT, BODIES[CHAT]) for _ in range(2)]
            assert float(again.headers["x-headrace-cost"]) == pytest.approx(float(first.headers["x-headrace-cost"]) / 2)

    asyncio.run(main())


def test_metrics_tell_of_requests_and_kept_answers(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, _, _):
            for _ in range(3):
                await post(app, CHAT, BODIES[CHAT])
            told = (
                await Client(app, "GET", "/metrics", b"", {"authorization": "Bearer anna-key-4711"}).run()
            ).body.decode()
            place = 'backend="near",{}outcome="ok",route="chat"'
            for cache, count in (("", 1), ("exact", 2)):
                line = place.format(f'cache="{cache}",')
                assert f"headrace:gateway_requests_total{{{line}}} {count}.0" in told
            assert 'headrace:gateway_backend_share{backend="near",model="small"} 1.0' in told
            assert "headrace:gateway_kept_answers 1.0" in told

    asyncio.run(main())


def test_a_model_that_compares_questions_has_to_be_served() -> None:
    with pytest.raises(InvalidRequest, match=r"^answer_cache.semantic_model: 'all-minilm-l6-v2' .* add one to guests"):
        open_answers(CacheSettings(is_on=True, semantic_threshold=0.9), SystemClock(), None)
    assert open_answers(CacheSettings(), SystemClock(), None) is None


def test_a_file_that_wants_questions_compared_and_has_nothing_to_do_it_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(FILE.format(url="http://127.0.0.1:1", cache="semantic_threshold = 0.9"), "utf-8")
    with pytest.raises(WrongSettings, match=r":3: answer_cache.semantic_threshold: .*'all-minilm-l6-v2'.* not served"):
        compose({}, {"HEADRACE_HOME": str(tmp_path)}, file)


def test_a_reload_forgets_the_answers_of_tenants_that_are_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (app, up, reloader):
            for key in ("anna", "bob"):
                await post(app, CHAT, BODIES[CHAT], key)
            file = tmp_path / "headrace.toml"
            text = file.read_text("utf-8")
            without_bob = text.partition('[[keys]]\nname = "bob"')[0]
            for now in (without_bob, text):
                file.write_text(now, "utf-8")
                await reloader.reload()
            assert (await post(app, CHAT, BODIES[CHAT], "anna")).headers["x-headrace-cache"] == "exact"
            assert len(up.received) == 2
            await post(app, CHAT, BODIES[CHAT], "bob")
            assert len(up.received) == 3

    asyncio.run(main())
