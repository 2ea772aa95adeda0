"""The routes of records: what they ask of a caller, and what they pass on."""

import asyncio
import json

import pytest
from tests.doubles_http import Client, Reply, make_app
from tests.scripted import Scripted

from headrace.core.errors import NotFound
from headrace.core.request import Principal
from headrace.server.config import ServerConfig


class Book:
    """As `RecordBook`; remembers what it was asked."""

    trusted = b"node test x\n"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, float]] = []
        self.erased: list[str] = []

    async def bundle(self, record_id: str, principal: Principal, wait_s: float = 0.0) -> bytes:
        """As `RecordBook`."""
        if record_id != "rec_1":
            raise NotFound("there is no such record of yours.")
        self.asked.append((record_id, principal.tenant, wait_s))
        return b'{"id":"rec_1"}'

    async def erase(self, record_id: str, principal: Principal) -> None:
        """As `RecordBook`."""
        self.erased.append(record_id)


def ask(book: Book, method: str, path: str) -> Reply:
    app = make_app(Scripted([]), ServerConfig(port=0), records=book)
    return asyncio.run(Client(app, method, path).run())


def test_a_record_is_given_out_as_it_is_and_waited_for_as_long_as_somebody_wants() -> None:
    book = Book()
    assert ask(book, "GET", "/v1/provenance/rec_1").body == b'{"id":"rec_1"}'
    assert ask(book, "GET", "/v1/provenance/rec_1?wait_s=2.5").status == 200
    assert book.asked == [("rec_1", "local", 0.0), ("rec_1", "local", 2.5)]


@pytest.mark.parametrize("query", ["wait_s=31", "wait_s=-1", "wait_s=nan", "wait_s=x", "wait_s=1&wait_s=2", "wait=1"])
def test_a_wait_that_cannot_be_is_refused_by_name(query: str) -> None:
    reply = ask(Book(), "GET", f"/v1/provenance/rec_1?{query}")
    assert (reply.status, reply.error()["param"]) == (400, query.partition("=")[0])


def test_the_servers_own_trust_file_is_told_as_text_and_is_no_record() -> None:
    book = Book()
    reply = ask(book, "GET", "/v1/provenance/trust-file")
    assert (reply.status, reply.body, book.asked) == (200, book.trusted, [])
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"


def test_erasing_says_what_it_erased() -> None:
    book = Book()
    reply = ask(book, "DELETE", "/v1/provenance/rec_1")
    assert json.loads(reply.body) == {"object": "provenance.erased", "id": "rec_1", "erased": True}
    assert book.erased == ["rec_1"]


def test_what_is_not_there_is_not_found_and_without_the_service_there_is_no_route() -> None:
    assert ask(Book(), "GET", "/v1/provenance/rec_2").status == 404
    app = make_app(Scripted([]), ServerConfig(port=0))
    assert asyncio.run(Client(app, "GET", "/v1/provenance/rec_1").run()).status == 404
