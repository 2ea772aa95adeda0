"""Drafts the next tokens of a model's sequences from what they, or recent outputs of their tenant, said before.

A sequence is known from the first time that it is asked for; its tokens are read where they are and indexed late, so
that a model with many streams, where nothing is drafted, pays nothing. Only outputs of sequences that were asked for
are remembered.

The longest match wins, the sequence's own text before other outputs. Where several places match alike, each next token
is the one that most of them have. Outputs of one salt (tenant, model, adapter, template) are never matched with
another's: that would tell one tenant by timing what another was answered.

While drafting does not pay, the draft that would have been made is kept and compared with what really came: so the
acceptance is known without a step that tries it, and a text that begins to repeat itself is noticed. The more streams,
the more rarely one for which there was no draft is looked at again. A draft never changes what is generated, only when:
whether it holds is for the sampler to say.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from headrace.engine.draft.history import BORDER, MAX_MATCH, NO_MATCH, History, Match, Outputs
from headrace.engine.draft.policy import MOST_DRAFTED, Counts, Policy
from headrace.engine.draft.speculator import Tally
from headrace.engine.kv.salt import Salt
from headrace.engine.sequence import Sequence

MAX_SALTS = 64
MAX_OUTPUT_TOKENS = 16384  # that are remembered for one salt
MIN_SHARE = 0.3  # a draft ends where fewer of the matching places go on like it
_SHADOW = 6  # tokens of a draft that is only compared


@dataclass(slots=True)
class _Guess:
    """A draft: made of a match of so many tokens, for the place `at`. `is_real`: a step tries it."""

    at: int
    match: int
    tokens: list[int]
    is_real: bool


@dataclass(slots=True)
class _Source:
    """What the drafter knows of one sequence; `outputs` are those of its salt."""

    own: History
    outputs: Outputs
    counts: Counts = field(default_factory=Counts)
    guess: _Guess | None = None
    rest: int = 0  # steps in which it is not looked at
    last: int = 0  # tokens of its draft in the last step


class Drafter:
    """The `Speculator` of one model. See the file's head."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self._rest = 0
        self._sources: dict[Sequence, _Source] = {}
        self._salts: OrderedDict[Salt, Outputs] = OrderedDict()
        self._num_drafts = self._num_drafted = self._num_accepted = 0

    def limit(self, num_decoding: int) -> int:
        """Start the plan of a step in which so many sequences decode; 0 if nothing will be drafted in it."""
        self._rest = num_decoding.bit_length() - 1
        return MOST_DRAFTED if self.policy.begin_step(num_decoding) else 0

    def propose(self, sequence: Sequence, limit: int) -> list[int]:
        """At most `limit` tokens that may come next; nothing where no text matches, or where it does not pay."""
        source = self._sources.get(sequence) or self._begin(sequence)
        last, source.last = source.last, 0
        if source.rest:
            source.rest -= 1
            return []
        end = source.own.end
        if source.guess is not None:
            self._compare(source, source.guess, end)
        source.rest = self._rest
        tail = source.own.text[-MAX_MATCH:]
        history, match = source.own, source.own.find(tail)
        if match.length < MAX_MATCH:
            other = source.outputs.history.find(tail)
            if other.length > match.length:
                history, match = source.outputs.history, other
        if match is NO_MATCH or limit < 1:
            return []
        probability = self.policy.acceptance.estimate(match.length, source.counts)
        length = self.policy.choose(probability, min(limit, MOST_DRAFTED), last)
        if length:
            draft = continuation(history, match, length)
            source.guess, source.rest, source.last = _Guess(end, match.length, draft, is_real=True), 0, len(draft)
            return draft
        if source.guess is None:
            source.guess = _Guess(end, match.length, continuation(history, match, _SHADOW), is_real=False)
        return []

    def observe(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """So many tokens of its draft were tried, and so many of them accepted."""
        self._num_drafts += 1
        self._num_drafted += num_drafted
        self._num_accepted += num_accepted
        source = self._sources.get(sequence)
        if source is not None and source.guess is not None and source.guess.is_real:
            self.policy.acceptance.observe(source.guess.match, source.counts, num_drafted, num_accepted)
            source.guess = None

    def observe_step(self, num_decoding: int, num_more: int, seconds: float) -> None:
        """A step in which so many sequences decoded, with `num_more` tokens beyond one of each, took so long."""
        self.policy.cost.observe(num_decoding, num_more, seconds)

    def end(self, sequence: Sequence) -> None:
        """Forget a sequence and remember its output; one that was never looked at is only noticed."""
        self.policy.cost.version += 1
        source = self._sources.pop(sequence, None)
        if source is not None:
            source.outputs.add(sequence.tokens[sequence.num_prompt :])

    def tally(self) -> Tally:
        """What became of all drafts since the last call."""
        tally = Tally(self._num_drafts, self._num_drafted, self._num_accepted)
        self._num_drafts = self._num_drafted = self._num_accepted = 0
        return tally

    def check(self) -> None:
        """Assert every invariant of every history."""
        for sequence, source in self._sources.items():
            source.own.check()
            assert source.own.text is sequence.tokens, "a history is of another text"
            assert source.own.start == 0, "a sequence's own text was forgotten"
        assert len(self._salts) <= MAX_SALTS, "too many salts are remembered"
        for outputs in self._salts.values():
            outputs.check()

    def _begin(self, sequence: Sequence) -> _Source:
        salt = sequence.work.salt
        outputs = self._salts.get(salt)
        if outputs is None:
            outputs = self._salts[salt] = Outputs(MAX_OUTPUT_TOKENS)
            if len(self._salts) > MAX_SALTS:
                self._salts.popitem(last=False)
        self._salts.move_to_end(salt)
        # Not all are looked at in the same step.
        source = _Source(History(sequence.tokens), outputs, rest=min(len(self._sources) % 4, self._rest))
        self._sources[sequence] = source
        return source

    def _compare(self, source: _Source, guess: _Guess, end: int) -> None:
        """Count a draft that was only made as soon as what really came tells all of it; forget one never tried."""
        if guess.is_real:
            source.guess = None
            return
        came = source.own.text[guess.at : end]
        accepted = 0
        for mine, real in zip(guess.tokens, came, strict=False):
            if mine != real:
                break
            accepted += 1
        if accepted == len(guess.tokens) or accepted < len(came):
            self.policy.acceptance.observe(guess.match, source.counts, len(guess.tokens), accepted)
            source.guess = None


def continuation(history: History, match: Match, limit: int) -> list[int]:
    """What most of the matching places go on with, at most `limit` tokens, as long as at least MIN_SHARE agree.

    A place near the text's end goes on with the draft itself: what has begun to repeat goes on repeating.
    """
    text, size = history.text, len(history.text)
    places = [place - history.start for place in match.places]
    first = text[places[0] : places[0] + limit]
    if len(first) == limit and all(text[at : at + limit] == first for at in places[1:]):
        return _before_border(first.tolist())
    draft: list[int] = []
    share = 1.0
    while len(places) > 1 and len(draft) < limit:
        offset = len(draft)
        nexts = [text[at + offset] if at + offset < size else draft[at + offset - size] for at in places]
        token = nexts[0]
        if nexts.count(token) < len(nexts):
            # The counter keeps the order in which tokens came: among equals, the latest place decides.
            token, count = Counter(nexts).most_common(1)[0]
            share *= count / len(places)
            places = [at for at, following in zip(places, nexts, strict=True) if following == token]
        if token == BORDER or share < MIN_SHARE:
            return draft
        draft.append(token)
    if len(draft) < limit:
        at = places[0] + len(draft)
        draft = _before_border(draft + text[at : at + limit - len(draft)].tolist())
        # A text that ends with a border is never gone beyond.
        while len(draft) < limit and places[0] + len(draft) >= size:
            draft.append(draft[places[0] + len(draft) - size])
    return draft


def _before_border(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(BORDER)] if BORDER in tokens else tokens
