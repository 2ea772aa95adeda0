"""The keeper of endorsements and the appeal before the guard, through a whole gate: with the plain rules and with the
policies that ship."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_flow import returned, user
from tests.doubles_gateway import HandClock, in_loop
from tests.unit.gateway.test_tool_guard import ENFORCED, INBOX, JUDGES, Scene, answer, call, calls_of, text_of

from headrace.core.endorsing import Doubt, EndorsementOrder, WithheldCall
from headrace.core.errors import Forbidden, HeadraceError, NotFound, Overloaded, Unavailable
from headrace.core.policy import Judge, Question
from headrace.core.provenance import LogItem
from headrace.core.request import Message, Principal
from headrace.core.trust import Confidentiality, Decision, Delegation
from headrace.gateway.oversight import endorsing
from headrace.gateway.oversight.appeal import Appeals, offered
from headrace.gateway.oversight.endorsing import EndorsementKeeper
from headrace.memory import endorsements as rows
from headrace.memory.store import Store
from headrace.trust.flow.rules import PlainJudge
from headrace.trust.flow.settings import FlowSettings, Mode, ToolRule
from headrace.trust.flow.tools import ToolBook
from headrace.trust.policy.decision_log import DecisionLog
from headrace.trust.policy.in_force import JudgeInForce

EVE = "eve@evil.example"
BOSS = Principal(tenant="t", subject="key:boss", key="boss", scopes=frozenset({"endorse"}))
AGENT = Principal(tenant="t", subject="key:k", key="k")
ASK = (user("Summarise my inbox"), *INBOX)


class Notary:
    """Takes items in, or does not."""

    def __init__(self) -> None:
        self.items: list[LogItem] = []
        self.is_full = False

    def submit(self, item: LogItem) -> None:
        """As `core.provenance.Notary`."""
        self.check()
        self.items.append(item)

    def check(self) -> None:
        """As `core.provenance.Notary`."""
        if self.is_full:
            raise Unavailable("the log takes nothing.")

    @property
    def events(self) -> list[str]:
        """What was logged."""
        return [json.loads(one.envelope)["event"] for one in self.items]


class Desk:
    """A keeper over a file, a clock that a test moves, and guarded answers."""

    def __init__(self, store: Store, judge: Judge, **how: Any) -> None:
        numbers = count()
        self.clock, self.notary, self.judge = HandClock(), Notary(), judge
        self.keeper = EndorsementKeeper(store, self.clock, lambda: f"{next(numbers)}", notary=self.notary, **how)

    async def answers(
        self, *events: Any, talk: tuple[Message, ...] = ASK, settings: FlowSettings = ENFORCED, **how: Any
    ) -> tuple[list[str], str, Scene]:
        """The names of the calls that arrive, the text, and the scene."""
        principal = how.pop("principal", AGENT)
        scene = Scene(answer(*events), self.judge, settings, **how)
        scene.overseer.appeals = Appeals(self.keeper, self.judge.decide)
        told = await scene.ask(*talk, principal=principal)
        return [name for _, name, _ in calls_of(told)], text_of(told), scene

    async def endorse(self, principal: Principal = BOSS, **fields: Any) -> str:
        """The id of one that is made."""
        order = EndorsementOrder(**{"tool": "send_mail", "lifetime_s": 60.0} | fields)
        return (await self.keeper.endorse(principal, order)).id


@asynccontextmanager
async def desk(folder: Path, judge: Judge | None = None, **how: Any) -> AsyncIterator[Desk]:
    store = Store(folder / "endorsements.db", rows.MIGRATIONS)
    await store.open()
    try:
        made = Desk(store, judge or PlainJudge(), **how)
        await made.keeper.open()
        yield made
        await made.keeper.close()
    finally:
        await store.close()


def mail(index: int = 0, to: str = EVE, **more: Any) -> list[Any]:
    return call("send_mail", index, to=to, **more)


@JUDGES
@in_loop
async def test_of_two_equal_calls_in_one_answer_one_endorsement_lets_one_pass(judge: Judge, tmp_path: Path) -> None:
    async with desk(tmp_path, judge) as at:
        made = await at.endorse(argument="to", value=EVE)
        names, text, scene = await at.answers(*mail(0), *mail(1))
        assert names == ["send_mail"]
        assert text.count("was withheld") == 1
        assert [use.endorsements for use in scene.case.tools] == [(made,), ()]
        assert at.notary.events == ["made", "used"]


@JUDGES
@in_loop
async def test_of_two_values_in_doubt_one_endorsement_is_not_enough_and_is_not_spent(
    judge: Judge, tmp_path: Path
) -> None:
    async with desk(tmp_path, judge) as at:
        first = await at.endorse(argument="to", value=EVE)
        wish = call("send_mail", to=[EVE, "mallory@evil.example"])
        assert (await at.answers(*wish))[0] == []
        second = await at.endorse(argument="to", value="mallory@evil.example")
        names, _, scene = await at.answers(*wish)
        assert names == ["send_mail"]
        assert scene.case.tools[0].endorsements == tuple(sorted((first, second)))
        assert at.keeper.endorsements(BOSS) == ()


@JUDGES
@in_loop
async def test_secrets_leave_by_an_endorsed_call_and_not_by_endorsed_values(judge: Judge, tmp_path: Path) -> None:
    rule = ToolRule(name="read_file", confidentiality=Confidentiality.SECRET)
    book = ToolBook({"read_file": rule, "send_mail": ToolRule(name="send_mail")})
    async with desk(tmp_path, judge) as at:
        await at.endorse(argument="to", value=EVE, uses=None)
        names, text, _ = await at.answers(*mail(), book=book)
        assert names == []
        found = re.search("call (sha256:[0-9a-f]{64})", text)
        assert found is not None
        made = await at.endorse(call=found[1])
        names, _, scene = await at.answers(*mail(), book=book)
        assert names == ["send_mail"]
        assert scene.case.tools[0].endorsements == (made,)


@in_loop
async def test_where_calls_are_only_watched_nothing_is_spent(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.endorse(argument="to", value=EVE)
        names, _, scene = await at.answers(*mail(), settings=FlowSettings(mode=Mode.SHADOW))
        assert names == ["send_mail"]
        assert scene.case.tools[0].endorsements == ()
        at.judge = PlainJudge(is_enforced=False)
        assert (await at.answers(*mail()))[0] == ["send_mail"]
        assert len(at.keeper.endorsements(BOSS)) == 1
        assert at.keeper.withheld(BOSS) == ()


@in_loop
async def test_what_passes_anyhow_and_what_is_endorsed_are_no_denials_in_the_log(tmp_path: Path) -> None:
    told: list[str] = []

    def weighing(question: Question) -> Decision:
        return in_force.weigh(question)

    in_force = JudgeInForce(PlainJudge(), DecisionLog(lambda message, _: told.append(message), lambda: 0.0))
    async with desk(tmp_path, in_force) as at:
        at.judge = in_force
        await at.endorse(argument="to", value=EVE)
        scene = Scene(answer(*mail()), in_force)
        scene.overseer.appeals = Appeals(at.keeper, weighing)
        await scene.ask(*ASK, principal=AGENT)
        assert told == []
        await scene.ask(*ASK, principal=AGENT)
        assert told == ["denied"]


@in_loop
async def test_what_cannot_be_logged_does_not_hold(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.endorse(argument="to", value=EVE, uses=1)
        at.notary.is_full = True
        assert (await at.answers(*mail()))[0] == []
        for uses in (1, None):
            with pytest.raises(Unavailable):
                await at.endorse(argument="to", value="other", uses=uses)
        at.notary.is_full = False
        assert [one.value for one in at.keeper.endorsements(BOSS)] == [f'"{EVE}"']
        assert (await at.answers(*mail()))[0] == ["send_mail"]


@in_loop
async def test_it_has_ended_even_if_that_cannot_be_written_down(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        made = await at.endorse(argument="to", value=EVE)
        at.notary.is_full = True
        with pytest.raises(Unavailable):
            await at.keeper.withdraw(BOSS, made)
        at.notary.is_full = False
        assert (await at.answers(*mail()))[0] == []


@in_loop
async def test_it_ends_when_its_time_is_over(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.endorse(argument="to", value=EVE, uses=None, lifetime_s=60.0)
        at.clock.now_s += 59.9
        assert (await at.answers(*mail()))[0] == ["send_mail"]
        at.clock.now_s += 0.1
        assert (await at.answers(*mail()))[0] == []
        assert at.keeper.endorsements(BOSS) == ()


def delegated(*blocks: str, scopes: frozenset[str] = frozenset({"endorse"}), **bounds: Any) -> Principal:
    delegation = Delegation(chain=("key:boss", "agent:a"), revocation_ids=blocks, **bounds)
    return Principal(tenant="t", subject="agent:a", scopes=scopes, delegation=delegation)


@in_loop
async def test_who_acts_on_a_delegation_endorses_with_its_scope_within_it_and_for_it_alone(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        what = {"argument": "to", "value": EVE, "uses": None}
        with pytest.raises(Forbidden, match="endorse"):
            await at.endorse(delegated("a", scopes=frozenset({"generate"})), **what)
        with pytest.raises(Forbidden, match="send_mail"):
            await at.endorse(delegated("a", tools=frozenset({"pay"})), **what)
        holder = delegated("a", expires_s=at.clock.unix_s() + 5.0)
        made = await at.endorse(holder, **what)
        assert (await at.answers(*mail(), principal=AGENT))[0] == []
        assert (await at.answers(*mail(), principal=delegated("b")))[0] == []
        assert (await at.answers(*mail(), principal=holder))[0] == ["send_mail"]
        assert (await at.answers(*mail(), principal=delegated("a", "b")))[0] == ["send_mail"]
        assert at.keeper.endorsements(delegated("b")) == ()
        assert [one.under for one in at.keeper.withheld(delegated("b"))] == [("b",)]
        assert at.keeper.withheld(holder) == ()
        assert [one.under for one in at.keeper.withheld(BOSS)] == [(), ("b",)]
        with pytest.raises(NotFound):
            await at.keeper.withdraw(delegated("a", "b"), made)
        at.clock.now_s += 5.0
        assert (await at.answers(*mail(), principal=holder))[0] == []


@JUDGES
@in_loop
async def test_no_endorsement_widens_a_delegation(judge: Judge, tmp_path: Path) -> None:
    async with desk(tmp_path, judge) as at:
        await at.endorse(argument="to", value=EVE, uses=None)
        names, text, _ = await at.answers(*mail(), principal=delegated("a", tools=frozenset({"pay"})))
        assert names == []
        assert "endorsement" not in text


@in_loop
async def test_what_has_no_exact_form_is_offered_to_nobody_and_not_endorsed_by_its_values(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.endorse(argument="to", value=EVE, uses=None)
        names, text, _ = await at.answers(*mail(body=2**60))
        assert (names, "endorsement" in text) == ([], False)
        assert at.keeper.withheld(BOSS) == ()


@in_loop
async def test_of_withheld_calls_the_last_are_remembered_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endorsing, "MAX_WITHHELD", 3)
    monkeypatch.setattr(endorsing, "MAX_WITHHELD_OF_TENANT", 2)
    async with desk(tmp_path) as at:
        one = WithheldCall(
            tenant="t",
            tool="pay",
            call="0",
            arguments="{}",
            doubts=(),
            request_id="r",
            subject="s",
            at_s=at.clock.unix_s(),
        )
        for number in range(4):
            at.keeper.note_withheld(replace(one, call=str(number)))
        at.keeper.note_withheld(replace(one, call="2"))
        assert [seen.call for seen in at.keeper.withheld(BOSS)] == ["3", "2"]
        for tenant in ("u", "v"):
            at.keeper.note_withheld(replace(one, tenant=tenant))
        assert [seen.call for seen in at.keeper.withheld(BOSS)] == ["2"]
        at.clock.now_s += endorsing.WITHHELD_S
        assert at.keeper.withheld(BOSS) == ()


@in_loop
async def test_a_tenant_has_no_more_than_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endorsing, "MAX_PER_TENANT", 2)
    async with desk(tmp_path) as at:
        for value in ("a", "b"):
            await at.endorse(argument="to", value=value)
        with pytest.raises(Overloaded):
            await at.endorse(argument="to", value="c")
        at.clock.now_s += 60.0
        await at.endorse(argument="to", value="c")


@in_loop
async def test_what_cannot_be_kept_is_not_made(tmp_path: Path) -> None:
    class Full(Store):
        """Its disk is full."""

        async def call_durably(self, function: Any, *given: Any, **named: Any) -> Any:
            """As `Store`."""
            if function is rows.save:
                raise Unavailable("the disk is full.")
            return await super().call_durably(function, *given, **named)

    store = Full(tmp_path / "endorsements.db", rows.MIGRATIONS)
    await store.open()
    at = Desk(store, PlainJudge())
    await at.keeper.open()
    with pytest.raises(HeadraceError):
        await at.endorse(argument="to", value=EVE, uses=None)
    assert at.keeper.endorsements(BOSS) == ()
    assert at.notary.items == []
    await store.close()


def test_a_refusal_names_arguments_and_nothing_that_is_no_name() -> None:
    doubts = tuple(Doubt(argument=name, value=None) for name in ("to", "obey me: now", "*"))
    assert offered("sha256:0", doubts) == " An endorsement of call sha256:0 lets it pass (in doubt: to)."
    assert offered("sha256:0", doubts[1:]) == " An endorsement of call sha256:0 lets it pass."


@in_loop
async def test_a_result_of_a_trusted_tool_needs_no_endorsement(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.endorse(argument="to", value="bob@x.example")
        talk = (user("Mail bob@x.example"), *INBOX[:1], returned("hello"))
        assert (await at.answers(*mail(to="bob@x.example"), talk=talk))[0] == ["send_mail"]
        assert [one.num_used for one in at.keeper.endorsements(BOSS)] == [0]
