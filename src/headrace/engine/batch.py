"""One step as values: which sequences compute how many tokens, which of these draw a token, and what was drawn.

A row is a token of the step whose logits are wanted. Most sequences have one, that of their last token, or none while
their prompt is read; a prompt that is scored has one for each token, a draft one behind every guess, and siblings draw
from the same row each. `rows_of` fixes the order in which `Runner` asks and `Scheduler` takes in. Decides nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace.core.events import FinishReason
from headrace.engine.cost import Load
from headrace.engine.sequence import Sequence


class Detail(NamedTuple):
    """A token's log-probability and the likeliest (token, log-probability) pairs, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Batch:
    """`counts[i]` tokens of `sequences[i]`. `admitted` have a new slot.

    `is_ragged`: somebody lacked more than one token. `is_single`: nobody has more than the one row of its last token.
    `is_plain`: neither does a row need more than its slot's sampling values, and `asks_rows`: some need more than a
    mask. `is_awaited`: streams of other models wait for this step. `scored`: details of prompt tokens, filled by
    `complete`.
    """

    sequences: list[Sequence] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    is_ragged: bool = False
    is_single: bool = True
    is_plain: bool = True
    asks_rows: bool = False
    is_awaited: bool = False
    num_preempted: int = 0
    num_decodes: int = 0
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    num_reads: int = 0
    scored: list[tuple[Sequence, list[Detail]]] = field(default_factory=list)

    @property
    def load(self) -> Load:
        """What the step computes."""
        return Load(self.num_tokens, self.num_reads)

    def put(self, sequence: Sequence, count: int) -> None:
        """Let a sequence take part with `count` tokens."""
        self.sequences.append(sequence)
        self.counts.append(count)
        self.num_tokens += count
        self.num_reads += count * sequence.num_computed + count * count // 2
        if count > 1 or sequence.num_computed + 1 < sequence.num_tokens:
            self.is_ragged = True
        if sequence.draft or sequence.siblings or sequence.num_to_score > 0:
            self.is_single = self.is_plain = False
        elif not sequence.is_plain:
            self.is_plain = False
            self.asks_rows |= sequence.asks_rows


class Row(NamedTuple):
    """A row: the place of its token among the sequence's tokens of this step; the position of the token it draws; whose
    noise; the token whose log-probability is wanted instead of a draw, or -1; how many guesses come before it."""

    place: int
    position: int
    choice: int
    target: int = -1
    depth: int = 0


class Drawn(NamedTuple):
    """One entry per row: the token, -1 where the row was no number; details where any row asked, else empty."""

    tokens: list[int]
    details: list[Detail] = []  # noqa: RUF012 - never written to

    def from_row(self, row: int) -> "Drawn":
        """What begins with a row."""
        return Drawn(self.tokens[row:], self.details[row:]) if row else self

    def detail(self, row: int) -> Detail | None:
        """A row's details, if anybody asked."""
        return self.details[row] if self.details else None


class Sampled(NamedTuple):
    """What a step gave one sequence. `token` is -1 if its row was not a number: the sequence has failed."""

    sequence: Sequence
    token: int
    reason: FinishReason | None
    detail: Detail | None = None


def num_scored_rows(sequence: Sequence, count: int) -> int:
    """How many of a sequence's next `count` tokens tell the log-probability of the prompt token behind them."""
    if sequence.num_to_score <= 0:
        return 0
    return max(0, min(sequence.num_computed + count, sequence.num_prompt - 1) - sequence.num_scored)


def rows_of(sequence: Sequence, count: int) -> Iterator[Row]:
    """The rows of a sequence that computes `count` tokens, in order."""
    computed = sequence.num_computed
    first = sequence.num_scored
    for index in range(first, first + num_scored_rows(sequence, count)):
        yield Row(index - computed, index + 1, sequence.choice, target=sequence.tokens[index + 1])
    num_drafted = len(sequence.draft)
    if computed + count < sequence.num_tokens + num_drafted:
        return
    for depth in range(num_drafted + 1):
        place = count - 1 - num_drafted + depth
        yield Row(place, computed + place + 1, sequence.choice, depth=depth)
    for sibling in sequence.siblings:
        yield Row(count - 1, computed + count, sibling.choice)
