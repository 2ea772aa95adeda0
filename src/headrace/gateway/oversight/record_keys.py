"""The key that signs this process's records now: made, vouched for by the node, logged, and replaced in time.

The node's key may be slow to reach, so it is asked in a thread, and long before the key that it vouches for ends.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError, Unavailable
from headrace.core.provenance import LogItem, Notary
from headrace.trust.records.commitment import NONCE_BYTES, entry_of
from headrace.trust.records.keys import MAX_LIFE_S, SKEW_S, Certified, NodeSigner, certify

RETRY_S: Final = 60.0
LOOK_S: Final = 10.0
"""How often it is looked whether a key is due: the clock of the wall may be set, and a machine may sleep meanwhile."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMeans:
    """What keys are made with. `life_s` is how long one is vouched for; `sleep` waits until the next is due."""

    signer: NodeSigner
    notary: Notary
    node: str
    instance: str
    log_origin: str
    clock: Clock
    random: Callable[[int], bytes]
    new_id: Callable[[], str]
    life_s: int = MAX_LIFE_S
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class RecordKeys:
    """`renew` before the first record, then run `keep` beside everything else."""

    def __init__(self, means: KeyMeans) -> None:
        self._means = means
        self._certified: Certified | None = None
        self._delegation_id = ""

    @property
    def delegation_id(self) -> str:
        """Under which the delegation of the present key is found."""
        return self._delegation_id

    def renew(self) -> None:
        """Another key from now on, its delegation handed in first. May wait for a vault. Raises Unavailable."""
        means = self._means
        now_s = means.clock.unix_s()
        certified = certify(
            means.signer,
            node=means.node,
            instance=means.instance,
            log_origin=means.log_origin,
            now_s=now_s,
            life_s=means.life_s,
            random=means.random,
        )
        item_id = f"dlg_{means.new_id()}"
        means.notary.submit(
            LogItem(
                id=item_id,
                kind="delegation",
                tenant="",
                entry=entry_of("delegation", certified.envelope, now_s).encode(),
                envelope=certified.envelope,
            )
        )
        # Only now: what it signs comes behind its delegation in the log.
        self._certified, self._delegation_id = certified, item_id

    async def keep(self) -> None:
        """Renew whenever it is due, for ever. A node key that cannot be reached is asked again every minute."""
        wait_s = LOOK_S
        while True:
            await self._means.sleep(wait_s)
            wait_s = LOOK_S
            if not self._is_due(self._means.clock.unix_s()):
                continue
            try:
                await asyncio.to_thread(self.renew)
            except HeadraceError as error:
                _logger.warning("the node's key could not vouch for another record key: %s", error)
                wait_s = RETRY_S

    def check(self, now_s: float) -> None:
        """Raise Unavailable if nothing could be signed now."""
        self._valid(now_s)

    def sign(self, payload: bytes, now_s: float) -> bytes:
        """A statement in its envelope. Raises Unavailable."""
        return self._valid(now_s).key.sign(payload)

    def secrets(self, nonce: bytes) -> bytes:
        """What is kept of a record that opens it: its nonce, and which delegation its key had."""
        return nonce + self._delegation_id.encode()

    def _is_due(self, now_s: float) -> bool:
        certified = self._certified
        return certified is None or now_s >= certified.renews_s or now_s < certified.grant.not_before_s - SKEW_S

    def _valid(self, now_s: float) -> Certified:
        certified = self._certified
        if certified is None or now_s >= certified.grant.not_after_s:
            raise Unavailable("no key is vouched for that could sign a record; the node's key cannot be reached.")
        if now_s < certified.grant.not_before_s - SKEW_S:
            raise Unavailable("the clock was set back, and nothing is signed until another key is vouched for.")
        return certified


def open_secrets(secrets: bytes) -> tuple[bytes, str]:
    """Nonce and id of the delegation, out of what is kept of a record; empty once it was erased."""
    return secrets[:NONCE_BYTES], secrets[NONCE_BYTES:].decode()
