"""Usage in the store: what is written twice is there once, sums are of what is there, leases keep their promises."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.core.accounts import UsageFilter, UsageQuery
from headrace.core.errors import InvalidRequest
from headrace.core.usage import UsageRecord
from headrace.memory import usage, usage_reports
from headrace.memory.database import Database
from headrace.memory.usage import Entry, LeaseAsk, values_of

DAY_S = 1_795_651_200
MARK = ("key:k", "day", DAY_S)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "state.db") as opened:
        yield opened


def entry(number: int, nanos: int = 5, marks: tuple[Any, ...] = (MARK,), **given: Any) -> Entry:
    basics = {"request_id": f"r{number}", "started_s": DAY_S + 10.0, "tenant": "acme", "key": "k", "prompt_tokens": 3}
    record = UsageRecord(**{**basics, "completion_tokens": 2, "cost_nanos": nanos, "model": "m", **given})
    return Entry(number, marks, values_of(record))


def rows(database: Database, sql: str) -> list[Any]:
    return database.transact(lambda connection: connection.execute(sql).fetchall())


def test_records_that_are_written_again_change_nothing(database: Database) -> None:
    # More than one statement takes, and not a multiple of it.
    first = [entry(number) for number in range(1, 1200)]
    assert database.transact(usage.write, first) == 1199
    assert database.transact(usage.write, first[500:]) == 0
    assert database.transact(usage.write, [*first[1190:], entry(1200), entry(1200, nanos=99)]) == 1
    assert rows(database, "SELECT COUNT(*), SUM(cost_nanos) FROM usage_records") == [(1200, 6000)]
    assert rows(database, "SELECT num_requests, cost_nanos, prompt_tokens FROM usage_days") == [(1200, 6000, 3600)]
    assert rows(database, "SELECT nanos, tokens FROM budget_periods") == [(6000, 6000)]


def test_a_record_is_read_as_it_was_written(database: Database) -> None:
    record = UsageRecord(
        request_id="r", started_s=DAY_S + 0.5, tenant="a", user="é", tags=("x", "y"), is_estimated=True, ttft_s=0.25
    )
    database.transact(usage.write, [Entry(7, (), values_of(record))])
    page = database.transact(usage_reports.find_records, UsageQuery())
    assert page.records == ((7, record),)


def test_a_write_that_fails_leaves_no_sums(database: Database) -> None:
    with pytest.raises(OverflowError):
        database.transact(usage.write, [entry(1), entry(2, nanos=2**70)])
    for table in ("usage_records", "usage_days", "budget_periods"):
        assert rows(database, f"SELECT COUNT(*) FROM {table}") == [(0,)]


def test_sums_are_by_tag_for_each_tag_and_by_day_in_order(database: Database) -> None:
    entries = [
        entry(1, tags=("x", "y")),
        entry(2, tags=("y",), started_s=DAY_S + 86_400.0),
        entry(3, outcome="upstream_fault", model="", asked_model="asked"),
    ]
    database.transact(usage.write, entries)
    by_tag = database.transact(usage_reports.find_sums, ("tag",), UsageFilter())
    assert {one.group["tag"]: one.num_requests for one in by_tag} == {"x": 1, "y": 2, "": 1}
    by_day = database.transact(usage_reports.find_sums, ("day", "key"), UsageFilter())
    assert [(one.group["day"], one.num_requests, one.num_failed) for one in by_day] == [
        ("2026-11-26", 2, 1),
        ("2026-11-27", 1, 0),
    ]
    later = UsageFilter(equals={"key": "k"}, tag="y", since_s=DAY_S + 86_400.0 + 5)
    assert [one.cost_nanos for one in database.transact(usage_reports.find_sums, (), later)] == [5]
    by_model = database.transact(usage_reports.find_sums, ("model",), UsageFilter())
    assert {one.group["model"] for one in by_model} == {"m", "asked"}


@pytest.mark.parametrize("name", ["started_s; DROP TABLE usage_records", "cost_nanos", ""])
def test_no_name_of_a_column_comes_from_outside(database: Database, name: str) -> None:
    with pytest.raises(InvalidRequest):
        database.transact(usage_reports.find_records, UsageQuery(which=UsageFilter(equals={name: "1"})))
    with pytest.raises(InvalidRequest):
        usage_reports.check_names([name], usage_reports.GROUPS, "by")


def ask(used: int | None, more: int, limit: int | None = 1000) -> LeaseAsk:
    return LeaseAsk(MARK, None if used is None else (used, 0), (more, 0), (limit, None))


def test_a_lease_is_what_is_used_and_more_within_the_limit_and_never_lowered_while_it_may_be_in_use(
    database: Database,
) -> None:
    database.transact(usage.write, [entry(1, nanos=40)])
    (first,) = database.transact(usage.grant, [ask(None, 50)])
    assert (first.spent, first.ceilings) == ((40, 5), (90, None))
    (higher,) = database.transact(usage.grant, [ask(80, 100)])
    (lower,) = database.transact(usage.grant, [ask(10, 20)])
    assert (higher.ceilings[0], lower.ceilings[0]) == (180, 180)
    (last,) = database.transact(usage.grant, [ask(990, 50)])
    assert last.ceilings[0] == 1000


@pytest.mark.parametrize(("boot", "is_damaged", "charged"), [("old", False, 5), ("new", False, 90), ("old", True, 90)])
def test_leases_are_charged_when_a_machine_or_a_journal_was_lost_and_gone_afterwards(
    database: Database, boot: str, is_damaged: bool, charged: int
) -> None:
    database.transact(usage.begin_run, "old", 1.0)
    database.transact(usage.write, [entry(1)])
    database.transact(usage.grant, [ask(40, 50)])
    database.transact(lambda connection: usage.end_lost_runs(connection, boot, is_damaged=is_damaged))
    assert rows(database, "SELECT nanos, tokens, lease_nanos FROM budget_periods") == [(charged, 5, None)]
    database.transact(lambda connection: usage.end_lost_runs(connection, "newer still", is_damaged=False))
    assert rows(database, "SELECT nanos FROM budget_periods") == [(charged,)]


def test_a_process_that_ended_well_owes_nothing_after_a_loss_of_power(database: Database) -> None:
    run = database.transact(usage.begin_run, "old", 1.0)
    database.transact(usage.grant, [ask(0, 50)])
    database.transact(lambda connection: usage.end_run(connection, run, holds_leases=True))
    database.transact(lambda connection: usage.end_lost_runs(connection, "new", is_damaged=False))
    assert rows(database, "SELECT nanos FROM budget_periods") == [(0,)]


def test_a_tenants_neighbours_in_name_are_not_erased_with_it(database: Database) -> None:
    subjects = ["tenant:acme", "tenant:acme2", "user:acme/x", "user:acme2/x", "user:acme-b/x", "key:k", "key:k2", "all"]
    marks = tuple((subject, "day", DAY_S) for subject in subjects)
    database.transact(usage.write, [entry(1, marks=marks), entry(2, tenant="acme2")])
    erased = database.transact(usage.erase, "acme", ["k"])
    assert (erased.num_records, erased.num_days, erased.num_periods) == (1, 1, 3)
    left = {row[0] for row in rows(database, "SELECT subject FROM budget_periods")}
    assert left == {"tenant:acme2", "user:acme2/x", "user:acme-b/x", "key:k2", "all"}
    # Twice adds up under the one name that is left.
    database.transact(usage.write, [entry(3)])
    database.transact(usage.erase, "acme", [])
    assert rows(database, "SELECT tenant, key, num_requests FROM usage_days ORDER BY tenant") == [
        ("(erased)", "", 2),
        ("acme2", "k", 1),
    ]


def test_old_records_go_oldest_first_and_some_at_a_time(database: Database) -> None:
    database.transact(usage.write, [entry(number, started_s=float(number)) for number in range(1, 11)])
    assert database.transact(lambda connection: usage.delete_old(connection, 8.0, 0.0, limit=4)) == 4
    assert database.transact(lambda connection: usage.delete_old(connection, 8.0, 0.0, limit=4)) == 3
    assert database.transact(lambda connection: usage.delete_old(connection, 8.0, 0.0, limit=4)) == 0
    assert [row[0] for row in rows(database, "SELECT number FROM usage_records")] == [8, 9, 10]


def test_what_was_synced_is_in_the_file_that_a_loss_of_power_leaves(database: Database, tmp_path: Path) -> None:
    """What cannot be seen from here is the disk; that SQLite is told to sync can."""
    seen: list[int] = []

    def look(connection: sqlite3.Connection) -> None:
        seen.append(connection.execute("PRAGMA synchronous").fetchone()[0])

    database.transact(look)
    database.transact_durably(look)
    database.transact(look)
    assert seen == [1, 2, 1]
