"""The record of one request that was accounted for: who, where, how much. Values only; never what was said.

Records are appended and never changed; `request_id` makes writing one twice the same as writing it once. Money is in
billionths of the price list's unit, so that sums are exact.
"""

import math
from dataclasses import dataclass
from typing import Final

NANOS: Final = 1_000_000_000
"""Of the price list's unit."""


def to_nanos(cost: float) -> int:
    """A cost as billionths, rounded up: what is charged never falls below what is due."""
    return math.ceil(round(cost * NANOS, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """`outcome` is ok, cancelled, interrupted (the process ended first) or an error's code; `cache` is empty, exact or
    semantic; `is_estimated`: the backend told no counts, and bounds were charged. Times: `started_s` in Unix time,
    others in seconds; None where there was no such moment."""

    request_id: str
    started_s: float
    tenant: str
    key: str | None = None
    user: str | None = None
    tags: tuple[str, ...] = ()
    task: str = "generate"
    asked_model: str = ""
    route: str = ""
    backend: str = ""
    model: str = ""
    num_attempts: int = 0
    outcome: str = "ok"
    cache: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanos: int = 0
    saved_nanos: int = 0
    is_estimated: bool = False
    queue_s: float = 0.0
    overhead_s: float = 0.0
    ttft_s: float | None = None
    duration_s: float = 0.0
