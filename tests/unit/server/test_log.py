"""The log over HTTP: its files as they lie, told how long they last, and no other file by any path."""

from pathlib import Path

import pytest
from tests.doubles_http import Client, Reply, ScriptedBackend, answer, make_app, run
from tests.doubles_log import item, open_writer
from tests.unit.server.test_keys import entry

from headrace.gateway.notary.public import LogShelf
from headrace.memory.log_files import LogFolder
from headrace.server.app import App
from headrace.server.keys import KeyRing

LASTING, PASSING = "public, max-age=31536000, immutable", "no-cache"


@pytest.fixture
def app(tmp_path: Path) -> App:
    writer = open_writer(tmp_path)
    writer.open()
    writer.take([item(number) for number in range(300)])
    writer.publish()
    writer.add_cosignatures(writer.latest.note, is_witnessed=True)
    writer.close()
    return make_app(
        ScriptedBackend(answer("Hi")),
        keys=KeyRing(lambda: [entry("hr_user", "acme", "generate")]),
        public_log=LogShelf(LogFolder(tmp_path / "log")),
    )


def ask(app: App, path: str, method: str = "GET") -> Reply:
    client = Client(app, method, path)

    async def talk() -> None:
        await client.run()

    run(talk())
    return client.reply


@pytest.mark.parametrize(
    ("path", "kind", "lasts"),
    [
        ("checkpoint", "text/plain; charset=utf-8", PASSING),
        ("checkpoint.witnessed", "text/plain; charset=utf-8", PASSING),
        ("tile/0/000", "application/octet-stream", LASTING),
        ("tile/0/001.p/44", "application/octet-stream", LASTING),
        ("tile/1/000.p/1", "application/octet-stream", LASTING),
        ("tile/entries/000", "application/octet-stream", LASTING),
        ("tile/entries/001.p/44", "application/octet-stream", LASTING),
    ],
)
def test_each_file_is_given_out_as_it_lies_to_anybody(
    app: App, tmp_path: Path, path: str, kind: str, lasts: str
) -> None:
    reply = ask(app, f"/log/{path}")
    assert (reply.status, reply.body) == (200, (tmp_path / "log" / path).read_bytes())
    assert (reply.headers["content-type"], reply.headers["cache-control"]) == (kind, lasts)
    assert ask(app, f"/log/{path}", "HEAD").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/002",
        "tile/0/001.p/45",
        "tile/0/001",
        "tile/2/000.p/1",
        "tile/0/0",
        "tile/0/../../../provenance.db",
        "tile/../checkpoint",
        "tile/0/../../.lock",
        "tile//etc/passwd",
        "tile/0/000/",
        "tile/0/000.p",
        "tile/entries",
        "tile/0/%30%30%30",
        "tile/0/000\0",
        "tile/٠/000",
    ],
)
def test_what_is_no_file_of_the_log_is_not_found(app: App, path: str) -> None:
    assert ask(app, f"/log/{path}").status == 404


def test_what_lies_beside_the_log_is_on_no_path(app: App) -> None:
    # Not open paths: a key is asked for before anything is said of them.
    for path in ("/log", "/log/", "/log/.lock", "/log/../provenance.db", "/log/checkpoint/", "/log/tile"):
        assert ask(app, path).status in {401, 404}


def test_a_server_whose_log_is_not_public_has_no_such_routes() -> None:
    assert ask(make_app(ScriptedBackend(answer("Hi"))), "/log/checkpoint").status == 404
