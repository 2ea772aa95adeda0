"""What a policy is asked: may this principal do this to that, as things stand? And the protocol of who answers.

Values only. Knows no policy language: `trust/policy/judge.py` answers in Cedar.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from headrace.core.request import Principal
from headrace.core.trust import Decision

ACTIONS: Final = ("request", "route", "tool")
"""What can be asked about: a request for a model before anything is planned, a target that could answer it, a tool that
an answer calls."""

Value = bool | int | str | tuple[str, ...]
"""Tuples are sets: their order says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May `principal` do `action` to `resource`?

    `resource` is the name of a model (request), of a backend and what it calls the model, as `BACKEND/MODEL` (route),
    or of a tool (tool). `attributes` are what is known of the resource, `context` of the moment; which there are says
    `trust/policy/schema.py`. What is left out counts as not known, which permits nothing by itself.
    """

    principal: Principal
    action: str
    resource: str
    attributes: Mapping[str, Value] = field(default_factory=dict)
    context: Mapping[str, Value] = field(default_factory=dict)


class Judge(Protocol):
    """Answers questions. Never waits."""

    def decide(self, question: Question) -> Decision:
        """What the policies in force say; `Decision.is_enforced` is False where they are only watched. Never raises for
        a question: one that cannot be answered is denied, with a reason."""
        ...
