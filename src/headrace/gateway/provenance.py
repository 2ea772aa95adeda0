"""The book of records: gives out what verifies one offline, and forgets what opens one.

Knows the database of what was logged and the log that proves it, and nothing of what a statement says.
"""

import asyncio
import contextlib
import logging
from typing import Final

from headrace.core.clock import Clock
from headrace.core.errors import Forbidden, HeadraceError, NotFound
from headrace.core.provenance import Log
from headrace.core.request import Principal
from headrace.gateway.oversight.record_keys import open_secrets
from headrace.memory import provenance
from headrace.memory.provenance import Erasure, Kept
from headrace.memory.store import Store
from headrace.trust.records.bundle import Bundle, Exhibit

MAX_WAIT_S: Final = 30.0
DURABLE_S: Final = 2.0
"""How long a record that was just handed in is waited for before it is not found."""
AUDIT: Final = "audit"
ADMIN: Final = "admin"
"""Who reads everybody's records, and who erases them: an auditor takes no evidence away."""
DAY_S: Final = 86_400.0
SWEEP_S: Final = 3600.0

_logger = logging.getLogger(__name__)


class RecordService:
    """Implements `core.provenance.RecordBook`. `store` is the database of what was logged, `trusted` the text of the
    node's trust file; `erased` are the parts that erasing takes."""

    def __init__(self, store: Store, log: Log, trusted: bytes = b"", *, keeps_envelopes: bool = False) -> None:
        self.trusted = trusted
        self._store = store
        self._log = log
        self._erased = ("secrets", "content") if keeps_envelopes else provenance.PARTS

    async def bundle(self, record_id: str, principal: Principal, wait_s: float = 0.0) -> bytes:
        """As the protocol says; waits for at most MAX_WAIT_S."""
        kept = await self._find(record_id, principal, min(wait_s, MAX_WAIT_S))
        nonce, delegation_id = open_secrets(kept.item.secrets)
        delegation = await self._store.read(provenance.by_id, delegation_id)
        vouched = Exhibit(b"", b"") if delegation is None else await self._exhibit(delegation)
        return Bundle(
            record_id=record_id,
            log_origin=self._log.origin,
            record=await self._exhibit(kept),
            delegation=vouched,
            nonce=nonce,
        ).encode()

    async def erase(self, record_id: str, principal: Principal) -> None:
        """As the protocol says."""
        if principal.delegation is not None:
            raise Forbidden("an agent erases no records of what it did; whoever delegated to it may.")
        await self._find(record_id, principal, 0.0, scope=ADMIN)
        await self._store.call_durably(provenance.erase, Erasure(id=record_id, parts=self._erased))
        await self._store.empty_log()

    async def keep(self, clock: Clock, content_days: int) -> None:
        """Erase content that is older, every hour, for ever. What fails is tried again the next time."""
        while True:
            before_s = clock.unix_s() - content_days * DAY_S
            try:
                await self.erase_content(before_s)
            except HeadraceError as error:
                _logger.warning("content of records that is due could not be erased: %s", error)
            await asyncio.sleep(SWEEP_S)

    async def erase_content(self, before_s: float) -> int:
        """Erase the content of what was recorded before a time; of how many records. Raises Unavailable."""
        num_erased = 0
        erasure = Erasure(before_s=before_s, parts=("content",))
        while num := await self._store.call(provenance.erase, erasure):
            num_erased += num
        if num_erased:
            await self._store.empty_log()
        return num_erased

    async def _find(self, record_id: str, principal: Principal, wait_s: float, scope: str = AUDIT) -> Kept:
        """A record of the caller's tenant, or of anybody's with a scope. Raises NotFound."""
        kept = await self._store.read(provenance.by_id, record_id)
        if kept is None or wait_s > 0:
            with contextlib.suppress(TimeoutError, NotFound):
                async with asyncio.timeout(max(wait_s, DURABLE_S if kept is None else 0.0)):
                    await self._log.merged(record_id)
            kept = kept or await self._store.read(provenance.by_id, record_id)
        may_see = kept is not None and (kept.item.tenant == principal.tenant or scope in principal.scopes)
        if kept is None or not may_see or kept.item.kind != "record":
            raise NotFound(
                f"there is no record {record_id[:100]!r} of yours; its id stands in the Link header of the answer.",
                param="record_id",
            )
        return kept

    async def _exhibit(self, kept: Kept) -> Exhibit:
        try:
            proof = await self._log.prove(kept.index)
        except NotFound:
            proof = b""  # no checkpoint covers it yet
        return Exhibit(kept.item.envelope, kept.item.entry, proof)
