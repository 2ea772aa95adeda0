"""The console's page as it is given out: once compressed, kept where it never changes, guarded, and absent in words."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_http import Client, Reply, ScriptedBackend, answer, make_app, run
from tests.unit.server.test_keys import ENTRIES

from headrace.server import console
from headrace.server.app import App
from headrace.server.config import ConsoleSettings, ServerConfig
from headrace.server.keys import KeyRing

ON = ServerConfig(console=ConsoleSettings())
FILES = {
    "index.html": b"<!doctype html><title>Headrace</title>",
    "main-ABC.js": b"render();",
    "page-ABC.css": b"body{}",
    "licenses.txt": b"MIT",
}


def build(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        (folder / f"{name}.br").write_bytes(b"br:" + data)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    (folder / "built.json").write_text(json.dumps(sums))


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setattr(console, "FOLDER", tmp_path / "static")
    build(tmp_path / "static", FILES)
    return make_app(ScriptedBackend(answer("x")), ON, keys=KeyRing(lambda: ENTRIES))


def get(app: App, path: str, method: str = "GET", **headers: str) -> Reply:
    client = Client(app, method, path, b"", {name.replace("_", "-"): value for name, value in headers.items()})

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


@pytest.mark.parametrize("path", ["/console/", "/console/manage/keys", "/console/statics", "/console/a/b/c"])
def test_every_address_of_the_console_is_its_page_and_asks_for_no_key(app: App, path: str) -> None:
    reply = get(app, path)
    assert (reply.status, reply.body) == (200, FILES["index.html"])
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache"


def test_the_console_is_found_without_its_slash(app: App) -> None:
    reply = get(app, "/console")
    assert (reply.status, reply.headers["location"]) == (308, "/console/")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("main-ABC.js", "text/javascript"), ("page-ABC.css", "text/css"), ("licenses.txt", "text/plain")],
)
def test_files_with_a_digest_in_their_name_are_kept_for_good(app: App, name: str, kind: str) -> None:
    reply = get(app, f"/console/static/{name}")
    assert (reply.status, reply.body) == (200, FILES[name])
    assert reply.headers["content-type"] == f"{kind}; charset=utf-8"
    assert "immutable" in reply.headers["cache-control"]


@pytest.mark.parametrize("name", ["built.json", "index.html", "main-OLD.js", "..", "main-ABC.js.gz", "%2e%2e", "own"])
def test_nothing_else_of_the_folder_is_given_out(app: App, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "static" / "own").write_text("x")
    assert get(app, f"/console/static/{name}").status == 404


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("br;q=0, gzip;q=0.5", "gzip"),
        ("*", "br"),
        ("*;q=0", None),
        ("identity", None),
        ("br;q=0.000", None),
        ("BR", "br"),
        ("", None),
    ],
)
def test_a_file_comes_in_a_coding_that_is_accepted(app: App, accepted: str, coding: str | None) -> None:
    reply = get(app, "/console/static/main-ABC.js", accept_encoding=accepted)
    assert reply.headers.get("content-encoding") == coding
    wanted = {"br": b"br:render();", "gzip": b"render();", None: b"render();"}[coding]
    assert (gzip.decompress(reply.body) if coding == "gzip" else reply.body) == wanted
    assert reply.headers["vary"] == "accept-encoding"


def test_what_a_browser_has_is_not_sent_again(app: App) -> None:
    first = get(app, "/console/")
    again = get(app, "/console/", if_none_match=f'"other", W/{first.headers["etag"]}')
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert get(app, "/console/", if_none_match=first.headers["etag"], accept_encoding="br").status == 200


def test_the_policy_lets_nothing_in_but_the_servers_own_files(app: App) -> None:
    for path in ("/console", "/console/", "/console/static/main-ABC.js", "/console/static/gone.js"):
        policy = dict(
            part.strip().partition(" ")[::2] for part in get(app, path).headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["require-trusted-types-for"] == "'script'"


def test_a_page_that_was_built_anew_is_served_without_a_restart(app: App, tmp_path: Path) -> None:
    assert get(app, "/console/static/main-ABC.js").status == 200
    build(tmp_path / "static", {"index.html": b"new", "main-DEF.js": b"new();"})
    (tmp_path / "static" / "main-ABC.js").unlink()
    assert get(app, "/console/").body == b"new"
    assert get(app, "/console/static/main-DEF.js").body == b"new();"
    assert get(app, "/console/static/main-ABC.js").status == 404


def test_a_server_without_the_page_says_how_to_get_it_and_serves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "FOLDER", tmp_path / "nothing")
    app = make_app(ScriptedBackend(answer("x")), ON)
    reply = get(app, "/console/")
    assert (reply.status, reply.error()["code"]) == (404, "console_not_built")
    assert "make console" in reply.error()["message"]
    assert get(app, "/v1/models").status == 200


def test_a_console_that_is_off_is_not_there() -> None:
    app = make_app(ScriptedBackend(answer("x")), ServerConfig(console=None))
    assert get(app, "/console/").status == get(app, "/console/session").status == 404


def test_without_keys_everybody_is_the_local_user() -> None:
    app = make_app(ScriptedBackend(answer("x")), ON)
    told: dict[str, Any] = get(app, "/console/session").json()
    assert (told["needs_sign_in"], told["name"], told["tenant"]) == (False, None, "local")
    assert {"admin", "generate", "observe"} <= set(told["scopes"])


def test_without_keys_another_name_or_site_gets_no_session() -> None:
    app = make_app(ScriptedBackend(answer("x")), ON)
    assert get(app, "/console/session", host="rebound.example").status == 403
    assert get(app, "/console/session", origin="https://other.example").status == 403


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_with_keys_only_the_names_that_are_allowed_have_sessions(method: str) -> None:
    config = ServerConfig(console=ConsoleSettings(), allowed_hosts=("llm.example",))
    app = make_app(ScriptedBackend(answer("x")), config, keys=KeyRing(lambda: ENTRIES))
    shown = {"authorization": "Bearer hr_alice", "x_headrace_console": "1"} if method != "GET" else {}
    assert get(app, "/console/session", method, host="rebound.example", **shown).status == 403
