"""What was logged stays, what was kept beside it can be erased, from the file itself."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.core.errors import Conflict
from headrace.core.provenance import LogItem
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.memory.provenance import Erasure


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "provenance.db", provenance.MIGRATIONS) as opened:
        yield opened


def item(name: str, tenant: str = "acme", kind: str = "record", content: bytes = b"") -> LogItem:
    return LogItem(
        id=name,
        kind=kind,
        tenant=tenant,
        entry=b"entry of " + name.encode(),
        envelope=b"envelope of " + name.encode(),
        secrets=b"nonce of " + name.encode(),
        content=content,
    )


def put(database: Database, *items: LogItem, time_s: float = 1000.0) -> int:
    return database.transact_durably(provenance.put, items, time_s)


def test_items_get_indexes_without_a_gap_and_come_back_as_they_were(database: Database) -> None:
    assert put(database, item("a"), item("b")) == 0
    assert put(database, item("c", content=b"words"), time_s=2000.5) == 2
    found = database.read(provenance.by_id, "c")
    assert found is not None
    assert (found.item, found.index, found.time_s, found.is_erased) == (item("c", content=b"words"), 2, 2000.5, False)
    assert [one.item.id for one in database.read(provenance.in_range, 1, 99)] == ["b", "c"]
    assert database.read(provenance.entries, 0, 2) == [b"entry of a", b"entry of b"]
    assert database.read(provenance.num_logged) == 3
    assert database.read(provenance.by_id, "nobody") is None


def test_a_batch_with_an_id_that_is_there_adds_nothing(database: Database) -> None:
    put(database, item("a"))
    with pytest.raises(Conflict):
        put(database, item("b"), item("a"))
    assert database.read(provenance.num_logged) == 1
    assert put(database, item("b")) == 1


def test_a_tenant_sees_its_own_in_order_and_by_kind(database: Database) -> None:
    put(database, item("a"), item("b", "other"), item("c", kind="delegation"), item("d"))
    assert [one.index for one in database.read(provenance.of_tenant, "acme")] == [0, 2, 3]
    assert [one.index for one in database.read(provenance.of_tenant, "acme", start=1, kind="record")] == [3]
    assert [one.index for one in database.read(provenance.of_tenant, "acme", limit=1)] == [0]
    assert [one.index for one in database.read(provenance.of_kind, "record", start=1)] == [1, 3]


@pytest.mark.parametrize(
    ("erasure", "erased"),
    [
        (Erasure(id="b"), {"b"}),
        (Erasure(tenant="acme"), {"a", "c"}),
        (Erasure(before_s=1500.0), {"a", "b"}),
        (Erasure(tenant="acme", before_s=1500.0), {"a"}),
    ],
)
def test_erasing_takes_what_was_meant_and_leaves_every_entry(
    database: Database, erasure: Erasure, erased: set[str]
) -> None:
    put(database, item("a"), item("b", "other"))
    put(database, item("c"), item("d", "other"), time_s=2000.0)
    assert database.transact_durably(provenance.erase, erasure) == len(erased)
    assert database.transact_durably(provenance.erase, erasure) == 0
    for one in database.read(provenance.in_range, 0, 4):
        assert one.item.entry == b"entry of " + one.item.id.encode()
        whole = item(one.item.id, one.item.tenant)
        empty = dataclasses.replace(whole, envelope=b"", secrets=b"")
        assert one.item == (empty if one.item.id in erased else whole)
        assert one.is_erased == (one.item.id in erased)


def test_only_the_content_goes_where_only_that_is_named(database: Database) -> None:
    put(database, item("a", content=b"words"))
    assert database.transact_durably(provenance.erase, Erasure(tenant="acme", parts=["content"])) == 1
    found = database.read(provenance.by_id, "a")
    assert found is not None and found.item == item("a") and not found.is_erased


def test_erasing_goes_in_bounded_steps(database: Database) -> None:
    put(database, *(item(f"i{number}") for number in range(7)))
    steps = [database.transact_durably(provenance.erase, Erasure(tenant="acme"), 3) for _ in range(4)]
    assert steps == [3, 3, 1, 0]


def test_what_was_erased_is_in_no_file_any_more(database: Database, tmp_path: Path) -> None:
    # Longer than a page, so that it lies in pages of its own, too.
    put(database, item("a", content=b"the patient's name " * 1000), item("b"))
    database.empty_log()
    assert any(b"patient" in path.read_bytes() for path in tmp_path.iterdir())
    database.transact_durably(provenance.erase, Erasure(id="a"))
    database.empty_log()
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert b"patient" not in data and b"nonce of a" not in data and b"envelope of a" not in data
    assert any(b"nonce of b" in path.read_bytes() for path in tmp_path.iterdir())


def test_reading_waits_for_no_writer(database: Database, tmp_path: Path) -> None:
    put(database, item("a"))
    with Database(tmp_path / "provenance.db", provenance.MIGRATIONS) as other:
        seen = database.transact(lambda _: other.read(provenance.num_logged))
    assert seen == 1


@pytest.mark.parametrize("wrong", [{}, {"tenant": "a", "parts": ()}, {"tenant": "a", "parts": ("entry",)}])
def test_an_erasure_of_everything_or_of_entries_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Erasure(**wrong)  # type: ignore[arg-type]
