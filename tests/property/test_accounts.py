"""Accounts under any interleaving of requests, writes, kills, losses of power and restarts, beside a naive twin.

The twin is a list of charges: what is spent of a budget in a window is the sum of those that fall under it, nothing
else is remembered, and windows are told from the date as it is printed.
"""

import asyncio
import errno
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from tests.doubles_accounts import Machine, budget, record_of, shape

from headrace.core.errors import BudgetExceeded, DiskFull
from headrace.core.request import Principal
from headrace.gateway.accounts.accounts import Held
from headrace.gateway.contract import Bound
from headrace.gateway.settings import BudgetSettings, Window

BUDGETS = (
    budget("house", "all", Window.TOTAL, money=40e-9, tokens=400),
    budget("anna", "tenant:anna", Window.DAY, money=15e-9),
    budget("each key", "key:*", Window.HOUR, money=9e-9, tokens=60),
    budget("laptop", "key:laptop", Window.HOUR, money=12e-9),
    budget("each user", "user:*", Window.WEEK, tokens=90),
    budget("night", "tag:night", Window.MONTH, tokens=120),
    budget("small", "route:small", Window.MINUTE, money=6e-9),
)
RICHER = (*BUDGETS[:2], budget("each key", "key:*", Window.HOUR, money=14e-9, tokens=80), *BUDGETS[3:])

TENANTS, KEYS, USERS = (
    st.sampled_from(["anna", "bob"]),
    st.sampled_from([None, "laptop", "ci"]),
    st.sampled_from([None, "u"]),
)
TAGS, ROUTES = st.sampled_from([(), ("night",), ("night", "day")]), st.sampled_from(["small", "large"])
NANOS, TOKENS = st.integers(0, 8), st.integers(0, 50)


@dataclass(eq=False)
class Charge:
    """A request of the twin: charged `nanos` and `tokens` where it is known, its bound before."""

    number: int
    at_s: float
    owners: dict[str, set[str]]
    nanos: int
    tokens: int
    is_open: bool = True
    is_safe: bool = True
    held: Held | None = None
    bound: Bound = field(default=Bound(0, 0))


def window_text(window: Window, at_s: float) -> str:
    moment = datetime.fromtimestamp(at_s, UTC)
    if window is Window.WEEK:
        return "{}-{}".format(*moment.isocalendar()[:2])
    lengths = {Window.TOTAL: 0, Window.MONTH: 7, Window.DAY: 10, Window.HOUR: 13, Window.MINUTE: 16}
    return moment.isoformat()[: lengths[window]]


class AccountsMachine(RuleBasedStateMachine):
    running = Bundle("running")

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-accounts-"))
        self.machine = Machine(self.folder)
        self.budgets: tuple[BudgetSettings, ...] = BUDGETS
        self.charges: list[Charge] = []
        self.latest_s = 0.0
        self.num_requests = self.num_before_loss = 0
        self.is_full = False
        self.start()

    def start(self) -> None:
        self.run(self.machine.start(self.budgets, write=self.write))

    def write(self, descriptor: int, data: bytes) -> int:
        """As a disk does that fills up: a part still fits, and then nothing."""
        if not self.is_full:
            return os.write(descriptor, data)
        if len(data) < 30:
            raise OSError(errno.ENOSPC, "full")
        return os.write(descriptor, data[:20])

    def run(self, work):  # type: ignore[no-untyped-def]
        return self.runner.run(work)

    def applying(self, owners: dict[str, set[str]]) -> list[tuple[BudgetSettings, str, str]]:
        """Budgets that hold for a request, each with the subject's kind and name."""
        return [
            (one, one.subject.kind, name)
            for one in self.budgets
            for name in owners.get(one.subject.kind, set())
            if one.subject.name in (name, "*")
        ]

    def used(self, kind: str, name: str, window: Window, text: str) -> tuple[int, int]:
        those = [
            charge
            for charge in self.charges
            if name in charge.owners.get(kind, set()) and window_text(window, charge.at_s) == text
        ]
        return sum(one.nanos for one in those), sum(one.tokens for one in those)

    def fits(self, owners: dict[str, set[str]], at_s: float, bound: Bound) -> bool:
        for one, kind, name in self.applying(owners):
            nanos, tokens = self.used(kind, name, one.window, window_text(one.window, at_s))
            is_named = one.subject.name != "*"
            has_own = any(
                other.subject.kind == kind and other.subject.name == name and other.money is not None
                for other in self.budgets
            )
            is_counted = one.money is not None and (is_named or not has_own) and bound.nanos > 0
            if is_counted and nanos + bound.nanos > round((one.money or 0) * 1e9):
                return False
            if one.tokens is not None and bound.tokens and tokens + bound.tokens > one.tokens:
                return False
        return True

    @rule(target=running, tenant=TENANTS, key=KEYS, user=USERS, tags=TAGS, route=ROUTES, nanos=NANOS, tokens=TOKENS)
    def ask(self, tenant, key, user, tags, route, nanos, tokens):  # type: ignore[no-untyped-def]
        bound = Bound(tokens, nanos)
        # A process's time never goes back.
        self.latest_s = max(self.latest_s, self.machine.clock.now_s)
        owners = {"all": {""}, "tenant": {tenant}, "tag": set(tags), "route": {route}}
        owners |= {"key": {key}} if key else {}
        owners |= {"user": {f"{tenant}/{user}"}} if user else {}
        fits = self.fits(owners, self.latest_s, bound)
        self.num_requests += 1
        asked = shape(f"r{self.num_requests}", Principal(tenant=tenant, key=key, user=user), tags=tags)
        try:
            held = self.run(self.machine.accounts.reserve(asked, route, bound))
        except BudgetExceeded:
            assert not fits
            return None
        except DiskFull:
            assert self.is_full or any(not one.is_safe for one in self.charges)
            return None
        assert fits
        charge = Charge(self.num_requests, self.latest_s, owners, nanos, tokens, held=held, bound=bound)
        self.charges.append(charge)
        return charge

    @rule(charge=consumes(running), share=st.floats(0, 1))
    def settle(self, charge: Charge | None, share: float) -> None:
        if charge is None or not charge.is_open:
            return
        assert charge.held is not None
        charge.nanos, charge.tokens = int(charge.bound.nanos * share), int(charge.bound.tokens * share)
        record = record_of(charge.held, charge.nanos, charge.tokens, f"r{charge.number}")
        charge.held.settle(record)
        charge.held.settle(record)  # a second time changes nothing
        charge.is_open, charge.is_safe = False, not self.is_full

    @rule(is_full=st.booleans())
    def fill_disk(self, is_full: bool) -> None:
        self.is_full = is_full

    @rule(seconds=st.sampled_from([0.5, 20, 61, 3601, 86_401, 8 * 86_400]))
    def wait(self, seconds: float) -> None:
        self.machine.clock.pass_s(seconds)

    @rule(seconds=st.sampled_from([1, 50, 4000]))
    def set_back(self, seconds: float) -> None:
        self.machine.clock.now_s -= seconds

    @rule()
    def drain(self) -> None:
        self.run(self.machine.accounts.drain())
        for charge in self.charges:
            charge.is_safe = True
        if not any(one.is_open for one in self.charges) and self.machine.clock.now_s < self.latest_s - 60:
            self.latest_s = self.machine.clock.now_s

    @rule()
    def cut_the_journal(self) -> None:
        self.machine.accounts._rhythm = type(self.machine.accounts._rhythm)(tick_s=1e6, max_journal_bytes=0)
        self.drain()

    @rule(is_rich=st.booleans())
    def reload(self, is_rich: bool) -> None:
        self.budgets = RICHER if is_rich else BUDGETS
        self.run(self.machine.accounts.configure(self.budgets, ()))

    @rule()
    def kill(self) -> None:
        self.run(self.machine.kill())
        self.charge_bounds()
        self.start_again()

    def charge_bounds(self) -> None:
        """What the journal had no room for is charged like what had not ended."""
        for charge in self.charges:
            if not charge.is_safe:
                charge.nanos, charge.tokens, charge.is_safe = charge.bound.nanos, charge.bound.tokens, True

    @rule()
    def end(self) -> None:
        self.run(self.machine.end())
        for charge in self.charges:
            charge.is_safe = True
        self.start_again()

    @rule(loses_journal=st.booleans())
    def lose_power(self, loses_journal: bool) -> None:
        self.run(self.machine.lose_power(loses_journal=loses_journal))
        self.charge_bounds()
        self.start_again(is_exact=False)

    def start_again(self, *, is_exact: bool = True) -> None:
        self.is_full = False
        for charge in self.charges:
            charge.is_open = False  # at its bound
        self.latest_s = 0.0
        self.start()
        for (subject, window, start_s), spent in self.run(self.machine.sums()).items():
            kind, _, name = subject.partition(":")
            known = self.used(kind, name, Window(window), window_text(Window(window), start_s))
            if is_exact:
                assert spent == known
                continue
            # What a lease said may have been spent is spent now. There is none where there is no budget.
            limited = [
                any(
                    getattr(one, measure) is not None
                    for one in self.budgets
                    if (one.subject.kind, one.window) == (kind, window) and one.subject.name in (name, "*")
                )
                for measure in ("money", "tokens")
            ]
            assert all(
                now >= before for now, before, is_limited in zip(spent, known, limited, strict=True) if is_limited
            )
            self.charges.append(
                Charge(0, start_s + 0.25, {kind: {name}}, spent[0] - known[0], spent[1] - known[1], is_open=False)
            )
        if not is_exact:
            self.num_before_loss = self.num_requests
        mine = {(one.number, one.nanos, one.tokens) for one in self.charges if one.number > self.num_before_loss}
        records = [(int(name[1:]), nanos, tokens) for name, _, nanos, tokens in self.run(self.machine.records())]
        assert sorted(one for one in records if one[0] > self.num_before_loss) == sorted(mine)

    @invariant()
    def never_over(self) -> None:
        for account in self.machine.accounts.ledger.known():
            period = account.period
            assert period.used_nanos <= max(period.ceiling_nanos, period.spent_nanos)
            assert min(period.used_nanos - period.spent_nanos, period.used_tokens - period.spent_tokens) >= 0

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            for charge in self.charges:
                charge.is_open = False
            self.run(self.machine.end())
            self.runner.close()
            shutil.rmtree(self.folder)


AccountsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAccounts = pytest.mark.filterwarnings("default::ResourceWarning")(AccountsMachine.TestCase)
