"""Limits on how much anybody does at once and in a minute: requests, tokens, and requests that run.

The generic cell rate algorithm (ITU-T I.371): each rate is one number, the moment at which everything that was let
through would be paid off. A minute's worth may come at once. Tokens are taken at their bound and those that were not
used are given back. Values in, values out; times are monotonic seconds. Kept in memory only: a restart forgives.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.core.errors import RateLimited
from headrace.gateway.accounts.subjects import Owner, Rulebook, tightest
from headrace.gateway.settings import LimitSettings

BURST_S: Final = 60.0
"""How far ahead of its rate a subject may be: a minute's worth at once."""

NO_BOUND: Final = 1 << 62
WAIT_FOR_END_S: Final = 1.0
"""What is told to who has too many requests running: when one ends is not known."""


@dataclass(slots=True, eq=False)
class Gate:
    """One subject's limits and where it stands. A rate that is not limited has a price of 0 s."""

    owner: Owner
    request_price_s: float = 0.0
    token_price_s: float = 0.0
    max_running: int = NO_BOUND
    requests_limit: str = ""
    tokens_limit: str = ""
    running_limit: str = ""
    requests_paid_s: float = 0.0
    tokens_paid_s: float = 0.0
    num_running: int = 0

    @property
    def is_limited(self) -> bool:
        """Whether any limit still holds for it."""
        return self.request_price_s > 0 or self.token_price_s > 0 or self.max_running < NO_BOUND


class Limits:
    """All gates that were asked for, at most `max_gates` beside those in use."""

    def __init__(self, limits: Iterable[LimitSettings] = (), *, max_gates: int = 100_000) -> None:
        self._max_gates = max_gates
        self._gates: dict[Owner, Gate] = {}
        self._rules: Rulebook[LimitSettings] = Rulebook(())
        self.configure(limits)

    def __len__(self) -> int:
        return len(self._gates)

    def configure(self, limits: Iterable[LimitSettings]) -> None:
        """Take other limits; what runs goes on, and what was let through stays counted."""
        self._rules = Rulebook(limits)
        for gate in self._gates.values():
            self._limit(gate)

    def gates(self, owners: Iterable[Owner]) -> tuple[Gate, ...]:
        """The gates of these subjects that a limit holds for."""
        found = []
        for owner in owners:
            if self._rules.rules(owner):
                gate = self._gates.get(owner)
                if gate is None:
                    gate = self._gates[owner] = Gate(owner)
                    self._limit(gate)
                found.append(gate)
        return tuple(found)

    def check(self, gates: Sequence[Gate], tokens: int, now_s: float) -> None:
        """Whether a request of so many tokens may pass now. Raises RateLimited: the limit and when to come again."""
        for gate in gates:
            if (
                gate.num_running >= gate.max_running
                or gate.requests_paid_s + gate.request_price_s > now_s + BURST_S
                or max(gate.tokens_paid_s, now_s) + gate.token_price_s * tokens > now_s + BURST_S
            ):
                raise _refusal(gates, tokens, now_s)

    def enter(self, gates: Sequence[Gate], tokens: int, now_s: float) -> None:
        """Count a request that passes."""
        for gate in gates:
            gate.num_running += 1
            gate.requests_paid_s = max(gate.requests_paid_s, now_s) + gate.request_price_s
            gate.tokens_paid_s = max(gate.tokens_paid_s, now_s) + gate.token_price_s * tokens

    def leave(self, gates: Sequence[Gate], num_unused: int) -> None:
        """A request ended and had not used so many of its tokens (below 0: it used more)."""
        for gate in gates:
            gate.num_running -= 1
            gate.tokens_paid_s -= gate.token_price_s * num_unused

    def forget(self, now_s: float) -> int:
        """If there are too many gates, let go of those that are like new; how many were."""
        if len(self._gates) <= self._max_gates:
            return 0
        gone = [
            owner
            for owner, gate in self._gates.items()
            if not gate.num_running and gate.requests_paid_s <= now_s and gate.tokens_paid_s <= now_s
        ]
        for owner in gone:
            del self._gates[owner]
        return len(gone)

    def _limit(self, gate: Gate) -> None:
        rules = self._rules.rules(gate.owner)
        requests = tightest(rules, lambda rule: rule.requests_per_minute)
        tokens = tightest(rules, lambda rule: rule.tokens_per_minute)
        running = tightest(rules, lambda rule: rule.concurrency)
        gate.request_price_s, gate.requests_limit = (0.0, "") if requests is None else (60.0 / requests[0], requests[1])
        gate.token_price_s, gate.tokens_limit = (0.0, "") if tokens is None else (60.0 / tokens[0], tokens[1])
        gate.max_running, gate.running_limit = (NO_BOUND, "") if running is None else (int(running[0]), running[1])


def _refusal(gates: Sequence[Gate], tokens: int, now_s: float) -> RateLimited:
    """Of everything that keeps a request out, what does so longest."""
    worst: tuple[float, str] = (0.0, "")
    for gate in gates:
        kind, name = gate.owner
        whose = f"{kind}:{name}" if name else kind
        requests_s = gate.requests_paid_s + gate.request_price_s - now_s - BURST_S
        worst = max(
            worst,
            (requests_s, f"limit {gate.requests_limit!r} of {whose}: {_rate(gate.request_price_s)} requests a minute"),
        )
        if gate.token_price_s * tokens > BURST_S * (1 + 1e-9):
            return _never(gate, whose, tokens)
        tokens_s = max(gate.tokens_paid_s, now_s) + gate.token_price_s * tokens - now_s - BURST_S
        worst = max(
            worst, (tokens_s, f"limit {gate.tokens_limit!r} of {whose}: {_rate(gate.token_price_s)} tokens a minute")
        )
        if gate.num_running >= gate.max_running:
            worst = max(
                worst, (WAIT_FOR_END_S, f"limit {gate.running_limit!r} of {whose}: {gate.max_running} requests at once")
            )
    wait_s, what = worst
    return RateLimited(f"{what} are allowed; try again in {wait_s:.3g} s.", retry_after_s=wait_s)


def _never(gate: Gate, whose: str, tokens: int) -> RateLimited:
    error = RateLimited(
        f"limit {gate.tokens_limit!r} of {whose}: {_rate(gate.token_price_s)} tokens a minute are allowed, and the "
        f"request alone could use {tokens}; ask for less (max_tokens bounds it), or have the limit raised."
    )
    error.retryable = False  # waiting cannot help
    return error


def _rate(price_s: float) -> int:
    return round(60.0 / price_s) if price_s else 0
