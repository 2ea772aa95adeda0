"""`headrace delegate`, and a server that takes what it makes."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_http import Client, Reply
from tests.unit.cli.test_gateway import backend, route, serving, with_backend
from tests.upstreams import Upstream
from typer.testing import CliRunner, Result

from headrace.cli.main import app
from headrace.core.errors import InvalidRequest

Delegate = Callable[..., Result]


def run(*options: str) -> str:
    result = CliRunner().invoke(app, ["delegate", *options])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "home")


GRANT = ("grant", "--to", "planner", "--subject", "key:laptop", "--tenant", "acme")


def grant(home: str, *options: str) -> str:
    return run(*GRANT, "--home", home, *options)


def inspect(home: str, token: str, *options: str) -> Any:
    result = CliRunner().invoke(app, ["delegate", "inspect", token, "--home", home, "--json", *options])
    return json.loads(result.stdout)


def test_a_token_is_made_narrowed_inspected_and_revoked(home: str) -> None:
    token = grant(
        home, "--model", "small", "--model", "large", "--max-cost", "2.5", "--max-calls", "9", "--fact", "t=x"
    )
    narrowed = run("attenuate", token, "--to", "helper", "--model", "small", "--effect", "read", "--label", "none")
    told = inspect(home, narrowed)
    assert told["holds"] and told["why"] == ""
    assert told["chain"] == ["key:laptop", "planner", "helper"]
    assert (told["models"], told["effects"], told["facts"]) == (["small"], ["read"], {"t": "x"})
    assert (told["max_cost_nanos"], told["max_calls"], told["labels"]) == (2_500_000_000, 9, [])
    assert told["tools"] is None
    run("revoke", told["blocks"][0]["id"], "--home", home, "--reason", "over")
    assert inspect(home, narrowed)["why"] == "the delegation was revoked"
    assert not inspect(home, token)["holds"]


def test_a_token_is_checked_by_the_public_key_alone(home: str, tmp_path: Path) -> None:
    token, key = grant(home), run("key", "--home", home)
    assert key.startswith("ed25519/")
    other = str(tmp_path / "other")
    assert inspect(other, token)["why"] == "the delegation is no token that was signed here"
    assert inspect(other, token, "--root", key)["holds"]


def test_a_token_that_servers_here_would_not_take_for_so_long_does_not_hold(home: str) -> None:
    token = grant(home, "--for", "2h")
    Path("short.toml").write_text('[delegation]\nmax_age = "1h"\n', "utf-8")
    assert inspect(home, token)["holds"]
    told = inspect(home, token, "--config", "short.toml")
    assert (told["holds"], told["why"]) == (False, "the delegation must end within 3600 s")


def test_the_root_key_is_its_owners_alone(home: str) -> None:
    grant(home)
    path = Path(home) / "delegation.pem"
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o640)
    result = CliRunner().invoke(app, ["delegate", *GRANT, "--home", home])
    assert result.exit_code == 1
    assert "others may read" in result.stderr
    path.chmod(0o600)
    path.write_bytes(b"no key")
    assert "cannot be used" in CliRunner().invoke(app, ["delegate", *GRANT, "--home", home]).stderr


def test_what_was_revoked_stays_so_in_a_backup_whose_root_key_goes_on(home: str, tmp_path: Path) -> None:
    token, other, copy = grant(home), grant(home), str(tmp_path / "copy")
    run("revoke", inspect(home, token)["blocks"][0]["id"], "--home", home)
    done = CliRunner().invoke(app, ["backup", copy, "--home", home])
    assert done.exit_code == 0, done.output
    assert inspect(copy, token)["why"] == "the delegation was revoked"
    assert inspect(copy, other)["holds"]
    assert (tmp_path / "copy" / "delegation.pem").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--for", "soon"), "is no time"),
        (("--effect", "fly"), "effect: 'fly'"),
        (("--scope", "root"), "scope: 'root'"),
        (("--model", 'a"b'), "is no name"),
        (("--fact", "subject=x"), "means something else"),
        (("--fact", "x"), "NAME=TEXT"),
        (("--max-calls", "-1"), "max_calls: -1"),
        (("--subject", "laptop"), "subject: 'laptop' names nobody; write key:NAME"),
        (("--for", "31d"), "for: 2678400 s is longer than servers take a token for, 2592000 s"),
    ],
)
def test_what_no_token_can_say_is_refused_by_name(home: str, options: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(app, ["delegate", *GRANT, "--home", home, *options])
    assert result.exit_code == 1
    assert said in result.stderr


def test_what_cannot_be_narrowed_or_revoked_is_refused(home: str) -> None:
    assert CliRunner().invoke(app, ["delegate", "attenuate", "x", "--max-calls", "1"]).exit_code == 1
    assert CliRunner().invoke(app, ["delegate", "attenuate", grant(home)]).exit_code == 1
    assert "is no id" in CliRunner().invoke(app, ["delegate", "revoke", "abc", "--home", home]).stderr


KEYS = """
[[keys]]
name = "laptop"
tenant = "acme"
secret = "env:LAPTOP_KEY"
[[keys]]
name = "root"
tenant = "acme"
secret = "env:ROOT_KEY"
scopes = ["admin"]
[delegation]
"""
ENVIRON = {"LAPTOP_KEY": "hr_laptop", "ROOT_KEY": "hr_root"}


def biscuit(token: str) -> dict[str, str]:
    return {"authorization": f"Biscuit {token}"}


@with_backend
async def test_a_server_takes_tokens_of_its_own_counts_over_a_restart_and_lets_them_be_revoked(
    up: Upstream, folder: Path, environ: Any
) -> None:
    text, environ = backend(up) + route() + KEYS, environ | ENVIRON
    home = str(folder / "home")
    async with serving(folder, text, environ) as served:
        token = grant(home, "--model", "chat", "--max-calls", "3")
        helper = run("attenuate", token, "--to", "helper", "--for", "10m")
        assert (await served.ask(**biscuit(token))).status == 200
        assert (await served.ask(**biscuit(helper))).status == 200
        refused = await served.ask("near/small", **biscuit(token))
        assert refused.status in (403, 404)
        assert (await served.ask()).status == 401
        assert 'Biscuit realm="headrace"' in (await served.ask()).headers["www-authenticate"]
        assert (await served.ask(**biscuit(token[:-9]))).status == 401
        names = {card["id"] for card in (await listed(served, token))["data"]}
        assert names == {"chat"}
    async with serving(folder, text, environ) as served:
        assert (await served.ask(**biscuit(token))).status == 200
        used_up = await served.ask(**biscuit(helper))
        assert (used_up.status, used_up.error()["code"]) == (429, "budget_exceeded")
        fresh = grant(home)
        below = run("attenuate", fresh, "--to", "helper")
        assert (await served.ask(**biscuit(below))).status == 200
        run("revoke", inspect(home, fresh)["blocks"][0]["id"], "--home", home)
        assert (await served.ask(**biscuit(below))).status == 200
        await served.reload(text)
        assert (await served.ask(**biscuit(below))).status == 401


async def listed(served: Any, token: str) -> Any:
    return (await served.ask(method="GET", path="/v1/models", **biscuit(token))).json()


@with_backend
async def test_an_admin_takes_a_delegation_back_at_once_and_its_key_takes_all_of_its_own(
    up: Upstream, folder: Path, environ: Any
) -> None:
    text, environ = backend(up) + route() + KEYS, environ | ENVIRON
    home = str(folder / "home")
    async with serving(folder, text, environ) as served:
        one, other = grant(home), grant(home)
        assert (await served.ask(**biscuit(one))).status == 200
        block = inspect(home, one)["blocks"][0]["id"]
        path, body = "/v1/delegations/revoked", json.dumps({"ids": [block], "reason": "over"}).encode()
        for key, status in (("hr_laptop", 403), ("hr_root", 200)):
            reply = await Client(served.app, "POST", path, body, {"authorization": f"Bearer {key}"}).run()
            assert reply.status == status
        assert (await served.ask(**biscuit(one))).status == 401
        assert (await served.ask(**biscuit(other))).status == 200
        told = (await served.ask(method="GET", path=path, authorization="Bearer hr_root")).json()["data"]
        assert [(entry["id"], entry["reason"]) for entry in told] == [(block, "over")]
        await served.reload(
            text.replace("laptop", "desk").replace("LAPTOP", "ROOT").replace('ROOT_KEY"\nscopes', 'LAPTOP_KEY"\nscopes')
        )
        gone = await served.ask(**biscuit(other))
        assert gone.status == 401
        assert "may not any more" in gone.error()["message"]


@with_backend
async def test_a_caller_hands_on_a_part_of_what_it_may_do_itself(up: Upstream, folder: Path, environ: Any) -> None:
    keys = KEYS.replace('name = "laptop"', 'name = "laptop"\nroutes = ["chat"]\nlabels = ["restricted"]')
    text, environ = backend(up, more='clearance = ["restricted"]\n') + route() + keys, environ | ENVIRON
    async with serving(folder, text, environ) as served:

        async def order(credential: str, **wanted: Any) -> Reply:
            body = json.dumps({"to": "planner", **wanted}).encode()
            return await Client(served.app, "POST", "/v1/delegations", body, {"authorization": credential}).run()

        made = await order("Bearer hr_laptop", max_calls=1, max_cost=1.5)
        assert made.status == 200 and made.headers["cache-control"] == "no-store"
        token = made.json()["token"]
        told = inspect(str(folder / "home"), token)
        assert told["models"] == ["chat"]  # the key itself may ask for no other
        assert (told["chain"], told["max_cost_nanos"]) == (["key:laptop", "planner"], 1_500_000_000)
        assert told["blocks"][0]["id"] == made.json()["id"]
        assert (await served.ask(**biscuit(token))).status == 200
        assert (await served.ask(**biscuit(token))).status == 429
        assert (await order(f"Biscuit {token}")).status == 403
        assert (await order("Bearer hr_root")).status == 403
        assert (await order("Bearer hr_laptop", models=["chat", "near/small"])).error()["param"] == "models"
        for wrong, name in (
            ({"expires_in": 10**7}, "expires_in"),
            ({"tools": ['a"b']}, "tools"),
            ({"too": 1}, "too"),
        ):
            refused = await order("Bearer hr_laptop", **wrong)
            assert refused.status == 400
            assert name in refused.error()["message"]


@with_backend
async def test_beside_a_key_a_delegation_must_be_made_out_to_it(up: Upstream, folder: Path, environ: Any) -> None:
    keys = KEYS.replace('name = "root"', 'name = "desk"').replace('scopes = ["admin"]', "")
    text, environ = backend(up) + route() + keys, environ | ENVIRON
    home = str(folder / "home")
    async with serving(folder, text, environ) as served:
        # A mere name is nobody's that a credential could prove.
        for holder, status in (("key:desk", 200), ("key:laptop", 401), ("spiffe://d/a", 401), ("planner", 401)):
            token = run("grant", "--to", holder, "--subject", "key:laptop", "--tenant", "acme", "--home", home)
            reply = await served.ask(authorization="Bearer hr_root", x_headrace_delegation=token)
            assert reply.status == status, holder


@with_backend
async def test_a_root_key_that_others_may_read_ends_the_start(up: Upstream, folder: Path, environ: Any) -> None:
    home = folder / "home"
    home.mkdir(mode=0o700)
    descriptor = os.open(home / "delegation.pem", os.O_WRONLY | os.O_CREAT, 0o644)
    os.close(descriptor)
    with pytest.raises(InvalidRequest, match="others may read"):
        async with serving(folder, backend(up) + route() + KEYS, environ | ENVIRON):
            pass
