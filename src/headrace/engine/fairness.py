"""How much service each tenant has had, so that the one with the least goes next.

A virtual counter per tenant (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): tokens computed for
it, divided by its share. A tenant that comes back after a pause starts at the least counter of those that are active,
so that nobody saves up service and nobody is punished for having been alone. Knows tenants by name; no sequences, no
time.
"""

from dataclasses import dataclass

MAX_IDLE_TENANTS = 4096
"""Counters of tenants without work that are kept; the oldest are forgotten beyond that."""


@dataclass(slots=True)
class _Account:
    service: float = 0.0
    num_sequences: int = 0


class FairShare:
    """Counters of one scheduler."""

    def __init__(self) -> None:
        self._active: dict[str, _Account] = {}
        self._idle: dict[str, _Account] = {}

    @property
    def num_tenants(self) -> int:
        """Tenants with work, and those without that are still known."""
        return len(self._active) + len(self._idle)

    def enter(self, tenant: str) -> None:
        """One more sequence of the tenant exists."""
        account = self._active.get(tenant)
        if account is None:
            account = self._idle.pop(tenant, None) or _Account()
            if self._active:
                account.service = max(account.service, min(other.service for other in self._active.values()))
            self._active[tenant] = account
        account.num_sequences += 1

    def leave(self, tenant: str) -> None:
        """One sequence less."""
        account = self._active[tenant]
        account.num_sequences -= 1
        if account.num_sequences == 0:
            del self._active[tenant]
            self._idle[tenant] = account
            if len(self._idle) > MAX_IDLE_TENANTS:
                del self._idle[next(iter(self._idle))]

    def charge(self, tenant: str, num_tokens: int, share: float) -> None:
        """Tokens are being computed for a tenant that has a sequence."""
        self._active[tenant].service += num_tokens / share

    def service(self, tenant: str) -> float:
        """The counter of a tenant that has a sequence."""
        return self._active[tenant].service

    def check(self, counts: dict[str, int]) -> None:
        """Assert that exactly these tenants have so many sequences."""
        assert {name: account.num_sequences for name, account in self._active.items()} == counts, (
            "sequences and tenants disagree"
        )
