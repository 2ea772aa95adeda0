"""A whole server that guards tools and takes endorsements: a withheld call names what would have to be endorsed, passes
as often as somebody with the right to do so says and never once more, and records and log tell who let it pass."""

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.test_guarded_tools import ASKS, BOB, CALLED, EVE, GUARD, calling, flat
from tests.contract.test_recorded_answers import RECORDS, record_of, statement
from tests.doubles_http import Client, Reply
from tests.gateway_server import ServedGateway, backend, serving
from tests.upstreams import Upstream, upstream

from headrace.memory import provenance

CHAT = "/v1/chat/completions"
PATH = "/v1/endorsements"
DIGEST = re.compile(rb"endorsement of call (sha256:[0-9a-f]{64}) lets it pass \(in doubt: to\)")
KEYS = {name: f"hr_{secrets.token_hex(32)}" for name in ("agent", "human", "other", "root")}


def keys() -> str:
    """An agent that may only ask, somebody who may endorse, somebody of another tenant who may, and an operator."""
    rights = {
        "agent": ("t", '["generate"]'),
        "human": ("t", '["generate", "endorse"]'),
        "other": ("o", '["endorse"]'),
        "root": ("o", '["admin"]'),
    }
    return "".join(
        f'[[keys]]\nname = "{name}"\ntenant = "{tenant}"\nscopes = {scopes}\n'
        f'sha256 = "{sha256(KEYS[name].encode()).hexdigest()}"\n'
        for name, (tenant, scopes) in rights.items()
    )


class Place:
    """A server and a model that mails Eve."""

    def __init__(self, served: ServedGateway, up: Upstream, folder: Path) -> None:
        self.served, self.up, self.folder = served, up, folder

    async def send(self, key: str | None, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One exchange."""
        shown = {} if key is None else {"authorization": f"Bearer {KEYS[key]}"}
        data = b"" if body is None else json.dumps(body).encode()
        return await Client(self.served.app, method, path, data, shown | headers).run()

    async def ask(self, key: str | None = None, path: str = CHAT, *, session: str = "") -> Reply:
        """The agent goes on with its conversation."""
        headers = {"x-headrace-session": session} if session else {}
        reply = await self.send(key, "POST", path, {"model": "up/small"} | ASKS[path], **headers)
        assert reply.status == 200, reply.body
        return reply

    async def endorse(self, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """One that is made."""
        reply = await self.send(key, "POST", PATH, {"tool": "send_mail"} | fields)
        assert reply.status == 200, reply.body
        return dict(json.loads(reply.body))

    async def withheld(self) -> bytes:
        """The digest that a refusal names."""
        found = DIGEST.search((await self.ask()).body)
        assert found is not None
        return found[1]


def within(folder: Path, test: Callable[[Place], Awaitable[None]], more: str = "") -> None:
    """Run a test beside a server."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            up = await stack.enter_async_context(upstream())
            up.respond = calling(EVE)
            served = await stack.enter_async_context(serving(folder, backend(up, "up") + GUARD + more))
            await test(Place(served, up, folder))

    asyncio.run(main())


def is_called(reply: Reply, path: str = CHAT) -> bool:
    """Whether the call arrived; else it was withheld."""
    has_called = CALLED[path] in flat(reply)
    assert has_called != (b"was withheld" in reply.body)
    return has_called


async def logged(served: ServedGateway) -> list[dict[str, Any]]:
    """What the log commits to of endorsements, in its order."""
    recorder: Any = served.gate.parts.overseers[-1]
    notary: Any = recorder.means.notary
    for item_id in list(notary._waiting):
        await notary.merged(item_id)
    found = await notary._store.read(provenance.in_range, 0, 1000)
    statements = [statement(one.item.envelope.decode()) for one in found if one.item.kind == "endorsement"]
    assert {one["predicateType"] for one in statements} <= {"urn:headrace:endorsement:v1"}
    return [one["predicate"] for one in statements]


@pytest.mark.parametrize("path", ASKS)
def test_a_call_is_blocked_endorsed_once_passes_once_and_is_blocked_again(tmp_path: Path, path: str) -> None:
    async def test(at: Place) -> None:
        blocked = await at.ask(path=path)
        assert not is_called(blocked, path)
        found = DIGEST.search(blocked.body)
        assert found is not None
        digest = found[1].decode()
        made = await at.endorse(call=digest)
        passed = await at.ask(path=path)
        assert is_called(passed, path)
        assert EVE.encode() in passed.body
        again = await at.ask(path=path)
        assert not is_called(again, path)
        assert digest.encode() in again.body

        tools = [(await record_of(at.served, reply))["predicate"] for reply in (blocked, passed, again)]
        told = [one["buildDefinition"]["internalParameters"]["tools"][0] for one in tools]
        assert [one.get("endorsements") for one in told] == [None, [made["id"]], None]
        assert [one["decision"]["is_allowed"] for one in told] == [False, True, False]
        events = await logged(at.served)
        assert [(one["id"], one["event"], one["num_used"]) for one in events] == [
            (made["id"], "made", 0),
            (made["id"], "used", 1),
        ]
        assert events[1]["call"] == digest
        response = tools[1]["runDetails"]["byproducts"][0]["uri"].rpartition(":")[2]
        assert events[1]["request"].partition(".")[0] == response

    within(tmp_path, test, RECORDS)


def test_who_is_asked_to_endorse_sees_the_call_that_was_withheld(tmp_path: Path) -> None:
    async def test(at: Place) -> None:
        digest = await at.withheld()
        [one] = json.loads((await at.send(None, "GET", f"{PATH}/withheld")).body)["data"]
        assert (one["call"], one["tool"]) == (digest.decode(), "send_mail")
        assert json.loads(one["arguments"]) == {"to": EVE, "body": "hello"}
        assert one["in_doubt"] == [{"argument": "to", "value": EVE}]
        assert one["policies"] == ["agents-untrusted-egress"]

    within(tmp_path, test)


def test_an_endorsed_value_lets_calls_with_it_pass_and_no_others(tmp_path: Path) -> None:
    async def test(at: Place) -> None:
        made = await at.endorse(argument="to", value=EVE, uses=2, session="s1")
        assert made["uses_left"] == 2
        assert not is_called(await at.ask(session="s2"))
        assert is_called(await at.ask(session="s1"))
        at.up.respond = calling("eve@evil.example.org")
        assert not is_called(await at.ask(session="s1"))
        at.up.respond = calling(BOB)  # the user said this one: no use is spent
        assert is_called(await at.ask(session="s1"))
        at.up.respond = calling(EVE)
        assert is_called(await at.ask(session="s1"))
        assert not is_called(await at.ask(session="s1"))
        assert json.loads((await at.send(None, "GET", PATH)).body)["data"] == []

    within(tmp_path, test)


def test_one_that_is_withdrawn_holds_no_more_and_the_log_tells_it(tmp_path: Path) -> None:
    async def test(at: Place) -> None:
        made = await at.endorse(argument="to", value=EVE, uses=None)
        assert is_called(await at.ask())
        [listed] = json.loads((await at.send(None, "GET", PATH)).body)["data"]
        assert listed == made | {"num_used": 1}
        ended = await at.send(None, "DELETE", f"{PATH}/{made['id']}")
        assert json.loads(ended.body) == listed | {"object": "endorsement.withdrawn"}
        assert not is_called(await at.ask())
        assert (await at.send(None, "DELETE", f"{PATH}/{made['id']}")).status == 404
        events = await logged(at.served)
        assert [one["event"] for one in events] == ["made", "used", "withdrawn"]
        assert EVE not in json.dumps(events)

    within(tmp_path, test, RECORDS)


def test_only_the_scope_endorses_and_only_for_its_own_tenant(tmp_path: Path) -> None:
    async def test(at: Place) -> None:
        order = {"tool": "send_mail", "argument": "to", "value": EVE}
        for method, path in (("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/withheld"), ("DELETE", f"{PATH}/end_1")):
            refused = await at.send("agent", method, path, order)
            assert (refused.status, b"'endorse'" in refused.body) == (403, True)
        made = await at.endorse("other", **order)
        assert not is_called(await at.ask("agent"))
        assert (await at.send("human", "DELETE", f"{PATH}/{made['id']}")).status == 404
        assert json.loads((await at.send("human", "GET", PATH)).body)["data"] == []
        assert json.loads((await at.send("other", "GET", f"{PATH}/withheld")).body)["data"] == []
        assert len(json.loads((await at.send("human", "GET", f"{PATH}/withheld")).body)["data"]) == 1
        made = await at.endorse("human", **order, subject="key:agent")
        assert made["by"] == "key:human"
        assert not is_called(await at.ask("human"))
        assert is_called(await at.ask("agent"))

    within(tmp_path, test, keys())


def test_what_somebody_endorsed_who_may_not_any_more_does_not_hold(tmp_path: Path) -> None:
    async def test(at: Place) -> None:
        await at.endorse("human", argument="to", value=EVE, uses=None)
        assert is_called(await at.ask("agent"))
        file = at.folder / "headrace.toml"
        file.write_text(file.read_text("utf-8").replace('["generate", "endorse"]', '["generate"]'), "utf-8")
        assert (await at.send("root", "POST", "/v1/gateway/reload", {})).status == 200
        assert not is_called(await at.ask("agent"))

    within(tmp_path, test, keys())


def test_a_restart_keeps_what_is_not_counted_and_the_uses_that_are_left(tmp_path: Path) -> None:
    async def first(at: Place) -> None:
        await at.endorse(argument="to", value=EVE, uses=2)
        assert is_called(await at.ask())
        await at.endorse(argument="to", value="carl@evil.example", uses=None)

    async def second(at: Place) -> None:
        assert is_called(await at.ask())
        assert not is_called(await at.ask())
        at.up.respond = calling("carl@evil.example")
        assert is_called(await at.ask())

    within(tmp_path, first)
    within(tmp_path, second)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "call"),
        ({"call": "sha256:" + "0" * 64, "argument": "to"}, "call"),
        ({"call": "sha256:0"}, "call"),
        ({"argument": "to"}, "call"),
        ({"argument": "to", "value": "x" * 5000}, "value"),
        ({"argument": "to", "value": 2**60}, "value"),
        ({"argument": "to", "value": "\x00"}, "value"),
        ({"argument": "to", "value": ["x"]}, "value"),
        ({"argument": "to", "value": "x", "uses": 0}, "uses"),
        ({"argument": "to", "value": "x", "expires_in": 0}, "expires_in"),
        ({"argument": "to", "value": "x", "tenant": "o"}, "tenant"),
    ],
)
def test_an_order_that_is_of_no_one_thing_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], named: str
) -> None:
    async def test(at: Place) -> None:
        reply = await at.send(None, "POST", PATH, {"tool": "send_mail"} | fields)
        assert reply.status == 400, reply.body
        assert msgspec.json.decode(reply.body)["error"]["param"] == named

    within(tmp_path, test)


def test_a_changed_tool_is_offered_to_nobody_and_passes_for_nobody(tmp_path: Path) -> None:
    async def test(at: Place) -> None:
        reply = await at.ask()
        assert not is_called(reply)
        assert b"endorsement of call" not in reply.body
        await at.endorse(argument="to", value=EVE)
        assert not is_called(await at.ask())
        [kept] = json.loads((await at.send(None, "GET", PATH)).body)["data"]
        assert kept["uses_left"] == 1

    pinned = GUARD.replace('effect = "egress"', f'effect = "egress"\nmanifest = "sha256:{"0" * 64}"')

    async def main() -> None:
        async with upstream() as up, serving(tmp_path, backend(up, "up") + pinned) as served:
            up.respond = calling(EVE)
            await test(Place(served, up, tmp_path))

    asyncio.run(main())
