"""Keeps endorsements: makes, lists, spends and withdraws them, and remembers which calls were withheld.

What is made, used or withdrawn is handed to a notary, where there is one; what cannot be logged does not hold. Knows no
judge: whether a call passes is decided elsewhere (`appeal.py`), and what fits one is `trust/flow/endorsement.py`'s.
"""

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Final

from headrace.core.clock import Clock
from headrace.core.endorsing import SCOPE, Endorsement, EndorsementOrder, WithheldCall
from headrace.core.errors import Forbidden, HeadraceError, InvalidRequest, NotFound, Overloaded
from headrace.core.provenance import LogItem, Notary
from headrace.core.request import Principal
from headrace.memory import endorsements as rows
from headrace.memory.store import Store
from headrace.trust.flow.endorsement import MAX_PER_TENANT, MAX_VALUE, Asked, EndorsementBook, Fitting, value_form
from headrace.trust.records import canonical

TYPE: Final = "https://headrace.dev/endorsement/v1"
MAX_WITHHELD: Final = 1024
MAX_WITHHELD_OF_TENANT: Final = 32
WITHHELD_S: Final = 3600.0
"""How many withheld calls are remembered, and how long."""

_Seen = tuple[str, str, str, str | None]

_logger = logging.getLogger(__name__)


class EndorsementKeeper:
    """Implements `core.endorsing.Endorsing`. `open` it first and `close` it at the end. `granter` says what a key
    (`key:NAME`) may do now: what somebody endorsed who may not any more does not hold."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        new_id: Callable[[], str],
        *,
        notary: Notary | None = None,
        granter: Callable[[str], Principal | None] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._notary = notary
        self._granter = granter
        self._book = EndorsementBook()
        self._withheld: OrderedDict[_Seen, WithheldCall] = OrderedDict()
        self._num_withheld: Counter[str] = Counter()

    async def open(self) -> None:
        """Take over what holds from before. Raises Unavailable."""
        self._book = EndorsementBook(await self._store.call_durably(rows.take, self._clock.unix_s()))

    async def close(self) -> None:
        """Put back what is counted, as it is now."""
        await self._save(one for one in self._book if one.uses)

    async def endorse(self, principal: Principal, order: EndorsementOrder) -> Endorsement:
        """See `core.endorsing.Endorsing`."""
        one = self._made(principal, order)
        if len(self._book.of_tenant(one.tenant, one.made_s)) >= MAX_PER_TENANT:
            raise Overloaded(f"there are {MAX_PER_TENANT} endorsements that hold, which is the most; withdraw some.")
        if self._notary is not None:
            self._notary.check()
        if one.uses is None:
            await self._save([one])
        try:
            self._tell("made", one, principal)
        except HeadraceError:
            if one.uses is None:
                await self._store.call_durably(rows.remove, one.id)
            raise
        self._book.add(one)
        return one

    def endorsements(self, principal: Principal) -> tuple[Endorsement, ...]:
        """See `core.endorsing.Endorsing`."""
        found = self._book.of_tenant(principal.tenant, self._clock.unix_s())
        return tuple(one for one in found if _is_within(one.under, principal))

    async def withdraw(self, principal: Principal, endorsement_id: str) -> Endorsement:
        """See `core.endorsing.Endorsing`."""
        if not any(one.id == endorsement_id for one in self.endorsements(principal)):
            raise NotFound(f"there is no endorsement {endorsement_id[:100]!r} of yours that holds.", param="id")
        one = self._book.withdraw(principal.tenant, endorsement_id)
        assert one is not None
        # It has ended, even if writing that down fails: whoever withdraws must not find it used afterwards.
        if one.uses is None:
            await self._store.call_durably(rows.remove, one.id)
        self._tell("withdrawn", one, principal)
        return one

    def withheld(self, principal: Principal) -> tuple[WithheldCall, ...]:
        """See `core.endorsing.Endorsing`."""
        since_s = self._clock.unix_s() - WITHHELD_S
        while self._withheld and next(iter(self._withheld.values())).at_s <= since_s:
            self._forget(next(iter(self._withheld)))
        found = (one for one in self._withheld.values() if one.tenant == principal.tenant)
        return tuple(one for one in found if _is_within(one.under, principal))

    def fitting(self, asked: Asked) -> Fitting:
        """What fits a call now."""
        return self._book.fitting(asked, self._clock.unix_s(), self._still_may)

    def use(self, principal: Principal, ids: Sequence[str], request_id: str) -> bool:
        """Spend one use of each; the caller has just been told that they fit. False, and nothing is spent, if that
        cannot be logged."""
        with contextlib.suppress(HeadraceError):
            if self._notary is not None:
                self._notary.check()
            for one in self._book.spend(principal.tenant, ids):
                self._tell("used", one, principal, request_id)
            return True
        _logger.warning("endorsements do not hold for request %s: their use cannot be logged", request_id)
        return False

    def note_withheld(self, call: WithheldCall) -> None:
        """Remember a call, so that whoever is asked to endorse it sees what it is."""
        key = (call.tenant, call.call, call.subject, call.session)
        self._forget(key)
        if self._num_withheld[call.tenant] >= MAX_WITHHELD_OF_TENANT:
            self._forget(next(key for key in self._withheld if key[0] == call.tenant))
        elif len(self._withheld) >= MAX_WITHHELD:
            self._forget(next(iter(self._withheld)))
        self._withheld[key] = call
        self._num_withheld[call.tenant] += 1

    def _forget(self, key: _Seen) -> None:
        if self._withheld.pop(key, None) is not None:
            self._num_withheld[key[0]] -= 1
            if not self._num_withheld[key[0]]:
                del self._num_withheld[key[0]]

    def _made(self, principal: Principal, order: EndorsementOrder) -> Endorsement:
        if SCOPE not in principal.scopes:  # the route has asked, too; nobody else may come by another way
            raise Forbidden(f"the key lacks the scope {SCOPE!r}; ask for a key that has it.")
        now_s, delegation = self._clock.unix_s(), principal.delegation
        until_s = now_s + order.lifetime_s
        if delegation is not None:
            if delegation.tools is not None and order.tool not in delegation.tools:
                raise Forbidden(f"tool: the delegation does not have {order.tool[:100]!r}.", param="tool")
            until_s = until_s if delegation.expires_s is None else min(until_s, delegation.expires_s)
        return Endorsement(
            id=f"end_{self._new_id()}",
            tenant=principal.tenant,
            by=principal.subject or principal.key or "local",
            tool=order.tool,
            made_s=now_s,
            until_s=until_s,
            call=order.call,
            argument=order.argument,
            value=_value(order),
            session=order.session,
            subject=order.subject,
            uses=order.uses,
            under=() if delegation is None else delegation.revocation_ids,
            reason=order.reason,
        )

    def _still_may(self, one: Endorsement) -> bool:
        if self._granter is None or one.under or not one.by.startswith("key:"):
            return True  # of others nothing is kept here, and a delegation is asked about itself
        maker = self._granter(one.by)
        return maker is not None and maker.tenant == one.tenant and SCOPE in maker.scopes

    async def _save(self, kept: Iterable[Endorsement]) -> None:
        await self._store.call_durably(rows.save, list(kept), self._clock.unix_s())

    def _tell(self, event: str, one: Endorsement, principal: Principal, request_id: str = "") -> None:
        now_s = self._clock.unix_s()
        _logger.info("endorsement %s of %s: %s by %s", one.id, one.tool[:100], event, principal.subject[:200])
        if self._notary is not None:
            item_id = f"{one.id}_{event}_{self._new_id()}"
            envelope = _envelope(event, one, principal.subject, request_id, now_s)
            self._notary.submit(
                LogItem(id=item_id, kind="endorsement", tenant=one.tenant, entry=b"", envelope=envelope)
            )


def _is_within(under: tuple[str, ...], principal: Principal) -> bool:
    """Whether something of a tenant is this principal's to see: who acts on a delegation sees what is under that."""
    own = () if principal.delegation is None else principal.delegation.revocation_ids
    return under[: len(own)] == own


def _value(order: EndorsementOrder) -> str | None:
    """What is compared. Raises InvalidRequest for an order that is of no one thing."""
    if order.call is not None:
        if order.argument is not None or order.value is not None:
            raise InvalidRequest("call: it has all arguments in it; give call, or argument and value.", param="call")
        return None
    if order.argument is None or order.value is None:
        raise InvalidRequest("call: missing; give the digest of a call, or argument and value.", param="call")
    form = value_form(order.value)
    if form is None:
        raise InvalidRequest(
            f"value: is a text of at most {MAX_VALUE} characters, or a number that JSON can tell exactly; endorse the "
            "whole call by its digest.",
            param="value",
        )
    return form


def _envelope(event: str, one: Endorsement, subject: str, request_id: str, now_s: float) -> bytes:
    """What the log commits to. A value is told as its digest; a random part of the id keeps both from being guessed."""
    told: dict[str, str | int | None] = {
        "_type": TYPE,
        "id": one.id,
        "event": event,
        "tool": one.tool,
        "by": subject or one.by,
        "made_by": one.by,
        "time": int(now_s),
        "until": int(one.until_s),
        "uses_left": one.uses,
        "num_used": one.num_used,
        "call": one.call,
        "argument": one.argument,
        "value": None if one.value is None else "sha256:" + sha256(f"{one.id}\n{one.value}".encode()).hexdigest(),
        "session": one.session,
        "subject": one.subject,
        "request": request_id or None,
        "reason": one.reason or None,
    }
    return canonical.encode({name: _sayable(value) for name, value in told.items() if value is not None})


def _sayable(value: str | int) -> str | int:
    """Half a character has no canonical form."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
