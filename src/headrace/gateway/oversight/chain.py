"""All overseers of one request, in their order, as the gate asks them.

    begin --> clear (the plan) --> prepare (each attempt) --> hear or add (the answer) --> end, once

What one of them lets through is what the next one sees. A defect of one is no permission: it ends the request, and is
logged. Knows no policy, no monitor and no record: its overseers do.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

from headrace.core.errors import EngineFault, Forbidden, HeadraceError
from headrace.core.events import Event, Finished
from headrace.core.request import Request
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Candidate, Case, Overseer, Oversight, Plan
from headrace.gateway.settings import Target

_logger = logging.getLogger(__name__)

REFUSED = "the policies refuse it for this request"
"""Why a target is not in a plan."""


class Chain:
    """One request's. `reads_answer`: somebody must see the events of its answer, so that no bytes pass unread."""

    __slots__ = ("_is_ended", "_oversights", "case", "reads_answer")

    def __init__(self, case: Case) -> None:
        self.case = case
        self.reads_answer = False
        self._is_ended = False
        self._oversights: list[Oversight] = []

    def begin(self, overseers: Iterable[Overseer]) -> None:
        """Ask everybody in turn. Raises what the first says that refuses; those before it are still to be ended."""
        try:
            for overseer in overseers:
                oversight = overseer.begin(self.case)
                if oversight is not None:
                    self._oversights.append(oversight)
                    self.reads_answer = self.reads_answer or oversight.reads_answer
        except HeadraceError:
            raise
        except Exception as error:
            raise _defect(error) from error

    def clear(self, plan: Plan) -> Plan:
        """What is left of a plan. Raises Forbidden if that is nobody."""
        self.case.plan = plan  # whoever is asked about a target sees what the request can cost there
        left, refused = [], dict(plan.refused)
        for candidate in plan.candidates:
            if self._allows(candidate.target):
                left.append(candidate)
            else:
                refused[candidate.target] = REFUSED
        if not left:
            raise Forbidden(
                f"the policies refuse every backend that could answer {self.case.ask.shape.model!r} for this request; "
                "ask for another model, or whoever keeps the policies.",
                code="policy_denied",
            )
        shadow: Candidate | None = plan.shadow
        if shadow is not None and not self._allows(shadow.target):
            shadow = None
        if len(left) < len(plan.candidates) or shadow is not plan.shadow:
            plan = replace(plan, candidates=tuple(left), refused=refused, shadow=shadow)
        self.case.plan = plan
        return plan

    def prepare(self, request: Request, target: Target) -> Request:
        """The request as a target is asked for it. Raises HeadraceError."""
        return self._prepare(self._oversights, request, target)

    @staticmethod
    def _prepare(oversights: Iterable[Oversight], request: Request, target: Target) -> Request:
        try:
            for oversight in oversights:
                request = oversight.prepare(request, target)
        except HeadraceError:
            raise
        except Exception as error:
            raise _defect(error) from error
        return request

    def prepare_copy(self, request: Request, target: Target) -> Request:
        """The request as a target is asked for a copy whose answer nobody gets: as those change it who read answers,
        and not noted by others. Raises HeadraceError."""
        return self._prepare([one for one in self._oversights if one.reads_answer], request, target)

    def hear(self, event: Event) -> Sequence[Event]:
        """The next event of the answer; what of it goes on. Raises HeadraceError to end the answer."""
        told: Sequence[Event] = (event,)
        try:
            for oversight in self._oversights:
                if len(told) == 1:
                    told = oversight.hear(told[0])
                else:
                    told = [out for one in told for out in oversight.hear(one)]
        except HeadraceError:
            raise
        except Exception as error:
            raise _defect(error) from error
        if type(event) is Finished and (not told or type(told[-1]) is not Finished):
            raise _defect(TypeError("an overseer let the end of an answer disappear"))
        return told

    def add(self, piece: bytes) -> None:
        """The next bytes of the answer. Raises HeadraceError to end it."""
        try:
            for oversight in self._oversights:
                oversight.add(piece)
        except HeadraceError:
            raise
        except Exception as error:
            raise _defect(error) from error

    def end(self, record: UsageRecord) -> None:
        """Tell everybody that it is settled; once, and everybody, whatever one of them meets."""
        if self._is_ended:
            return
        self._is_ended = True
        for oversight in self._oversights:
            try:
                oversight.end(record)
            except Exception:
                _logger.exception("an overseer could not end request %s", record.request_id)

    def seal(self) -> None:
        """Seal the receipt, if there is one: nobody makes bytes of this answer."""
        receipt = self.case.taken.receipt
        if receipt is not None:
            try:
                receipt.seal(None)
            except Exception:
                _logger.exception("the record %s could not be sealed", receipt.id)

    async def keep(self) -> None:
        """Wait for the record of an answer whose bytes nobody makes, where its end must. Raises HeadraceError if it
        must not go out."""
        taken = self.case.taken
        if taken.receipt is not None and taken.receipt.waits and not taken.is_claimed:
            await taken.receipt.kept()

    def _allows(self, target: Target) -> bool:
        try:
            return all(oversight.allows(target) for oversight in self._oversights)
        except HeadraceError:
            raise
        except Exception as error:
            raise _defect(error) from error


def _defect(error: Exception) -> EngineFault:
    _logger.error("an overseer met a defect, which ends its request", exc_info=error)
    return EngineFault(
        "a defect in what oversees requests ended this one; it is logged. Send the request again, and tell whoever "
        "runs this server if it stays."
    )
