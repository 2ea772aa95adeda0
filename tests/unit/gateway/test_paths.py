"""Which way requests went, told afterwards: each attempt, why it was its turn, who refused what, and in bounds."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.doubles_gateway import (
    ANSWER,
    FAULT,
    WHOLE,
    Bench,
    HandSleep,
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
from tests.doubles_oversight import ScriptedOverseer

from headrace.api.paths import encode_path, read_query
from headrace.core.errors import (
    BudgetExceeded,
    HeadraceError,
    InvalidRequest,
    NotFound,
    Overloaded,
    UnsupportedField,
    UpstreamFault,
)
from headrace.core.paths import PathQuery, RequestPath
from headrace.core.trust import Decision, Verdict
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Plan
from headrace.gateway.paths import Ended, PathBook
from headrace.gateway.settings import (
    BreakerSettings,
    CandidateSettings,
    Escalation,
    GatewaySettings,
    Policy,
    RetrySettings,
    RouteSettings,
    Target,
)

ROUTE = RouteSettings(
    name="smart",
    candidates=tuple(CandidateSettings(target=Target(name, "m")) for name in "ab"),
    retry=RetrySettings(max_attempts=3, budget_floor=100.0),
)


def book(num_kept: int = 10, *, slow_s: float = 10.0, **settings: Any) -> PathBook:
    return PathBook(num_kept, slow_s, lambda: GatewaySettings(routes={"smart": ROUTE}, **settings))


def watched(*upstreams: ScriptedUpstream, **about: Any) -> tuple[Bench, PathBook]:
    paths = book()
    at = bench(dict(zip("abc", upstreams, strict=False)), paths=paths, **about)
    return at, paths


def steps(path: RequestPath) -> list[tuple[str, str, str]]:
    return [(one.backend, one.kind, one.outcome) for one in path.steps]


async def answered(at: Bench, **about: Any) -> None:
    await at.gate.ask(ask(shape(is_stream=False, **about)))


@in_loop
async def test_a_request_that_passes_is_told_with_its_plan_its_attempt_its_cost_and_what_was_set_aside() -> None:
    scored = candidate("a", reason="warm 0.50", scores=(("cache_affinity", 0.5),), max_tokens=9)
    plan = Plan(route="smart", candidates=(scored,), refused={Target("x", "m"): "not cleared for secret"}, reason="why")
    at, paths = watched(ScriptedUpstream([WHOLE]), plan=plan)
    await answered(at)
    path = paths.find("r")
    brief = path.brief
    assert brief.record is at.book.records[0]
    assert (brief.reason, brief.refusal, brief.is_slow, brief.is_failed) == ("why; warm 0.50", "", False, False)
    chosen, out = path.choices
    assert (chosen.target, chosen.place, chosen.reason) == ("a/m", 1, "warm 0.50")
    assert (chosen.scores, chosen.max_tokens) == ((("cache_affinity", 0.5),), 9)
    assert (out.target, out.place, out.reason) == ("x/m", None, "not cleared for secret")
    assert steps(path) == [("a", "first", "ok")]
    assert (path.steps[0].num_tokens, path.steps[0].cost_nanos) == (10, 200_000)
    assert path.reserved is not None
    assert (path.reserved.tokens, path.reserved.nanos) == (1000, 5_000_000)
    assert path.reserved.budgets == (("tenant:t", "day"),)


@in_loop
async def test_times_are_told_from_the_requests_start_with_the_first_of_the_answer() -> None:
    wait = Wait()
    at, paths = watched(ScriptedUpstream([b"one", wait, b"two"]))
    at.clock.now_s += 5.0
    reply = await at.gate.ask(ask())
    at.clock.now_s += 2.0
    wait.go.set()
    assert [one async for one in reply.chunks] == [b"one", b"two"]  # type: ignore[union-attr]
    (step,) = paths.find("r").steps
    assert (step.began_s, step.first_s, step.ended_s, step.num_bytes) == (0.0, 0.0, 2.0, 6)


@in_loop
async def test_a_failure_the_next_target_the_same_again_and_a_fallback_are_each_told_as_what_they_are() -> None:
    plan = Plan(route="smart", candidates=(candidate("a"), candidate("b"), candidate("c", is_fallback=True)))
    retry = replace(ROUTE, retry=RetrySettings(max_attempts=5, budget_floor=100.0))
    failing = (ScriptedUpstream([FAULT]), ScriptedUpstream([FAULT]), ScriptedUpstream([WHOLE]))
    at, paths = watched(*failing, plan=plan, route=retry)
    await answered(at)
    assert steps(paths.find("r")) == [
        ("a", "first", "upstream_fault"),
        ("b", "next", "upstream_fault"),
        ("a", "retry", "upstream_fault"),
        ("b", "retry", "upstream_fault"),
        ("c", "fallback", "ok"),
    ]
    assert paths.find("r").steps[0].reason == "it failed"


@in_loop
async def test_an_open_breaker_is_told_where_it_opened_where_it_kept_somebody_away_and_where_it_was_tried() -> None:
    frail = backend("a", breaker=BreakerSettings(window=2, min_attempts=1, failure_share=0.5, open_s=5.0))
    at, paths = watched(
        ScriptedUpstream([FAULT], [WHOLE]),
        ScriptedUpstream([WHOLE]),
        backends={"a": frail, "b": backend("b")},
        route=replace(ROUTE, retry=RetrySettings(max_attempts=2, budget_floor=100.0)),
    )
    await answered(at, id="opens")
    first, _ = paths.find("opens").steps
    assert (first.was_asked, first.standing) == (True, "its breaker is open")
    await answered(at, id="passes")
    kept_away, _ = paths.find("passes").steps
    assert (kept_away.was_asked, kept_away.outcome, kept_away.first_s) == (False, "unavailable", None)
    assert "its breaker is open" in kept_away.reason
    at.clock.now_s += 60.0
    await answered(at, id="tries")
    (trial,) = paths.find("tries").steps
    assert (trial.is_trial, trial.outcome) == (True, "ok")


@in_loop
async def test_a_hedge_is_told_beside_the_one_it_beat() -> None:
    never, sleep = Wait(), HandSleep()
    plan = Plan(route="smart", candidates=(candidate("a"), candidate("b")), hedge_after_s=0.5)
    at, paths = watched(ScriptedUpstream([never]), ScriptedUpstream([WHOLE]), plan=plan, route=ROUTE, sleep=sleep)
    task = asyncio.create_task(at.gate.ask(ask(shape(is_stream=False))))
    await never.reached.wait()
    at.clock.now_s += 0.5
    await sleep.end_next()
    await task
    path = paths.find("r")
    assert steps(path) == [("a", "first", "cancelled"), ("b", "hedge", "ok")]
    assert [one.began_s for one in path.steps] == [0.0, 0.5]
    assert path.hedge_after_s == 0.5


@in_loop
async def test_a_tier_up_is_told() -> None:
    plan = Plan(route="smart", candidates=(candidate("a", tier=0), candidate("b", tier=1)))
    route = replace(ROUTE, policies=(Policy.COMPLEXITY,), escalation=Escalation(verifiers=("json",)))
    at, paths = watched(ScriptedUpstream(ANSWER), ScriptedUpstream(ANSWER), plan=plan, route=route)
    await read(await at.gate.ask(ask(raw=None)))
    path = paths.find("r")
    assert steps(path) == [("a", "first", "ok"), ("b", "tier", "ok")]
    assert "a tier up from 0" in path.brief.reason


@in_loop
async def test_an_answer_that_was_given_again_names_whose_it_was_and_asks_nobody() -> None:
    at, paths = watched(ScriptedUpstream(ANSWER), cache=Shelf(ANSWER, source="req_before"))
    await read(await at.gate.ask(ask()))
    path = paths.find("r")
    assert (path.brief.record.cache, path.source, path.steps) == ("exact", "req_before", ())


@in_loop
async def test_a_copy_for_a_shadow_is_a_request_of_its_own() -> None:
    plan = Plan(route="smart", candidates=(candidate("a"),), shadow=candidate("b"))
    at, paths = watched(ScriptedUpstream([WHOLE]), ScriptedUpstream([WHOLE]), plan=plan)
    await answered(at)
    for _ in range(20):
        await asyncio.sleep(0)
    assert paths.find("r").shadow == "b/m"
    copy = paths.find("r.shadow")
    assert (copy.brief.record.tenant, copy.brief.record.route) == ("shadow", "shadow:smart")
    assert steps(copy) == [("b", "copy", "ok")]


@in_loop
async def test_a_budgets_refusal_is_told_with_the_plan_it_came_after() -> None:
    at, paths = watched(ScriptedUpstream([WHOLE]), left_nanos=7)
    with pytest.raises(BudgetExceeded):
        await answered(at)
    path = paths.find("r")
    assert (path.brief.record.outcome, path.brief.refusal) == ("budget_exceeded", "5000000 are more than 7")
    assert [one.target for one in path.choices] == ["a/m"]
    assert (path.steps, path.reserved) == ((), None)


REFUSED = NotFound("model: there is no route 'smart'.")


@in_loop
async def test_a_request_without_a_plan_and_one_without_a_place_are_told_with_their_reasons() -> None:
    at, paths = watched(ScriptedUpstream([WHOLE]), plan=REFUSED)
    with pytest.raises(NotFound):
        await answered(at)
    path = paths.find("r")
    assert (path.brief.record.outcome, path.brief.refusal) == ("not_found", REFUSED.message)
    assert path.choices == ()
    at, paths = watched(ScriptedUpstream([WHOLE]), max_in_flight=0)
    with pytest.raises(Overloaded) as refused:
        await answered(at)
    assert paths.find("r").brief.refusal == refused.value.message


@in_loop
async def test_a_name_that_no_model_has_is_kept_nowhere() -> None:
    at, paths = watched(ScriptedUpstream([WHOLE]))
    with pytest.raises(NotFound, match="has 1000000 characters") as refused:
        await answered(at, model="x" * 1_000_000)
    assert len(refused.value.message) < 300
    assert ids(paths) == [] and at.book.records == []
    await answered(at, model="x" * 512)
    assert ids(paths) == ["r"]


@in_loop
async def test_what_overseers_say_and_the_record_of_an_answer_are_told() -> None:
    denied = Decision(action="request", resource="smart", is_allowed=False, policies=("p1",), reason="not today")
    seen = Verdict(monitor="hygiene", version="1", score=0.5, reason="invisible")

    overseer = ScriptedOverseer(reads_answers=False, gives_receipts=True)

    def say(_: UsageRecord) -> None:  # also what is only said at the end is told
        overseer.begun[0].case.decisions.append(denied)
        overseer.begun[0].case.verdicts.append(seen)

    overseer.on_end = say
    at, paths = watched(ScriptedUpstream([WHOLE]), overseers=(overseer,))
    await answered(at)
    path = paths.find("r")
    assert (path.decisions, path.verdicts, path.brief.record_id) == ((denied,), (seen,), "prov_0")


@in_loop
async def test_of_what_overseers_say_no_more_is_kept_than_anybody_reads() -> None:
    long = Decision(action="tool", resource="x" * 100_000, is_allowed=False, reason="y" * 100_000)
    overseer = ScriptedOverseer(reads_answers=False)

    def say(_: UsageRecord) -> None:
        overseer.begun[0].case.decisions.extend([long] * 1000)
        overseer.begun[0].case.verdicts.append(Verdict(monitor="m", version="1", score=0.5, reason="z" * 100_000))

    overseer.on_end = say
    at, paths = watched(ScriptedUpstream([WHOLE]), overseers=(overseer,))
    await answered(at)
    told = paths.find("r")
    assert len(told.decisions) == 64 and len(encode_path(told)) < 80_000
    assert {(len(one.resource), len(one.reason)) for one in told.decisions} == {(400, 400)}


SECRET = "my password is zanzibar"
QUOTED = UpstreamFault(f"cannot do {SECRET}")
QUOTED.quotes = True
REPEATING = (QUOTED, InvalidRequest(f"temperature: {SECRET!r} is no number", param="temperature"))


@pytest.mark.parametrize("error", REPEATING, ids=["a backend's words", "a value of the body"])
@in_loop
async def test_nothing_of_what_was_said_is_told_not_even_by_whoever_refuses_it(error: HeadraceError) -> None:
    at, paths = watched(ScriptedUpstream([error]), route=replace(ROUTE, retry=RetrySettings(max_attempts=1)))
    with pytest.raises(type(error)):
        await answered(at)
    assert "zanzibar" not in encode_path(paths.find("r")).decode()
    unreadable, paths = watched(ScriptedUpstream(ANSWER, takes=frozenset()))
    with pytest.raises(InvalidRequest):
        await unreadable.gate.ask(ask(error=InvalidRequest(f"messages: {SECRET}", param="messages")))
    told = encode_path(paths.find("r")).decode()
    assert "zanzibar" not in told
    assert "messages: refused" in told


@in_loop
async def test_a_field_that_a_protocol_lacks_is_no_attempt() -> None:
    at, paths = watched(ScriptedUpstream([UnsupportedField("seed: no", param="seed")]), ScriptedUpstream([WHOLE]))
    await answered(at)
    first, second = paths.find("r").steps
    assert (first.was_asked, first.outcome) == (False, "unsupported_parameter")
    assert (second.was_asked, second.kind) == (True, "next")


@in_loop
async def test_a_reader_that_leaves_is_no_failure() -> None:
    at, paths = watched(ScriptedUpstream([b"one", b"two"]))
    reply = await at.gate.ask(ask())
    await reply.chunks.aclose()  # type: ignore[union-attr]
    brief = paths.find("r").brief
    assert (brief.record.outcome, brief.is_failed) == ("cancelled", False)
    assert steps(paths.find("r")) == [("a", "first", "cancelled")]


@in_loop
async def test_what_is_kept_holds_no_body_and_no_request() -> None:
    at, paths = watched(ScriptedUpstream([WHOLE]))
    await answered(at)
    (kept,) = paths._by_id.values()
    seen: set[int] = set()

    def look(value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        assert type(value).__name__ not in ("Ask", "Request", "RawBody", "Passage", "Attempt"), type(value)
        for name in getattr(type(value), "__slots__", ()):
            look(getattr(value, name, None))
        for one in value if isinstance(value, (list, tuple)) else ():
            look(one)

    look(kept)


def kept(paths: PathBook, request_id: str, *, is_slow: bool = False, **about: Any) -> None:
    record = UsageRecord(**({"request_id": request_id, "started_s": 1.0, "tenant": "t", "route": "smart"} | about))
    plan = Plan(route=record.route, candidates=())
    paths.add(Ended(paths.next_number(), record, plan, (), 0.0, "", "", None, "", None, (), (), (), is_slow))


def ids(paths: PathBook, **query: Any) -> list[str]:
    return [one.record.request_id for one in paths.page(PathQuery(**query)).briefs]


def test_failed_and_slow_ones_stay_when_newer_ones_push_them_out_and_others_are_forgotten() -> None:
    paths = book(3)
    kept(paths, "well")
    kept(paths, "failed", outcome="upstream_fault")
    kept(paths, "left", outcome="cancelled")
    kept(paths, "slow", is_slow=True)
    for number in range(5):
        kept(paths, str(number))
    assert ids(paths) == ["4", "3", "2", "slow", "failed"]
    assert paths.find("failed").brief.is_failed
    for gone in ("well", "left", "0"):
        with pytest.raises(NotFound, match="3 newest"):
            paths.find(gone)
    paths.configure(1, 2.0)
    assert ids(paths) == ["4", "slow"]
    paths.configure(0, 2.0)
    assert (ids(paths), len(paths._by_id), paths.is_on) == ([], 0, False)


def test_a_loud_tenant_pushes_out_nobody_else() -> None:
    paths = book(10)
    for number in range(5):
        kept(paths, f"quiet-{number}", tenant="quiet")
    for number in range(1000):
        kept(paths, f"loud-{number}", tenant="loud")
    assert ids(paths, tenant="quiet") == [f"quiet-{number}" for number in reversed(range(5))]
    assert ids(paths, tenant="loud") == [f"loud-{number}" for number in reversed(range(995, 1000))]


def test_filters_hold_together_and_pages_follow_each_other() -> None:
    paths = book(100)
    for number in range(6):
        kept(paths, f"r{number}", key="k" if number % 2 else None, user="u", asked_model="smart", model="m")
    kept(paths, "other", tenant="s", route="plain", backend="east", outcome="rate_limit_exceeded")
    kept(paths, "resp.1", is_slow=True)
    assert ids(paths, key="k") == ["r5", "r3", "r1"]
    assert ids(paths, user="u", key="k", limit=2) == ["r5", "r3"]
    assert ids(paths, model="m", limit=1) == ids(paths, model="smart", limit=1) == ["r5"]
    assert ids(paths, tenant="s") == ids(paths, route="plain") == ids(paths, backend="east") == ["other"]
    assert ids(paths, outcome="failed") == ids(paths, outcome="rate_limit_exceeded") == ["other"]
    assert ids(paths, is_slow=True) == ids(paths, id="resp") == ["resp.1"]
    assert ids(paths, id="res") == []
    assert paths.find("resp").brief.record.request_id == "resp.1"
    page = paths.page(PathQuery(limit=5))
    assert page.has_more
    assert ids(paths, after=page.briefs[-1].number) == ["r2", "r1", "r0"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"colour": ["red"]}, "colour"),
        ({"tenant": ["a", "b"]}, "tenant"),
        ({"slow": ["yes"]}, "slow"),
        ({"limit": ["0"]}, "limit"),
        ({"limit": ["501"]}, "limit"),
        ({"after": ["-1"]}, "after"),
    ],
)
def test_a_query_that_means_nothing_is_refused_by_name(query: dict[str, list[str]], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_query(query)
    assert refused.value.param == param


@in_loop
async def test_routes_are_told_with_what_was_seen_of_each_target_and_names_that_have_none_after_them() -> None:
    at, paths = watched(
        ScriptedUpstream([FAULT], [WHOLE]), ScriptedUpstream([WHOLE]), route=replace(ROUTE, retry=RetrySettings())
    )
    await answered(at, id="one")
    await answered(at, id="two")
    kept(paths, "direct", route="b/m")
    kept(paths, "copy", route="shadow:smart", tenant="shadow")
    smart, direct = paths.routes().routes
    assert (smart.name, smart.is_named, smart.policies, smart.max_attempts) == ("smart", True, ("least_loaded",), 3)
    assert (smart.figures.num_requests, smart.figures.num_failed, smart.figures.cost_nanos) == (2, 0, 400_000)
    seen = {one.target: (one.figures.num_requests, one.figures.num_failed) for one in smart.targets}
    assert seen == {"a/m": (2, 1), "b/m": (1, 0)}
    assert (direct.name, direct.is_named, direct.figures.num_requests) == ("b/m", False, 1)


def test_a_percentile_is_one_of_the_values() -> None:
    paths = book(200)
    for number in range(1, 101):
        kept(paths, str(number), duration_s=float(number), ttft_s=number / 100)
    kept(paths, "failed", duration_s=1e6, outcome="upstream_timeout")
    (smart,) = paths.routes().routes
    figures = smart.figures
    assert (figures.whole_p50_s, figures.whole_p95_s, figures.first_p50_s, figures.first_p95_s) == (50, 95, 0.5, 0.95)
    assert (figures.num_requests, figures.num_failed) == (101, 1)


@in_loop
async def test_nothing_is_kept_where_nobody_asked_for_it() -> None:
    at = bench({"a": ScriptedUpstream([WHOLE])})
    await answered(at)
    assert at.book.records
    assert book(0).page(PathQuery()).max_kept == 0
