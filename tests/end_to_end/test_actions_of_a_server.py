"""What administrators did to a server, over HTTP and by commands: killed between a beginning and its end, and held
against the log, so that nothing can be changed or taken out unseen."""

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tests.served import near, serving
from tests.upstreams import upstream
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.core.actions import ActionQuery, Actor, Begun, Outcome, Through
from headrace.memory import actions
from headrace.memory.database import Database

RECORDS = """
[records]
mode = "enforce"
[log]
origin = "example.com/answers"
batch = "5ms"
"""


async def typed(*words: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, list(words))


async def listed(*words: str) -> list[dict[str, Any]]:
    done = await typed("actions", "--json", *words)
    assert done.exit_code == 0, done.output
    data: list[dict[str, Any]] = json.loads(done.stdout)["data"]
    return data


async def verified(*words: str) -> dict[str, Any]:
    done = await typed("actions", "--verify", "--json", *words)
    assert done.stdout, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == (0 if told["is_clean"] else 1)
    return told


def test_a_servers_and_commands_changes_are_one_list_that_the_log_commits_to(tmp_path: Path) -> None:
    home = tmp_path / "home"
    state = ["--config", str(tmp_path / "headrace.toml"), "--home", str(home)]

    async def main() -> None:
        async with upstream() as up:
            text = near(up, RECORDS)
            async with serving(tmp_path, text) as served:
                made = await served.ask("POST", "/v1/accounts/budgets", budget("team"), x_headrace_console="1")
                assert made.status == 200
                assert (await served.ask("DELETE", "/v1/accounts/budgets/none")).status == 404
                words = ["--subject", "all", "--window", "day", "--tokens", "5", *state]
                assert (await typed("budgets", "set", "cli", *words)).exit_code == 0
                assert (await typed("budgets", "remove", "nothing", *state)).exit_code == 1
                told = (await served.ask("GET", "/v1/admin/actions")).json()["data"]
                assert [(one["action"], one["target"], one["outcome"], one["who"]["through"]) for one in told] == [
                    ("headrace budgets remove", "nothing", "refused", "cli"),
                    ("headrace budgets set", "cli", "done", "cli"),
                    ("DELETE /v1/accounts/budgets/{name}", "none", "refused", "api"),
                    ("POST /v1/accounts/budgets", "team", "done", "console"),
                ]
                assert told[1]["who"]["subject"].startswith("os:")
            visit = Begun(
                actor=Actor(tenant="acme", subject="key:a", through=Through.CONSOLE), name="POST /console/session"
            )
            with Database(home / "headrace.db") as database:  # nothing commits to it, and it is not verified
                database.transact(actions.note_visit, "act_visit", visit, time.time())
            async with serving(tmp_path, text):  # what was written beside the first one is handed in by the next
                async with asyncio.timeout(30):
                    while (found := await verified(*state))["num_waiting"]:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
        assert (found["num_actions"], found["num_held"], found["findings"]) == (4, 4, [])
        trust = tmp_path / "trust"
        trust.write_text((await typed("log", "trust-file", *state)).stdout)
        assert (await verified("--trust", str(trust), *state))["is_trusted"]
        audit = await typed("log", "audit", "--trust", str(trust), "--all-signatures", *state)
        assert audit.exit_code == 0, audit.output
        await falsify(home, state)

    asyncio.run(main())


BEGINNINGS = (
    "begun_s = begun_s + 1",
    "tenant = 'other'",
    "key = 'somebody'",
    "subject = 'os:other'",
    "through = 'console'",
    "name = 'headrace budgets set'",
    "target = 'other'",
    """asked = '{"reason": "none"}'""",
    "request_id = 'req_2'",
)


async def falsify(home: Path, state: list[str]) -> None:
    """Change what is kept in one way after the other, and see it found."""
    visit, newest, *_, oldest = [one["id"] for one in await listed(*state)]
    assert visit == "act_visit"
    for change, words in (
        *(
            (f"UPDATE actions SET {what} WHERE id = ?", "beginning is not the one that was logged")
            for what in BEGINNINGS
        ),
        ("UPDATE actions SET outcome = 'done' WHERE id = ?", "end is not the one that was logged"),
        ("UPDATE actions SET code = 'other' WHERE id = ?", "end is not the one that was logged"),
        ("UPDATE actions SET ended_s = ended_s + 1 WHERE id = ?", "end is not the one that was logged"),
        ("UPDATE actions SET outcome = NULL, ended_s = NULL WHERE id = ?", "the list has none"),
        ("DELETE FROM actions WHERE id = ?", "it is not in the list"),
        ("UPDATE actions SET is_visit = 1 WHERE id = ?", "it is not in the list"),
    ):
        assert (await verified(*state))["is_clean"]
        saved = (home / "headrace.db").read_bytes()
        for one in {newest, oldest} if change.startswith("DELETE") else {newest}:
            with sqlite3.connect(home / "headrace.db") as database:
                database.execute(change, (one,))
                database.commit()
            database.close()
            told = await verified(*state)
            assert len(told["findings"]) == 1 and words in told["findings"][0], (change, told)
            await asyncio.to_thread(put_back, home, saved)


def put_back(home: Path, saved: bytes) -> None:
    for path in home.glob("headrace.db-*"):
        path.unlink()
    (home / "headrace.db").write_bytes(saved)


def budget(name: str) -> dict[str, Any]:
    return {"name": name, "subject": "tenant:acme", "window": "month", "money": 1}


SERVER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from tests.scripted import Scripted
from tests.scripted_services import ScriptedReloading, scripted_services
from headrace.server.app import build_app
from headrace.server.config import ServerConfig
from headrace.server.serve import listen, serve

class Hanging(ScriptedReloading):
    async def reload(self):
        print("in the middle", flush=True)
        await asyncio.Event().wait()

async def main():
    backend, config = Scripted([]), ServerConfig(port=0)
    async with scripted_services(backend, Path(sys.argv[1])) as services:
        app = build_app(backend, config, services=replace(services, reloading=Hanging()))
        with listen(config) as listener:
            await serve(app, listener, lambda url: print("Serving", url, flush=True))

asyncio.run(main())
"""


def test_of_a_server_killed_in_the_middle_of_a_change_the_list_says_that_it_is_not_known(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = next(line.split()[1] for line in process.stdout if line.startswith("Serving"))
        request = urllib.request.Request(url + "/v1/gateway/reload", b"", {"x-request-id": "the-change"})
        with ThreadPoolExecutor(1) as beside:
            answer = beside.submit(urllib.request.urlopen, request, timeout=60)
            assert next(process.stdout).strip() == "in the middle"
            process.kill()
            with pytest.raises(OSError):
                answer.result()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with Database(tmp_path / "state.sqlite3") as database:
        (told,) = database.read(actions.find, ActionQuery())
    assert (told.begun.name, told.begun.request_id) == ("POST /v1/gateway/reload", "the-change")
    assert (told.outcome, told.ended_s) == (Outcome.UNKNOWN, None)
