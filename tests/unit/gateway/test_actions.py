"""The book of what administrators do: on the disk before the change, in the log soon after, and honest about what it
does not know."""

import json
import sqlite3
from pathlib import Path

import pytest
from tests.doubles_actions import begun, book, until_logged
from tests.doubles_gateway import HandClock, in_loop
from tests.log_in_memory import MemoryLog

from headrace.core.actions import ActionQuery, Actor, AdminAction, Outcome, Through
from headrace.core.errors import HeadraceError, Unavailable
from headrace.gateway.actions import ActionKeeper
from headrace.memory import actions as rows
from headrace.trust.records.action import commitment_of
from headrace.trust.records.settings import ActionSettings


async def newest(keeper: ActionKeeper) -> AdminAction:
    return (await keeper.actions(ActionQuery())).actions[0]


@in_loop
async def test_an_action_goes_on_until_it_is_ended_and_its_first_end_stays(tmp_path: Path) -> None:
    async with book(tmp_path) as (keeper, _):
        one = await keeper.begin(begun(target="laptop", scopes=["generate"]))
        assert (await newest(keeper)).outcome is Outcome.BEGUN
        await keeper.end(one, Outcome.REFUSED, "not_found")
        await keeper.end(one, Outcome.DONE)
        told = await newest(keeper)
        assert (told.id, told.outcome, told.code, told.begun.asked) == (
            one,
            Outcome.REFUSED,
            "not_found",
            {"scopes": ["generate"]},
        )


@in_loop
async def test_of_what_a_process_did_not_end_the_next_one_says_that_it_is_not_known(tmp_path: Path) -> None:
    async with book(tmp_path) as (keeper, _):
        await keeper.begin(begun())
    async with book(tmp_path, start=1) as (keeper, _):
        assert (await newest(keeper)).outcome is Outcome.UNKNOWN
        other = await keeper.begin(begun())
        for outcome, num in ((Outcome.UNKNOWN, 1), (Outcome.BEGUN, 1), (Outcome.DONE, 0)):
            assert len((await keeper.actions(ActionQuery(outcome=outcome))).actions) == num
        await keeper.end(other, Outcome.DONE)
        assert [one.outcome for one in (await keeper.actions(ActionQuery())).actions] == ["done", "unknown"]


@in_loop
async def test_the_log_commits_to_both_ends_and_learns_nothing_of_who_did_what(tmp_path: Path) -> None:
    log = MemoryLog()
    async with book(tmp_path, log) as (keeper, store):
        await keeper.end(await keeper.begin(begun(target="laptop", tenant="acme")), Outcome.DONE)
        (told,) = await until_logged(keeper, 2)
        (kept,) = await store.read(rows.read_all)
    assert {item.id for item in log.items} == {told.id, f"{told.id}_end"}
    for item in log.items:
        for secret in (b"root", b"ops", b"laptop", b"acme", b"/v1/x"):
            assert secret not in item.entry + item.envelope + item.secrets + item.content
        said = json.loads(item.envelope)
        assert bytes.fromhex(said["commitment"]) == commitment_of(
            kept.action, kept.asked, kept.nonce, is_end=item.id.endswith("_end")
        )


@in_loop
async def test_what_the_log_did_not_take_it_is_handed_when_it_takes_things_again(tmp_path: Path) -> None:
    log = MemoryLog()
    log.refusal = Unavailable("the log's disk is full")
    async with book(tmp_path, log) as (keeper, _):
        await keeper.end(await keeper.begin(begun()), Outcome.DONE)  # it is not strict: the change is made
        assert not log.items
    log.refusal = None
    async with book(tmp_path, log, start=1) as (keeper, _):
        await until_logged(keeper, 2)
        await keeper.end(await keeper.begin(begun()), Outcome.DONE)
        await until_logged(keeper, 4)
    assert len(log.items) == 4 == len({item.id for item in log.items})


@in_loop
async def test_what_was_logged_before_a_kill_is_not_logged_twice(tmp_path: Path) -> None:
    log = MemoryLog()
    async with book(tmp_path, log) as (keeper, store):
        await keeper.end(await keeper.begin(begun()), Outcome.DONE)
        (told,) = await until_logged(keeper, 2)

        def forget(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE actions SET begun_index = NULL, ended_index = NULL")

        await store.call(forget)
    async with book(tmp_path, log, start=1) as (keeper, _):
        again = await until_logged(keeper, 2)
    assert again == [told] and len(log.items) == 2


@in_loop
async def test_where_records_are_enforced_nothing_is_begun_without_the_log(tmp_path: Path) -> None:
    log = MemoryLog()
    log.refusal = Unavailable("the log's disk is full")
    async with book(tmp_path, log, is_strict=True) as (keeper, _):
        with pytest.raises(Unavailable, match="disk is full"):
            await keeper.begin(begun())
        assert not (await keeper.actions(ActionQuery())).actions


@in_loop
async def test_nothing_is_begun_that_cannot_be_written_and_an_end_that_cannot_harms_nobody(tmp_path: Path) -> None:
    async with book(tmp_path) as (keeper, store):
        one = await keeper.begin(begun())
        await store.close()
        with pytest.raises(HeadraceError):
            await keeper.begin(begun())
        await keeper.end(one, Outcome.DONE)
    async with book(tmp_path, start=5) as (keeper, _):
        assert (await newest(keeper)).outcome is Outcome.UNKNOWN


def forbid_ends(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TRIGGER no BEFORE UPDATE ON actions BEGIN SELECT RAISE(ABORT, 'broken'); END")


@in_loop
async def test_an_end_that_could_not_be_written_is_not_known_and_no_longer_going_on(tmp_path: Path) -> None:
    async with book(tmp_path) as (keeper, store):
        one = await keeper.begin(begun())
        await store.call(forbid_ends)
        await keeper.end(one, Outcome.DONE)
        assert (await newest(keeper)).outcome is Outcome.UNKNOWN


def fill(connection: sqlite3.Connection) -> None:
    """No page is left, as on a full disk."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")


def make_room(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA max_page_count = 1000000")


@in_loop
async def test_on_a_full_disk_nothing_is_begun_and_with_room_it_goes_on(tmp_path: Path) -> None:
    async with book(tmp_path) as (keeper, store):
        await store.call(fill)
        with pytest.raises(Unavailable) as refused:
            for number in range(100):  # what is left of the last page holds a few
                await keeper.begin(begun(target=str(number), reason="long" * 200))
        assert refused.value.code == "disk_full"
        kept = len((await keeper.actions(ActionQuery())).actions)
        await store.call(make_room)
        await keeper.end(await keeper.begin(begun("after")), Outcome.DONE)
        found = (await keeper.actions(ActionQuery())).actions
        assert len(found) == kept + 1 and found[0].begun.name == "after"


@in_loop
async def test_the_list_is_bounded_in_days_and_in_number(tmp_path: Path) -> None:
    clock = HandClock()
    async with book(tmp_path, clock=clock, limits=ActionSettings(days=2)) as (keeper, _):
        await keeper.end(await keeper.begin(begun("old")), Outcome.DONE)
    clock.now_s += 2 * 86_400 + 1
    limits = ActionSettings(days=2, max_actions=100)
    async with book(tmp_path, clock=clock, limits=limits, start=1) as (keeper, _):
        for number in range(103):
            await keeper.end(await keeper.begin(begun(str(number))), Outcome.DONE)
    async with book(tmp_path, clock=clock, limits=limits) as (keeper, _):
        pass  # at its end what is too much goes
    async with book(tmp_path, clock=clock) as (keeper, _):
        found = (await keeper.actions(ActionQuery(limit=1000))).actions
        assert [one.begun.name for one in found] == [str(number) for number in range(102, 2, -1)]


@in_loop
async def test_sign_ins_push_no_change_out_of_the_list_nor_changes_sign_ins(tmp_path: Path) -> None:
    limits = ActionSettings(max_actions=100, max_visits=200)
    async with book(tmp_path, limits=limits) as (keeper, _):
        for number in range(102):
            await keeper.end(await keeper.begin(begun(str(number))), Outcome.DONE)
            for _ in range(5):
                await keeper.note_visit(begun("in", str(number)))
    async with book(tmp_path, limits=limits, start=10_000) as (keeper, _):
        found = (await keeper.actions(ActionQuery(limit=1000))).actions
        changes = [one.begun.name for one in found if one.begun.name != "in"]
        assert changes == [str(number) for number in range(101, 1, -1)]
        visits = [one.begun.target for one in found if one.begun.name == "in"]
        assert len(visits) == 200 and visits[0] == "101" and visits[-1] == "62"
        assert [one.number for one in found] == sorted((one.number for one in found), reverse=True)


@in_loop
async def test_sign_ins_that_are_old_go_as_changes_do(tmp_path: Path) -> None:
    clock, limits = HandClock(), ActionSettings(days=2)
    async with book(tmp_path, clock=clock, limits=limits) as (keeper, _):
        await keeper.note_visit(begun("in"))
    clock.now_s += 2 * 86_400 + 1
    async with book(tmp_path, clock=clock, limits=limits) as (keeper, _):
        pass
    async with book(tmp_path, clock=clock) as (keeper, _):
        assert not (await keeper.actions(ActionQuery())).actions


@in_loop
async def test_the_log_has_nothing_of_sign_ins(tmp_path: Path) -> None:
    log = MemoryLog()
    async with book(tmp_path, log, is_strict=True) as (keeper, store):
        await keeper.note_visit(begun("in"))
        await keeper.end(await keeper.begin(begun("a change")), Outcome.DONE)
        await until_logged(keeper, 2)
        change, visit = (await keeper.actions(ActionQuery())).actions
        assert (visit.begun.name, visit.outcome, visit.begun_index) == ("in", Outcome.DONE, None)
        assert {item.id for item in log.items} == {change.id, f"{change.id}_end"}
        assert not await store.read(rows.unlogged, 10)
        log.refusal = Unavailable("the log's disk is full")
        await keeper.note_visit(begun("in"))  # nothing is changed by it
        assert len((await keeper.actions(ActionQuery(name="in"))).actions) == 2


@in_loop
async def test_a_sign_in_that_cannot_be_written_is_told_once_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with book(tmp_path) as (keeper, store):
        await store.call(fill)
        for number in range(100):  # what is left of the last page holds a few
            await keeper.note_visit(begun("in", str(number), reason="long" * 200))
        assert sum("sign-ins are not in the list" in one.message for one in caplog.records) == 1
        kept = len((await keeper.actions(ActionQuery(limit=1000))).actions)
        await store.call(make_room)
        await keeper.note_visit(begun("in", "after"))
        found = (await keeper.actions(ActionQuery(limit=1000))).actions
        assert len(found) == kept + 1 and found[0].begun.target == "after"


@in_loop
async def test_erasing_a_tenant_takes_who_and_what_and_leaves_that_something_was_done(tmp_path: Path) -> None:
    log = MemoryLog()
    async with book(tmp_path, log) as (keeper, store):
        theirs = Actor(tenant="acme", subject="key:a", key="a", through=Through.CONSOLE)
        for one in (
            begun("by them", actor=theirs),
            begun("of their key", target="a"),
            begun("for them", subject="user:acme/ann"),
            begun("for their tenant", rule={"subject": "tenant:acme"}),
            begun("for others", target="b", tenant="acmee", tags=["x"]),
        ):
            await keeper.end(await keeper.begin(one), Outcome.DONE)
        await until_logged(keeper, 10)
        assert await store.call(rows.erase, "acme", ["a"]) == 4
        assert await store.call(rows.erase, "acme", ["a"]) == 0
        found = (await keeper.actions(ActionQuery())).actions
        assert [one.is_erased for one in reversed(found)] == [True, True, True, True, False]
        assert all(one.outcome is Outcome.DONE for one in found)
        for kept in (await store.read(rows.read_all))[:4]:
            assert kept.nonce == b"" and not kept.action.begun.asked and not kept.action.begun.actor.subject
    assert len(log.items) == 10
