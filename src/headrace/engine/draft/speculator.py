"""What the scheduler asks of whoever guesses the next tokens. `Drafter` is one; knows no way to guess."""

from typing import Final, NamedTuple, Protocol

from headrace.engine.sequence import Sequence


class Tally(NamedTuple):
    """Drafts that steps tried, the tokens in them, and those of the tokens that were accepted."""

    num_drafts: int
    num_drafted: int
    num_accepted: int


NO_DRAFTS: Final = Tally(0, 0, 0)


class Speculator(Protocol):
    """Who guesses next tokens; called on the engine's thread, between two steps."""

    def limit(self, num_decoding: int) -> int:
        """The most tokens that a draft is worth having now; 0: none."""
        ...

    def propose(self, sequence: Sequence, limit: int) -> list[int]:
        """At most `limit` tokens that may follow the sequence's; empty: no guess."""
        ...

    def observe(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """How a draft did."""
        ...

    def observe_step(self, num_decoding: int, num_more: int, seconds: float) -> None:
        """How long a step took that read no prompt: a token of each sequence that decodes, and so many more."""
        ...

    def end(self, sequence: Sequence) -> None:
        """A sequence has ended, whatever way."""
        ...

    def tally(self) -> Tally:
        """What became of all drafts since the last call."""
        ...

    def check(self) -> None:
        """Assert every invariant."""
        ...
