"""The question that a policy answers, for those who ask on this side of the gateway; it is everybody's: `core/policy.py`."""

from headrace.core.policy import ACTIONS, Judge, Question, Value

__all__ = ["ACTIONS", "Judge", "Question", "Value"]
