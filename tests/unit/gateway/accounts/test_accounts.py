"""Accounts over a real folder: who may keep them, what waits, what a full disk and a damaged file do, what is kept."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.doubles_accounts import NEVER_BY_ITSELF, Machine, budget, limit, record_of, shape

from headrace.core.accounts import BudgetRule
from headrace.core.errors import (
    BudgetExceeded,
    Conflict,
    DiskFull,
    HeadraceError,
    InvalidRequest,
    RateLimited,
    Unavailable,
)
from headrace.core.request import Principal
from headrace.gateway.accounts.accounts import Accounts, Rhythm, Surroundings
from headrace.gateway.contract import Bound
from headrace.gateway.settings import Window
from headrace.memory.rules import save_budget

DAY = budget("day", "all", Window.DAY, money=100e-9)


def with_machine(run: Callable[[Machine], Awaitable[None]]) -> Callable[[Path], None]:
    def inner(tmp_path: Path) -> None:
        async def main() -> None:
            async with asyncio.timeout(20):
                await run(Machine(tmp_path))
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())

    inner.__name__ = run.__name__
    return inner


def beside(machine: Machine, *budgets: object) -> Accounts:
    """Another process on the same folder and database."""
    around = Surroundings(machine.store, machine.home / "ledger", machine.clock, "boot-1", os.write)
    return Accounts(around, budgets, (), NEVER_BY_ITSELF)  # type: ignore[arg-type]


@with_machine
async def test_budgets_are_kept_by_one_process_alone(machine: Machine) -> None:
    await machine.start([DAY])
    for other in (beside(machine, DAY), beside(machine)):
        with pytest.raises(Conflict, match="kept by one alone; stop it, or give this one another state directory"):
            await other.open()
    await machine.end()


@with_machine
async def test_processes_without_budgets_share_and_each_writes_what_it_settled(machine: Machine) -> None:
    first = await machine.start()
    second = beside(machine)
    await second.open()
    for accounts, name in ((first, "one"), (second, "two")):
        held = await accounts.reserve(shape(name), "m", Bound(5, 5))
        held.settle(record_of(held, 3, 2, name))
    with pytest.raises(Conflict, match="another state directory"):
        await first.configure([DAY], [])
    assert first.rules.budgets == ()
    await second.close()
    await first.configure([DAY], [])
    await first.drain()
    assert sorted(one[0] for one in await machine.records()) == ["one", "two"]
    await machine.end()


@with_machine
async def test_what_a_killed_neighbour_left_is_taken_in_by_who_begins_next(machine: Machine) -> None:
    await machine.start()
    second = beside(machine)
    await second.open()
    settled = await second.reserve(shape("done"), "m", Bound(5, 5))
    settled.settle(record_of(settled, 3, 2, "done"))
    await second.reserve(shape("running"), "m", Bound(5, 6))
    assert second._drainer is not None and second._journal is not None
    second._drainer.cancel()
    second._journal.close()
    second._claim.close()
    await machine.kill()
    await machine.start()
    assert await machine.records() == [("done", "ok", 3, 2), ("running", "interrupted", 6, 5)]
    await machine.end()


@with_machine
async def test_two_requests_of_one_name_are_two(machine: Machine) -> None:
    """The name is the caller's: who could have one taken for the other would pay for one."""
    accounts = await machine.start([DAY])
    for _ in range(2):
        held = await accounts.reserve(shape("same"), "m", Bound(5, 40))
        held.settle(record_of(held, 40, 5, "same"))
    with pytest.raises(BudgetExceeded):
        await accounts.reserve(shape("same"), "m", Bound(5, 40))
    await machine.kill()
    await machine.start([DAY])
    assert [one[2] for one in await machine.records()] == [40, 40]
    await machine.end()


@with_machine
async def test_requests_that_wait_for_a_lease_wait_for_one_together(machine: Machine) -> None:
    accounts = await machine.start([DAY])
    asked = [asyncio.create_task(accounts.reserve(shape(f"r{n}"), "m", Bound(0, 30))) for n in range(10)]
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(end, BudgetExceeded) for end in ends) == 7
    period = accounts.ledger.known()[0].period
    assert (period.used_nanos, period.spent_nanos) == (90, 0)
    await machine.end()


@with_machine
async def test_a_caller_that_leaves_while_it_waits_for_a_lease_has_nothing_reserved(machine: Machine) -> None:
    accounts = await machine.start([DAY])
    asked = asyncio.create_task(accounts.reserve(shape(), "m", Bound(0, 30)))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    held = await accounts.reserve(shape(), "m", Bound(0, 100))
    held.settle(record_of(held))
    await machine.end()


@with_machine
async def test_a_reservation_that_is_open_at_the_end_is_charged_whole(machine: Machine) -> None:
    accounts = await machine.start([DAY])
    held = await accounts.reserve(shape(), "m", Bound(7, 60))
    await machine.end()
    held.settle(record_of(held, 1, 1))  # too late, and no harm
    with pytest.raises(Unavailable):
        await accounts.reserve(shape(), "m", Bound(0, 1))
    await machine.start([DAY])
    assert await machine.records() == [("r", "interrupted", 60, 7)]
    await machine.end()


@with_machine
async def test_a_full_disk_refuses_what_is_new_and_loses_nothing_of_what_ran(machine: Machine) -> None:
    is_full = False

    def write(descriptor: int, data: bytes) -> int:
        if is_full:
            raise OSError(errno.ENOSPC, "no space left")
        return os.write(descriptor, data)

    accounts = await machine.start([DAY], [limit("one", "all", concurrency=1)], write=write)
    held = await accounts.reserve(shape("ran"), "m", Bound(0, 30))
    is_full = True
    held.settle(record_of(held, 20, 0, "ran"))
    with pytest.raises(DiskFull, match="1 requests could not be written down"):
        await accounts.reserve(shape(), "m", Bound(0, 10))
    await accounts.drain()  # the database has room yet
    assert await machine.records() == [("ran", "ok", 20, 0)]
    with pytest.raises(DiskFull, match="cannot grow"):
        await accounts.reserve(shape(), "m", Bound(0, 10))
    is_full = False
    # What was refused holds neither a budget nor a place.
    held = await accounts.reserve(shape("again"), "m", Bound(0, 80))
    held.settle(record_of(held, 80, 0, "again"))
    await machine.kill()
    await machine.start([DAY])
    assert [one[0] for one in await machine.records()] == ["ran", "again"]
    await machine.end()


@with_machine
async def test_records_that_were_lost_to_a_damaged_journal_are_covered_by_the_leases(machine: Machine) -> None:
    accounts = await machine.start([DAY])
    for number in range(3):
        held = await accounts.reserve(shape(f"r{number}"), "m", Bound(0, 20))
        held.settle(record_of(held, 20, 0, f"r{number}"))
    await machine.kill()
    (journal,) = (machine.home / "ledger").glob("0/*.journal")
    data = bytearray(journal.read_bytes())
    data[data.index(b"r1")] ^= 1
    journal.write_bytes(data)
    accounts = await machine.start([DAY])
    assert len(await machine.records()) < 3
    ((nanos, _),) = (await machine.sums()).values()
    assert 60 <= nanos <= 100
    await machine.end()


@with_machine
async def test_what_the_database_does_not_take_is_kept_and_written_when_it_does(machine: Machine) -> None:
    accounts = await machine.start([DAY])
    held = await accounts.reserve(shape(), "m", Bound(0, 20))
    held.settle(record_of(held, 20, 0))
    refuse = "CREATE TRIGGER no BEFORE INSERT ON usage_records BEGIN SELECT RAISE(ABORT, 'no'); END"
    await machine.store.call(lambda connection: connection.execute(refuse).rowcount)
    for _ in range(2):
        with pytest.raises(HeadraceError):
            await accounts.drain()
    assert await machine.records() == []
    await machine.store.call(lambda connection: connection.execute("DROP TRIGGER no").rowcount)
    await accounts.drain()
    assert await machine.records() == [("r", "ok", 20, 0)]
    assert list((await machine.sums()).values()) == [(20, 0)]
    await machine.end()


@with_machine
async def test_a_lease_that_was_asked_for_ahead_of_need_is_synced_before_it_is_used(machine: Machine) -> None:
    rules = [budget("day", "all", tokens=10_000)]
    accounts = await machine.start(rules)

    async def spend(times: int) -> None:
        for _ in range(times):
            held = await accounts.reserve(shape(), "m", Bound(100, 0))
            held.settle(record_of(held, 0, 100))
        await accounts.drain()

    await spend(4)
    first = accounts.ledger.known()[0].period.ceiling_tokens
    assert 600 < first < 1100
    await spend(4)
    await machine.lose_power()
    await machine.start(rules)
    ((_, tokens),) = (await machine.sums()).values()
    assert 800 <= tokens <= 1600
    await machine.end()


@with_machine
async def test_a_rule_that_two_sources_have_is_refused_with_the_remedy(machine: Machine) -> None:
    accounts = await machine.start([DAY])
    await machine.store.call(save_budget, BudgetRule(name="day", subject="all", window="day", tokens=5))
    with pytest.raises(InvalidRequest, match=r"'day' is the name of a budget .* remove the latter"):
        await accounts.configure([DAY], [])
    held = await accounts.reserve(shape(), "m", Bound(9, 9))  # the old rules go on
    held.settle(record_of(held))
    await accounts.configure([], [])
    with pytest.raises(BudgetExceeded, match="6 tokens"):
        await accounts.reserve(shape(), "m", Bound(6, 0))
    await machine.end()


@with_machine
async def test_single_records_are_kept_for_some_days_and_sums_for_good(machine: Machine) -> None:
    accounts = await machine.start([DAY], rhythm=Rhythm(tick_s=1e6, usage_days=2))
    for _ in range(3):
        held = await accounts.reserve(shape(), "m", Bound(1, 1))
        held.settle(record_of(held, 1, 1))
        await accounts.drain()
        machine.clock.pass_s(86_400 + 10)
        await accounts._sweep()
    assert len(await machine.records()) == 1
    days = await machine.store.call(
        lambda connection: connection.execute("SELECT num_requests FROM usage_days").fetchall()
    )
    assert days == [(1,), (1,), (1,)]
    await machine.end()


@with_machine
async def test_a_clock_that_goes_back_keeps_the_window_and_one_that_was_far_ahead_is_followed_when_nothing_runs(
    machine: Machine,
) -> None:
    accounts = await machine.start([DAY])
    machine.clock.now_s += 400 * 86_400  # wrongly
    held = await accounts.reserve(shape(), "m", Bound(0, 60))
    machine.clock.now_s -= 400 * 86_400
    with pytest.raises(BudgetExceeded):  # the far window goes on
        await accounts.reserve(shape(), "m", Bound(0, 60))
    held.settle(record_of(held, 60, 0))
    await accounts.drain()
    again = await accounts.reserve(shape(), "m", Bound(0, 60))
    again.settle(record_of(again, 60, 0))
    machine.clock.pass_s(86_400)
    tomorrow = await accounts.reserve(shape(), "m", Bound(0, 100))
    tomorrow.settle(record_of(tomorrow))
    await accounts.drain()
    assert sorted(nanos for nanos, _ in (await machine.sums()).values()) == [0, 60, 60]
    await machine.end()


@with_machine
async def test_limits_of_a_caller_hold_and_are_given_back(machine: Machine) -> None:
    limits = [limit("each", "user:*", concurrency=1), limit("all", "all", tokens_per_minute=100)]
    accounts = await machine.start([], limits)
    bob, eve = Principal(user="bob"), Principal(user="eve")
    held = await accounts.reserve(shape(principal=bob), "m", Bound(60, 0))
    with pytest.raises(RateLimited, match="'each' of user:local/bob"):
        await accounts.reserve(shape(principal=bob), "m", Bound(10, 0))
    with pytest.raises(RateLimited, match="'all' of all: 100 tokens a minute"):
        await accounts.reserve(shape(principal=eve), "m", Bound(60, 0))
    held.settle(record_of(held, 0, 5))
    (await accounts.reserve(shape(principal=bob), "m", Bound(60, 0))).settle(record_of(held, 0, 60))
    await machine.end()


@with_machine
async def test_an_answer_that_took_more_than_its_bound_is_charged_truly_and_told(machine: Machine) -> None:
    accounts = await machine.start([DAY])
    held = await accounts.reserve(shape(), "m", Bound(5, 50))
    held.settle(record_of(held, 130, 5))
    with pytest.raises(BudgetExceeded, match="and 0 of 1e-07 are left"):
        await accounts.reserve(shape(), "m", Bound(0, 1))
    await accounts.drain()
    assert [nanos for nanos, _ in (await machine.sums()).values()] == [130]
    await machine.end()
