"""Asks the judge whether a request may be made, and of each target whether it may answer it.

Makes questions of requests; what is permitted is the policies' affair (`trust/policy`). Every decision becomes one of
the case's, so that the record of the answer tells it.
"""

from collections.abc import Callable, Mapping, Sequence

from headrace.core.errors import Forbidden
from headrace.core.events import Event
from headrace.core.policy import Judge, Question, Value
from headrace.core.request import Request
from headrace.core.shape import Shape
from headrace.core.trust import Decision, Delegation
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Case
from headrace.gateway.settings import BackendSettings, Target

POLICY_DENIED = "policy_denied"
Left = Callable[[Delegation], Mapping[str, int]]
"""What is left of a delegation's budget, as a context has it."""


class PolicyOverseer:
    """One for all requests. `backends` are replaced when settings are read again."""

    reads_answers = False

    def __init__(self, judge: Judge, backends: Mapping[str, BackendSettings], left: Left | None = None) -> None:
        self.judge = judge
        self.backends = backends
        self.is_on = True  # a reload may switch it off
        self._left = left

    def begin(self, case: Case) -> "PolicyOversight | None":
        """Raises Forbidden (`policy_denied`), with the ids of the policies that decided and their reason."""
        if not self.is_on:
            return None
        shape = case.ask.shape
        context = _context(case)
        if self._left is not None and shape.principal.delegation is not None:
            context |= self._left(shape.principal.delegation)
        question = Question(
            principal=shape.principal,
            action="request",
            resource=shape.model,
            attributes={"name": shape.model},
            context=context,
        )
        decision = self.judge.decide(question)
        case.decisions.append(decision)
        if not decision.is_allowed and decision.is_enforced:
            raise Forbidden(denial(decision, f"the model {shape.model!r}"), code=POLICY_DENIED)
        return PolicyOversight(self, case, context)


class PolicyOversight:
    """One for each request."""

    reads_answer = False

    def __init__(self, overseer: PolicyOverseer, case: Case, context: Mapping[str, Value]) -> None:
        self._overseer = overseer
        self._case = case
        self._context = context

    def allows(self, target: Target) -> bool:
        """Whether a target may be asked. Where it may, that is told of the target that answered alone."""
        settings = self._overseer.backends.get(target.backend)
        attributes: dict[str, Value] = {"backend": target.backend, "model": target.model}
        if settings is not None:
            attributes["region"] = settings.region
            attributes["retention"] = settings.retention
            attributes["clearance"] = tuple(settings.clearance)
        question = Question(
            principal=self._case.ask.shape.principal,
            action="route",
            resource=str(target),
            attributes=attributes,
            context={**self._context, **_costs(self._case, target)},
        )
        decision = self._overseer.judge.decide(question)
        self._case.decisions.append(decision)
        return decision.is_allowed or not decision.is_enforced

    def prepare(self, request: Request, _: Target) -> Request:
        """Unchanged."""
        return request

    def hear(self, event: Event) -> Sequence[Event]:
        """Unchanged."""
        return (event,)

    def add(self, piece: bytes) -> None:
        """Nothing of an answer is looked at."""

    def end(self, record: UsageRecord) -> None:
        """Nothing is kept."""


def denial(decision: Decision, what: str) -> str:
    """The sentence that a caller is told: which policy, and its reason; nothing of what else it holds."""
    why = f": {decision.reason}" if decision.reason else ""
    if not decision.policies:
        return f"no policy permits {what}{why if why and 'no policy permits' not in why else ''}; ask an operator."
    return f"{what} is denied by {', '.join(decision.policies)}{why}."


def _context(case: Case) -> dict[str, Value]:
    shape: Shape = case.ask.shape
    context: dict[str, Value] = {
        "labels": tuple(shape.labels),
        "task": shape.task.value,
        "needs": tuple(shape.needs),
        "tags": shape.tags,
        "is_stream": shape.is_stream,
        "prompt_tokens": shape.prompt_bound,
    }
    if shape.session is not None:
        context["session"] = shape.session
    if shape.max_tokens is not None:
        context["max_tokens"] = shape.max_tokens
    if case.label is not None:
        context["integrity"] = int(case.label.integrity)
        context["confidentiality"] = int(case.label.confidentiality)
    return context


def _costs(case: Case, target: Target) -> dict[str, Value]:
    """What the request can cost at a target at most, where it is planned."""
    candidates = () if case.plan is None else case.plan.candidates
    for candidate in candidates:
        if candidate.target == target:
            return {"tokens": candidate.bound.tokens, "cost_nanos": candidate.bound.nanos}
    return {}
