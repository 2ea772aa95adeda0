"""Which way requests went, seen through a whole server whose backends fail: the path of each says why.

The settings file, the routes, the accounts and the client of backends are the real ones; only backends are scripted.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests import upstreams
from tests.doubles_http import Client, Reply
from tests.gateway_server import ServedGateway, backend, serving
from tests.upstreams import Upstream, upstream

PROMPT = "my password is zanzibar"
BREAKER = "breaker = {window = 4, min_attempts = 2, failure_share = 0.5, open = 30}\n"
SETTINGS = """
model = "none"
[routes.smart]
candidates = ["up/small"]
fallbacks = ["spare/small"]
retry = {max_attempts = 3, backoff = 0, max_backoff = 0, budget_floor = 100}
[routes.either]
candidates = ["up/small", "spare/small"]
policies = ["ordered"]
hedge_after = 0.01
[routes.watched]
candidates = ["up/small"]
shadow = "spare/small"
shadow_share = 1
[[budgets]]
subject = "tenant:local"
window = "total"
money = 0.01
[answer_cache]
"""


@dataclass
class At:
    """A server and its two backends; `up` is asked first."""

    served: ServedGateway
    up: Upstream
    spare: Upstream

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """A request; the real application answers it."""
        data = b"" if body is None else json.dumps(body).encode()
        return await Client(self.served.app, method, path, data, {"content-type": "application/json", **headers}).run()

    async def chat(self, request_id: str, model: str = "smart", **fields: Any) -> Reply:
        """A conversation of a client that names its request."""
        body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20, **fields}
        return await self.send("POST", "/v1/chat/completions", body, **{"x-request-id": request_id})

    async def path(self, request_id: str) -> dict[str, Any]:
        """The way that a request took, as an operator reads it; nothing of what was said is in it."""
        reply = await self.send("GET", f"/v1/gateway/requests/{quote(request_id)}")
        assert reply.status == 200, reply.body
        assert b"zanzibar" not in reply.body
        told: dict[str, Any] = reply.json()
        return told

    async def ids(self, query: str) -> list[str]:
        """Requests of a list."""
        reply = await self.send("GET", f"/v1/gateway/requests?{query}")
        assert reply.status == 200, reply.body
        assert b"zanzibar" not in reply.body
        return [one["exchange_id"] for one in reply.json()["data"]]


def run(folder: Path, test: Callable[[At], Awaitable[None]], settings: str = SETTINGS) -> None:
    async def body() -> None:
        async with asyncio.timeout(20), AsyncExitStack() as stack:
            up, spare = [await stack.enter_async_context(upstream()) for _ in range(2)]
            text = settings + backend(up, "up", more=BREAKER) + backend(spare, "spare", more=BREAKER)
            served = await stack.enter_async_context(serving(folder, text))
            await test(At(served, up, spare))

    asyncio.run(body())


def steps(path: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["backend"], one["kind"], one["outcome"]) for one in path["steps"]]


def test_retries_and_the_fallback_are_told_one_by_one_and_the_cost_is_that_of_the_one_who_answered(
    tmp_path: Path,
) -> None:
    async def test(at: At) -> None:
        at.up.script += [upstreams.failed(500), upstreams.failed(503)]
        assert (await at.chat("r-1")).status == 200
        told = await at.path("r-1")
        assert steps(told) == [
            ("up", "first", "upstream_fault"),
            ("up", "retry", "overloaded"),
            ("spare", "fallback", "ok"),
        ]
        assert [one["standing"] for one in told["steps"]] == ["", "asked for a rest", ""]
        assert [(one["target"], one["place"], one["is_fallback"]) for one in told["choices"]] == [
            ("up/small", 1, False),
            ("spare/small", 2, True),
        ]
        request = told["request"]
        assert (request["tenant"], request["route"], request["backend"]) == ("local", "smart", "spare")
        assert request["cost"] == pytest.approx(told["steps"][2]["cost"])
        assert request["cost"] > 0
        assert told["reserved"]["cost"] >= request["cost"]
        assert told["reserved"]["budgets"] == [{"subject": "tenant:local", "window": "total"}]
        times = [(one["began_s"], one["ended_s"]) for one in told["steps"]]
        assert all(0 <= began <= ended <= request["whole_s"] for began, ended in times)
        assert times == sorted(times)
        assert await at.ids("backend=up") == await at.ids("route=smart&outcome=ok") == ["r-1"]
        assert await at.ids("outcome=failed") == await at.ids("slow=true") == []

    run(tmp_path, test)


def test_a_breaker_that_opens_is_told_and_the_next_plan_says_who_is_out(tmp_path: Path) -> None:
    async def test(at: At) -> None:
        at.up.script += [[upstreams.Step.CLOSE], [upstreams.Step.CLOSE]]
        await at.chat("opens")
        told = await at.path("opens")
        assert [one["standing"] for one in told["steps"]] == ["", "its breaker is open", ""]
        assert "closed" in told["steps"][0]["reason"]
        await at.chat("passes")
        told = await at.path("passes")
        out = {one["target"]: one["reason"] for one in told["choices"] if one["place"] is None}
        assert out == {"up/small": "its breaker is open"}
        assert steps(told) == [("spare", "first", "ok")]

    run(tmp_path, test)


def test_a_copy_for_a_shadow_is_no_part_of_what_its_client_asked(tmp_path: Path) -> None:
    async def test(at: At) -> None:
        assert (await at.chat("mine", "watched")).status == 200
        await asyncio.gather(*at.served.gate.shadows._tasks)
        told = await at.path("mine")
        assert steps(told) == [("up", "first", "ok")]
        assert told["shadow"] == "spare/small"
        copy = await at.path(told["request"]["id"] + ".shadow")
        assert (copy["request"]["tenant"], copy["request"]["exchange_id"]) == ("shadow", None)
        assert steps(copy) == [("spare", "copy", "ok")]

    run(tmp_path, test)


def test_a_hedge_that_wins_is_told_beside_the_one_that_hung(tmp_path: Path) -> None:
    async def test(at: At) -> None:
        at.up.script.append(upstreams.hang_before())
        assert (await at.chat("hedged", "either")).status == 200
        told = await at.path("hedged")
        assert steps(told) == [("up", "first", "cancelled"), ("spare", "hedge", "ok")]
        assert told["hedge_after_s"] == 0.01
        assert told["steps"][1]["began_s"] >= 0.01
        assert told["choices"][0]["scores"] == {"ordered": 0.0}

    run(tmp_path, test)


def test_an_answer_that_is_given_again_and_a_request_that_a_budget_refuses_are_told_as_such(tmp_path: Path) -> None:
    async def test(at: At) -> None:
        for request_id in ("first", "again"):
            await at.chat(request_id, temperature=0)
        first, again = await at.path("first"), await at.path("again")
        assert (again["request"]["cache"], again["source"], again["steps"]) == ("exact", first["request"]["id"], [])
        assert again["request"]["saved"] > 0
        assert (await at.chat("dear", max_tokens=10**6, n=100)).status == 429
        dear = await at.path("dear")
        assert dear["request"]["outcome"] == "budget_exceeded"
        assert "tenant:local" in dear["request"]["refusal"]
        assert (dear["steps"], dear["reserved"]) == ([], None)
        assert await at.ids("outcome=budget_exceeded") == await at.ids("outcome=failed") == ["dear"]

    run(tmp_path, test)


def test_what_a_service_asks_on_behalf_of_a_client_is_found_by_what_the_client_knows(tmp_path: Path) -> None:
    async def test(at: At) -> None:
        body = {"model": "smart", "input": PROMPT, "store": False}
        reply = await at.send("POST", "/v1/responses", body, **{"x-request-id": "mine"})
        assert reply.status == 200
        told = await at.path("mine")
        assert told["request"]["id"].startswith(f"{reply.json()['id']}.")
        assert (await at.path(reply.json()["id"]))["request"] == told["request"]
        assert await at.ids(f"id={reply.json()['id']}") == await at.ids("id=mine") == ["mine"]

    run(tmp_path, test)


def test_a_name_that_nobody_has_and_a_body_that_says_nonsense_are_told_without_a_word_of_the_body(
    tmp_path: Path,
) -> None:
    async def test(at: At) -> None:
        assert (await at.chat("lost", "nobody")).status == 404
        assert "nobody" in (await at.path("lost"))["request"]["refusal"]
        error = {"error": {"message": f"I will not say {PROMPT}", "type": "invalid_request_error"}}
        at.up.script.append(upstreams.whole(error, 400))
        assert (await at.chat("quoted")).status == 400
        told = await at.path("quoted")
        assert steps(told) == [("up", "first", told["request"]["outcome"])]
        at.up.script.append(upstreams.whole(error, 500))
        assert (await at.chat("broken")).status == 200
        told = await at.path("broken")
        assert (told["steps"][0]["outcome"], told["steps"][0]["reason"]) == ("upstream_fault", "")
        assert (await at.send("GET", "/v1/gateway/requests/none")).status == 404

    run(tmp_path, test)


def test_routes_are_told_as_the_file_has_them_with_what_was_seen(tmp_path: Path) -> None:
    async def test(at: At) -> None:
        at.up.script += [upstreams.failed(500), upstreams.failed(500)]
        await at.chat("one")
        await at.chat("two", "spare/small")
        reply = await at.send("GET", "/v1/gateway/routes")
        smart, either, _, direct = reply.json()["data"]
        assert (smart["id"], smart["is_named"], smart["fallbacks"]) == ("smart", True, ["spare/small"])
        assert (either["policies"], either["hedge_after_s"]) == (["ordered"], 0.01)
        assert [one["target"] for one in either["targets"]] == ["up/small", "spare/small"]
        assert smart["targets"][0]["figures"]["num_failed"] == 2
        assert (smart["figures"]["num_requests"], either["figures"]["num_requests"]) == (1, 0)
        assert (direct["id"], direct["is_named"]) == ("spare/small", False)

    run(tmp_path, test)


def test_a_server_that_is_told_to_keep_none_keeps_none_until_its_file_says_otherwise(tmp_path: Path) -> None:
    async def test(at: At) -> None:
        await at.chat("unseen")
        assert await at.ids("") == []
        file = tmp_path / "headrace.toml"
        file.write_text(file.read_text("utf-8").replace("kept_requests = 0", "kept_requests = 5"), "utf-8")
        assert (await at.send("POST", "/v1/gateway/reload", {})).status == 200
        await at.chat("seen")
        assert await at.ids("") == ["seen"]

    run(tmp_path, test, "kept_requests = 0\n" + SETTINGS)
