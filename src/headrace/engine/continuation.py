"""What follows when a sequence is given its next token: whether it ends, and what its grammar adds.

Where a grammar leaves no choice, nothing is drawn: the tokens that must follow are appended at once (forced tokens),
and one that ends the answer where nothing else may follow. They count as generated, and every later token keeps the
noise of its position. Decides nothing else; knows no pages.
"""

from headrace.core.errors import EngineFault
from headrace.engine.batch import Detail, Sampled
from headrace.engine.sequence import Sequence


def take_token(sequence: Sequence, token: int, detail: Detail | None = None, *, goes_on: bool = False) -> list[Sampled]:
    """Append a token that was drawn, and what must follow it; what came of it, in order.

    The last entry says how the sequence stands: `reason` set, it has ended; token -1, it has failed (`token` was no
    number, or its grammar gave up: `sequence.fault`). `goes_on`: another drawn token comes right behind, so nothing is
    forced.
    """
    if token < 0:
        return [Sampled(sequence, token, None, detail)]
    taken = [append_token(sequence, token, detail)]
    if sequence.matcher is not None and taken[-1].reason is None:
        try:
            _accept(sequence, token)
            # Whoever wants to know how likely each token was has each of them drawn, under a mask that allows only it.
            if not goes_on and sequence.work.logprobs is None:
                _force(sequence, taken)
        except EngineFault as error:
            sequence.fault = error
            taken.append(Sampled(sequence, -1, None))
    return taken


def _force(sequence: Sequence, taken: list[Sampled]) -> None:
    while sequence.matcher is not None and (forced := sequence.matcher.forced()):
        for token in forced:
            taken.append(append_token(sequence, token))
            if taken[-1].reason is not None:
                return
            _accept(sequence, token)


def _accept(sequence: Sequence, token: int) -> None:
    assert sequence.matcher is not None
    sequence.matcher.accept(token)
    sequence.matcher = sequence.matcher.successor


def append_token(sequence: Sequence, token: int, detail: Detail | None = None) -> Sampled:
    """Append one token of a sequence without a grammar, or one that its grammar has taken."""
    sequence.append(token)
    return Sampled(sequence, token, sequence.finish_reason(token), detail)
