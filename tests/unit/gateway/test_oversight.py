"""Those who oversee requests: what they refuse does not happen, what they change is what is asked and told, and each of
them sees the end of what it saw the beginning of, once."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.doubles_gateway import (
    ANSWER,
    FAULT,
    WHOLE,
    HandSleep,
    Script,
    ScriptedUpstream,
    Shelf,
    Wait,
    ask,
    backend,
    bench,
    candidate,
    in_loop,
    read,
    shape,
)
from tests.doubles_oversight import ScriptedOverseer, ScriptedOversight

from headrace.core.errors import (
    BudgetExceeded,
    EngineFault,
    Forbidden,
    HeadraceError,
    InvalidRequest,
    NotFound,
    Overloaded,
    Unavailable,
    UpstreamFault,
)
from headrace.core.events import Event, Finished, TextDelta
from headrace.core.gateway import WATCH, EventReply, RawReply, RawStream, Taken
from headrace.core.request import Message, Request, Role, TextPart
from headrace.gateway.contract import Plan
from headrace.gateway.settings import CandidateSettings, Escalation, Policy, RetrySettings, RouteSettings, Target

NO = Forbidden("the policy says no", code="policy_denied")


def texts(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def outcomes(*overseers: ScriptedOverseer) -> list[list[str]]:
    return [[record.outcome for one in overseer.begun for record in one.records] for overseer in overseers]


def claim(taken: Taken) -> None:
    taken.is_claimed = True


@contextmanager
def watched(watch: Callable[[Taken], None] | None) -> Iterator[None]:
    token = WATCH.set(watch)
    try:
        yield
    finally:
        WATCH.reset(token)


def defect(*_: object) -> Sequence[Event]:
    raise KeyError("a defect")


@in_loop
async def test_one_who_refuses_a_request_ends_it_before_anything_is_planned_and_those_before_it_see_the_end() -> None:
    first, second, third = ScriptedOverseer(), ScriptedOverseer(errors=[NO]), ScriptedOverseer()
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(first, second, third))
    with pytest.raises(Forbidden, match="the policy says no"):
        await at.gate.ask(ask())
    assert outcomes(first, second, third) == [["policy_denied"], [], []]
    assert not at.book.reserved
    assert not at.upstreams["a"].relayed
    assert at.is_quiet


@in_loop
async def test_whoever_reads_answers_gets_events_where_bytes_would_have_passed() -> None:
    reads, watches = ScriptedOverseer(), ScriptedOverseer(reads_answers=False)
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(reads, watches))
    reply = await at.gate.ask(ask())
    assert tuple(await read(reply)) == ANSWER
    assert not at.upstreams["a"].relayed
    assert tuple(reads.begun[0].heard) == tuple(watches.begun[0].heard) == ANSWER
    assert outcomes(reads, watches) == [["ok"], ["ok"]]
    assert not at.gate.passes("smart", "chat")
    assert at.is_quiet


@in_loop
async def test_a_request_that_only_a_backend_understands_is_refused_where_its_answer_must_be_read() -> None:
    reads = ScriptedOverseer()
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(reads,))
    with pytest.raises(InvalidRequest, match="unheard of"):
        await at.gate.ask(ask(error=InvalidRequest("unheard of")))
    assert not at.upstreams["a"].relayed
    assert outcomes(reads) == [["invalid_value"]]
    assert at.is_quiet


@in_loop
async def test_bytes_pass_those_who_only_watch_them_whole_and_in_pieces() -> None:
    watches = ScriptedOverseer(reads_answers=False)
    at = bench({"a": ScriptedUpstream([WHOLE], [b"one", b"two"])}, overseers=(watches,))
    assert at.gate.passes("smart", "chat")
    reply = await at.gate.ask(ask(shape(is_stream=False)))
    assert isinstance(reply, RawReply)
    stream = await at.gate.ask(ask())
    assert isinstance(stream, RawStream)
    assert [piece async for piece in stream.chunks] == [b"one", b"two"]
    assert [one.pieces for one in watches.begun] == [[WHOLE.body], [b"one", b"two"]]
    assert outcomes(watches) == [["ok", "ok"]]
    assert at.is_quiet


@in_loop
async def test_one_who_sees_bytes_may_end_the_answer_whole_and_in_pieces() -> None:
    def refuse(_: ScriptedOversight, piece: bytes) -> None:
        if piece != b"one":
            raise NO

    watches = ScriptedOverseer(reads_answers=False, on_add=refuse)
    at = bench({"a": ScriptedUpstream([WHOLE], [b"one", b"two"])}, overseers=(watches,))
    with pytest.raises(Forbidden):
        await at.gate.ask(ask(shape(is_stream=False)))
    stream = await at.gate.ask(ask())
    assert isinstance(stream, RawStream)
    assert await anext(stream.chunks) == b"one"
    with pytest.raises(Forbidden):
        await anext(stream.chunks)
    assert outcomes(watches) == [["policy_denied", "policy_denied"]]
    assert [record.outcome for record in at.book.records] == ["policy_denied", "policy_denied"]
    assert at.book.records[0].cost_nanos == 200_000, "what the backend did is charged"
    assert at.is_quiet


@in_loop
async def test_what_is_refused_of_a_plan_is_not_asked_reserved_for_or_copied_to() -> None:
    chooses = ScriptedOverseer(refuses=frozenset({"a", "c"}))
    upstreams = {name: ScriptedUpstream(ANSWER) for name in "abc"}
    candidates = (candidate("a", nanos=9_000_000), candidate("b", nanos=300_000))
    at = bench(
        upstreams,
        plan=Plan(route="smart", candidates=candidates, shadow=candidate("c"), refused={Target("d", "m"): "down"}),
        overseers=(chooses,),
    )
    reply = await at.gate.ask(ask())
    await read(reply)
    assert (reply.taken.backend, at.book.reserved[0].bound.nanos) == ("b", 300_000)
    assert not upstreams["a"].requests
    assert at.gate.shadows.num_running == 0
    plan = chooses.begun[0].case.plan
    assert plan is not None
    assert plan.refused.keys() == {Target("d", "m"), Target("a", "m")}
    assert chooses.begun[0].case.target == Target("b", "m")
    assert at.is_quiet


@in_loop
async def test_a_request_whose_backends_are_all_refused_is_forbidden_and_says_that_policies_did_it() -> None:
    chooses = ScriptedOverseer(refuses=frozenset({"a", "b"}), gives_receipts=True)
    at = bench({"a": ScriptedUpstream(), "b": ScriptedUpstream()}, overseers=(chooses,))
    with pytest.raises(Forbidden, match="policies refuse every backend that could answer 'smart'") as caught:
        await at.gate.ask(ask())
    assert caught.value.code == "policy_denied"
    assert outcomes(chooses) == [["policy_denied"]]
    assert chooses.receipts[0].seals == [None], "who asked got nothing to seal"
    assert not at.book.reserved
    assert at.is_quiet


@in_loop
async def test_hedges_and_tiers_go_only_to_who_is_allowed() -> None:
    chooses = ScriptedOverseer(refuses=frozenset({"b"}))
    sleep, wait = HandSleep(), Wait()
    upstreams = {"a": ScriptedUpstream([wait, *ANSWER]), "b": ScriptedUpstream(ANSWER), "c": ScriptedUpstream(ANSWER)}
    at = bench(
        upstreams,
        plan=Plan(route="smart", candidates=tuple(candidate(name) for name in "abc"), hedge_after_s=0.1),
        sleep=sleep,
        overseers=(chooses,),
    )

    asking = asyncio.create_task(at.gate.ask(ask()))
    await sleep.end_next()
    reply = await asking
    await read(reply)
    assert reply.taken.backend == "c"
    assert not upstreams["b"].requests
    assert at.is_quiet


@in_loop
async def test_an_answer_of_a_lower_tier_is_heard_once_it_is_told_and_never_if_it_is_not() -> None:
    watches = ScriptedOverseer()
    route = RouteSettings(
        name="smart",
        candidates=tuple(CandidateSettings(target=Target(name, "m")) for name in "ab"),
        policies=(Policy.COMPLEXITY,),
        escalation=Escalation(verifiers=("json",)),
        retry=RetrySettings(budget_floor=1.0),
    )
    at = bench(
        {"a": ScriptedUpstream(ANSWER), "b": ScriptedUpstream(ANSWER)},
        plan=Plan(route="smart", candidates=(candidate("a"), candidate("b", tier=1))),
        route=route,
        overseers=(watches,),
    )
    reply = await at.gate.ask(ask())
    assert tuple(await read(reply)) == ANSWER
    assert tuple(watches.begun[0].heard) == ANSWER, "that of `a` is no JSON, and nobody hears it"
    assert watches.begun[0].case.target == Target("b", "m")
    assert at.is_quiet


@in_loop
async def test_every_attempt_is_prepared_for_its_own_target() -> None:
    def name(request: Request, target: Target) -> Request:
        return replace(request, answer_start=f"for {target.backend} as {request.model}")

    prepares = ScriptedOverseer(on_prepare=name)
    at = bench({"a": ScriptedUpstream([FAULT]), "b": ScriptedUpstream(ANSWER)}, overseers=(prepares,))
    await read(await at.gate.ask(ask()))
    asked = [at.upstreams[name].requests[0].answer_start for name in "ab"]
    assert asked == ["for a as m", "for b as m"]
    assert at.is_quiet


@in_loop
async def test_who_will_not_have_a_target_asked_in_a_certain_way_is_heard_and_the_next_is_asked() -> None:
    def refuse(request: Request, target: Target) -> Request:
        if target.backend == "a":
            raise NO
        return request

    at = bench(
        {"a": ScriptedUpstream(ANSWER), "b": ScriptedUpstream(ANSWER)},
        overseers=(ScriptedOverseer(on_prepare=refuse),),
    )
    reply = await at.gate.ask(ask())
    await read(reply)
    assert reply.taken.backend == "b"
    assert not at.upstreams["a"].requests
    assert at.is_quiet


@in_loop
async def test_one_event_may_become_several_or_none_and_the_next_one_sees_what_is_left() -> None:
    def split(_: ScriptedOversight, event: Event) -> Sequence[Event]:
        if not isinstance(event, TextDelta):
            return (event,)
        return [TextDelta(event.choice, letter, 1) for letter in event.text if letter != "l"]

    splits, watches = ScriptedOverseer(on_hear=split), ScriptedOverseer()
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(splits, watches))
    told = await read(await at.gate.ask(ask()))
    assert texts(told) == "heo word"
    assert sum(isinstance(event, TextDelta) for event in told) == 8
    assert watches.begun[0].heard == told
    assert at.book.records[0].completion_tokens == 10, "what is charged is what the backend did"
    assert at.is_quiet


@in_loop
async def test_an_answer_that_is_held_back_to_its_end_is_told_then() -> None:
    def hold(oversight: ScriptedOversight, event: Event) -> Sequence[Event]:
        return list(oversight.heard) if isinstance(event, Finished) else ()

    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(ScriptedOverseer(on_hear=hold),))
    assert tuple(await read(await at.gate.ask(ask()))) == ANSWER
    assert at.is_quiet


@pytest.mark.parametrize("refused", range(len(ANSWER)))
@pytest.mark.parametrize("is_kept", [False, True])
def test_who_refuses_an_event_ends_the_answer_there_and_what_was_said_is_charged(
    refused: int, *, is_kept: bool
) -> None:
    def refuse(_: ScriptedOversight, event: Event) -> Sequence[Event]:
        if event == ANSWER[refused]:
            raise NO
        return (event,)

    @in_loop
    async def go() -> None:
        judges, shelf = ScriptedOverseer(on_hear=refuse), Shelf(ANSWER if is_kept else None)
        at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(judges,), cache=shelf)
        reply = await at.gate.ask(ask())
        assert isinstance(reply, EventReply)
        told: list[Event] = []
        with pytest.raises(Forbidden):
            while True:
                told.append(await anext(reply.events))
        assert tuple(told) == ANSWER[:refused]
        assert [event async for event in reply.events] == []
        assert outcomes(judges) == [["policy_denied"]]
        assert at.book.records[0].outcome == "policy_denied"
        assert at.book.records[0].cache == ("exact" if is_kept else "")
        if not is_kept and refused == len(ANSWER) - 1:
            assert at.book.records[0].cost_nanos == 200_000, "the backend did all of it"
            assert tuple(shelf.told) == ANSWER, "what is kept is what the backend said"
        assert at.is_quiet

    go()


@in_loop
async def test_a_kept_answer_is_judged_anew_and_its_keeper_got_what_the_backend_said() -> None:
    def shout(oversight: ScriptedOversight, event: Event) -> Sequence[Event]:
        loud = f"{oversight.number}!"
        return (replace(event, text=loud) if isinstance(event, TextDelta) else event,)

    shelf, changes = Shelf(), ScriptedOverseer(on_hear=shout)
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(changes,), cache=shelf)
    assert texts(await read(await at.gate.ask(ask()))) == "0!0!"
    assert tuple(shelf.told) == ANSWER
    reply = await at.gate.ask(ask(shape("again")))
    assert reply.taken.cache == "exact"
    assert texts(await read(reply)) == "1!1!"
    assert changes.begun[1].case.target == Target("a", "m")
    assert at.is_quiet


@in_loop
async def test_the_answer_to_a_request_that_was_changed_is_not_kept_for_those_who_ask_the_same() -> None:
    def more(request: Request, target: Target) -> Request:
        said = Message(Role.SYSTEM, (TextPart("for this caller only"),))
        return replace(request, messages=(said, *(request.messages or ())))

    shelf = Shelf()
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(ScriptedOverseer(on_prepare=more),), cache=shelf)
    await read(await at.gate.ask(ask()))
    assert not shelf.told
    assert at.is_quiet


@in_loop
async def test_the_answer_to_a_request_that_was_given_a_seed_is_kept() -> None:
    def seed(request: Request, target: Target) -> Request:
        return replace(request, sampling=replace(request.sampling, seed=7))

    shelf = Shelf()
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(ScriptedOverseer(on_prepare=seed),), cache=shelf)
    await read(await at.gate.ask(ask()))
    assert tuple(shelf.told) == ANSWER
    assert at.upstreams["a"].requests[0].sampling.seed == 7
    assert at.is_quiet


@in_loop
async def test_a_copy_is_prepared_by_those_who_read_answers_and_never_passes_as_bytes_that_must_be_read() -> None:
    noted: list[str] = []

    def name(request: Request, target: Target) -> Request:
        return replace(request, answer_start=f"for {target.backend}")

    def note(request: Request, target: Target) -> Request:
        noted.append(target.backend)
        return request

    at = bench(
        {"a": ScriptedUpstream(ANSWER), "b": ScriptedUpstream(ANSWER)},
        plan=Plan(route="smart", candidates=(candidate("a"),), shadow=candidate("b")),
        overseers=(ScriptedOverseer(on_prepare=name), ScriptedOverseer(reads_answers=False, on_prepare=note)),
    )
    await read(await at.gate.ask(ask()))
    for _ in range(20):
        await asyncio.sleep(0)
    assert at.upstreams["b"].requests[0].answer_start == "for b"
    assert not at.upstreams["b"].relayed
    assert noted == ["a"], "who only notes what is asked is told of the caller's own request alone"
    assert at.is_quiet


@pytest.mark.parametrize(
    ("plan", "upstream", "about", "error"),
    [
        (NotFound("no such model"), ANSWER, {}, NotFound),
        (Unavailable("all are out"), ANSWER, {}, Unavailable),
        (None, [FAULT], {}, UpstreamFault),
        (None, ANSWER, {"left_nanos": 1}, BudgetExceeded),
    ],
)
def test_however_a_request_fails_its_overseers_see_the_end_and_its_record_is_sealed(
    plan: HeadraceError | None, upstream: Script, about: dict[str, int], error: type[HeadraceError]
) -> None:
    @in_loop
    async def go() -> None:
        for watch in (None, claim):
            sees = ScriptedOverseer(gives_receipts=True)
            at = bench({"a": ScriptedUpstream(upstream)}, plan=plan, overseers=(sees,), **about)  # type: ignore[arg-type]
            with pytest.raises(error), watched(watch):
                await at.gate.ask(ask())
            assert outcomes(sees) == [[error.code]]
            assert sees.receipts[0].seals[:1] == [None]
            assert at.is_quiet

    go()


@in_loop
async def test_who_finds_no_room_is_not_overseen_at_all() -> None:
    sees = ScriptedOverseer()
    at = bench({"a": ScriptedUpstream(ANSWER)}, max_in_flight=0, overseers=(sees,))
    with pytest.raises(Overloaded):
        await at.gate.ask(ask())
    assert not sees.begun
    assert at.is_quiet


@in_loop
async def test_a_receipt_is_sealed_at_the_end_unless_whoever_asks_seals_it() -> None:
    sees = ScriptedOverseer(gives_receipts=True)
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(sees,))
    reply = await at.gate.ask(ask())
    assert reply.taken.receipt is sees.receipts[0]
    assert sees.receipts[0].seals == []
    await read(reply)
    assert sees.receipts[0].seals == [None]
    with watched(claim):
        await read(await at.gate.ask(ask()))
    assert sees.receipts[1].seals == []
    assert at.is_quiet


@in_loop
async def test_whoever_watches_sees_the_receipt_before_anything_is_answered() -> None:
    shown: list[Taken] = []
    wait = Wait()
    at = bench({"a": ScriptedUpstream([wait, *ANSWER])}, overseers=(ScriptedOverseer(gives_receipts=True),))
    with watched(shown.append):
        asking = asyncio.create_task(at.gate.ask(ask()))
    await wait.reached.wait()
    assert [taken.receipt and taken.receipt.id for taken in shown] == ["prov_0"]
    assert not shown[0].is_settled
    wait.go.set()
    await read(await asking)
    assert shown[0].is_settled
    assert at.is_quiet


def _hears(script: ScriptedOverseer) -> None:
    script.on_hear = defect


def _adds(script: ScriptedOverseer) -> None:
    script.reads_answers, script.on_add = False, defect  # type: ignore[assignment]


def _prepares(script: ScriptedOverseer) -> None:
    script.on_prepare = defect  # type: ignore[assignment]


def _loses_the_end(script: ScriptedOverseer) -> None:
    script.on_hear = lambda _, event: () if isinstance(event, Finished) else (event,)


@pytest.mark.parametrize("breaks", [_hears, _adds, _prepares, _loses_the_end])
def test_a_defect_of_an_overseer_is_no_permission(
    breaks: Callable[[ScriptedOverseer], None], caplog: pytest.LogCaptureFixture
) -> None:
    @in_loop
    async def go() -> None:
        broken, sees = ScriptedOverseer(), ScriptedOverseer(reads_answers=False)
        breaks(broken)
        at = bench(
            {"a": ScriptedUpstream(ANSWER if broken.reads_answers else [b"one"])},
            backends={"a": backend("a")},
            overseers=(broken, sees),
        )
        with caplog.at_level(logging.ERROR), pytest.raises(EngineFault, match="what oversees requests"):
            reply = await at.gate.ask(ask())
            if isinstance(reply, RawStream):
                [piece async for piece in reply.chunks]
            else:
                await read(reply)
        assert "an overseer met a defect" in caplog.text
        assert outcomes(broken, sees) == [["engine_fault"], ["engine_fault"]]
        assert at.is_quiet

    go()


@in_loop
async def test_a_defect_while_it_begins_refuses_too() -> None:
    class Broken:
        reads_answers = True

        def begin(self, case: object) -> None:
            raise KeyError("a defect")

    sees = ScriptedOverseer()
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(sees, Broken()))
    with pytest.raises(EngineFault):
        await at.gate.ask(ask())
    assert outcomes(sees) == [["engine_fault"]]
    assert at.is_quiet


@in_loop
async def test_a_defect_at_the_end_hides_it_from_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    broken, sees = ScriptedOverseer(on_end=defect), ScriptedOverseer()  # type: ignore[arg-type]
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(broken, sees))
    with caplog.at_level(logging.ERROR):
        assert tuple(await read(await at.gate.ask(ask()))) == ANSWER
    assert "could not end request" in caplog.text
    assert outcomes(sees) == [["ok"]]
    assert at.is_quiet


@in_loop
async def test_a_neutral_request_of_a_service_is_overseen_as_any_other() -> None:
    sees = ScriptedOverseer(gives_receipts=True)
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(sees,))
    request = Request(id="resp_1", model="smart", messages=(Message(Role.USER, (TextPart("hi"),)),))
    assert tuple([event async for event in at.gate.run(request)]) == ANSWER
    assert outcomes(sees) == [["ok"]]
    assert sees.receipts[0].seals == [None]
    assert sees.begun[0].case.decode() is request
    assert at.is_quiet
