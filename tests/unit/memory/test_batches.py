"""Rows of batches: a line ends once, a status changes as a batch's life allows, a tenant's erasure is whole."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.core.batch import LIFE, Batch, BatchOrder, BatchStatus
from headrace.core.errors import NotFound
from headrace.core.events import Usage
from headrace.core.request import Principal
from headrace.core.trust import Delegation, Effect
from headrace.memory import batches as rows
from headrace.memory.batches import Line, LineEnd
from headrace.memory.database import Database

Call = Callable[..., Any]


@pytest.fixture
def call(tmp_path: Path) -> Iterator[Call]:
    with Database(tmp_path / "state.db") as database:
        for tenant in ("acme", "other"):
            database.transact(rows.insert_batch, batch(f"batch_{tenant}", tenant), 9)
        yield database.transact


def batch(batch_id: str, tenant: str) -> Batch:
    order = BatchOrder(
        dialect="openai", endpoint="/e", input_file_id="f", window="24h", window_s=9, metadata={"a": "b"}
    )
    principal = Principal(tenant=tenant, user="u", scopes=frozenset({"generate", "admin"}), priority=3, share=2.0)
    times_s = {BatchStatus.VALIDATING: 5}
    return Batch(
        id=batch_id,
        principal=principal,
        order=order,
        status=BatchStatus.VALIDATING,
        created_s=5,
        expires_s=14,
        times_s=times_s,
    )


def begun(call: Call, num_lines: int) -> None:
    call(rows.add_lines, "batch_acme", [Line(n + 1, f"l{n}", n, 1) for n in range(num_lines)])
    assert call(rows.begin_batch, "batch_acme", 6, "m").num_lines == num_lines


def test_a_batch_comes_back_as_it_went(call: Call) -> None:
    assert call(rows.find_batch, "acme", "batch_acme") == batch("batch_acme", "acme")


def test_a_batch_of_an_agent_comes_back_within_the_same_bounds(call: Call) -> None:
    given = Delegation(
        chain=("key:k", "planner"),
        revocation_ids=("a", "b"),
        models=frozenset({"x", "y"}),
        effects=frozenset({Effect.READ, Effect.EGRESS}),
        labels=frozenset(),
        max_calls=3,
        expires_s=9.5,
        facts={"ticket": "t"},
    )
    sent = batch("batch_agent", "agents")
    sent = replace(sent, principal=replace(sent.principal, delegation=given, workload="spiffe://d/a"))
    call(rows.insert_batch, sent, 9)
    assert call(rows.find_batch, "agents", "batch_agent") == sent


def test_only_the_first_end_of_a_line_counts(call: Call) -> None:
    begun(call, 2)
    first = LineEnd(b"first", is_failed=False, usage=Usage(7, 2, 4, reasoning_tokens=1))
    call(rows.end_lines, "batch_acme", {1: first})
    call(rows.end_lines, "batch_acme", {1: LineEnd(b"second", is_failed=True), 9: LineEnd(b"nobody's", is_failed=True)})
    found = call(rows.find_batch, "acme", "batch_acme")
    assert (found.num_ended, found.num_failed, found.num_unrun) == (1, 0, 0)
    assert found.usage == Usage(7, 2, 4, reasoning_tokens=1)
    assert call(rows.results, "batch_acme", 0, 9, is_failed=None) == [(1, b"first")]
    assert [line.number for line in call(rows.waiting_lines, "batch_acme", 0, 9)] == [2]


@pytest.mark.parametrize("start", list(BatchStatus))
@pytest.mark.parametrize("end", list(BatchStatus))
def test_a_status_changes_only_as_a_batchs_life_allows(call: Call, start: BatchStatus, end: BatchStatus) -> None:
    begun(call, 1)

    def put(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE batches SET status = ? WHERE id = 'batch_acme'", (start.value,))

    call(put)
    moved = call(rows.move_batch, "batch_acme", end, 7)
    if end not in LIFE.get(start, ()):
        assert moved is None
        assert call(rows.find_batch, "acme", "batch_acme").status is start
        return
    assert (moved.status, moved.times_s[end]) == (end, 7)
    assert len(call(rows.waiting_lines, "batch_acme", 0, 9)) == (1 if end in LIFE else 0)


def test_erasing_a_tenant_takes_its_batches_with_their_lines_and_no_others(call: Call) -> None:
    begun(call, 3)
    assert call(rows.erase, "acme") == 1
    assert call(rows.waiting_lines, "batch_acme", 0, 9) == []
    with pytest.raises(NotFound):
        call(rows.reread_batch, "batch_acme")
    assert call(rows.find_batch, "other", "batch_other").principal.tenant == "other"
