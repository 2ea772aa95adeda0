"""The book of what administrators do: on the disk before the change, in the log soon after, and honest about what it
does not know."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.doubles_gateway import HandClock, in_loop
from tests.log_in_memory import MemoryLog

from headrace.core.actions import ActionQuery, Actor, AdminAction, Begun, Outcome, Through
from headrace.core.errors import HeadraceError, Unavailable
from headrace.gateway.actions import ActionKeeper, ActionLog, Surroundings
from headrace.memory import actions as rows
from headrace.memory.store import Store
from headrace.trust.records.action import commitment_of
from headrace.trust.records.settings import ActionSettings

ROOT = Actor(tenant="ops", subject="key:root", key="root")


def begun(name: str = "POST /v1/x", target: str = "", actor: Actor = ROOT, **asked: object) -> Begun:
    return Begun(actor=actor, name=name, target=target, asked=asked, request_id="req_1")


@asynccontextmanager
async def book(
    path: Path,
    log: MemoryLog | None = None,
    *,
    is_strict: bool = False,
    clock: HandClock | None = None,
    start: int = 0,
    limits: ActionSettings | None = None,
) -> AsyncIterator[tuple[ActionKeeper, Store]]:
    store = Store(path / "state.db")
    await store.open()
    ids = iter(range(start, 10**9))
    around = Surroundings(clock=clock or HandClock(), new_id=lambda: f"{next(ids):04d}", random=lambda n: b"n" * n)
    to = None if log is None else ActionLog(log, log.merged, is_strict)
    keeper = ActionKeeper(store, limits or ActionSettings(), around, to)
    keeper.open()
    try:
        yield keeper, store
    finally:
        await keeper.close()
        await store.close()


async def newest(keeper: ActionKeeper) -> AdminAction:
    return (await keeper.actions(ActionQuery())).actions[0]


async def until_logged(keeper: ActionKeeper, num: int) -> list[AdminAction]:
    async with asyncio.timeout(20):
        while True:
            found = (await keeper.actions(ActionQuery())).actions
            if sum((one.begun_index is not None) + (one.ended_index is not None) for one in found) == num:
                return list(found)
            await asyncio.sleep(0)


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

        def forget(connection: object) -> None:
            connection.execute("UPDATE actions SET begun_index = NULL, ended_index = NULL")  # type: ignore[attr-defined]

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


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(["POST /a", "POST /ab", "DELETE /c"])),
        st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from(sorted(Outcome)[1:])),
        st.tuples(st.just("restart")),
        st.tuples(st.just("refuse"), st.booleans()),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_action_ends_once_goes_on_or_is_unknown_in_the_order_in_which_they_began(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    """Against a plain model, with restarts in between and a log that takes nothing in for a while."""
    path = tmp_path_factory.mktemp("book")

    async def main() -> None:
        log, model = MemoryLog(), dict[str, tuple[str, Outcome | None]]()
        left = list(steps)
        while left or not model:
            running: list[str] = []
            async with book(path, log, start=len(model)) as (keeper, _):
                while left and (step := left.pop(0))[0] != "restart":
                    if step[0] == "begin":
                        one = await keeper.begin(begun(str(step[1])))
                        model[one] = (str(step[1]), None)
                        running.append(one)
                    elif step[0] == "end" and running:
                        one = running.pop(int(str(step[1])) % len(running))
                        outcome = Outcome(str(step[2]))
                        await keeper.end(one, outcome)
                        model[one] = (model[one][0], outcome)
                    elif step[0] == "refuse":
                        log.refusal = Unavailable("full") if step[1] else None
                told = {}
                for one in reversed((await keeper.actions(ActionQuery(limit=1000))).actions):
                    told[one.id] = (one.begun.name, one.outcome)
                wanted = {
                    key: (name, outcome or (Outcome.BEGUN if key in running else Outcome.UNKNOWN))
                    for key, (name, outcome) in model.items()
                }
                assert list(told.items()) == list(wanted.items())
                some = (await keeper.actions(ActionQuery(limit=1000, name="POST /a"))).actions
                assert [one.id for one in some] == [k for k, (name, _) in reversed(wanted.items()) if "/a" in name]
            if not left:
                break
        log.refusal = None
        async with book(path, log, start=len(model)) as (keeper, _):
            await until_logged(keeper, len(model) + sum(outcome is not None for _, outcome in model.values()))
        assert len(log.items) == len({item.id for item in log.items})

    asyncio.run(asyncio.wait_for(main(), 60))
