"""The books on the command line, erasing a tenant everywhere, and backups that a server runs on."""

import asyncio
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.loopback import listening
from tests.served import Served, near, serving
from tests.upstreams import upstream
from typer.testing import CliRunner

from headrace.cli.keys import KeyRights, add_key
from headrace.cli.main import app
from headrace.core.endorsing import Endorsement
from headrace.memory import endorsements
from headrace.memory.database import Database

BUDGET = '[[budgets]]\nname = "house"\nsubject = "all"\nwindow = "total"\nmoney = 100\n'
FILE = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\ncontent-disposition: form-data; '
    b'name="file"; filename="x.jsonl"\r\n\r\nsecret words of anna\r\n--b--\r\n'
)


def headrace(*words: str) -> Any:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return json.loads(done.output) if "--json" in words else done.output


def issue(folder: Path) -> dict[str, str]:
    path = folder / "home" / "keys.toml"
    path.parent.mkdir(exist_ok=True)
    rights = {
        "anna": KeyRights(tenant="acme", user="anna", tags=("night",)),
        "bob": KeyRights(tenant="other"),
        "boss": KeyRights(scopes=("accounts",)),
    }
    return {name: add_key(path, name, one, datetime.now(UTC)) for name, one in rights.items()}


async def use(served: Served, keys: dict[str, str]) -> None:
    """Something of everything that is kept, of two tenants."""
    for name in ("anna", "bob"):
        assert (await served.chat(keys[name], store=True)).status == 200
        responded = await served.ask("POST", "/v1/responses", {"model": "chat", "input": "Hi"}, keys[name])
        assert responded.json()["status"] == "completed"
        kind = {"content_type": "multipart/form-data; boundary=b"}
        assert (await served.ask("POST", "/v1/files", FILE, keys[name], **kind)).status == 200


def used(folder: Path, *, at_end: Callable[[Served], None] = lambda _: None) -> dict[str, str]:
    keys = issue(folder)

    async def main() -> None:
        async with upstream() as up, serving(folder, near(up, BUDGET)) as served:
            await use(served, keys)
            await asyncio.to_thread(at_end, served)

    asyncio.run(main())
    return keys


def where(folder: Path) -> list[str]:
    return ["--home", str(folder / "home"), "--config", str(folder / "headrace.toml")]


def test_usage_and_budgets_are_told_without_a_server(tmp_path: Path) -> None:
    used(tmp_path)
    sums = headrace("usage", "--by", "tenant,tag", "--json", *where(tmp_path))["data"]
    assert {(one["group"]["tenant"], one["group"]["tag"], one["num_requests"]) for one in sums} == {
        ("acme", "night", 2),
        ("other", "", 2),
    }
    shown = headrace("usage", "--by", "key", *where(tmp_path))
    assert "anna" in shown and "2.6e-05" in shown
    assert headrace("usage", "--tenant", "acme", *where(tmp_path)).count("near/small") == 2
    made = headrace("budgets", "set", "team", "--subject", "tenant:acme", "--window", "month", "--money", "1", "--json",
                    *where(tmp_path))  # fmt: skip
    assert made["subject"] == "tenant:acme"
    listed = {one["name"]: one for one in headrace("budgets", "list", "--json", *where(tmp_path))["data"]}
    assert listed["house"]["standings"][0]["spent_nanos"] == 52_000
    # It counts from when it was set.
    assert listed["team"]["standings"][0]["spent_nanos"] == 0
    text = headrace("budgets", "list", *where(tmp_path))
    assert "house" in text and "(settings file)" in text and "tenant:acme" in text
    headrace("budgets", "set", "each", "--subject", "key:*", "--window", "day", "--money", "1", *where(tmp_path))
    (each,) = [line for line in headrace("budgets", "list", *where(tmp_path)).splitlines() if line.startswith("each ")]
    assert each.endswith("each day")  # of each key by itself: no one time at which it begins again
    assert headrace("budgets", "remove", "each", *where(tmp_path)) == "Removed each.\n"
    assert headrace("budgets", "remove", "team", *where(tmp_path)) == "Removed team.\n"
    assert len(headrace("budgets", "list", "--json", *where(tmp_path))["data"]) == 1


def test_the_same_is_asked_of_a_running_server(tmp_path: Path) -> None:
    keys = issue(tmp_path)

    async def main() -> None:
        async with upstream() as up, serving(tmp_path, near(up, BUDGET)) as served, listening(served.app) as (_, port):
            assert (await served.chat(keys["anna"])).status == 200
            to = ["--url", f"http://127.0.0.1:{port}", "--key", keys["boss"]]
            rule = ["--subject", "tenant:acme", "--window", "day", "--tokens", "1"]
            assert "holds for tenant:acme" in await asyncio.to_thread(headrace, "budgets", "set", "a b", *rule, *to)
            assert (await served.chat(keys["anna"])).status == 429
            listed = await asyncio.to_thread(headrace, "budgets", "list", "--json", *to)
            assert [one["name"] for one in listed["data"]] == ["house", "a b"]
            await asyncio.to_thread(headrace, "budgets", "remove", "a b", *to)
            assert (await served.chat(keys["anna"])).status == 200
            sums = await asyncio.to_thread(headrace, "usage", "--by", "key", "--of-key", "anna", "--json", *to)
            assert [(one["group"], one["num_requests"]) for one in sums["data"]] == [({"key": "anna"}, 2)]
            issued = await asyncio.to_thread(headrace, "keys", "add", "ci", "--tag", "x", "--json", *to)
            assert (await served.chat(issued["key"])).status == 200
            await asyncio.to_thread(headrace, "keys", "disable", "ci", *to)
            assert (await served.chat(issued["key"])).status == 401
            assert "ci " in await asyncio.to_thread(headrace, "keys", "list", *to)
            await asyncio.to_thread(headrace, "keys", "enable", "ci", *to)
            await asyncio.to_thread(headrace, "keys", "remove", "ci", *to)
            left = await asyncio.to_thread(headrace, "keys", "list", "--json", *to)
            assert {one["name"] for one in left} == {"anna", "bob", "boss"}
            to[-1] = keys["anna"]
            refused = await asyncio.to_thread(CliRunner().invoke, app, ["budgets", "list", *to])
            assert "Give a key of scope accounts" in refused.output

    asyncio.run(main())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["budgets", "set", "x", "--subject", "all", "--window", "day"], "neither money nor tokens"),
        (["budgets", "set", "house", "--subject", "all", "--window", "day", "--money", "1"], "of the settings file"),
        (["budgets", "remove", "none"], "no budget 'none'; existing: house"),
        (["usage", "--by", "colour"], "none of tenant"),
        (["usage", "--since", "then"], "neither Unix seconds nor a date"),
        (["budgets", "list", "--url", "http://127.0.0.1:1"], "No Headrace server answers"),
    ],
)
def test_what_is_wrong_is_a_sentence(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text(BUDGET)
    given = words if "--url" in words else [*words, *where(tmp_path)]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 1
    assert said in done.output


def test_erasing_a_tenant_leaves_nothing_of_it_but_sums_without_a_name(tmp_path: Path) -> None:
    used(tmp_path)
    headrace(
        "budgets", "set", "hers", "--subject", "user:acme/anna", "--window", "day", "--money", "1", *where(tmp_path)
    )
    one = Endorsement(id="end_1", tenant="acme", by="key:anna", tool="pay", made_s=0.0, until_s=1e12, uses=None)
    with Database(tmp_path / "home" / "endorsements.db", endorsements.MIGRATIONS) as database:
        database.transact(endorsements.save, [one], 0.0)
    done = headrace("erase", "--tenant", "acme", "--json", *where(tmp_path))
    expected = {
        "endorsements": 1,
        "keys": 1,
        "usage_records": 2,
        "responses": 1,
        "completions": 1,
        "files": 1,
        "rules": 1,
        "pages": 0,
    }
    assert expected.items() <= done.items()
    assert done["still_named"] == []
    home = tmp_path / "home"
    for path in home.rglob("*"):
        if path.is_file():
            found = path.read_bytes()
            assert b"acme" not in found, path
            assert b"anna" not in found or path.parent.name == "files", path
    assert len(list((home / "files").glob("file*"))) == 1
    sums = headrace("usage", "--by", "tenant", "--json", *where(tmp_path))["data"]
    assert {one["group"]["tenant"]: one["cost_nanos"] for one in sums} == {"(erased)": 26_000, "other": 26_000}
    (house,) = headrace("budgets", "list", "--json", *where(tmp_path))["data"]
    assert house["standings"][0]["spent_nanos"] == 52_000


def test_what_a_settings_file_still_says_of_an_erased_tenant_is_told(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('[[budgets]]\nname = "team"\nsubject = "user:acme/x"\nwindow = "day"\nmoney = 1\n[tenants.acme]\n')
    done = headrace("erase", "--tenant", "acme", "--json", *where(tmp_path))
    assert done["still_named"] == ["tenants.acme", "budget team"]
    assert "still names it" in headrace("erase", "--tenant", "acme", *where(tmp_path))


def test_a_backup_of_a_running_server_is_whole_and_a_server_runs_on_it(tmp_path: Path) -> None:
    copy = tmp_path / "copy"

    def take(served: Served) -> None:
        done = headrace("backup", str(copy), "--json", *where(tmp_path))
        assert (done["files"], done["keys"], done["journals"]) == (2, True, 1)

    keys = used(tmp_path, at_end=take)
    assert CliRunner().invoke(app, ["backup", str(copy), *where(tmp_path)]).exit_code == 1  # not empty
    shutil.rmtree(tmp_path / "home")
    copy.rename(tmp_path / "home")

    async def main() -> None:
        async with upstream() as up, serving(tmp_path, near(up, BUDGET)) as served:
            # Answers, whether they were in the database yet or only in the journal.
            sums = (await served.ask("GET", "/v1/accounts/usage?by=tenant", key=keys["boss"])).json()["data"]
            assert {one["group"]["tenant"]: one["cost_nanos"] for one in sums} == {"acme": 26_000, "other": 26_000}
            listed = (await served.ask("GET", "/v1/files", key=keys["anna"])).json()["data"]
            read = await served.ask("GET", f"/v1/files/{listed[0]['id']}/content", key=keys["anna"])
            assert b"secret words" in read.body
            kept = (await served.ask("GET", "/v1/chat/completions", key=keys["anna"])).json()["data"]
            assert len(kept) == 1
            (house,) = (await served.ask("GET", "/v1/accounts/budgets", key=keys["boss"])).json()["data"]
            assert house["standings"][0]["spent_nanos"] == 52_000
            assert (await served.chat(keys["anna"])).status == 200

    asyncio.run(main())


def test_a_backup_beside_a_busy_writer_holds_one_moment(tmp_path: Path) -> None:
    """Rows and their files come and go while it is made: what the copy lists is in it, and nothing else is."""
    used(tmp_path)
    home, is_over = tmp_path / "home", threading.Event()

    def write() -> None:
        number = 0
        with closing(sqlite3.connect(home / "headrace.db", timeout=30, isolation_level=None)) as database:
            while not is_over.is_set():
                number += 1
                (home / "files" / f"file-{number}").write_bytes(b"x" * 100)
                database.execute(
                    "INSERT INTO files (id, tenant, filename, purpose, num_bytes, created_s) "
                    "VALUES (?, 't', 'f', 'p', 100, 0)",
                    (f"file-{number}",),
                )
                if number % 2:
                    database.execute("DELETE FROM files WHERE id = ?", (f"file-{number}",))
                    (home / "files" / f"file-{number}").unlink()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(3):
            headrace("backup", str(tmp_path / f"copy{number}"), *where(tmp_path))
    finally:
        is_over.set()
        thread.join()
    for number in range(3):
        copy = tmp_path / f"copy{number}"
        with closing(sqlite3.connect(copy / "headrace.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            listed = {row[0] for row in database.execute("SELECT id FROM files")}
        assert {path.name for path in (copy / "files").iterdir()} == listed
