"""How hard a request looks, from 0 to 1, before anybody has tried it: sizes, needs, and marks in its text.

A rough guess that costs microseconds; what it gets wrong is mended by verifiers, which send an answer that fails a tier
up. Texts are looked at only if somebody gives a way to decode them. Knows no models.
"""

import re
from collections.abc import Callable, Iterable
from math import log2
from typing import Final

from headrace.core.errors import HeadraceError
from headrace.core.request import Effort, Request, Role, Task
from headrace.core.shape import Need, Shape

# What each mark adds, at most; the sum is cut at 1. Fitted to nothing: a table that an operator can read.
LENGTH: Final = 0.3  # from 1 KiB (nothing) to 64 KiB (all of it), by doubling
TURNS: Final = 0.15  # from 2 messages (nothing) to 34
TOOLS: Final = 0.2
SCHEMA: Final = 0.1
REASONING: Final = 0.3
LONG_ANSWER: Final = 0.1  # 4,096 tokens or more are asked for
CODE: Final = 0.2
MATHS: Final = 0.2
STEPS: Final = 0.15  # a chain of demands: "first ... then ... finally", "prove", "step by step"

MAX_LOOKED_AT: Final = 4096
"""Characters of the last user's turn, from its beginning and its end."""

_CODE: Final = re.compile(
    r"```|^\s*(?:def|class|import|from|fn|func|public|#include)\s+\w"
    r"|\b(?:SELECT\s.{1,80}\sFROM|refactor|regex|stack trace)\b|[;{}]\s*$|\w\(\)",
    re.IGNORECASE | re.MULTILINE,
)
_MATHS: Final = re.compile(
    r"\$[^$\n]{2,80}\$|\\(?:frac|sum|int|sqrt)|[∑∫√≤≥∞]|\b(?:prove|theorem|integral|derivative|equation|probability|matrix|modulo)\b"
    r"|\d\s*[*/^]\s*\d",
    re.IGNORECASE,
)
_STEPS: Final = re.compile(
    r"\b(?:step by step|first\b.{1,400}\bthen|compare|analy[sz]e|design|trade-?offs?|plan|why|explain how|finally)\b",
    re.IGNORECASE | re.DOTALL,
)


def difficulty(shape: Shape, decode: Callable[[], Request] | None = None) -> float:
    """How hard the request looks. `decode` lets its last user's turn be read, too."""
    if shape.task is not Task.GENERATE:
        return 0.0
    sum_ = LENGTH * _part(log2(max(shape.num_bytes, 1)), 10, 16)
    sum_ += TURNS * _part(shape.num_messages, 2, 34)
    sum_ += TOOLS * (Need.TOOLS in shape.needs) + SCHEMA * (Need.SCHEMA in shape.needs)
    sum_ += REASONING * (Need.REASONING in shape.needs) + LONG_ANSWER * ((shape.max_tokens or 0) >= 4096)
    if decode is not None:
        sum_ += _marks(decode)
    return min(sum_, 1.0)


def _part(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _marks(decode: Callable[[], Request]) -> float:
    try:
        request = decode()
    except HeadraceError:
        return 0.0  # a body that only its backend understands passes through; its text tells us nothing
    text = _asked(request)
    marks = CODE * bool(_CODE.search(text)) + MATHS * bool(_MATHS.search(text)) + STEPS * bool(_STEPS.search(text))
    if request.reasoning.effort in {Effort.HIGH, Effort.XHIGH}:
        marks += REASONING
    return marks


def _asked(request: Request) -> str:
    texts: Iterable[str] = (one.text for one in reversed(request.messages or ()) if one.role is Role.USER)
    text = next(iter(texts), request.prompt or "")
    half = MAX_LOOKED_AT // 2
    return text if len(text) <= MAX_LOOKED_AT else f"{text[:half]}\n{text[-half:]}"
