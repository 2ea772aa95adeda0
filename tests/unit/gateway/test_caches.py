"""Explicit caches: read once, put before requests, gone in time, and each tenant's own."""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_files import new_id
from tests.doubles_http import Client, HandClock, Reply, make_app, run
from tests.scripted import CARD, Scripted, Turn
from tests.scripted_services import ScriptedTokens

from headrace.core.backend import ModelCard
from headrace.core.cache import CacheContent
from headrace.core.errors import ContextTooLong, NotFound
from headrace.core.identity import Identity
from headrace.core.request import (
    Breakpoint,
    CacheHints,
    Message,
    Principal,
    Request,
    Role,
    TextPart,
    Tool,
    ToolMode,
)
from headrace.gateway.caches import CacheLimits, CacheService, prefixed
from headrace.memory.store import Store
from headrace.server.app import App

BOOK = "It was the best of times, it was the worst of times. " * 4
WEATHER = {
    "name": "get_weather",
    "description": "The weather.",
    "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING", "nullable": True}}},
}


class AnyTokens(ScriptedTokens):
    """Counts for adapters that are on no card, too."""

    def _card(self, request: Request) -> ModelCard:
        return super()._card(replace(request, model=request.model.partition(":")[0]))


class Keys:
    """The tenant is what the key says."""

    def authenticate(self, key: str | None) -> Identity:
        return Identity(Principal(tenant=key or "acme"), key)


class Bench:
    """The application around a scripted backend, with caches in a folder."""

    def __init__(self, app: App, backend: Scripted, clock: HandClock) -> None:
        self.app = app
        self.backend = backend
        self.clock = clock

    async def ask(self, method: str, path: str, body: Any = None, tenant: str = "acme", **headers: str) -> Reply:
        data = b"" if body is None else json.dumps(body).encode()
        bare, _, query = path.partition("?")
        client = Client(self.app, method, bare, data, {"authorization": f"Bearer {tenant}"} | headers)
        client.scope["query_string"] = query.encode()
        return await client.run()

    async def make(self, **fields: Any) -> Any:
        reply = await self.ask("POST", "/v1/caches", {"model": "scripted", "contents": BOOK} | fields)
        assert reply.status == 200, reply.body
        return reply.json()

    async def chat(self, name: str, tenant: str = "acme", **fields: Any) -> Reply:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Who?"}], "cached_content": name} | fields
        return await self.ask("POST", "/v1/chat/completions", body, tenant)


@contextlib.asynccontextmanager
async def bench(
    home: Path, *turns: Turn, limits: CacheLimits | None = None, any_model: bool = False
) -> AsyncIterator[Bench]:
    backend = Scripted(turns or [Turn(text="Him.")], remembers=True, any_model=any_model)
    clock = HandClock()
    store = Store(home / "headrace.db")
    await store.open()
    caches = CacheService(store, backend, AnyTokens(backend), clock, new_id, limits)
    try:
        yield Bench(make_app(backend, keys=Keys(), clock=clock, caches=caches), backend, clock)
    finally:
        await store.close()


def test_content_is_read_when_it_is_kept_and_counts_as_cached_when_it_is_used(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path) as it:
            made = await it.make(
                system_instruction="You know books.",
                tools=[{"function_declarations": [WEATHER]}],
                tool_config={"function_calling_config": {"mode": "NONE"}},
                ttl="300s",
                display_name="a tale",
            )
            assert made["name"].startswith("caches/")
            assert (made["model"], made["display_name"]) == ("scripted", "a tale")
            assert made["create_time"] == made["update_time"] == "2023-11-14T22:15:00.000000Z"
            assert made["expire_time"] == "2023-11-14T22:20:00.000000Z"
            num_tokens = made["usage_metadata"]["total_token_count"]
            (read,) = it.backend.requests
            assert read.limits.max_tokens == 0
            assert read.cache.breakpoints == (Breakpoint(1, 300.0),)
            it.clock.now_s += 100
            reply = await it.chat(made["name"], max_tokens=5)
            usage = reply.json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == num_tokens
            assert usage["cached_content_token_count"] == num_tokens
            assert usage["prompt_tokens"] > num_tokens
            streamed = await it.chat(made["name"], stream=True, stream_options={"include_usage": True}, max_tokens=5)
            assert streamed.frames()[-2]["usage"]["cached_content_token_count"] >= num_tokens
            asked = it.backend.requests[-1]
            assert asked.messages is not None
            assert [(one.role, one.text) for one in asked.messages] == [
                (Role.SYSTEM, "You know books."),
                (Role.USER, BOOK),
                (Role.USER, "Who?"),
            ]
            assert asked.tool_choice.mode is ToolMode.NONE
            assert asked.tools[0].parameters == {
                "type": "object",
                "properties": {"city": {"type": ["string", "null"]}},
            }
            assert asked.cache.breakpoints == (Breakpoint(1, 200.0),)  # what is left of its time
            assert asked.limits.max_tokens == 5

    run(main())


def test_a_cache_is_found_listed_changed_and_forgotten_by_its_tenant_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path) as it:
            names = [(await it.make(display_name=str(index)))["name"] for index in range(3)]
            page = (await it.ask("GET", "/v1/caches?page_size=2")).json()
            assert [one["name"] for one in page["cached_contents"]] == names[:0:-1]
            rest = (await it.ask("GET", f"/v1/caches?page_token={page['next_page_token']}")).json()
            assert [one["name"] for one in rest["cached_contents"]] == names[:1]
            assert "next_page_token" not in rest
            path = f"/v1/{names[0]}"
            assert (await it.ask("GET", path)).json()["display_name"] == "0"
            it.clock.now_s += 10
            longer = (await it.ask("PATCH", path + "?update_mask=ttl", {"ttl": "7200.5s"})).json()
            assert longer["expire_time"] == "2023-11-15T00:15:10.500000Z"
            assert longer["update_time"] > longer["create_time"]
            assert len(it.backend.requests) == 4  # kept longer, it was read again
            shorter = (await it.ask("PATCH", path, {"expire_time": "2023-11-14T23:00:00+00:00"})).json()
            assert shorter["expire_time"] == "2023-11-14T23:00:00.000000Z"
            assert len(it.backend.requests) == 4
            for method, body in (("GET", None), ("PATCH", {"ttl": "9s"}), ("DELETE", None)):
                reply = await it.ask(method, path, body, tenant="other")
                assert (reply.status, reply.error()["code"]) == (404, "not_found")
            assert (await it.chat(names[0], tenant="other")).status == 404
            assert (await it.ask("GET", "/v1/caches", tenant="other")).json() == {"cached_contents": []}
            assert (await it.ask("DELETE", path)).json() == {}
            assert (await it.ask("GET", path)).status == 404
            assert (await it.chat(names[0])).error()["param"] == "cached_content"
            assert (await it.chat(names[1].removeprefix("caches/"))).status == 200

    run(main())


def test_nothing_is_read_for_a_name_that_is_no_model_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_card(_: AnyTokens, request: Request) -> ModelCard:
        raise NotFound(f"Model {request.model} is not served here.", param="model")

    monkeypatch.setattr(AnyTokens, "_card", no_card)  # as the engine says of a route or another backend's model

    async def main() -> None:
        async with bench(tmp_path) as it:
            reply = await it.ask("POST", "/v1/caches", {"model": "scripted", "contents": BOOK})
            assert (reply.status, it.backend.requests) == (404, [])

    run(main())


def test_who_uses_a_cache_is_under_the_labels_of_its_content(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path) as it:
            body = {"model": "scripted", "contents": BOOK}
            made = await it.ask("POST", "/v1/caches", body, **{"x-headrace-labels": "restricted"})
            assert (await it.chat(made.json()["name"])).status == 200
            await it.ask("PATCH", "/v1/" + made.json()["name"], {"ttl": "7200s"})
            assert [one.labels | one.principal.labels for one in it.backend.requests] == [{"restricted"}] * 3

    run(main())


def test_an_adapter_that_nobody_has_asked_for_yet_has_caches_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path, any_model=True) as it:
            made = await it.make(model="scripted:formal")
            assert made["model"] == "scripted:formal"
            assert (await it.chat(made["name"], model="scripted:formal")).status == 200
            assert (await it.chat(made["name"])).error()["param"] == "cached_content"

    run(main())


def test_a_cache_ends_when_its_time_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path) as it:
            made = await it.make(ttl="60s")
            it.clock.now_s += 59
            assert (await it.chat(made["name"])).status == 200
            it.clock.now_s += 1
            assert (await it.chat(made["name"])).status == 404
            assert (await it.ask("GET", "/v1/" + made["name"])).status == 404
            assert (await it.ask("GET", "/v1/caches")).json() == {"cached_contents": []}

    run(main())


def test_content_outlives_the_process_that_kept_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path) as it:
            made = await it.make(messages=[{"role": "user", "content": "A"}], contents=None)
        async with bench(tmp_path) as it:
            reply = await it.chat(made["name"])
            assert reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0  # it was read anew
            assert it.backend.requests[0].messages is not None
            assert it.backend.requests[0].messages[0].text == "A"

    run(main())


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}, 400, "cached_content"),
        ({"messages": [{"role": "developer", "content": "x"}]}, 400, "cached_content"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "cached_content"),
        ({"tool_choice": "none"}, 400, "cached_content"),
        ({"model": "other"}, 404, "model"),
        ({"cached_content": "caches/none"}, 404, "cached_content"),
        ({"cached_content": 5}, 400, "cached_content"),
        ({"stream": True, "cached_content": "x"}, 404, "cached_content"),
    ],
)
def test_a_chat_that_does_not_go_with_its_cache_is_refused(
    tmp_path: Path, fields: dict[str, Any], status: int, param: str
) -> None:
    async def main() -> None:
        async with bench(tmp_path) as it:
            made = await it.make()
            reply = await it.chat(made["name"], **fields)
            assert (reply.status, reply.error()["param"]) == (status, param), reply.body

    run(main())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "other"}, "not served"),
        ({"model": ""}, "must not be empty"),
        ({"contents": None}, "contents: is missing"),
        ({"contents": []}, "contents: is missing"),
        ({"messages": [{"role": "user", "content": "x"}]}, "contents is given as well"),
        ({"contents": [{"role": "tool", "parts": [{"text": "x"}]}]}, "neither user nor model"),
        ({"contents": [{"parts": [{"inline_data": {}}]}]}, "inline_data"),
        ({"tools": [{"google_search": {}}]}, "google_search"),
        ({"tools": [{}]}, "only functions"),
        ({"tools": [{"function_declarations": [WEATHER, WEATHER]}]}, "given twice"),
        ({"tool_config": {"function_calling_config": {"mode": "SOME"}}}, "mode"),
        ({"tool_config": {"function_calling_config": {"mode": "ANY"}}}, "requires a call"),
        ({"ttl": "300"}, "ttl"),
        ({"ttl": "0s"}, "ahead"),
        ({"ttl": "99999999s"}, "ahead"),
        ({"ttl": "5s", "expire_time": "2030-01-01T00:00:00Z"}, "ttl is given as well"),
        ({"expire_time": "tomorrow"}, "expire_time"),
        ({"expire_time": "2030-01-01T00:00:00"}, "expire_time"),
        ({"expire_time": "2020-01-01T00:00:00Z"}, "ahead"),
        ({"display_name": "x" * 129}, "at most 128"),
        ({"kms_key_name": "k"}, "kms_key_name"),
        ({"nonsense": 1}, "nonsense"),
        ({"contents": "x" * 5000}, "would exceed 4000"),
    ],
)
def test_an_order_that_cannot_be_kept_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    async def main() -> None:
        async with bench(tmp_path, limits=CacheLimits(max_tenant_bytes=4000)) as it:
            reply = await it.ask("POST", "/v1/caches", {"model": "scripted", "contents": "short"} | fields)
            assert 400 <= reply.status < 500
            assert said in reply.error()["message"]
            assert it.backend.requests == []

    run(main())


def test_content_that_the_model_cannot_read_is_not_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path, Turn(error=ContextTooLong("too long."), error_after=0)) as it:
            reply = await it.ask("POST", "/v1/caches", {"model": "scripted", "contents": "x"})
            assert (reply.status, reply.error()["code"]) == (400, "context_length_exceeded")
            assert (await it.ask("GET", "/v1/caches")).json() == {"cached_contents": []}

    run(main())


def test_breakpoints_move_with_their_messages_and_the_contents_own_comes_first() -> None:
    content = CacheContent(
        messages=(Message(Role.SYSTEM, (TextPart("s"),)), Message(Role.USER, (TextPart("u"),))), tools=(Tool("f"),)
    )
    own = Message(Role.USER, (TextPart("q"),))
    points = (Breakpoint(0, 10.0), Breakpoint(None, 20.0))
    request = Request(id="r", model=CARD.id, messages=(own,), cache=CacheHints(breakpoints=points))
    joined = prefixed(request, content, 99.0)
    assert joined.messages == (*content.messages, own)
    assert joined.cache.breakpoints == (Breakpoint(1, 99.0), Breakpoint(2, 10.0), Breakpoint(None, 20.0))
    assert joined.tools == (Tool("f"),)
    many = tuple(Breakpoint(0, float(ttl_s)) for ttl_s in (10, 11, 12, 13))
    crowded = prefixed(Request(id="r", model="m", messages=(own,), cache=CacheHints(breakpoints=many)), content, 1e9)
    assert [point.ttl_s for point in crowded.cache.breakpoints] == [7 * 86_400.0, 11, 12, 13]
