"""What is stored of responses and conversations: chains, pages, quota, expiry, erasure; each tenant sees its own."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.core.errors import InvalidRequest, NotFound
from headrace.memory import responses as memory
from headrace.memory.database import Database


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with Database(tmp_path / "state.db") as database:
        yield database.transact(lambda connection: connection)


def item(item_id: str, text: str = "x") -> dict[str, Any]:
    return {"id": item_id, "type": "message", "text": text}


def save(connection: sqlite3.Connection, response_id: str, *, now_s: float = 0.0, **fields: Any) -> None:
    """A response with one item on each side, in a chain that begins with it unless another is named."""
    given = {"tenant": "a", "thread": response_id, "previous": None, "status": "completed"} | fields
    status, conversation = given.pop("status"), given.pop("conversation", None)
    asked, answered = [item(f"in_{response_id}")], [item(f"out_{response_id}")]
    body = {"id": response_id, "status": status, "output": answered}
    record = memory.ResponseRecord(id=response_id, body=body, **given)
    memory.save_response(connection, record, asked, answered, now_s, conversation)


def ids(items: Any) -> list[str]:
    return [one["id"] for one in items]


def num_bytes(connection: sqlite3.Connection) -> tuple[int, int]:
    """What the rows hold, and what is counted."""
    held = connection.execute(
        "SELECT (SELECT COALESCE(SUM(LENGTH(body)), 0) FROM items)"
        " + (SELECT COALESCE(SUM(LENGTH(body) + COALESCE(LENGTH(events), 0)), 0) FROM responses)"
    ).fetchone()[0]
    counted = connection.execute(
        "SELECT (SELECT COALESCE(SUM(num_bytes), 0) FROM threads)"
        " + (SELECT COALESCE(SUM(num_bytes), 0) FROM conversations)"
    ).fetchone()[0]
    return held, counted


def test_a_chain_is_read_from_its_beginning_and_ends_where_a_part_is_deleted(connection: sqlite3.Connection) -> None:
    save(connection, "r1")
    save(connection, "r2", thread="r1", previous="r1")
    save(connection, "r3", thread="r1", previous="r2")
    save(connection, "other", thread="r1", previous="r1", status="incomplete")
    chain = memory.load_chain(connection, "a", "r3")
    assert chain is not None
    assert (chain.thread, chain.status) == ("r1", "completed")
    assert ids(chain.items) == ["in_r1", "out_r1", "in_r2", "out_r2", "in_r3", "out_r3"]
    assert memory.load_chain(connection, "b", "r3") is None
    assert memory.load_response(connection, "a", "r2")["output"] == [item("out_r2")]
    memory.delete_response(connection, "a", "r2")
    assert memory.load_chain(connection, "a", "r3") is None
    branch = memory.load_chain(connection, "a", "other")
    assert branch is not None
    assert ids(branch.items) == ["in_r1", "out_r1", "in_other", "out_other"]
    assert branch.status == "incomplete"
    with pytest.raises(NotFound):
        memory.load_response(connection, "a", "r2")


def test_a_later_state_of_a_response_takes_the_place_of_the_earlier_one(connection: sqlite3.Connection) -> None:
    save(connection, "r1", status="queued", runner=7, events=b"x" * 100)
    save(connection, "r1", events=b"yy")
    assert memory.load_response(connection, "a", "r1")["status"] == "completed"
    assert memory.load_events(connection, "a", "r1") == b"yy"
    held, counted = num_bytes(connection)
    assert held == counted


def test_lists_are_read_in_pages_from_both_ends(connection: sqlite3.Connection) -> None:
    memory.create_conversation(connection, "a", "c", {}, [item(f"i{index}") for index in range(5)], 0.0)

    def page(**part: Any) -> tuple[list[str], bool]:
        found, has_more = memory.conversation_page(connection, "a", "c", memory.Slice(**part))
        return ids(found), has_more

    assert page(limit=2) == (["i4", "i3"], True)
    assert page(limit=2, after="i3") == (["i2", "i1"], True)
    assert page(limit=2, after="i1") == (["i0"], False)
    assert page(limit=9, is_ascending=True, after="i1", before="i4") == (["i2", "i3"], False)
    assert page(limit=9, before="i3") == (["i4"], False)
    with pytest.raises(InvalidRequest, match="after: 'nothing' is not in this list"):
        page(limit=1, after="nothing")
    memory.delete_item(connection, "a", "c", "i2", 0.0)
    assert page(limit=9, is_ascending=True) == (["i0", "i1", "i3", "i4"], False)
    held, counted = num_bytes(connection)
    assert held == counted


def test_a_response_is_added_to_its_conversation_or_not_saved_at_all(tmp_path: Path) -> None:
    with Database(tmp_path / "state.db") as database:
        database.transact(memory.create_conversation, "a", "c", {"k": "v"}, [item("first")], 5.0)
        database.transact(lambda connection: save(connection, "r1", conversation="c"))
        assert ids(database.transact(memory.conversation_items, "a", "c")) == ["first", "in_r1", "out_r1"]
        with pytest.raises(InvalidRequest, match="in the conversation already"):
            database.transact(memory.append_items, "a", "c", [item("new"), item("first")], 6.0)
        assert len(database.transact(memory.conversation_items, "a", "c")) == 3
        database.transact(memory.delete_conversation, "a", "c")
        with pytest.raises(NotFound):
            database.transact(lambda connection: save(connection, "r2", conversation="c"))
        with pytest.raises(NotFound):
            database.transact(memory.load_response, "a", "r2")
        assert database.transact(memory.load_response, "a", "r1")["id"] == "r1"


def test_what_a_tenant_stores_is_counted_as_its_own(connection: sqlite3.Connection) -> None:
    save(connection, "r1")
    memory.create_conversation(connection, "b", "c", {}, [item("x")], 0.0)
    held, counted = num_bytes(connection)
    assert held == counted == memory.used_bytes(connection, "a") + memory.used_bytes(connection, "b")
    assert memory.used_bytes(connection, "a") > memory.used_bytes(connection, "b") > 0
    memory.delete_response(connection, "a", "r1")
    assert memory.used_bytes(connection, "a") == 0


def test_what_was_not_used_expires_as_a_whole_and_what_is_at_work_stays(connection: sqlite3.Connection) -> None:
    save(connection, "old", now_s=1.0)
    save(connection, "begun", now_s=1.0)
    save(connection, "continued", now_s=9.0, thread="begun", previous="begun")
    save(connection, "busy", now_s=1.0, status="in_progress", runner=1)
    memory.create_conversation(connection, "b", "old", {}, [item("x")], 1.0)
    memory.create_conversation(connection, "b", "new", {}, [], 9.0)
    assert [memory.purge(connection, 5.0, limit=1) for _ in range(2)] == [2, 0]
    assert memory.load_chain(connection, "a", "old") is None
    assert memory.load_chain(connection, "a", "continued") is not None
    assert memory.load_chain(connection, "a", "busy") is not None
    assert memory.load_conversation(connection, "b", "new") == (9.0, {})
    with pytest.raises(NotFound):
        memory.load_conversation(connection, "b", "old")
    assert memory.find_items(connection, "b", ["x"]) == {}
    assert memory.find_items(connection, "a", ["in_old", "in_begun"]) == {"in_begun": item("in_begun")}


def test_what_a_killed_process_left_has_failed_and_says_why(connection: sqlite3.Connection) -> None:
    save(connection, "dead", status="in_progress", runner=1)
    save(connection, "alive", status="queued", runner=2)
    save(connection, "done")
    why = {"code": "server_error", "message": "The server stopped."}
    assert memory.fail_unfinished(connection, lambda process: process == 2, why) == 1
    dead = memory.load_response(connection, "a", "dead")
    assert (dead["status"], dead["error"]) == ("failed", why)
    assert memory.load_response(connection, "a", "alive")["status"] == "queued"
    assert memory.load_response(connection, "a", "done")["status"] == "completed"


def test_an_erased_tenant_leaves_nothing_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with Database(path) as database:
        for tenant in ("a", "b"):
            words = [item("i", f"secret of {tenant} " * 50)]
            database.transact(memory.create_conversation, tenant, "c", {}, words, 0.0)
        database.transact(lambda connection: save(connection, "r1"))
        assert database.transact(memory.erase, "a") == (1, 1)
        database.empty_log()
        for table in ("threads", "responses", "items", "conversations"):
            rows = database.transact(
                lambda connection, table=table: connection.execute(f"SELECT tenant FROM {table}").fetchall()
            )
            assert {tenant for (tenant,) in rows} <= {"b"}
        data = path.read_bytes() + path.with_name("state.db-wal").read_bytes()
        assert b"secret of a" not in data
        assert b"secret of b" in data
