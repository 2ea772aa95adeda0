"""How many tokens a draft may have so that it pays: what a step with more rows costs, and what a match has been worth.

Both are measured while the engine works. A draft of d tokens that are each accepted with probability a, as long as all
before them were, gives a + a^2 + ... + a^d tokens on average; a step with `streams` decoding rows and d rows more
takes 1 + cost(streams, d) plain steps, with costs taken `MARGIN` times. What is made as large as possible is the
product of all streams' speeds (proportional fairness; Kelly, 1997): a draft must give its stream more than it takes
from all of them together. So nothing is drafted where rows are dear or streams many, nor where matches do not hold.

    cost        kept relative to a plain step of as many streams, so that it outlives another context length or a
                machine that slows down. What was once measured too high would never be measured again: after
                `PROBE_STEPS` steps without a draft one is made that pays if rows cost as little as they well may, and
                if nothing comes of it, the next one after twice as many.
    acceptance  by length of match, as decaying counts; a sequence has counts of its own, to which these are the prior.

Values in, values out: no clock, no tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

MOST_STREAMS = 16  # beyond them a row costs what it brings, whatever the text
MOST_DRAFTED = 24
MARGIN = 1.1  # that a draft must be worth of what it costs
MOST_SLOWDOWN = 4.0  # of a step: whoever has nothing drafted waits as well
PROBE_STEPS, MOST_PROBE_STEPS = 256, 8192
FRESH_STEPS = 128  # plain steps are measured at least so often while drafts are made
_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 20, MOST_DRAFTED)
KNEE = 4  # rows up to which a step may still wait for memory alone
_ALIKE = 0.9  # first correlation of the two slopes
_NOISE = 0.1  # of a step's duration, as a share of it
_OUTLIER = 3.0  # standard deviations that a sample counts for at most: another process had the core
_KEEP = 0.99
_HOPE = 1.5  # standard deviations
_RATE = 0.1  # of a new sample in the average of plain steps
_MEMORY = 200.0  # trials that the acceptance of a class of matches remembers
_OWN_MEMORY = 32.0  # the same of one sequence
_PRIOR_TRIALS = 4.0
# First guesses of acceptance by the bit length of a match's length: 2-3, 4-7, 8-15, 16-31, 32.
_FIRST_ACCEPTANCE = (0.4, 0.6, 0.75, 0.85, 0.9)


@dataclass(slots=True)
class Counts:
    """Decaying counts of draft tokens that were tried and accepted."""

    tried: float = 0.0
    accepted: float = 0.0

    def add(self, tried: int, accepted: int, memory: float) -> None:
        """Count, and forget so much that about `memory` trials are remembered."""
        keep = memory / (memory + tried)
        self.tried = self.tried * keep + tried
        self.accepted = self.accepted * keep + accepted


class Acceptance:
    """With what probability the next token of a draft is accepted, by the length of the match behind it."""

    def __init__(self) -> None:
        self._classes = [Counts(_PRIOR_TRIALS, _PRIOR_TRIALS * guess) for guess in _FIRST_ACCEPTANCE]

    def estimate(self, match: int, own: Counts) -> float:
        """The probability for a match of so many tokens in the sequence whose counts are `own`."""
        counts = self._classes[_class_of(match)]
        prior = counts.accepted / counts.tried
        return (own.accepted + _PRIOR_TRIALS * prior) / (own.tried + _PRIOR_TRIALS)

    def observe(self, match: int, own: Counts, num_drafted: int, num_accepted: int) -> None:
        """A draft was compared: its first tokens were right, and the one after them was not, if there is one."""
        tried = min(num_drafted, num_accepted + 1)
        self._classes[_class_of(match)].add(tried, num_accepted, _MEMORY)
        own.add(tried, num_accepted, _OWN_MEMORY)


@dataclass(slots=True)
class _Plain:
    """The plain step of so many streams. `version` and `age` tell whether it was measured lately."""

    seconds: float
    version: int
    age: int = 0


class RowCost:
    """The cost of d rows, in plain steps: first * min(d, KNEE) + rest * max(0, d - KNEE), by recursive least squares.

    A Kalman filter of the two slopes, whose covariance starts with what is known of no machine: rows cost about the
    same each, and that may be far from the guess. Old samples are forgotten at the rate 1 - _KEEP.
    """

    __slots__ = ("_both", "_first_var", "_is_surprised", "_rest_var", "first", "guess", "rest")

    def __init__(self, guess: float) -> None:
        self.guess = self.first = self.rest = guess
        self._is_surprised = False
        self._first_var = self._rest_var = self._both = 0.0
        self._doubt()

    def cost(self, rows: int) -> float:
        """What so many rows cost on average."""
        return self.first * rows if rows <= KNEE else self.first * KNEE + self.rest * (rows - KNEE)

    def hope(self, rows: int) -> float:
        """What so many rows may well cost: the first guess, or less if what was measured allows it."""
        one, two = min(rows, KNEE), max(0, rows - KNEE)
        low = self.cost(rows) - _HOPE * math.sqrt(self._variance(one, two))
        return max(0.0, min(low, self.guess * rows))

    def observe(self, rows: int, cost: float) -> None:
        """So many rows cost so much, this time. Two samples in a row that nobody expected: the machine has changed."""
        one, two = min(rows, KNEE), max(0, rows - KNEE)
        mean = self.first * one + self.rest * two
        noise = _NOISE * (1.0 + max(0.0, mean))
        total = self._variance(one, two) + noise * noise
        limit = _OUTLIER * math.sqrt(total)
        surprise = cost - mean
        if abs(surprise) > limit:
            if self._is_surprised:
                self._doubt()
                self._is_surprised = False
                return
            surprise = math.copysign(limit, surprise)
            self._is_surprised = True
        else:
            self._is_surprised = False
        # How the sample moves with each slope.
        along_first = self._first_var * one + self._both * two
        along_rest = self._both * one + self._rest_var * two
        self.first = max(0.0, self.first + along_first / total * surprise)
        self.rest = max(0.0, self.rest + along_rest / total * surprise)
        self._first_var = min(self._most(self.first), (self._first_var - along_first * along_first / total) / _KEEP)
        self._rest_var = min(self._most(self.rest), (self._rest_var - along_rest * along_rest / total) / _KEEP)
        bound = _ALIKE * math.sqrt(self._first_var * self._rest_var)
        self._both = min(max((self._both - along_first * along_rest / total) / _KEEP, -bound), bound)

    def _doubt(self) -> None:
        self._first_var, self._rest_var = self._most(self.first), self._most(self.rest)
        self._both = _ALIKE * math.sqrt(self._first_var * self._rest_var)

    def _most(self, slope: float) -> float:
        """The variance of a slope of which nothing is known but its size."""
        return max(self.guess, slope) ** 2

    def _variance(self, one: int, two: int) -> float:
        return self._first_var * one * one + 2.0 * self._both * one * two + self._rest_var * two * two


class DecodeCost:
    """What rows beyond one of each stream cost, in plain steps. `version` changes when other sequences decode."""

    def __init__(self) -> None:
        self.version = 0
        self._plain: dict[int, _Plain] = {}
        self._rows: dict[int, RowCost] = {}  # by bit length of streams

    def is_fresh(self, streams: int) -> bool:
        """Whether the plain step of so many streams, and of these, was measured lately."""
        plain = self._plain.get(streams)
        return plain is not None and plain.version == self.version and plain.age < FRESH_STEPS

    def rows(self, streams: int) -> RowCost:
        """The cost of rows beside so many streams. First guess: weights are read once a step, whatever its rows."""
        bits = streams.bit_length()
        if bits not in self._rows:
            self._rows[bits] = RowCost(1.0 / (8 + streams))
        return self._rows[bits]

    def observe(self, streams: int, rows: int, seconds: float) -> None:
        """A step of `streams` decoding sequences with so many drafted rows in it took so long; no time says nothing."""
        if seconds <= 0.0:
            return
        plain = self._plain.get(streams)
        if rows == 0:
            self._observe_plain(streams, plain, seconds)
        elif plain is not None:
            plain.age += 1
            if plain.version == self.version:
                self.rows(streams).observe(rows, seconds / plain.seconds - 1.0)

    def _observe_plain(self, streams: int, plain: _Plain | None, seconds: float) -> None:
        if plain is None:
            self._plain[streams] = _Plain(seconds, self.version)
            return
        # Other sequences have other contexts: the first sample says more than all before it.
        rate = _RATE if plain.version == self.version else 0.5
        plain.seconds += rate * (min(seconds, 2.0 * plain.seconds) - plain.seconds)
        plain.version, plain.age = self.version, 0


class Policy:
    """Decides the lengths of a step's drafts, one sequence after the other: `begin_step`, then `choose` for each."""

    def __init__(self) -> None:
        self.cost = DecodeCost()
        self.acceptance = Acceptance()
        self._streams = self._rows = self._last_rows = 0
        self._worth = 0.0  # logarithm of what the step's drafts are expected to speed up their streams by
        self._may_draft = False
        self._row_cost = RowCost(1.0)
        self._since_draft, self._patience = 0, PROBE_STEPS

    def begin_step(self, streams: int) -> bool:
        """Start the plan of a step with so many decoding sequences; whether anything may be drafted in it."""
        self._may_draft = 0 < streams <= MOST_STREAMS and self.cost.is_fresh(streams)
        if not self._may_draft:
            return False
        self._row_cost = self.cost.rows(streams)
        self._last_rows = self._rows if streams == self._streams else 0
        # Together they may have been worth less than they cost, though each was worth it beside the others.
        if self._worth <= streams * math.log(1.0 + MARGIN * self._row_cost.cost(self._last_rows)):
            self._last_rows = 0
        self._streams, self._rows, self._worth = streams, 0, 0.0
        self._since_draft += 1
        return True

    def choose(self, probability: float, limit: int, last: int = 0) -> int:
        """How many tokens to draft for the next sequence, at most `limit`; `last`: how many it had in the last step.

        Those that come later are expected to have as many as in the last step: streams that all copy find out together
        that long drafts pay, where for the first of them alone they would not.
        """
        if not self._may_draft:
            return 0
        others = max(self._rows, self._last_rows - last)
        length = self._best(probability, limit, others, self._row_cost.cost)
        if length:
            self._since_draft, self._patience = 0, PROBE_STEPS
        elif self._since_draft >= self._patience:
            length = self._best(probability, min(limit, 2 * KNEE), others, self._row_cost.hope)
            if length:
                self._since_draft, self._patience = 0, min(2 * self._patience, MOST_PROBE_STEPS)
        self._rows += length
        self._worth += math.log1p(_expected(probability, length))
        return length

    def _best(self, probability: float, limit: int, rows: int, cost: Callable[[int], float]) -> int:
        streams = self._streams
        best, most = 0, 0.0
        before = 1.0 + MARGIN * cost(rows)
        for length in _LENGTHS:
            if length > limit:
                break
            after = 1.0 + MARGIN * cost(rows + length)
            if after > MOST_SLOWDOWN:
                break
            gain = math.log1p(_expected(probability, length)) - streams * math.log(after / before)
            if gain > most:
                best, most = length, gain
        return best


def _expected(probability: float, length: int) -> float:
    """Accepted tokens of a draft on average."""
    if probability >= 1.0:
        return float(length)
    return probability * (1.0 - probability**length) / (1.0 - probability)


def _class_of(match: int) -> int:
    return min(max(match.bit_length() - 2, 0), len(_FIRST_ACCEPTANCE) - 1)
