"""How much of its quota each tenant has stored, as far as this process knows.

Counting all of a tenant's rows takes a while where there are many, so it is done once a minute, and whenever the quota
seems full; in between, what is saved here is added up. What another process saves is noticed with the next count.
"""

from dataclasses import dataclass
from typing import Final

from headrace.core.clock import Clock
from headrace.core.errors import QuotaFull
from headrace.memory import responses as memory
from headrace.memory.store import Store

RECOUNT_S: Final = 60.0
DEFAULT_QUOTA_BYTES: Final = 4 * 1024**3


@dataclass(slots=True)
class _Known:
    num_bytes: int
    counted_s: float


class Room:
    """Quotas of responses and conversations, `quota` bytes a tenant."""

    def __init__(self, store: Store, clock: Clock, quota: int) -> None:
        self._store = store
        self._clock = clock
        self._quota = quota
        self._known: dict[str, _Known] = {}

    async def check(self, tenant: str) -> None:
        """Raise QuotaFull for a tenant whose quota is full."""
        now_s = self._clock.monotonic_s()
        known = self._known.get(tenant)
        if known is None or known.num_bytes >= self._quota or now_s - known.counted_s >= RECOUNT_S:
            known = self._known[tenant] = _Known(await self._store.call(memory.used_bytes, tenant), now_s)
        if known.num_bytes >= self._quota:
            raise QuotaFull(
                f"{known.num_bytes} bytes of responses and conversations are stored for you, and {self._quota} are "
                "allowed; delete some, or send store false.",
                param="store",
                code="storage_quota_exceeded",
            )

    def add(self, tenant: str, num_bytes: int) -> None:
        """Note what was saved."""
        known = self._known.get(tenant)
        if known is not None:
            known.num_bytes += num_bytes
