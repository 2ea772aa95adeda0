"""One choice of one request inside the engine: its tokens, how far they are computed, and which pages they use.

`num_computed` chases `num_tokens`; that is all the scheduler needs to know, whether a prompt is read, a token decoded
or a preempted sequence caught up. The life of a sequence is the table `TRANSITIONS`. Knows no scheduler and no text.

Several choices of one request compute its prompt once: the first carries the others as its `siblings`, HELD, and they
part where the prompt ends (`Scheduler`).
"""

import math
from array import array
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import EngineFault
from headrace.core.events import FinishReason
from headrace.core.request import Sampling
from headrace.engine.grammar.matcher import AnyGrammar, AnyMatcher
from headrace.engine.kv.prefix import Node
from headrace.engine.kv.salt import NO_SALT, Salt
from headrace.kernels.plan import PAGE_TOKENS
from headrace.models.pooling import PoolingKind


class State(IntEnum):
    """Where a sequence is."""

    WAITING = 0  # holds no page and no slot
    RUNNING = 1
    FINISHED = 2
    HELD = 3  # a later choice, whose prompt the first one computes


class Change(IntEnum):
    """What can happen to it."""

    ADMIT = 0
    PREEMPT = 1
    END = 2
    HOLD = 3
    PART = 4  # go a way of its own


# A pair that is not here is a defect of the scheduler.
TRANSITIONS: dict[tuple[State, Change], State] = {
    (State.WAITING, Change.ADMIT): State.RUNNING,
    (State.RUNNING, Change.PREEMPT): State.WAITING,
    (State.WAITING, Change.END): State.FINISHED,
    (State.RUNNING, Change.END): State.FINISHED,
    (State.WAITING, Change.HOLD): State.HELD,
    (State.HELD, Change.PART): State.WAITING,
    (State.HELD, Change.END): State.FINISHED,
}


class Keep(NamedTuple):
    """Keep the pages of a prompt's first `num_tokens` tokens for `ttl_s` after their last use."""

    num_tokens: int
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the engine is asked for, in token ids. `max_tokens` per choice; `deadline` is on the engine's clock.

    A larger `priority` goes first; tenants of one priority get service in proportion to `share`. `salt` bounds what may
    be shared through the prefix tree. `logprobs`: log-probabilities of answer tokens, with so many alternatives, and
    `prompt_logprobs` those of the prompt's from `score_from` on; what is scored is computed and not reused. `session`
    and `parent` name the conversation and the request this one belongs to. `keeps` are cache breakpoints; with
    `explains` the first item says why reuse ended. `adapter` is what the model's program takes for these rows. An
    answer keeps to `grammar`, whose ending tokens must be among `stop_ids`. `field` is where the tokens came from, for
    errors. With `pooling` nothing is drawn (`pooled.py`), and `segments` may tell the tokens of two texts apart.
    """

    model: str
    tokens: NDArray[np.int32]
    sampling: Sampling
    seed: int
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    salt: Salt = NO_SALT
    priority: int = 0
    tenant: str = ""
    share: float = 1.0
    deadline: float = math.inf
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    session: str | None = None
    parent: str | None = None
    adapter: Any = None
    keeps: tuple[Keep, ...] = ()
    explains: bool = False
    grammar: AnyGrammar | None = None
    field: str = "messages"
    score_from: int = 1
    pooling: PoolingKind | None = None
    segments: NDArray[np.int32] | None = None


class Pace:
    """When a sequence was scheduled first, and drew its first and its latest token, on the engine's clock, and the
    longest it let somebody wait between two; the model's steps before it was scheduled, and since then, with those up
    to its first token; how often it was preempted."""

    __slots__ = (
        "begun_step",
        "first_s",
        "last_s",
        "max_gap_s",
        "num_preempted",
        "num_prompt_steps",
        "num_steps",
        "scheduled_s",
    )

    def __init__(self) -> None:
        self.scheduled_s: float | None = None
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.max_gap_s = 0.0
        self.begun_step = self.num_prompt_steps = self.num_steps = self.num_preempted = 0


class Sequence:
    """The engine's mutable record of one choice; only the engine's thread touches it.

    `pages[:num_cached]` are the pages up to `node` in the prefix tree, the rest are its own. `num_reused` counts prompt
    tokens it never had to compute, `num_scored` those whose log-probabilities are known (or not wanted). `pooled` is
    the sum of the hidden states of `num_pooled` tokens. `order` sorts by priority, arrival and choice; `arrived` is
    when it came, on the engine's clock. `draft` are guesses at its next tokens, computed behind the last one in one
    step. While `is_loading` it waits for the disk, which gave it `disk_pages` of its prompt in `num_loads` turns;
    `num_kept` pages have their breakpoints' time. `adjustments` change its logits (`rows.py`). `matcher` is the state
    of its grammar, and `fault` why it failed, if it was that. `pace` is when it did what. `owner` is the engine's.
    """

    __slots__ = (
        "adjustments",
        "arrived",
        "choice",
        "disk_pages",
        "draft",
        "fault",
        "is_loading",
        "last_token",
        "matcher",
        "node",
        "num_cached",
        "num_computed",
        "num_kept",
        "num_loads",
        "num_pooled",
        "num_prompt",
        "num_reused",
        "num_scored",
        "num_tabled",
        "num_tokens",
        "order",
        "owner",
        "pace",
        "pages",
        "pooled",
        "siblings",
        "slot",
        "state",
        "tokens",
        "work",
    )

    def __init__(self, work: Work, arrival: int, choice: int, owner: object = None, *, arrived: float = 0.0) -> None:
        self.work = work
        self.choice = choice
        self.owner = owner
        self.order = (-work.priority, arrival, choice)
        self.arrived = arrived
        self.pace = Pace()
        self.state = State.WAITING
        # No NumPy array: appending to one costs several times as much on cold caches, once for every token made.
        self.tokens = array("i", work.tokens.tobytes())
        self.num_prompt = self.num_tokens = len(work.tokens)
        self.last_token = int(work.tokens[-1])
        self.num_computed = 0
        self.num_reused = 0
        self.num_scored = work.score_from - 1
        self.num_pooled = 0
        self.pooled: NDArray[np.float64] | None = None
        self.num_cached = 0
        self.num_tabled = 0
        self.pages: list[int] = []
        self.node: Node | None = None
        self.slot = -1
        self.draft: list[int] = []
        self.is_loading = False
        self.num_loads = 0
        self.num_kept = 0
        self.disk_pages = range(0)
        self.siblings: list[Sequence] = []
        self.adjustments: Any = None
        self.matcher: AnyMatcher | None = None if work.grammar is None else work.grammar.start()
        self.fault: EngineFault | None = None

    @property
    def is_plain(self) -> bool:
        """Whether its rows need nothing but its slot's sampling values."""
        return not self.asks_rows and self.matcher is None

    @property
    def asks_rows(self) -> bool:
        """Whether its rows need what `rows.py` makes."""
        return self.work.logprobs is not None or self.adjustments is not None

    @property
    def num_to_score(self) -> int:
        """Prompt tokens whose log-probabilities are still wanted."""
        return 0 if self.work.prompt_logprobs is None else self.num_prompt - 1 - self.num_scored

    def change(self, what: Change) -> None:
        """Go to the next state; a pair that the table lacks raises KeyError."""
        self.state = TRANSITIONS[self.state, what]
        if what is Change.PREEMPT:
            self.pace.num_preempted += 1

    def append(self, token: int) -> None:
        """Add a generated token."""
        self.tokens.append(token)
        self.num_tokens += 1
        self.last_token = token

    def finish_reason(self, token: int) -> FinishReason | None:
        """Why the token that was appended last is the last one, if it is."""
        if token in self.work.stop_ids:
            return FinishReason.STOP
        if self.num_tokens - self.num_prompt >= self.work.max_tokens:
            return FinishReason.LENGTH
        return None

    def page_key(self, index: int) -> bytes:
        """What a full page is found by in the prefix tree."""
        return self.tokens[index * PAGE_TOKENS : (index + 1) * PAGE_TOKENS].tobytes()

    def reusable_keys(self) -> list[bytes]:
        """Keys of the pages that could come from the tree: at least one token is left to compute, and all that tell of
        another or add to the vector."""
        most = self.num_tokens - 1
        if self.num_to_score > 0:
            most = min(most, self.num_scored)
        if self.work.pooling is not None and self.work.pooling is not PoolingKind.LAST:
            most = min(most, self.num_pooled)
        data = self.tokens[: most // PAGE_TOKENS * PAGE_TOKENS].tobytes()
        size = PAGE_TOKENS * self.tokens.itemsize
        return [data[start : start + size] for start in range(0, len(data), size)]
