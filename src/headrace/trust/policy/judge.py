"""Answers questions in Cedar: default deny, forbid wins, and what cannot be evaluated never permits.

Cedar itself skips a policy that errors. For a permit that is right; a forbid that errors could have forbidden, so here
it does. Decisions are remembered under everything that the policies in force can see. Knows no files and no clock.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final

import cedarpy

from headrace.core.request import Principal
from headrace.core.trust import Decision
from headrace.trust.policy.entity import principal_entities, principal_uid, resource_entity
from headrace.trust.policy.moment import moment
from headrace.trust.policy.question import Question, Value
from headrace.trust.policy.rules import Rule, Rules
from headrace.trust.policy.schema import ACTION_TABLE, MOMENT, UnknownField, conform
from headrace.trust.policy.settings import SubjectSettings

NOT_PERMITTED: Final = "no policy permits it"
CANNOT_BE_PUT: Final = "the question cannot be put"
_ERROR: Final = re.compile(r"error while evaluating policy `(policy\d+)`: (.*)", re.DOTALL)
_MAX_ENTITIES: Final = 2048
_MAX_REMEMBERED: Final = 256


class CedarJudge:
    """See `question.Judge`. `now` tells Unix seconds. It is never changed: new policies are a new judge's."""

    def __init__(
        self,
        rules: Rules,
        now: Callable[[], float],
        *,
        is_enforced: bool = True,
        subjects: Mapping[str, SubjectSettings] | None = None,
        max_decisions: int = 8192,
    ) -> None:
        self.rules = rules
        self.is_enforced = is_enforced
        self._now = now
        self._subjects = subjects or {}
        self._max_decisions = max_decisions
        self._decisions: OrderedDict[Hashable, Decision] = OrderedDict()
        self._entities: OrderedDict[Hashable, Any] = OrderedDict()

    def decide(self, question: Question) -> Decision:
        """See `question.Judge`."""
        try:
            key = self._key(question)
            if (found := self._decisions.get(key)) is not None:
                self._decisions.move_to_end(key)
                return found
            decision = self._evaluate(question)
        except (UnknownField, TypeError) as error:
            # Who asks made a mistake; a question that cannot be put is not permitted.
            return self._denied(question, (), f"{CANNOT_BE_PUT}: {error}")
        if _is_small(question):
            self._decisions[key] = decision
            if len(self._decisions) > self._max_decisions:
                self._decisions.popitem(last=False)
        return decision

    def explain(self, question: Question) -> tuple[Decision, tuple[str, ...]]:
        """A decision made afresh, and what went wrong with which policy on the way to it."""
        try:
            answer = self._ask(question)
        except UnknownField as error:
            return self._denied(question, (), f"{CANNOT_BE_PUT}: {error}"), ()
        return self._decided(question, answer), tuple(
            f"{self._rule_of(_ERROR.match(one)).id}: {_told(one)}" for one in answer["diagnostics"]["errors"]
        )

    def _evaluate(self, question: Question) -> Decision:
        return self._decided(question, self._ask(question))

    def _decided(self, question: Question, answer: Mapping[str, Any]) -> Decision:
        diagnostics = answer["diagnostics"]
        errors: Sequence[str] = diagnostics["errors"]
        failed = [self._rule_of(_ERROR.match(one)) for one in errors]
        deciding = [rule for one in diagnostics["reason"] if (rule := self.rules.find(one)) is not None]
        is_allowed = answer["decision"] == "Allow" and len(deciding) == len(diagnostics["reason"])
        if broken := [rule for rule in failed if rule.is_forbid]:
            if is_allowed:
                ids = tuple(sorted(rule.id for rule in broken))
                return self._denied(question, ids, f"policy {ids[0]} could not be evaluated")
            deciding += broken
        ids = tuple(sorted(rule.id for rule in deciding))
        if not is_allowed:
            reasons = [rule.reason for rule in sorted(deciding, key=lambda rule: rule.id) if rule.reason]
            return self._denied(question, ids, reasons[0] if reasons else "" if ids else NOT_PERMITTED)
        return Decision(
            action=question.action,
            resource=question.resource,
            is_allowed=True,
            policies=ids,
            is_enforced=self.is_enforced,
        )

    def _rule_of(self, found: re.Match[str] | None) -> Rule:
        """The policy that an error is about; one that nobody can name counts as a forbid."""
        rule = None if found is None else self.rules.find(found[1])
        return rule or Rule("unknown", "", is_forbid=True, reason="")

    def _denied(self, question: Question, ids: tuple[str, ...], reason: str) -> Decision:
        return Decision(
            action=question.action,
            resource=question.resource,
            is_allowed=False,
            policies=ids,
            reason=reason,
            is_enforced=self.is_enforced,
        )

    def _ask(self, question: Question) -> dict[str, Any]:
        """What Cedar says. Raises UnknownField."""
        if (action := ACTION_TABLE.get(question.action)) is None:
            raise UnknownField(f"there is no action {question.action!r}; known are {', '.join(ACTION_TABLE)}")
        context = conform({**moment(self._now()), **question.context}, action.context, "context")
        reads = self.rules.reads
        if reads is not None:
            context = {name: value for name, value in context.items() if name in reads}
        request = {
            "principal": principal_uid(question.principal),
            "action": {"type": "Action", "id": question.action},
            "resource": {"type": action.resource, "id": question.resource},
            "context": context,
        }
        try:
            resource = json.dumps([resource_entity(question)])
            entities = self._principal(question.principal).with_added_json_str(resource)
            result = cedarpy.is_authorized(request, self.rules.parsed, entities)
        except ValueError as error:
            raise UnknownField(str(error)) from error
        diagnostics = result.diagnostics
        if result.decision is cedarpy.Decision.NoDecision:
            raise UnknownField("; ".join(diagnostics.errors))
        return {
            "decision": result.decision.value,
            "diagnostics": {"reason": diagnostics.reasons, "errors": diagnostics.errors},
        }

    def _principal(self, principal: Principal) -> Any:
        key = _principal_key(principal)
        found = self._entities.get(key)
        if found is None:
            document = json.dumps(principal_entities(principal, self._subjects))
            found = self._entities[key] = cedarpy.Entities.from_json_str(document)
            if len(self._entities) > _MAX_ENTITIES:
                self._entities.popitem(last=False)
        else:
            self._entities.move_to_end(key)
        return found

    def _key(self, question: Question) -> Hashable:
        """All that the policies in force can see. What no policy reads of the context is not in it: sizes and times
        differ from request to request, and nearly no policy looks at them."""
        reads, context = self.rules.reads, question.context
        if reads is None or not reads.isdisjoint(MOMENT):
            context = {**moment(self._now()), **context}
        # A field that there is none of has to be refused, whoever reads it.
        if (action := ACTION_TABLE.get(question.action)) is None or not action.context.keys() >= context.keys():
            return (question.action, *sorted(context))
        if reads is not None:
            context = {name: value for name, value in context.items() if name in reads}
        return (
            _principal_key(question.principal),
            question.action,
            question.resource,
            tuple(sorted((name, _plain(value)) for name, value in question.attributes.items())),
            tuple(sorted((name, _plain(value)) for name, value in context.items())),
        )


def _is_small(question: Question) -> bool:
    """Whether a question may be remembered: callers choose names, and one of a megabyte is not worth keeping."""
    values = (question.resource, *question.attributes.values(), *question.context.values())
    return all(len(value) <= _MAX_REMEMBERED for value in values if isinstance(value, (str, tuple))) and all(
        len(text) <= _MAX_REMEMBERED for value in values if isinstance(value, tuple) for text in value
    )


def _plain(value: Value) -> tuple[str, Hashable]:
    """A value that is equal to another only if Cedar cannot tell them apart: 1 is not True."""
    kind = "set" if isinstance(value, (tuple, list, set, frozenset)) else type(value).__name__
    return (kind, tuple(sorted(set(value))) if kind == "set" else value)  # type: ignore[arg-type]


def _principal_key(principal: Principal) -> Hashable:
    delegation = principal.delegation
    return (
        principal.tenant,
        principal.subject,
        principal.key,
        principal.user,
        principal.agent,
        principal.workload,
        principal.scopes,
        principal.labels,
        principal.tags,
        None if delegation is None else delegation.chain,
    )


def _told(error: str) -> str:
    found = _ERROR.match(error)
    return error if found is None else found[2]
