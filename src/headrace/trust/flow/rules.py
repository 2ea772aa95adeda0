"""The rules for calls of tools, written plainly: what decides where an operator runs no policies, and the slow twin of
those that are shipped (`trust/policy/sets/agents.cedar`).

    a call is allowed   if the tool only reads
                        or everything that the model has read is the user's or the operator's
                        or every argument that decides about something was said by somebody trusted
                        or somebody with the right to has endorsed it
    and never           if the tool's declaration is not the one that was approved
                        if a trap was touched, or a monitor that is enforced has raised the alarm, unless it only reads
                        if secrets would leave that somebody untrusted may have asked for
                        if the delegation under which the caller acts has not the tool or its effect

Knows no policy language.
"""

from collections.abc import Collection, Iterator
from typing import Final

from headrace.core.policy import Question
from headrace.core.trust import Confidentiality, Decision, Effect, Integrity

ALARMS: Final = frozenset({"canary", "honey-tool", "hijack"})
"""Verdicts after which a call may only read."""


class PlainJudge:
    """Implements `core.policy.Judge` for the action `tool`; everything else is allowed, as it is without policies."""

    def __init__(self, *, is_enforced: bool = True) -> None:
        self._is_enforced = is_enforced

    def decide(self, question: Question) -> Decision:
        """What the rules say."""
        if question.action != "tool":
            return self._decision(question, is_allowed=True)
        forbids = dict(_forbids(question))
        permits = tuple(_permits(question))
        if forbids:
            return self._decision(question, tuple(forbids), next(iter(forbids.values())), is_allowed=False)
        if not permits:
            named = ", ".join(sorted(_names(question, "untrusted_arguments")))
            reason = f"nobody who is trusted has said what it is given: {named}"
            return self._decision(question, ("untrusted-arguments",), reason, is_allowed=False)
        return self._decision(question, permits, is_allowed=True)

    def _decision(
        self, question: Question, policies: tuple[str, ...] = (), reason: str = "", *, is_allowed: bool
    ) -> Decision:
        return Decision(
            action=question.action,
            resource=question.resource,
            is_allowed=is_allowed,
            policies=policies,
            reason=reason,
            is_enforced=self._is_enforced,
        )


def _forbids(question: Question) -> Iterator[tuple[str, str]]:
    """Ids of the rules against a call, and why."""
    context, effect = question.context, question.attributes.get("effect", "egress")
    is_endorsed = context.get("is_endorsed") is True
    if question.attributes.get("is_changed") is True:
        yield "changed-tool", "its declaration is not the one that was approved"
    if effect != "read" and ALARMS & set(_names(question, "verdicts")) and not is_endorsed:
        yield "alarm", "a monitor has raised the alarm about what was read or done"
    is_secret = context.get("confidentiality", Confidentiality.SECRET) == Confidentiality.SECRET
    if effect == "egress" and is_secret and not _is_trusted(question) and not is_endorsed:
        yield "secret-egress", "the model has read secrets, and text that nobody vouches for"
    delegation = question.principal.delegation
    if delegation is not None:
        if delegation.tools is not None and question.resource not in delegation.tools:
            yield "delegation", "the delegation does not have this tool"
        names = None if delegation.effects is None else {Effect(one).name.lower() for one in delegation.effects}
        if names is not None and effect not in names:
            yield "delegation", f"the delegation does not have tools that {effect}"


def _permits(question: Question) -> Iterator[str]:
    """Ids of the rules for a call."""
    if question.attributes.get("effect") == "read":
        yield "reads"
    if _is_trusted(question):
        yield "trusted-context"
    if not _names(question, "untrusted_arguments"):
        yield "trusted-arguments"
    if question.context.get("is_endorsed") is True:
        yield "endorsed"


def _is_trusted(question: Question) -> bool:
    integrity = question.context.get("integrity", Integrity.UNKNOWN)
    return isinstance(integrity, int) and integrity >= Integrity.USER


def _names(question: Question, field: str) -> Collection[str]:
    """A set of names; what is not known of arguments counts against them."""
    value = question.context.get(field, ("*",) if field == "untrusted_arguments" else ())
    return value if isinstance(value, tuple) else (str(value),)
