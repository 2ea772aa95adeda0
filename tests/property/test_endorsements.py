"""Whatever is endorsed, used, withdrawn and waited for: a call passes if and only if a list that is looked through says
so, and what was spent is what that list has spent. With the rules, the keeper and the appeal as they are served."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

import pytest
from tests.doubles_flow import BOOK, TOOLS
from tests.doubles_gateway import HandClock

from headrace.core.endorsing import EndorsementOrder
from headrace.core.policy import Question
from headrace.core.request import Principal
from headrace.core.trust import Delegation
from headrace.gateway.oversight.appeal import Appeal, Appeals
from headrace.gateway.oversight.endorsing import EndorsementKeeper
from headrace.trust.flow.arguments import Evidence, Vouch, untrusted_arguments
from headrace.trust.flow.endorsement import Asked, call_digest
from headrace.trust.flow.rules import PlainJudge

NAMES = ("eve", "Eve")
DECIDING = {"pay": ("recipient", "amount"), "send_mail": ("to",), "invite": ()}


@dataclass(frozen=True)
class Caller:
    """Who calls, or endorses."""

    tenant: str
    subject: str
    session: str | None
    blocks: tuple[str, ...]

    @property
    def principal(self) -> Principal:
        """With the scope."""
        chain = Delegation(chain=("key:k", "agent"), revocation_ids=self.blocks) if self.blocks else None
        scopes = frozenset({"endorse"})
        return Principal(tenant=self.tenant, subject=self.subject, scopes=scopes, delegation=chain)


@dataclass(frozen=True)
class Call:
    """What is called."""

    tool: str
    recipient: str
    amount: int

    @property
    def arguments(self) -> str:
        """As a model writes them."""
        return json.dumps(self.values | {"note": "n"})

    @property
    def values(self) -> dict[str, str | int]:
        """What decides about something."""
        known = {"recipient": self.recipient, "to": self.recipient, "amount": self.amount}
        return {name: known[name] for name in DECIDING[self.tool]}


CALLERS = (
    Caller("t", "x", "x", ()),
    Caller("t", "y", None, ()),
    Caller("t", "y", "y", ("a",)),
    Caller("t", "x", "x", ("a", "b")),
    Caller("t", "x", "x", ("c",)),
    Caller("u", "x", "x", ()),
)


class Draw:
    """Chance that meets itself again: few names, and calls of what is endorsed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def step(self) -> tuple[str, Any, Any]:
        """What happens next."""
        [kind] = self.random.choices(("call", "endorse", "wait", "withdraw"), (60, 30, 6, 4))
        if kind == "wait":
            return kind, self.random.randint(1, 3), None
        made = {"call": self.call, "endorse": self.order, "withdraw": lambda: self.random.randrange(4)}[kind]
        return kind, self.random.choice(CALLERS), made()

    def call(self) -> Call:
        """Some call."""
        chosen = self.random.choice
        return Call(chosen(sorted(DECIDING)), chosen(NAMES), chosen((1, 2)))

    def order(self) -> dict[str, Any]:
        """Fields of an endorsement: of a call, or of a value of one of its arguments."""
        call, chosen = self.call(), self.random.choice
        order: dict[str, Any] = {"tool": call.tool, "lifetime_s": float(chosen((1, 2, 5, 9)))}
        order |= {"uses": chosen((None, 1, 1, 2, 3)), "subject": chosen((None, None, "x", "y"))}
        order["session"] = chosen((None, None, "x", "y"))
        names = DECIDING[call.tool]
        if not names or self.random.random() < 0.3:
            return order | {"call": call}
        name = chosen(names)
        return order | {"argument": name, "value": call.values[name]}


class NoStore:
    """Keeps nothing: one process is played."""

    async def call_durably(self, *_: Any) -> list[Any]:
        """As `Store`."""
        return []


class Twin:
    """Rows in a list, looked through from the beginning each time."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def _fitting(self, caller: Caller, tool: str, now_s: float, is_it: Callable[[dict[str, Any]], bool]) -> Any:
        found = None
        for row in self.rows:
            fits = (
                row["tenant"] == caller.tenant
                and row["tool"] == tool
                and now_s < row["until"]
                and (row["uses"] is None or row["uses"] > 0)
                and (row["session"] is None or row["session"] == caller.session)
                and (row["subject"] is None or row["subject"] == caller.subject)
                and all(caller.blocks[i : i + 1] == (block,) for i, block in enumerate(row["under"]))
                and is_it(row)
            )
            rank = (row["uses"] is not None, row["until"])
            if fits and (found is None or rank < (found["uses"] is not None, found["until"])):
                found = row
        return found

    def passes(self, caller: Caller, call: Call, now_s: float) -> bool:
        """Whether all that decides in a call is endorsed, or the call; what was needed is spent."""
        same = [Call(call.tool, name, amount) for name in NAMES for amount in (1, 2)]
        same = [one for one in same if one.values == call.values]
        found = [
            self._fitting(
                caller, call.tool, now_s, lambda row, n=name, v=value: row["argument"] == n and row["value"] == v
            )
            for name, value in call.values.items()
        ]
        if not found or None in found:
            found = [self._fitting(caller, call.tool, now_s, lambda row: row["call"] in same)]
        if None in found:
            return False
        for row in found:
            row["uses"] = None if row["uses"] is None else row["uses"] - 1
        return True


def ask_of(call: Call, caller: Caller) -> Callable[[Vouch | None, bool], Question]:
    """The question about a call after something untrusted was read."""
    facts = BOOK.facts(call.tool, TOOLS)

    def ask(vouch: Vouch | None, is_endorsed: bool) -> Question:
        untrusted = untrusted_arguments(facts, call.arguments, Evidence("", {}), vouch)
        context = {"integrity": 1, "confidentiality": 1, "untrusted_arguments": untrusted, "is_endorsed": is_endorsed}
        return Question(
            principal=Principal(tenant=caller.tenant),
            action="tool",
            resource=call.tool,
            attributes={"effect": "egress", "is_changed": False},
            context=context,
        )

    return ask


@pytest.mark.parametrize("seed", range(40))
def test_a_call_passes_if_and_only_if_a_list_of_endorsements_says_so(seed: int) -> None:
    draw = Draw(seed)
    num_passed = asyncio.run(play([draw.step() for _ in range(150)]))
    assert num_passed >= 3


async def play(played: list[tuple[str, Any, Any]]) -> int:
    """How many calls passed."""
    num_passed = 0
    clock, twin, numbers = HandClock(), Twin(), count()
    keeper = EndorsementKeeper(NoStore(), clock, lambda: f"{next(numbers):04}")  # type: ignore[arg-type]
    appeals = Appeals(keeper, PlainJudge().decide)
    for step, who, what in played:
        now_s = clock.unix_s()
        if step == "wait":
            clock.now_s += who
        elif step == "endorse":
            await endorse(keeper, twin, who, what, now_s)
        elif step == "withdraw":
            held = keeper.endorsements(who.principal)
            if what < len(held):
                await keeper.withdraw(who.principal, held[what].id)
                twin.rows = [row for row in twin.rows if row["id"] != held[what].id]
        else:
            facts = BOOK.facts(what.tool, TOOLS)
            asked = Asked(
                tenant=who.tenant,
                subject=who.subject,
                tool=what.tool,
                call=call_digest(facts, what.arguments),
                session=who.session,
                blocks=who.blocks,
            )
            ruling = Appeal(appeals, asked, ask_of(what, who), who.principal, "r").hear()
            assert (ruling is not None) == twin.passes(who, what, now_s)
            num_passed += ruling is not None
        now_s = clock.unix_s()
        for tenant in "tu":
            left = {one.id: one.uses for one in keeper.endorsements(Principal(tenant=tenant))}
            rows = (row for row in twin.rows if row["tenant"] == tenant and row["until"] > now_s)
            assert left == {row["id"]: row["uses"] for row in rows if row["uses"] != 0}
    return num_passed


async def endorse(keeper: EndorsementKeeper, twin: Twin, who: Caller, what: dict[str, Any], now_s: float) -> None:
    call: Call | None = what.get("call")
    digest = None if call is None else call_digest(BOOK.facts(call.tool, TOOLS), call.arguments)
    made = await keeper.endorse(who.principal, EndorsementOrder(**what | {"call": digest}))
    twin.rows.append(
        {"call": None, "argument": None, "value": None}
        | what
        | {"id": made.id, "tenant": who.tenant, "until": now_s + what["lifetime_s"], "under": who.blocks}
    )
