"""Keeps what is known of delegations over a restart: revocations before they are told, counts soon after they changed.

Knows no tokens and no routes. A kill forgets what ended within the last KEEP_S.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from headrace.core.clock import Clock
from headrace.core.delegating import Delegated, DelegationOrder, Revoked
from headrace.core.errors import Forbidden, HeadraceError, InvalidRequest
from headrace.core.request import Principal
from headrace.memory import delegations as rows
from headrace.memory.store import Store
from headrace.trust.delegation.budget import DelegationBudgets
from headrace.trust.delegation.desk import DelegationDesk
from headrace.trust.delegation.grant import Block, Bounds, Grant

KEEP_S: Final = 0.5

_logger = logging.getLogger(__name__)


class DelegationKeeper:
    """Implements `core.delegating.Delegating`. `open` it before the desk is made, `attach` the desk, `close` at the
    end."""

    def __init__(self, store: Store, clock: Clock, sign: Callable[[Grant], str] | None = None) -> None:
        """`sign` makes a token with this house's root key; None: it has none."""
        self._store = store
        self._clock = clock
        self._sign = sign
        self._desk: DelegationDesk | None = None
        self._waiting: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None

    async def open(self) -> tuple[DelegationBudgets, frozenset[str]]:
        """Counts and revocations as they were."""
        await self._store.call(rows.forget_counts, self._clock.unix_s())
        counts = await self._store.read(rows.read_counts)
        return DelegationBudgets(counts), frozenset(await self._store.read(rows.read_revocations))

    def attach(self, desk: DelegationDesk) -> None:
        """Whose counts are kept and who is told of revocations."""
        self._desk = desk

    def delegate(self, principal: Principal, order: DelegationOrder) -> Delegated:
        """See `core.delegating.Delegating`."""
        if principal.delegation is not None:
            raise Forbidden("who acts on a delegation narrows that one: headrace delegate attenuate.")
        assert self._desk is not None
        if self._sign is None:
            raise InvalidRequest("this server has no root key of its own and delegates nothing; ask one that has.")
        if order.lifetime_s > (longest := self._desk.rules.max_age_s):
            raise InvalidRequest(
                f"expires_in: {order.lifetime_s:g} s is too long; at most {longest:g} s are allowed.",
                param="expires_in",
            )
        expires_s = float(int(self._clock.unix_s() + order.lifetime_s))
        try:
            token = self._sign(_grant(principal, order, expires_s))
        except ValueError as error:
            raise InvalidRequest(f"{error}.") from error
        return Delegated(id=self._desk.block_id(token), token=token, expires_s=expires_s)

    async def revoke(self, ids: Sequence[str], reason: str) -> tuple[Revoked, ...]:
        """See `core.delegating.Delegating`."""
        assert self._desk is not None
        # In force at once, even if writing it down fails: whoever revokes must not be told that it still holds.
        self._desk.revoke(ids)
        await self._store.call_durably(rows.revoke, list(ids), self._clock.unix_s(), reason)
        return await self.revoked()

    async def revoked(self) -> tuple[Revoked, ...]:
        """See `core.delegating.Delegating`."""
        found = await self._store.read(rows.read_revocations)
        return tuple(Revoked(name, revoked_s, reason) for name, (revoked_s, reason) in found.items())

    def note_change(self) -> None:
        """Counts have changed; they are kept soon, many at once."""
        if self._waiting is None and self._saving is None:
            self._waiting = asyncio.get_running_loop().call_later(KEEP_S, self._start)

    async def close(self) -> None:
        """Keep what has changed."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._saving is not None:
            await self._saving
        await self._save()

    def _start(self) -> None:
        self._waiting = None
        self._saving = asyncio.get_running_loop().create_task(self._save_and_go_on())

    async def _save_and_go_on(self) -> None:
        try:
            await self._save()
        finally:
            self._saving = None
        if self._desk is not None and self._desk.budgets.has_changes:
            self.note_change()  # what ended meanwhile

    async def _save(self) -> None:
        if self._desk is None or not (changes := self._desk.budgets.take_changes()):
            return
        try:
            await self._store.call(rows.save_counts, changes)
        except HeadraceError:
            # They hold in memory; a restart forgets them.
            _logger.exception("what was done under %d delegations could not be kept", len(changes))


def _grant(principal: Principal, order: DelegationOrder, expires_s: float) -> Grant:
    """What a caller hands on: never more models than it may ask for itself, and the scope to generate alone."""
    models = order.models
    if principal.routes:
        if models is not None and (other := models - principal.routes):
            raise Forbidden(f"models: {min(other)[:200]!r} is none that you may ask for yourself.", param="models")
        models = principal.routes if models is None else models
    bounds = Bounds(
        models=models,
        tools=order.tools,
        effects=order.effects,
        labels=order.labels,
        max_cost_nanos=order.max_cost_nanos,
        max_calls=order.max_calls,
        max_depth=order.max_depth,
        expires_s=expires_s,
    )
    return Grant(
        tenant=principal.tenant,
        subject=principal.subject,
        scopes=frozenset({"generate"}),
        carries=principal.labels,
        tags=principal.tags,
        user=principal.user,
        priority=min(principal.priority, 0),
        blocks=(Block(revocation_id="", holder=order.to, bounds=bounds),),
    )
