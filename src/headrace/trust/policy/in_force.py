"""The judge that everybody asks, whichever policies are in force: a reload puts another behind it at once.

Asks bounds of a delegation first, which no policy widens, then the policies; and has both logged. Whoever acts on a
delegation may do no more than whoever granted it: a name that a token gives its holder is the granter's to choose, and
says nothing of who shows it. Knows no policies.
"""

from collections.abc import Callable
from dataclasses import replace

from headrace.core.trust import Decision, Delegation, Effect
from headrace.trust.delegation.bounds import refusal
from headrace.trust.policy.decision_log import DecisionLog
from headrace.trust.policy.question import Judge, Question

DELEGATION = "delegation"
"""What decided, where it was no policy."""


OwnChecks = Callable[[Question], str | None]
"""What a token's own checks say against a tool call of whoever acts on it."""


class JudgeInForce:
    """Implements `question.Judge`. `own_checks` are asked of those who act on a delegation."""

    def __init__(self, judge: Judge, log: DecisionLog, own_checks: OwnChecks | None = None) -> None:
        self.judge = judge
        self.log = log
        self._own_checks = own_checks

    def decide(self, question: Question) -> Decision:
        """See `question.Judge`. What a delegation does not cover is refused, even where policies are only watched."""
        decision = self.weigh(question)
        if not decision.is_allowed:
            self.log.add(decision, question.principal)
        return decision

    def weigh(self, question: Question) -> Decision:
        """What would be decided; nobody is told of it."""
        decision = self._bounded(question) or self.judge.decide(question)
        if decision.is_allowed and question.principal.delegation is not None:
            decision = self._granted(question, decision)
        return decision

    def _granted(self, question: Question, decision: Decision) -> Decision:
        """What holds of an allowed question if whoever granted the delegation asked it."""
        principal = question.principal
        assert principal.delegation is not None
        granter = replace(principal, subject=principal.delegation.chain[0], agent=None, workload=None, delegation=None)
        theirs = self.judge.decide(replace(question, principal=granter))
        if theirs.is_allowed:
            return decision
        why = f": {theirs.reason}" if theirs.policies and theirs.reason else ""
        return replace(theirs, reason=f"whoever granted the delegation may not do it either{why}")

    def _bounded(self, question: Question) -> Decision | None:
        delegation = question.principal.delegation
        if delegation is None:
            return None
        why = _refusal(delegation, question)
        if why is None and self._own_checks is not None and question.action == "tool":
            why = self._own_checks(question)
        if why is None:
            return None
        return Decision(
            action=question.action,
            resource=question.resource,
            is_allowed=False,
            policies=(DELEGATION,),
            reason=why,
        )


def _refusal(delegation: Delegation, question: Question) -> str | None:
    labels = question.context.get("labels", ())
    given = frozenset(labels) if isinstance(labels, (tuple, list)) else frozenset()
    match question.action:
        case "request":
            return refusal(delegation, model=question.resource, labels=given)
        case "tool":
            effect = str(question.attributes.get("effect", "egress")).upper()
            return refusal(
                delegation,
                tool=question.resource,
                # What nobody knows counts as the worst.
                effect=Effect[effect] if effect in Effect.__members__ else Effect.EGRESS,
                labels=given,
            )
    return None
