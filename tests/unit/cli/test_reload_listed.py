"""A reload by signal is in the list of actions: the names of what changed, what waits for a restart, and refusals."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.unit.cli.test_gateway import SECRET, Served, backend, route, serving, with_backend
from tests.unit.server.test_actions import Book
from tests.upstreams import Upstream

from headrace.cli.keys import KeyRights, add_key, disable_key
from headrace.core.actions import Outcome
from headrace.core.errors import DiskFull


async def signal(served: Served, text: str) -> None:
    served.file.write_text(text, "utf-8")
    served.reloader.on_signal()
    await served.reloader.settle()


async def signalled(served: Served, text: str) -> dict[str, Any]:
    """What the list says after a reload by signal."""
    await signal(served, text)
    newest: dict[str, Any] = (await served.ask(path="/v1/admin/actions", method="GET")).json()["data"][0]
    return newest


@with_backend
async def test_it_is_listed_with_the_names_of_what_changed_and_of_what_waits(
    up: Upstream, folder: Any, environ: Any
) -> None:
    text = backend(up) + route()
    more = "queue = 7\nmax_in_flight = 9\n" + text.replace("= 50", "= 51") + route().replace("chat", "talk")
    async with serving(folder, text, environ) as served:
        told = await signalled(served, more)
        assert (told["action"], told["target"], told["outcome"], told["code"]) == ("SIGHUP", "", "done", None)
        assert told["who"] == {"tenant": "local", "subject": "operator", "key": None, "through": "signal"}
        assert told["asked"] == {"changed": ["backends.near", "max_in_flight", "routes.talk"], "waiting": ["queue"]}
        assert (await served.ask("talk")).status == 200
        assert (await signalled(served, more))["asked"] == {"waiting": ["queue"]}


@with_backend
async def test_keys_are_named_as_they_are_in_force_whichever_file_has_them(
    up: Upstream, folder: Any, environ: Any
) -> None:
    keys, now = folder / "keys.toml", datetime.now(UTC)
    boss = add_key(keys, "boss", KeyRights(scopes=("generate", "admin")), now)
    add_key(keys, "laptop", KeyRights(), now)
    text = f'keys = "{keys}"\n' + backend(up) + route()
    async with serving(folder, text, environ) as served:
        add_key(keys, "phone", KeyRights(), now)
        disable_key(keys, "laptop", is_disabled=True)
        await signal(served, text)
        reply = await served.ask(path="/v1/admin/actions", method="GET", authorization=f"Bearer {boss}")
        assert reply.json()["data"][0]["asked"] == {"changed": ["keys.laptop", "keys.phone"]}
        assert boss not in reply.body.decode()


@with_backend
async def test_a_refused_one_is_listed_with_its_error_and_without_secrets(
    up: Upstream, folder: Any, environ: Any
) -> None:
    text, plain = backend(up) + route(), "correct horse"  # which nobody could take for a secret by its looks
    async with serving(folder, text, environ) as served:
        told = await signalled(served, text.replace("openai-compatible", "opnai"))
        assert (told["outcome"], told["code"]) == ("refused", "invalid_value")
        assert "backends.near.kind: 'opnai' is no kind of backend" in told["asked"]["error"]
        for wrong in (
            text.replace("env:NEAR_KEY", SECRET),
            text.replace("env:NEAR_KEY", "env:NOT_THERE"),
            text.replace(up.url, f"http://user:{SECRET}@h"),
            f"[[backends]]\nsecret = '{plain}'\n",  # tables of another shape
            f"[[backends.near]]\nsecret = '{plain}'\n",
            f"[keys.phone]\nsecret = '{plain}'\n",
        ):
            assert wrong != text
            told = await signalled(served, wrong)
            assert told["outcome"] == "refused"
            assert SECRET not in json.dumps(told) and plain not in json.dumps(told)
        assert (await signalled(served, text))["asked"] == {}  # of what was refused nothing is in force
        assert (await served.ask()).status == 200


@with_backend
async def test_it_is_begun_before_anything_changes_and_ended_afterwards(
    up: Upstream, folder: Any, environ: Any
) -> None:
    text = backend(up) + route()
    async with serving(folder, text, environ) as served:
        seen: list[tuple[str, int]] = []

        class Watching(Book):
            async def begin(self, begun: Any) -> str:
                seen.append(("begun", (await served.ask("talk")).status))
                return await super().begin(begun)

            async def end(self, action_id: str, outcome: Outcome, code: str | None = None) -> None:
                seen.append((outcome.value, (await served.ask("talk")).status))

        served.reloader._book = Watching()
        await signal(served, text + route().replace("chat", "talk"))
        assert seen == [("begun", 404), ("done", 200)]


@with_backend
async def test_where_nothing_can_be_listed_it_says_so_and_goes_on(up: Upstream, folder: Any, environ: Any) -> None:
    text = backend(up) + route()
    async with serving(folder, text, environ) as served:
        book = Book()
        book.refusal = DiskFull("there is no room for the list of actions; make some.")
        served.reloader._book = book
        with pytest.MonkeyPatch.context() as patch:
            said: list[str] = []
            patch.setattr("headrace.cli.reload._logger.warning", lambda words, *args: said.append(words % args))
            await signal(served, text + route().replace("chat", "talk"))
        assert said == [
            "this reload is not in the list of actions: there is no room for the list of actions; make some."
        ]
        assert (await served.ask("talk")).status == 200 and not book.ends
