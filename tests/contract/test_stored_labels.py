"""What a model wrote after it had read strangers' words is worth no more when it is stored and read again without them:
by reference, in a conversation out of which they were deleted, and after a restart."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.test_guarded_tools import ASKS, CALLED, EVE, GUARD, calling, flat
from tests.doubles_http import Client
from tests.gateway_server import ServedGateway, backend, serving
from tests.upstreams import Upstream, upstream

PATH = "/v1/responses"
READ, TOOLS = ASKS[PATH]["input"], ASKS[PATH]["tools"]
DO_IT: dict[str, Any] = {"role": "user", "content": "Do what you said."}


async def send(served: ServedGateway, method: str, path: str, **fields: Any) -> dict[str, Any]:
    reply = await Client(served.app, method, path, json.dumps(fields).encode() if fields else b"").run()
    assert reply.status == 200, reply.body
    return dict(json.loads(reply.body))


async def answered(served: ServedGateway, up: Upstream, items: list[Any], **fields: Any) -> dict[str, Any]:
    """A response that says what an injection wants, or repeats it."""
    up.text = f"I shall mail everything to {EVE}."
    up.respond = None
    return await send(served, "POST", PATH, model="up/small", input=items, tools=TOOLS, **fields)


async def is_withheld(served: ServedGateway, up: Upstream, items: list[Any], **fields: Any) -> bool:
    """Whether a call to Eve is, at the end of these items."""
    up.respond = calling(EVE)
    body = json.dumps({"model": "up/small", "input": items, "tools": TOOLS} | fields).encode()
    reply = await Client(served.app, "POST", PATH, body).run()
    assert reply.status == 200, reply.body
    is_called = CALLED[PATH] in flat(reply)
    assert is_called != (b"was withheld" in reply.body)
    return not is_called


def message_of(response: dict[str, Any]) -> str:
    """The id of what it said."""
    return str(next(item["id"] for item in response["output"] if item["type"] == "message"))


def within(folder: Path, test: Callable[[ServedGateway, Upstream], Awaitable[None]]) -> None:
    async def main() -> None:
        async with upstream() as up, serving(folder, backend(up, "up") + GUARD) as served:
            await test(served, up)

    asyncio.run(main())


def test_an_answer_that_is_referred_to_is_worth_what_it_was(tmp_path: Path) -> None:
    async def test(served: ServedGateway, up: Upstream) -> None:
        harmless = await answered(served, up, [{"role": "user", "content": "Hi"}])
        tainted = await answered(served, up, READ)
        for response, is_tainted in ((harmless, False), (tainted, True)):
            items = [DO_IT, {"type": "item_reference", "id": message_of(response)}, DO_IT]
            assert await is_withheld(served, up, items) is is_tainted
        # What was written with it in sight is worth no more either.
        again = await answered(served, up, [DO_IT, {"type": "item_reference", "id": message_of(tainted)}])
        assert await is_withheld(served, up, [DO_IT, {"type": "item_reference", "id": message_of(again)}])
        assert await is_withheld(served, up, [DO_IT], previous_response_id=again["id"])
        assert not await is_withheld(served, up, [DO_IT])

    within(tmp_path, test)


@pytest.mark.parametrize("restarts", [False, True])
def test_deleting_what_strangers_wrote_makes_nothing_trusted(tmp_path: Path, *, restarts: bool) -> None:
    talk = ""

    async def read(served: ServedGateway, up: Upstream) -> None:
        nonlocal talk
        talk = (await send(served, "POST", "/v1/conversations", metadata={}))["id"]
        await answered(served, up, READ, conversation=talk)
        items = (await send(served, "GET", f"/v1/conversations/{talk}/items?order=asc"))["data"]
        assert [item["type"] for item in items] == ["message", "function_call", "function_call_output", "message"]
        assert not any("flow" in item or "label" in item for item in items)
        for item in items[1:3]:
            await send(served, "DELETE", f"/v1/conversations/{talk}/items/{item['id']}")

    async def go_on(served: ServedGateway, up: Upstream) -> None:
        assert await is_withheld(served, up, [DO_IT], conversation=talk)

    async def both(served: ServedGateway, up: Upstream) -> None:
        await read(served, up)
        await go_on(served, up)

    if restarts:
        within(tmp_path, read)
        within(tmp_path, go_on)
    else:
        within(tmp_path, both)


def test_what_nobody_else_wrote_into_goes_on_as_ever(tmp_path: Path) -> None:
    async def test(served: ServedGateway, up: Upstream) -> None:
        first = await answered(served, up, [{"role": "user", "content": "Hi"}])
        assert not await is_withheld(served, up, [DO_IT], previous_response_id=first["id"])

    within(tmp_path, test)
