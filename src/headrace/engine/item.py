"""What the engine tells a request's reader through its mailbox, in order. Token ids only; knows no text."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import HeadraceError
from headrace.core.events import FinishReason, MissReason
from headrace.engine.batch import Detail


class Begun(NamedTuple):
    """First item of a mailbox: the first choice was scheduled; so many prompt tokens were found in the tree.

    `disk_tokens` of them came from disk for this request. `cache_writes`: (ttl_s, tokens) that will be kept under its
    breakpoints and were not there. `miss`: why reuse ended, if that was asked for. `scheduled_s`: when, on the engine's
    clock.
    """

    cached_tokens: int
    disk_tokens: int = 0
    cache_writes: tuple[tuple[float, int], ...] = ()
    miss: MissReason | None = None
    scheduled_s: float | None = None


class Course(NamedTuple):
    """Before the end of a choice: when it arrived, was scheduled, and drew its first and last token (None: never), on
    the engine's clock; the model's steps up to the first token, and after it; tokens drawn, times preempted, and the
    longest gap between two tokens."""

    choice: int
    arrived_s: float
    scheduled_s: float | None
    first_s: float | None
    last_s: float | None
    num_prompt_steps: int
    num_decode_steps: int
    num_drawn: int
    num_preempted: int
    max_gap_s: float


class Token(NamedTuple):
    """A choice's next token; `reason` is set on its last."""

    choice: int
    token: int
    reason: FinishReason | None
    detail: Detail | None = None


class PromptScored(NamedTuple):
    """More of the prompt's tokens were scored: details of those behind the ones told before; the first has none."""

    details: list[Detail]
    choice: int = 0


class Embedded(NamedTuple):
    """A sequence that is pooled has ended: its vector [width]."""

    choice: int
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Answer to the cancellation of one choice: what it held is free. `was_live`: it had not ended by itself before."""

    choice: int
    was_live: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """Last item of a mailbox whose request failed."""

    error: HeadraceError


Item = Begun | Course | PromptScored | Embedded | Token | Dropped | Failed
