"""Judges over a few policies, and the time they see."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from headrace.cli.policy import shown_policies
from headrace.core.deciding import PoliciesInForce
from headrace.core.policy import Question
from headrace.core.request import Principal
from headrace.gateway.oversight.deciding import JudgeDesk
from headrace.trust.policy.judge import CedarJudge
from headrace.trust.policy.rules import read_rules
from headrace.trust.policy.statement import Source

# A Thursday at 10:30 in UTC.
THURSDAY_S = 1_790_000_000.0 - 1_790_000_000.0 % 86_400 + 10.5 * 3600
LAPTOP = Principal(tenant="acme", key="laptop", subject="key:laptop", labels=frozenset({"restricted"}))


def shipped(*names: str) -> list[Source]:
    """Sets that ship with the program."""
    folder = resources.files("headrace.trust.policy").joinpath("sets")
    return [Source(f"{name}.cedar", folder.joinpath(f"{name}.cedar").read_text("utf-8")) for name in names]


def judge(text: str, *sets: str, now_s: float = THURSDAY_S, **options: Any) -> CedarJudge:
    """One of some policies, and of sets that ship."""
    return CedarJudge(read_rules([Source("own.cedar", text), *shipped(*sets)]), lambda: now_s, **options)


def desk_of(judge: CedarJudge) -> JudgeDesk:
    """Whoever asks it, and what it judges by."""
    return JudgeDesk(judge, lambda: PoliciesInForce(mode="enforce", policies=shown_policies(judge.rules)))


def question(
    action: str = "request",
    resource: str = "small",
    principal: Principal = LAPTOP,
    attributes: Mapping[str, Any] | None = None,
    **context: Any,
) -> Question:
    """Somebody's."""
    return Question(principal=principal, action=action, resource=resource, attributes=attributes or {}, context=context)
