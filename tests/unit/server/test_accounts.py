"""The admin routes of accounts, through a whole server: what they tell, who may, and that what is set holds at once."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.served import Served, near, serving
from tests.upstreams import Upstream, upstream

from headrace.cli.keys import KeyRights, add_key

FIXED = """
[[budgets]]
name = "house"
subject = "all"
window = "total"
money = 100
[[limits]]
name = "calm"
subject = "key:*"
requests_per_minute = 600
"""


def with_server(run: Callable[[Served, dict[str, str], Upstream], Awaitable[None]]) -> Callable[[Path], None]:
    """A test with a server that has keys: `boss` keeps accounts, `anna` and `bob` ask."""

    def inner(tmp_path: Path) -> None:
        async def main() -> None:
            path = tmp_path / "home" / "keys.toml"
            path.parent.mkdir()
            keys = {
                name: add_key(path, name, rights, datetime.now(UTC))
                for name, rights in {
                    "boss": KeyRights(scopes=("accounts",)),
                    "anna": KeyRights(tenant="acme", user="anna", tags=("night",)),
                    "bob": KeyRights(tenant="acme", routes=frozenset({"other"})),
                }.items()
            }
            async with upstream() as up, serving(tmp_path, near(up, FIXED)) as served:
                await run(served, keys, up)

        asyncio.run(main())

    inner.__name__ = run.__name__
    return inner


@with_server
async def test_a_budget_that_is_set_holds_for_the_next_request_and_tells_where_it_stands(
    served: Served, keys: dict[str, str], up: Upstream
) -> None:
    boss, anna = keys["boss"], keys["anna"]
    assert (await served.chat(anna)).status == 200
    rule = {"name": "team", "subject": "tenant:acme", "window": "month", "tokens": 300}
    made = await served.ask("POST", "/v1/accounts/budgets", rule, boss)
    assert made.status == 200
    assert (made.json()["standings"][0]["left_tokens"], made.json()["is_fixed"]) == (300, False)
    assert (await served.chat(anna, max_tokens=20)).status == 200
    refused = await served.chat(anna, max_tokens=50, messages=[{"role": "user", "content": "x" * 300}])
    assert refused.status == 429
    assert refused.headers["x-should-retry"] == "false"
    assert 0 < int(refused.headers["retry-after"]) <= 31 * 86_400
    assert refused.json()["error"]["code"] == "budget_exceeded"
    assert "'team' of tenant:acme" in refused.json()["error"]["message"]
    listed = {one["name"]: one for one in (await served.ask("GET", "/v1/accounts/budgets", key=boss)).json()["data"]}
    (standing,) = listed["team"]["standings"]
    assert (standing["spent_tokens"], standing["reserved_tokens"], standing["left_tokens"]) == (10, 0, 290)
    assert standing["resets_at"] > standing["started_at"]
    (house,) = listed["house"]["standings"]
    # Two answers of 7 tokens in and 3 out, at 1 and 2 a million.
    assert (house["spent_nanos"], house["spent"], house["resets_at"]) == (26_000, 2.6e-5, None)
    gone = await served.ask("DELETE", "/v1/accounts/budgets/team", key=boss)
    assert gone.json() == {"object": "accounts.budget.deleted", "name": "team", "deleted": True}
    assert (await served.chat(anna, max_tokens=50, messages=[{"role": "user", "content": "x" * 300}])).status == 200


@with_server
async def test_rules_of_the_settings_file_are_shown_and_cannot_be_changed_here(
    served: Served, keys: dict[str, str], up: Upstream
) -> None:
    boss = keys["boss"]
    for path, name, rule in (
        ("/v1/accounts/budgets", "house", {"name": "house", "subject": "all", "window": "day", "money": 1}),
        ("/v1/accounts/limits", "calm", {"name": "calm", "subject": "all", "concurrency": 1}),
    ):
        assert [one["is_fixed"] for one in (await served.ask("GET", path, key=boss)).json()["data"]] == [True]
        for refused in (
            await served.ask("POST", path, rule, boss),
            await served.ask("DELETE", f"{path}/{name}", key=boss),
        ):
            assert refused.status == 409
            assert "of the settings file" in refused.json()["error"]["message"]
        missing = await served.ask("DELETE", f"{path}/none", key=boss)
        assert missing.status == 404
        assert name in missing.json()["error"]["message"]


@with_server
async def test_a_limit_that_is_set_holds_for_the_next_request(
    served: Served, keys: dict[str, str], up: Upstream
) -> None:
    boss, anna = keys["boss"], keys["anna"]
    rule = {"name": "slow", "subject": "user:acme/anna", "requests_per_minute": 1}
    assert (await served.ask("POST", "/v1/accounts/limits", rule, boss)).json()["requests_per_minute"] == 1
    assert (await served.chat(anna)).status == 200
    refused = await served.chat(anna)
    assert (refused.status, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 0 < int(refused.headers["retry-after"]) <= 60
    await served.ask("DELETE", "/v1/accounts/limits/slow", key=boss)
    assert (await served.chat(anna)).status == 200


@with_server
async def test_usage_is_told_one_by_one_and_in_sums(served: Served, keys: dict[str, str], up: Upstream) -> None:
    boss, anna = keys["boss"], keys["anna"]
    for number in range(3):
        assert (await served.chat(anna, stream=number == 1)).status == 200
    first = (await served.ask("GET", "/v1/accounts/usage?limit=2&tenant=acme", key=boss)).json()
    assert (len(first["data"]), first["has_more"]) == (2, True)
    rest = (await served.ask("GET", f"/v1/accounts/usage?limit=2&after={first['last']}", key=boss)).json()
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    record = rest["data"][0]
    assert (record["key"], record["user"], record["tags"], record["route"]) == ("anna", "anna", ["night"], "chat")
    assert (record["backend"], record["model"], record["outcome"]) == ("near", "small", "ok")
    assert (record["prompt_tokens"], record["completion_tokens"], record["cost_nanos"]) == (7, 3, 13_000)
    for by in ("tenant", "key", "user", "tag", "route", "model", "backend", "day", "day,tag,model"):
        (total,) = (await served.ask("GET", f"/v1/accounts/usage?by={by}", key=boss)).json()["data"]
        assert (total["num_requests"], total["cost_nanos"], total["prompt_tokens"]) == (3, 39_000, 21)
        assert set(total["group"]) == set(by.split(","))
    assert (await served.ask("GET", "/v1/accounts/usage?by=key&tag=day", key=boss)).json()["data"] == []
    assert len((await served.ask("GET", "/v1/accounts/usage?since=2020-01-01&tag=night", key=boss)).json()["data"]) == 3
    assert (await served.ask("GET", "/v1/accounts/usage?until=2020-01-01", key=boss)).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [("by=colour", "by"), ("by=a,b,c,d,e", "by"), ("limit=0", "limit"), ("after=x", "after"), ("since=then", "since"),
     ("colour=red", "colour"), ("tenant=a&tenant=b", "tenant"), ("by=key&outcome=ok", "filter")],
)  # fmt: skip
def test_a_query_that_is_wrong_is_refused_by_name(query: str, field: str, tmp_path: Path) -> None:
    @with_server
    async def asked(served: Served, keys: dict[str, str], up: Upstream) -> None:
        refused = await served.ask("GET", f"/v1/accounts/usage?{query}", key=keys["boss"])
        assert (refused.status, refused.json()["error"]["param"]) == (400, field)

    asked(tmp_path)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("budgets", {"name": "x", "subject": "all", "window": "day"}, "money"),
        ("budgets", {"name": "x", "subject": "all", "window": "year", "money": 1}, "window"),
        ("budgets", {"name": "x", "subject": "everyone", "window": "day", "money": 1}, "subject"),
        ("budgets", {"name": "a/b", "subject": "all", "window": "day", "money": 1}, "name"),
        ("budgets", {"name": "x", "subject": "all", "window": "day", "money": -1}, "money"),
        ("budgets", {"name": "x", "subject": "all", "window": "day", "tokens": 1.5}, "tokens"),
        ("budgets", {"name": "x", "subject": "all", "window": "day", "dollars": 1}, "dollars"),
        ("limits", {"name": "x", "subject": "all"}, "requests_per_minute"),
        ("limits", {"name": "x", "subject": "all", "concurrency": 0}, "concurrency"),
        ("keys", {"name": "x", "scopes": ["everything"]}, "scopes"),
        ("keys", {"name": "x", "share": 0}, "share"),
        ("keys", {"name": "x", "expires": "soon"}, "expires"),
        ("keys", {"name": "x", "expires": False}, "expires"),
        ("keys", {"name": "x", "routes": [""]}, "routes"),
        ("keys", {"name": "x", "tags": {}}, "tags"),
        ("keys", {"tenant": "t"}, "name"),
    ],
)
def test_a_body_that_is_wrong_is_refused_by_name(path: str, body: Any, field: str, tmp_path: Path) -> None:
    @with_server
    async def asked(served: Served, keys: dict[str, str], up: Upstream) -> None:
        refused = await served.ask("POST", f"/v1/accounts/{path}", body, keys["boss"])
        assert (refused.status, refused.json()["error"]["param"]) == (400, field)

    asked(tmp_path)


@with_server
async def test_a_key_is_issued_disabled_and_taken_back_at_once(
    served: Served, keys: dict[str, str], up: Upstream
) -> None:
    boss = keys["boss"]
    order = {"name": "ci", "tenant": "acme", "user": "robot", "tags": ["batch"], "routes": ["chat"], "expires": 4e9}
    issued = (await served.ask("POST", "/v1/accounts/keys", order, boss)).json()
    secret = issued.pop("secret")
    assert (issued["tenant"], issued["user"], issued["routes"], issued["expires"]) == ("acme", "robot", ["chat"], 4e9)
    assert (await served.chat(secret)).status == 200
    disabled = await served.ask("PATCH", "/v1/accounts/keys/ci", {"is_disabled": True}, boss)
    assert disabled.json()["is_disabled"]
    assert (await served.chat(secret)).status == 401
    await served.ask("PATCH", "/v1/accounts/keys/ci", {"is_disabled": False}, boss)
    assert (await served.chat(secret)).status == 200
    listed = await served.ask("GET", "/v1/accounts/keys", key=boss)
    assert {one["name"] for one in listed.json()["data"]} == {"boss", "anna", "bob", "ci"}
    assert secret not in str(listed.json())
    assert (await served.ask("DELETE", "/v1/accounts/keys/ci", key=boss)).status == 200
    assert (await served.chat(secret)).status == 401
    twice = await served.ask("POST", "/v1/accounts/keys", {"name": "anna"}, boss)
    assert (twice.status, twice.json()["error"]["param"]) == (400, "name")


@with_server
async def test_the_last_key_cannot_be_taken_back_by_itself(served: Served, keys: dict[str, str], up: Upstream) -> None:
    for name in ("anna", "bob"):
        assert (await served.ask("DELETE", f"/v1/accounts/keys/{name}", key=keys["boss"])).status == 200
    refused = await served.ask("DELETE", "/v1/accounts/keys/boss", key=keys["boss"])
    assert (refused.status, "last key" in refused.json()["error"]["message"]) == (409, True)


@with_server
async def test_only_the_scope_accounts_may_and_a_caller_sees_its_own_budgets_alone(
    served: Served, keys: dict[str, str], up: Upstream
) -> None:
    boss, anna = keys["boss"], keys["anna"]
    for path in ("keys", "budgets", "limits", "usage"):
        assert (await served.ask("GET", f"/v1/accounts/{path}", key=anna)).status == 403
        assert (await served.ask("GET", f"/v1/accounts/{path}")).status == 401
    assert (await served.chat(boss)).status == 403
    for name, subject in (("mine", "key:anna"), ("ours", "tenant:*"), ("bobs", "key:bob")):
        rule = {"name": name, "subject": subject, "window": "week", "money": 0.5}
        assert (await served.ask("POST", "/v1/accounts/budgets", rule, boss)).status == 200
    await served.chat(anna)
    own = (await served.ask("GET", "/v1/accounts/me", key=anna)).json()["budgets"]
    assert {(one["budget"], one["subject"], one["spent_nanos"]) for one in own} == {
        ("mine", "key:anna", 13_000),
        ("ours", "tenant:acme", 13_000),
    }


@with_server
async def test_a_key_may_ask_for_the_models_that_it_names_only(
    served: Served, keys: dict[str, str], up: Upstream
) -> None:
    refused = await served.chat(keys["bob"])
    assert (refused.status, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    assert "it may ask for other" in refused.json()["error"]["message"]
    assert up.received == []


@with_server
async def test_budgets_that_were_set_are_there_after_a_reload(
    served: Served, keys: dict[str, str], up: Upstream
) -> None:
    rule = {"name": "mine", "subject": "key:anna", "window": "total", "tokens": 5}
    await served.ask("POST", "/v1/accounts/budgets", rule, keys["boss"])
    await served.reloader.reload()
    assert (await served.chat(keys["anna"])).status == 429
