"""Requests of agents at the gate: held to the bounds of what was delegated, and counted, also when many run at once."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.doubles_delegation import NOW_S, desk, granted
from tests.doubles_gateway import (
    ANSWER,
    FAULT,
    Bench,
    ScriptedUpstream,
    Wait,
    ask,
    bench,
    candidate,
    in_loop,
    read,
    shape,
)
from tests.doubles_policy import judge

from headrace.core.errors import BudgetExceeded, Forbidden, HeadraceError
from headrace.core.gateway import Ask
from headrace.core.request import Principal, Tool
from headrace.core.shape import Need
from headrace.core.trust import Effect
from headrace.gateway.contract import Bound, Plan
from headrace.gateway.oversight.delegation import DelegationOverseer
from headrace.gateway.oversight.policy import PolicyOverseer
from headrace.trust.delegation.grant import Bounds
from headrace.trust.delegation.token import narrow_token


class Agent:
    """A gate with a backend that costs 200,000 and could cost 300,000, and an agent before it."""

    def __init__(self, *script: Any, plan: Plan | None = None, has_guard: bool = False, **bounds: Any) -> None:
        self.desk = desk(max_age_s=1e10)
        self.num_ends = 0
        overseer = DelegationOverseer(self.desk, self._count, has_guard=has_guard)
        at = candidate("a")
        plan = plan or Plan(route="smart", candidates=(replace(at, bound=Bound(10, 300_000)),))
        self.policy = PolicyOverseer(judge("", "default"), {}, self._left)
        upstreams = {one.target.backend: ScriptedUpstream(*(script or (ANSWER,))) for one in plan.candidates}
        self.bench: Bench = bench(upstreams, plan=plan, overseers=(overseer, self.policy))
        self.token = granted(**{"expires_s": NOW_S * 2} | bounds)
        self.who = self.desk.principal(self.token, NOW_S)

    def _count(self) -> None:
        self.num_ends += 1

    def _left(self, delegation: Any) -> Any:
        return self.desk.budgets.left(self.desk.blocks(delegation))

    async def ask(self, who: Principal | None = None, **about: Any) -> None:
        """A request of its, to the end."""
        await read(await self.bench.gate.ask(self.request(who, **about)))

    def request(self, who: Principal | None = None, **about: Any) -> Ask:
        return ask(shape(principal=who or self.who, **about), raw=None)

    @property
    def left(self) -> dict[str, int]:
        assert self.who.delegation is not None
        return self.desk.budgets.left(self.desk.blocks(self.who.delegation))


async def refusal(at: Agent, kind: type[HeadraceError] = Forbidden, **about: Any) -> str:
    with pytest.raises(kind) as caught:
        await at.ask(**about)
    assert at.bench.is_quiet
    return f"{caught.value.code}: {caught.value.message}"


@in_loop
async def test_what_is_covered_passes_and_what_is_not_is_refused_before_anybody_is_asked() -> None:
    at = Agent(models=frozenset({"smart"}), labels=frozenset({"restricted"}))
    await at.ask(labels=frozenset({"restricted"}))
    told = await refusal(at, labels=frozenset({"restricted", "secret"}))
    assert told == "delegation_denied: the delegation does not cover the label 'secret'."
    other = Agent(models=frozenset({"other"}))
    assert "the model 'smart'" in await refusal(other)
    assert at.num_ends == 1 and other.num_ends == 0


@in_loop
async def test_requests_are_counted_and_those_that_nobody_was_asked_for_are_not() -> None:
    at = Agent(max_calls=2)
    at.policy.judge = judge("", now_s=NOW_S)
    assert "policy_denied" in await refusal(at)
    assert at.left == {"left_calls": 2}
    at.policy.judge = judge("", "default")
    await at.ask()
    await at.ask()
    told = await refusal(at, BudgetExceeded)
    assert told.startswith("budget_exceeded: the delegation's 2 requests are used up")


@in_loop
async def test_an_attempt_that_fails_counts() -> None:
    at = Agent([FAULT], max_calls=5)
    with pytest.raises(HeadraceError):
        await at.ask()
    assert at.left["left_calls"] == 4


@in_loop
async def test_many_at_once_cannot_spend_what_is_there_for_two() -> None:
    wait = Wait()
    at = Agent([wait, *ANSWER], [wait, *ANSWER], max_cost_nanos=700_000)
    running = [asyncio.create_task(at.ask()) for _ in range(2)]
    await wait.reached.wait()
    assert at.left == {"left_nanos": 100_000}
    told = await refusal_of_third(at)
    assert told.code == "policy_denied"
    wait.go.set()
    await asyncio.gather(*running)
    assert at.left["left_nanos"] == 300_000  # they cost less than they could have
    assert at.num_ends == 3


async def refusal_of_third(at: Agent) -> HeadraceError:
    with pytest.raises(Forbidden) as caught:
        await at.ask()
    return caught.value


@in_loop
async def test_of_several_targets_only_those_that_what_is_left_covers_are_asked() -> None:
    dear, cheap = replace(candidate("dear"), bound=Bound(10, 500)), replace(candidate("cheap"), bound=Bound(10, 50))
    at = Agent(plan=Plan(route="smart", candidates=(dear, cheap)), max_cost_nanos=100)
    reply = await at.bench.gate.ask(at.request())
    await read(reply)
    assert reply.taken.backend == "cheap"


@in_loop
async def test_what_a_sub_agent_spends_is_its_parents_too() -> None:
    at = Agent(max_calls=5)
    helper = at.desk.principal(narrow_token(at.token, Bounds(max_calls=1), "helper"), NOW_S)
    await at.ask(helper)
    assert at.left == {"left_calls": 4}
    assert "1 requests are used up" in await refusal(at, BudgetExceeded, who=helper)
    await at.ask()


@in_loop
async def test_a_revoked_parent_ends_its_sub_agents_at_once() -> None:
    at = Agent()
    helper = at.desk.principal(narrow_token(at.token, Bounds(), "helper"), NOW_S)
    await at.ask(helper)
    assert at.who.delegation is not None
    at.desk.revoke(at.who.delegation.revocation_ids)
    assert await refusal(at, who=helper) == "delegation_denied: the delegation was revoked."


@in_loop
async def test_a_request_that_comes_after_the_end_is_refused_though_its_token_was_shown_before() -> None:
    at = Agent(expires_s=NOW_S + 1)
    at.bench.clock.now_s += NOW_S + 1 - at.bench.clock.unix_s()
    assert await refusal(at) == "delegation_denied: the delegation has ended."


@in_loop
async def test_policies_see_what_is_left() -> None:
    at = Agent(max_calls=2, max_cost_nanos=1_000_000)
    text = """permit (principal, action, resource);
    forbid (principal, action == Action::"request", resource)
    when { context has left_calls && context.left_calls < 1 && context has left_nanos && context.left_nanos < 900000 };
    """
    at.policy.judge = judge(text)
    await at.ask()
    assert "policy_denied" in await refusal(at)


@in_loop
async def test_where_nobody_judges_calls_a_tool_that_is_not_covered_may_not_be_declared() -> None:
    def with_tools(at: Agent, *names: str) -> Ask:
        plain = at.request(needs=frozenset({Need.TOOLS}))
        request = plain.decode()
        return replace(plain, decode=lambda: replace(request, tools=tuple(map(Tool, names))))

    named = Agent(tools=frozenset({"search"}))
    await read(await named.bench.gate.ask(with_tools(named, "search")))
    with pytest.raises(Forbidden, match="does not cover the tool 'pay'"):
        await named.bench.gate.ask(with_tools(named, "search", "pay"))
    reads = Agent(effects=frozenset({Effect.READ}))
    with pytest.raises(Forbidden, match="tools that egress"):
        await reads.bench.gate.ask(with_tools(reads, "search"))
    guarded = Agent(effects=frozenset({Effect.READ}), has_guard=True)
    await read(await guarded.bench.gate.ask(with_tools(guarded, "search")))


@in_loop
async def test_requests_of_nobodys_agents_are_none_of_its_business() -> None:
    at = Agent()
    await at.ask(Principal(tenant="t"))
    assert at.num_ends == 0
