"""Completions that are kept, as the official client stores, lists, reads, changes and forgets them."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.doubles_http import Client, chat, make_app, run
from tests.loopback import listening
from tests.scripted import Call, Scripted, Turn, has_tool

from headrace.core.errors import EngineFault
from headrace.core.identity import Identity
from headrace.core.request import Principal
from headrace.memory.completions import CompletionStore
from headrace.memory.store import Store
from headrace.server.config import ServerConfig
from headrace.server.keys import KeyRing

Clients = tuple[openai.AsyncOpenAI, openai.AsyncOpenAI]
HI: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "look"}}]
TURNS = [Turn(calls=(Call("look", "{}"),), when=has_tool("look")), Turn(text="Hello there.")]


class _Ring(KeyRing):
    """Every key is its own tenant's."""

    def __init__(self) -> None:
        pass

    def authenticate(self, key: str | None) -> Identity:
        return Identity(Principal(tenant=key or "", scopes=frozenset({"generate"})), key)


@contextlib.asynccontextmanager
async def keeping(path: Path, turns: list[Turn] = TURNS, max_bytes: int = 2**20) -> AsyncIterator[Any]:
    """An application that keeps completions in a database."""
    store = Store(path / "state.db")
    await store.open()
    try:
        completions = CompletionStore(store, max_bytes)
        yield make_app(Scripted(turns), ServerConfig(port=0), keys=_Ring(), completions=completions)
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def connected(path: Path, turns: list[Turn] = TURNS) -> AsyncIterator[Clients]:
    """Clients of two tenants."""
    async with keeping(path, turns) as app, listening(app) as (_, port):
        url = f"http://127.0.0.1:{port}/v1"
        async with (
            openai.AsyncOpenAI(base_url=url, api_key="acme", max_retries=0, timeout=4) as one,
            openai.AsyncOpenAI(base_url=url, api_key="other", max_retries=0, timeout=4) as other,
        ):
            yield one, other


def test_what_is_stored_is_found_changed_and_forgotten(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (client, _):
            completions = client.chat.completions
            whole = await completions.create(model="scripted", messages=HI, store=True, metadata={"job": "7"})
            await completions.create(model="scripted", messages=HI)  # is not kept
            async with completions.stream(model="scripted", messages=HI, tools=TOOLS, store=True) as stream:
                streamed = await stream.get_final_completion()
            listed = await completions.list()
            assert [one.id for one in listed.data] == [whole.id, streamed.id]
            found = await completions.retrieve(whole.id)
            assert found.to_dict() == whole.to_dict()
            again = await completions.retrieve(streamed.id)
            (ours,), (theirs,) = again.choices[0].message.tool_calls or (), streamed.choices[0].message.tool_calls or ()
            assert ours.type == "function"
            assert (ours.id, ours.function.name, ours.function.arguments) == (theirs.id, "look", "{}")
            assert (again.choices[0].finish_reason, again.metadata) == ("tool_calls", {})
            changed = await completions.update(whole.id, metadata={"job": "8", "by": "me"})
            assert changed.metadata == {"job": "8", "by": "me"}
            assert (await completions.retrieve(whole.id)).metadata == {"job": "8", "by": "me"}
            deleted = await completions.delete(whole.id)
            assert (deleted.id, deleted.deleted, deleted.object) == (whole.id, True, "chat.completion.deleted")
            with pytest.raises(openai.NotFoundError):
                await completions.retrieve(whole.id)
        async with connected(tmp_path) as (client, _):  # after a restart
            assert [one.id for one in (await client.chat.completions.list()).data] == [streamed.id]

    run(main())


def test_the_messages_of_a_stored_answer_are_those_that_were_sent(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (client, _):
            called = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
            messages = [
                *HI,
                {"role": "assistant", "content": "Yes?", "tool_calls": [called], "refusal": None},
                {"role": "tool", "tool_call_id": "c", "content": "Go on."},
            ]
            kept = await client.chat.completions.create(model="scripted", messages=messages, store=True)
            page = await client.chat.completions.messages.list(kept.id, limit=2)
            told = [message async for message in page]  # the client asks for the next page by itself
            assert [message.id for message in told] == [f"{kept.id}-{index}" for index in range(3)]
            assert [message.role for message in told] == ["user", "assistant", "tool"]
            assert told[1].to_dict()["tool_calls"] == [called]
            assert [message.content for message in told] == [None, "Yes?", "Go on."]
            parts = told[0].content_parts or []
            assert [part.to_dict() for part in parts] == HI[0]["content"]
            latest = await client.chat.completions.messages.list(kept.id, order="desc", limit=1)
            assert [message.content for message in latest.data] == ["Go on."]

    run(main())


def test_pages_are_filtered_and_ordered_and_hold_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (client, _):
            completions = client.chat.completions
            ids = [
                (
                    await completions.create(
                        model="scripted", messages=HI, store=True, metadata={"even": str(index % 2 == 0), 'a"]b': "x"}
                    )
                ).id
                for index in range(5)
            ]
            assert [one.id async for one in await completions.list(limit=2)] == ids
            assert [one.id async for one in await completions.list(limit=2, order="desc")] == ids[::-1]
            even = await completions.list(metadata={"even": "True", 'a"]b': "x"}, limit=2)
            assert [one.id async for one in even] == ids[::2]
            assert [one.id async for one in await completions.list(model="scripted", after=ids[3])] == ids[4:]
            assert not (await completions.list(model="another")).data
            for wrong in ({"limit": 0}, {"limit": 101}, {"order": "best"}, {"extra_query": {"sort": "x"}}):
                with pytest.raises(openai.BadRequestError):
                    await completions.list(**wrong)  # type: ignore[arg-type]
            with pytest.raises(openai.NotFoundError):
                await completions.list(after="chatcmpl-none")

    run(main())


def test_another_tenant_finds_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (client, other):
            kept = await client.chat.completions.create(model="scripted", messages=HI, store=True)
            assert not (await other.chat.completions.list()).data
            for refused in (
                other.chat.completions.retrieve(kept.id),
                other.chat.completions.update(kept.id, metadata={}),
                other.chat.completions.delete(kept.id),
                other.chat.completions.messages.list(kept.id),
                other.chat.completions.list(after=kept.id),
            ):
                with pytest.raises(openai.NotFoundError):
                    await refused
            assert (await client.chat.completions.retrieve(kept.id)).metadata == {}

    run(main())


def test_an_answer_that_failed_is_not_kept(tmp_path: Path) -> None:
    async def main() -> None:
        turns = [Turn(text="Half an", error=EngineFault("it broke."), error_after=1)]
        async with connected(tmp_path, turns) as (client, _):
            with pytest.raises(openai.APIError):
                async for _ in await client.chat.completions.create(
                    model="scripted", messages=HI, store=True, stream=True
                ):
                    pass
            assert not (await client.chat.completions.list()).data

    run(main())


def test_who_keeps_as_much_as_is_allowed_is_told_before_anything_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with keeping(tmp_path, max_bytes=1) as app:
            key, path = {"authorization": "Bearer acme"}, "/v1/chat/completions"
            body = chat(model="scripted", store=True)
            assert (await Client(app, "POST", path, body, key).run()).status == 200
            reply = await Client(app, "POST", path, body, key).run()
            assert (reply.status, reply.error()["code"]) == (429, "storage_quota_exceeded")
            assert reply.headers["x-should-retry"] == "false"
            assert (await Client(app, "POST", path, chat(model="scripted"), key).run()).status == 200
            assert (await Client(app, "POST", path, body, {"authorization": "Bearer other"}).run()).status == 200

    run(main())


def test_a_server_that_keeps_nothing_says_so() -> None:
    async def main() -> None:
        app = make_app(Scripted(TURNS))
        reply = await Client(app, "POST", "/v1/chat/completions", chat(model="scripted", store=True)).run()
        assert (reply.status, reply.error()["param"]) == (400, "store")
        assert (await Client(app, "GET", "/v1/chat/completions").run()).status == 405

    run(main())


def test_what_cannot_be_kept_is_not_called_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with keeping(tmp_path) as app:
            pass
        key = {"authorization": "Bearer acme"}
        for stream in (False, True):
            body = chat(model="scripted", store=True, stream=stream)
            reply = await Client(app, "POST", "/v1/chat/completions", body, key).run()
            assert b"unavailable" in reply.body
            assert b"[DONE]" not in reply.body

    run(main())
