"""The question that a policy answers, where those who ask it look; it is everybody's, and lies in `core/policy.py`."""

from headrace.core.policy import ACTIONS, Judge, Question, Value

__all__ = ["ACTIONS", "Judge", "Question", "Value"]
