"""What administrators change is remembered before it is done, whichever route does it; nobody else's requests are."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_http import Client, Reply, ScriptedBackend, answer, make_app, run
from tests.scripted import Scripted, Turn
from tests.scripted_services import (
    ScriptedLibrary,
    ScriptedMonitors,
    ScriptedOperations,
    ScriptedRecords,
    scripted_services,
)
from tests.unit.server.test_keys import entry

from headrace.core.actions import ActionPage, ActionQuery, Begun, Outcome
from headrace.core.errors import DiskFull, EngineFault
from headrace.core.model_library import PullStep
from headrace.server.actions import is_change
from headrace.server.app import App, build_app
from headrace.server.config import ConsoleSettings, ServerConfig
from headrace.server.feed import ClientGone
from headrace.server.keys import KeyRing
from headrace.server.routes import Route

# Everything that changes something and is its caller's own affair: answers, files, batches, what is stored of them. A
# route that is neither here nor an administrator's change makes this file fail.
OWN = {
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v1/score",
    "/score",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/tokenize",
    "/detokenize",
    "/v1/policy/decide",
    "/v1/delegations",
    "/v1/gateway/explain",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
}
OWN_BELOW = (
    "/v1/chat/completions/",
    "/v1/messages/batches",
    "/v1/batches",
    "/v1/files",
    "/v1/caches",
    "/v1/responses",
    "/v1/conversations",
    "/console/session",
)


class Book:
    """Remembers in a list. `refusal` is what `begin` raises; `seen` what was done when each was begun."""

    def __init__(self) -> None:
        self.begun: list[Begun] = []
        self.visits: list[Begun] = []
        self.ends: list[tuple[str, Outcome, str | None]] = []
        self.refusal: DiskFull | None = None

    async def begin(self, begun: Begun) -> str:
        if self.refusal is not None:
            raise self.refusal
        self.begun.append(begun)
        return f"act_{len(self.begun)}"

    async def end(self, action_id: str, outcome: Outcome, code: str | None = None) -> None:
        self.ends.append((action_id, outcome, code))

    async def note_visit(self, begun: Begun) -> None:
        self.visits.append(begun)

    async def actions(self, query: ActionQuery) -> ActionPage:
        return ActionPage((), has_more=False)


async def nothing(*_: Any) -> None:
    """A handler."""


async def ask(app: App, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await Client(app, method, path, data, given).run()


def send(app: App, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    replies: list[Reply] = []

    async def main() -> None:
        replies.append(await ask(app, method, path, body, **headers))

    run(main())
    return replies[0]


def drainable(book: Book, **services: Any) -> App:
    return make_app(ScriptedBackend(answer("x")), actions=book, **{"operations": ScriptedOperations()} | services)


@contextlib.asynccontextmanager
async def everything(folder: Path) -> AsyncIterator[tuple[App, Scripted]]:
    """A server with every service there is."""
    backend = Scripted([])
    async with scripted_services(backend, folder) as services:
        app = build_app(backend, ServerConfig(console=ConsoleSettings()), services=services)
        app.lifecycle.mark_ready()
        yield app, backend


async def listed(app: App, query: str = "") -> list[dict[str, Any]]:
    reply = await ask(app, "GET", f"/v1/admin/actions{query}")
    assert reply.status == 200
    data: list[dict[str, Any]] = reply.json()["data"]
    return data


def test_every_route_that_changes_what_is_not_its_callers_own_is_recorded_and_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with everything(tmp_path) as (app, _):
            changing = [route for route in app.routes if route.method not in {"GET", "HEAD"}]
            assert len(changing) > 40
            for route in changing:
                is_own = route.name in OWN or route.name.startswith(OWN_BELOW)
                assert is_change(route) != is_own, f"{route.method} {route.name}"
            for number, route in enumerate(filter(is_change, changing)):
                path = (
                    route.name.replace("{name}", f"one-{number}")
                    .replace("{record_id}", "rec_9")
                    .replace("{id}", "end_9")
                )
                await ask(app, route.method, path, {"unknown": "hr_" + "a" * 40})
                last = (await listed(app))[0]
                assert last["action"] == f"{route.method} {route.name}"
                assert last["outcome"] in {"done", "refused"}, last
                assert (last["outcome"] == "refused") == (last["code"] is not None)
                assert "a" * 40 not in json.dumps(last)
            assert len(await listed(app)) == sum(map(is_change, changing)) == len(await listed(app, "?limit=1000"))

    run(main())


@pytest.mark.parametrize("scope", ["admin", "accounts", "endorse"])
def test_a_new_route_of_an_administrators_scope_is_recorded_unless_it_only_reads(scope: str) -> None:
    for method, is_recorded in (("POST", True), ("PUT", True), ("PATCH", True), ("DELETE", True), ("GET", False)):
        assert is_change(Route("/v1/new", method, scope, nothing)) == is_recorded
    assert not is_change(Route("/v1/new", "POST", "generate", nothing))


def test_an_action_is_begun_before_it_is_done_and_ended_before_its_caller_has_the_answer() -> None:
    book, told = Book(), []

    class Operations(ScriptedOperations):
        def drain(self, backend: str) -> Any:
            told.append(("done", len(book.begun), len(book.ends)))
            return super().drain(backend)

    class Watching(Client):
        async def send(self, message: Any) -> None:
            if message["type"] == "http.response.body":
                told.append(("answered", len(book.begun), len(book.ends)))
            await super().send(message)

    client = Watching(drainable(book, operations=Operations()), "POST", "/v1/gateway/backends/up/drain")

    async def main() -> None:
        await client.run()

    run(main())
    assert client.reply.status == 200 and told == [("done", 1, 0), ("answered", 1, 1)]
    assert book.ends == [("act_1", Outcome.DONE, None)]
    begun = book.begun[0]
    assert (begun.name, begun.target) == ("POST /v1/gateway/backends/{name}/drain", "up")
    assert begun.actor.through == "api" and begun.request_id == client.reply.headers["x-request-id"]


def test_what_cannot_be_remembered_is_not_done() -> None:
    book, operations = Book(), ScriptedOperations()
    book.refusal = DiskFull("there is no room for the list of actions; make some.")
    app = drainable(book, operations=operations)
    reply = send(app, "POST", "/v1/gateway/backends/up/drain")
    assert reply.status == 507 and reply.json()["error"]["code"] == "disk_full"
    assert not operations.backends()[0].is_draining and not book.ends
    assert send(app, "GET", "/v1/gateway/backends").status == 200  # reading needs no list


def test_a_refusal_is_remembered_with_its_code_and_a_fault_is_no_refusal() -> None:
    class Operations(ScriptedOperations):
        def resume(self, backend: str) -> Any:
            raise EngineFault("a defect")

        def drain(self, backend: str) -> Any:
            if backend == "broken":
                raise RuntimeError("nobody expects that")
            return super().drain(backend)

    book = Book()
    app = drainable(book, operations=Operations())
    for path, status in (("down/drain", 404), ("up/resume", 500), ("broken/drain", 500)):
        assert send(app, "POST", f"/v1/gateway/backends/{path}").status == status
    assert [(outcome, code) for _, outcome, code in book.ends] == [
        (Outcome.REFUSED, "not_found"),
        (Outcome.FAILED, "engine_fault"),
        (Outcome.UNKNOWN, None),
    ]


def test_whoever_may_not_change_anything_leaves_nothing_in_the_list() -> None:
    book = Book()
    ring = KeyRing(lambda: [entry("hr_user", "acme", "generate"), entry("hr_eyes", "ops", "observe")])
    app = drainable(book, keys=ring, monitors=ScriptedMonitors())
    for key in ("hr_user", "hr_eyes", "hr_nobody"):
        status = send(app, "POST", "/v1/monitors/clear", {"account": "a"}, authorization=f"Bearer {key}").status
        assert status == (401 if key == "hr_nobody" else 403)
    assert not book.begun
    assert send(app, "GET", "/v1/admin/actions", authorization="Bearer hr_eyes").status == 200
    assert send(app, "GET", "/v1/admin/actions", authorization="Bearer hr_user").status == 403


def test_what_a_tenant_erases_of_its_own_is_its_own_affair_and_what_an_administrator_does_is_not() -> None:
    book = Book()
    ring = KeyRing(lambda: [entry("hr_user", "acme", "generate"), entry("hr_root", "ops", "admin")])
    app = drainable(book, keys=ring, records=ScriptedRecords())
    for key, num in (("hr_user", 0), ("hr_root", 1)):
        assert send(app, "DELETE", "/v1/provenance/rec_1", authorization=f"Bearer {key}").status == 200
        assert len(book.begun) == num
    assert book.begun[0].target == "rec_1"


def test_who_acted_and_which_way_is_told() -> None:
    book = Book()
    ring = KeyRing(lambda: [entry("hr_root", "ops", "admin")])
    app = drainable(book, keys=ring)
    drain = "/v1/gateway/backends/up/drain"
    assert send(app, "POST", drain, authorization="Bearer hr_root", user_agent="headrace-cli").status == 200
    assert send(app, "POST", drain, authorization="Bearer hr_root", x_headrace_console="1").status == 200
    actor = book.begun[0].actor
    assert (actor.tenant, actor.key, actor.subject) == ("ops", "ops's", "key:ops's")
    assert [one.actor.through for one in book.begun] == ["cli", "api"]  # a key is no session of the console


def test_a_pull_that_fails_halfway_is_no_pull_that_is_done() -> None:
    class Library(ScriptedLibrary):
        async def pull(self, name: str) -> Any:
            yield PullStep("downloading", 10, 5)
            raise EngineFault("the connection broke")

    book = Book()
    app = drainable(book, model_library=Library(Scripted([])))
    assert send(app, "POST", "/api/pull", {"model": "smollm2"}).status == 200
    assert book.begun[0].target == "smollm2"
    assert book.ends == [("act_1", Outcome.FAILED, "engine_fault")]


def test_a_model_that_is_let_go_by_a_question_of_ollamas_is_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        async with everything(tmp_path) as (app, backend):
            backend.turns = (Turn(text="Hi."),)
            model = backend.models()[0].id
            asked = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": False}
            assert (await ask(app, "POST", "/api/generate", {"model": model})).status == 200
            assert (await ask(app, "POST", "/api/chat", asked)).status == 200
            assert await listed(app) == []  # whoever asks has a model loaded
            assert (await ask(app, "POST", "/api/generate", {"model": model, "keep_alive": 0})).status == 200
            assert (await ask(app, "POST", "/api/chat", asked | {"keep_alive": 0})).status == 200
            told = [(one["action"], one["target"], one["outcome"]) for one in await listed(app)]
            assert told == [(f"POST /api/{name}", model, "done") for name in ("chat", "generate")]

    run(main())


def test_of_a_caller_that_went_away_it_is_not_known_what_was_done() -> None:
    class Operations(ScriptedOperations):
        def drain(self, backend: str) -> Any:
            raise ClientGone

    book = Book()
    client = Client(drainable(book, operations=Operations()), "POST", "/v1/gateway/backends/up/drain", b"", None)
    client.leave()

    async def main() -> None:
        await client.run()

    run(main())
    assert book.ends == [("act_1", Outcome.UNKNOWN, None)]


def test_a_body_that_is_too_long_or_broken_changes_nothing_and_harms_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with everything(tmp_path) as (app, _):
            for body in (b"{", b"[1]", b"\xff", b'{"name":"' + b"x" * 300 + b'"}', b"[" * 20_000):
                assert (await ask(app, "POST", "/v1/accounts/keys", body)).status == 400
            told = await listed(app, "?action=POST%20/v1/accounts/keys")
            assert [one["outcome"] for one in told] == ["refused"] * 5
            assert all(len(json.dumps(one)) < 1000 for one in told)
            assert (await ask(app, "GET", "/v1/accounts/keys")).json()["data"] == []

    run(main())


def test_a_key_is_made_disabled_and_taken_back_and_its_secret_is_in_no_row(tmp_path: Path) -> None:
    async def main() -> None:
        async with everything(tmp_path) as (app, _):
            path = "/v1/accounts/keys"
            made = await ask(app, "POST", path, {"name": "laptop", "scopes": ["generate"], "tenant": "acme"})
            assert made.status == 200
            assert (await ask(app, "PATCH", f"{path}/laptop", {"is_disabled": True})).status == 200
            assert (await ask(app, "DELETE", f"{path}/laptop")).status == 200
            assert (await ask(app, "DELETE", f"{path}/laptop")).status == 404
            told = await listed(app, "?target=laptop")
            assert [(one["action"], one["outcome"], one["code"]) for one in reversed(told)] == [
                ("POST /v1/accounts/keys", "done", None),
                ("PATCH /v1/accounts/keys/{name}", "done", None),
                ("DELETE /v1/accounts/keys/{name}", "done", None),
                ("DELETE /v1/accounts/keys/{name}", "refused", "not_found"),
            ]
            assert told[-1]["asked"] == {"name": "laptop", "scopes": ["generate"], "tenant": "acme"}
            assert told[-2]["asked"] == {"is_disabled": True}
            assert made.json()["secret"] not in json.dumps(told)

    run(main())


def test_what_a_tenants_tool_was_called_with_is_no_affair_of_whoever_reads_the_list(tmp_path: Path) -> None:
    async def main() -> None:
        async with everything(tmp_path) as (app, _):
            order = {"tool": "mail", "argument": "to", "value": "eve@acme.example", "reason": "asked by phone"}
            assert (await ask(app, "POST", "/v1/endorsements", order)).status == 200
            (told,) = await listed(app)
            assert told["asked"] == order | {"value": "(hidden)"}

    run(main())


def test_the_list_is_told_in_pages_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    async def main() -> None:
        async with everything(tmp_path) as (app, _):
            for number in range(5):
                await ask(app, "POST", "/v1/gateway/backends/up/" + ("drain" if number % 2 else "resume"))
            page = (await ask(app, "GET", "/v1/admin/actions?limit=2")).json()
            assert [one["number"] for one in page["data"]] == [5, 4] and page["has_more"] and page["last"] == 4
            rest = (await ask(app, "GET", "/v1/admin/actions?limit=3&after=4")).json()
            assert [one["number"] for one in rest["data"]] == [3, 2, 1] and not rest["has_more"]
            assert len(await listed(app, "?outcome=done")) == 5 and not await listed(app, "?outcome=refused")
            assert len(await listed(app, "?who=local")) == 5 and not await listed(app, "?who=somebody")
            for query, param in (
                ("limit=0", "limit"),
                ("limit=x", "limit"),
                ("after=-1", "after"),
                ("a=b", "a"),
                ("outcome=fine", "outcome"),
                ("who=a&who=b", "who"),
            ):
                reply = await ask(app, "GET", f"/v1/admin/actions?{query}")
                assert (reply.status, reply.json()["error"]["param"]) == (400, param)

    run(main())
