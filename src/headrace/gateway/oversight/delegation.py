"""Holds requests that are made on somebody else's authority to the bounds of that: models, labels, end, revocation,
and what may be spent.

Who acts, and what a token says, is `trust/delegation`'s. Bounds of tools are held where tool calls are judged one by
one (`tools.py`); where nobody judges them, a request may not even declare a tool that is not covered.
"""

from collections.abc import Callable, Sequence

from headrace.core.errors import BudgetExceeded, Forbidden
from headrace.core.events import Event
from headrace.core.request import Request
from headrace.core.shape import Need
from headrace.core.trust import Decision, Delegation, Effect
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Case
from headrace.gateway.settings import Target
from headrace.trust.delegation.bounds import refusal
from headrace.trust.delegation.budget import Reservation
from headrace.trust.delegation.desk import DelegationDesk

DELEGATION_DENIED = "delegation_denied"
DELEGATION = "delegation"


class DelegationOverseer:
    """One for all requests; has no business with those that nobody delegated. `on_end` is called after each end.
    `has_guard`: calls of tools in answers are judged, by a judge that knows delegations."""

    reads_answers = False

    def __init__(self, desk: DelegationDesk, on_end: Callable[[], None], *, has_guard: bool = False) -> None:
        self._desk = desk
        self.on_end = on_end
        self.has_guard = has_guard

    def begin(self, case: Case) -> "DelegationOversight | None":
        """Raises Forbidden (`delegation_denied`) for what the delegation does not cover, and BudgetExceeded."""
        shape = case.ask.shape
        delegation = shape.principal.delegation
        if delegation is None:
            return None
        why = self._desk.refuses(shape.principal, shape.model, shape.labels, case.started_unix_s)
        if why is None and not self.has_guard and Need.TOOLS in shape.needs:
            why = _undeclared(delegation, case.decode())
        if why is not None:
            case.decisions.append(_denied("request", shape.model, why))
            raise Forbidden(f"{why}.", code=DELEGATION_DENIED)
        held = self._desk.budgets.begin(self._desk.blocks(delegation), case.started_unix_s, shape.principal.tenant)
        if isinstance(held, str):
            case.decisions.append(_denied("request", shape.model, held))
            raise BudgetExceeded(f"{held}; ask whoever granted it for another one.")
        return DelegationOversight(self, case, held)


class DelegationOversight:
    """One for each request."""

    reads_answer = False

    def __init__(self, overseer: DelegationOverseer, case: Case, held: Reservation) -> None:
        self._overseer = overseer
        self._case = case
        self._held = held

    def allows(self, target: Target) -> bool:
        """Whether what the request can cost at a target is there, which is set aside then: for the dearest of those
        that it may go to."""
        plan = self._case.plan
        nanos = max((one.bound.nanos for one in (plan.candidates if plan else ()) if one.target == target), default=0)
        if self._held.covers(nanos):
            return True
        why = "it could cost more than is left of the delegation's budget"
        self._case.decisions.append(_denied("route", str(target), why))
        return False

    def prepare(self, request: Request, _: Target) -> Request:
        """Unchanged."""
        return request

    def hear(self, event: Event) -> Sequence[Event]:
        """Unchanged."""
        return (event,)

    def add(self, piece: bytes) -> None:
        """Nothing of an answer is looked at."""

    def end(self, record: UsageRecord) -> None:
        """What it cost is spent; what nobody was asked for does not count."""
        self._held.settle(record.cost_nanos or 0, is_call=record.num_attempts > 0 or bool(record.cache))
        self._overseer.on_end()


def _undeclared(delegation: Delegation, request: Request) -> str | None:
    """Why a request may not declare its tools. What one does is not known here, so that it counts as the worst."""
    if delegation.tools is None and delegation.effects is None:
        return None
    for tool in request.tools:
        if (why := refusal(delegation, tool=tool.name, effect=Effect.EGRESS)) is not None:
            return why
    return None


def _denied(action: str, resource: str, why: str) -> Decision:
    return Decision(action=action, resource=resource, is_allowed=False, policies=(DELEGATION,), reason=why)
