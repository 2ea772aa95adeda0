"""Policies at the gate: what they deny is not asked of anybody, and why is told and recorded."""

from dataclasses import replace
from typing import Any

import pytest
from tests.doubles_gateway import ANSWER, ScriptedUpstream, ask, backend, bench, candidate, in_loop, read, shape
from tests.doubles_policy import judge, question

from headrace.core.deciding import PoliciesInForce
from headrace.core.errors import Forbidden
from headrace.core.gateway import RawStream
from headrace.core.request import Principal
from headrace.core.shape import Need
from headrace.core.trust import Decision, Delegation, Effect
from headrace.gateway.contract import Bound, Case, Plan
from headrace.gateway.oversight.deciding import JudgeDesk
from headrace.gateway.oversight.policy import PolicyOverseer
from headrace.gateway.settings import BackendSettings
from headrace.trust.policy.decision_log import DecisionLog
from headrace.trust.policy.in_force import JudgeInForce
from headrace.trust.policy.settings import SubjectSettings


class Watched(PolicyOverseer):
    """An overseer whose cases the test sees."""

    def __init__(
        self, text: str, *sets: str, backends: dict[str, BackendSettings] | None = None, **options: Any
    ) -> None:
        in_force = JudgeInForce(judge(text, *sets, **options), DecisionLog(lambda *_: None, lambda: 0.0))
        super().__init__(in_force, backends or {})
        self.cases: list[Case] = []

    def begin(self, case: Case) -> Any:
        self.cases.append(case)
        return super().begin(case)

    @property
    def decisions(self) -> list[Decision]:
        return self.cases[-1].decisions


@in_loop
async def test_with_the_sets_that_ship_everything_goes_as_before_and_bytes_still_pass() -> None:
    watched = Watched("", "default", "agents")
    at = bench({"a": ScriptedUpstream([b"one"], [b"one"])}, overseers=(watched,))
    reply = await at.gate.ask(ask())
    assert isinstance(reply, RawStream)
    assert [piece async for piece in reply.chunks] == [b"one"]
    told = [(one.action, one.resource, one.policies) for one in watched.decisions]
    assert told == [("request", "smart", ("default-request",)), ("route", "a/m", ("default-route",))]


@in_loop
async def test_a_request_that_is_denied_is_told_by_which_policy_and_why_and_nobody_is_asked() -> None:
    no = '@id("no-smart") @reason("it is being replaced") forbid (principal, action, resource == Model::"smart");'
    watched = Watched(no, "default")
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(watched,))
    with pytest.raises(Forbidden) as caught:
        await at.gate.ask(ask())
    assert caught.value.code == "policy_denied"
    assert caught.value.message == "the model 'smart' is denied by no-smart: it is being replaced."
    assert [one.is_allowed for one in watched.decisions] == [False]
    assert at.is_quiet


@in_loop
async def test_what_nothing_permits_is_refused_without_a_policy() -> None:
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(Watched(""),))
    with pytest.raises(Forbidden, match="no policy permits the model 'smart'; ask an operator"):
        await at.gate.ask(ask())


@in_loop
async def test_only_targets_that_are_permitted_are_asked_by_region_clearance_and_cost() -> None:
    text = """
    @id("home") forbid (principal, action == Action::"route", resource) when { resource.region != "eu" };
    @id("dear") forbid (principal, action == Action::"route", resource)
    when { context has cost_nanos && context.cost_nanos > 500 };
    @id("uncleared") forbid (principal, action == Action::"route", resource)
    when { context.labels.contains("restricted") && !resource.clearance.contains("restricted") };
    """
    backends = {
        "far": replace(backend("far"), region="us", clearance=frozenset({"restricted"})),
        "dear": replace(backend("dear"), region="eu", clearance=frozenset({"restricted"})),
        "open": replace(backend("open"), region="eu"),
        "near": replace(backend("near"), region="eu", clearance=frozenset({"restricted"})),
    }
    watched = Watched(text, "default", backends=backends)
    upstreams = {name: ScriptedUpstream(ANSWER) for name in backends}
    dear = replace(candidate("dear"), bound=Bound(10, 1000))
    others = {name: replace(candidate(name), bound=Bound(10, 100)) for name in ("far", "open", "near")}
    plan = Plan(route="smart", candidates=(others["far"], dear, others["open"], others["near"]))
    at = bench(upstreams, plan=plan, overseers=(watched,), backends=backends)
    reply = await at.gate.ask(ask(shape(labels=frozenset({"restricted"})), raw=None))
    assert tuple(await read(reply)) == ANSWER
    assert reply.taken.backend == "near"
    refused = {one.resource: one.policies for one in watched.decisions if not one.is_allowed}
    assert refused == {"far/m": ("home",), "dear/m": ("dear",), "open/m": ("uncleared",)}


@in_loop
async def test_a_request_for_which_no_target_is_permitted_is_refused() -> None:
    forbid = 'forbid (principal, action == Action::"route", resource);'
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(Watched(forbid, "default"),))
    with pytest.raises(Forbidden) as caught:
        await at.gate.ask(ask())
    assert caught.value.code == "policy_denied"
    assert at.is_quiet


@in_loop
async def test_policies_that_are_only_watched_refuse_nothing_and_say_what_they_would_have() -> None:
    watched = Watched("forbid (principal, action, resource);", "default", is_enforced=False)
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(watched,))
    await read(await at.gate.ask(ask(raw=None)))
    assert [(one.is_allowed, one.is_enforced) for one in watched.decisions] == [(False, False), (False, False)]


@in_loop
async def test_policies_see_what_a_request_needs_and_how_large_it_is() -> None:
    text = """permit (principal, action == Action::"request", resource)
    when { context.needs == ["tools"] && context.prompt_tokens < 1000 && context has max_tokens
           && context.max_tokens == 7 && context has session && context.session == "s" && context.task == "generate"
           && context.tags.contains("x") && context.is_stream && principal.key == "k" };
    """.replace("principal.key ==", "principal has key && principal.key ==")
    watched = Watched(text + 'permit (principal, action == Action::"route", resource);')
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(watched,))
    of = shape(needs=frozenset({Need.TOOLS}), max_tokens=7, session="s", tags=("x",))
    await read(await at.gate.ask(ask(of, raw=None)))
    with pytest.raises(Forbidden):
        await at.gate.ask(ask(replace(of, max_tokens=8)))


@in_loop
async def test_what_a_delegation_does_not_cover_is_refused_even_where_policies_are_only_watched() -> None:
    watched = Watched("", "default", is_enforced=False)
    at = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(watched,))
    agent = Principal(tenant="t", key="k", delegation=Delegation(chain=("key:k", "a"), models=frozenset({"other"})))
    with pytest.raises(Forbidden, match="is denied by delegation: the delegation does not cover the model 'smart'"):
        await at.gate.ask(ask(shape(principal=agent)))


TOOL: dict[str, Any] = {"effect": "read"}


@pytest.mark.parametrize(
    ("name", "attributes", "labels", "why"),
    [
        ("search", TOOL, (), ""),
        ("pay", TOOL, (), "the tool 'pay'"),
        ("search", {"effect": "write"}, (), "tools that write"),
        ("search", {}, (), "tools that egress"),
        ("search", {"effect": "fly"}, (), "tools that egress"),
        ("search", TOOL, ("secret",), "the label 'secret'"),
    ],
)
def test_no_policy_widens_what_a_delegation_covers_of_tools(
    name: str, attributes: dict[str, Any], labels: tuple[str, ...], why: str
) -> None:
    in_force = JudgeInForce(judge("", "default"), DecisionLog(lambda *_: None, lambda: 0.0))
    given = Delegation(
        chain=("key:k", "a"),
        tools=frozenset({"search"}),
        effects=frozenset({Effect.READ}),
        labels=frozenset(),
    )
    agent = Principal(tenant="t", key="k", delegation=given)
    asked = question("tool", name, principal=agent, attributes=attributes, labels=labels)
    (said,) = JudgeDesk(in_force, lambda: PoliciesInForce(mode="enforce")).decide([asked])
    assert said.is_allowed == (not why)
    assert why in said.reason
    assert why == "" or (said.policies == ("delegation",) and said.is_enforced)


STAFF = '@id("staff") permit (principal in Group::"staff", action, resource);'
PLANNERS = '@id("planner") permit (principal == Agent::"planner", action, resource);'


@pytest.mark.parametrize("policy", [STAFF, PLANNERS])
@pytest.mark.parametrize("holder", ["key:boss", "planner", "agent:planner", "spiffe://d/boss", None])
def test_who_delegates_to_a_name_gets_nothing_that_the_name_has(policy: str, holder: str | None) -> None:
    groups = {
        name: SubjectSettings(groups=("staff",))
        for name in ("key:boss", "agent:planner", "agent:agent:planner", "agent:key:boss", "spiffe://d/boss")
    }
    in_force = JudgeInForce(judge(policy, subjects=groups), DecisionLog(lambda *_: None, lambda: 0.0))
    for granter, is_staff in (("key:clerk", False), ("key:boss", True)):
        chain = (granter,) if holder is None else (granter, holder)
        subject = chain[-1] if ":" in chain[-1] else f"agent:{chain[-1]}"
        agent = Principal(
            tenant="t", key=granter[4:], subject=subject, agent=holder, delegation=Delegation(chain=chain)
        )
        for who in (agent, Principal(tenant="t", key=granter[4:], subject=granter)):
            assert in_force.decide(question(principal=who)).is_allowed is (is_staff and policy is STAFF)
