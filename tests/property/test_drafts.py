"""Whatever sequences live side by side: drafts are copies of what their tenant may see, and the index stays whole."""

from array import array
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.core.request import Sampling
from headrace.engine.draft.drafter import MAX_OUTPUT_TOKENS, MIN_SHARE, Drafter, continuation
from headrace.engine.draft.history import BORDER, MAX_MATCH, History
from headrace.engine.kv.salt import Salt
from headrace.engine.sequence import Sequence, Work

SECRET = 1000  # some tokens of a salt are no other's; all others are everybody's


def known(tokens: list[int], salt: int = 0) -> Sequence:
    work = Work(
        model="toy",
        tokens=np.array(tokens, np.int32),
        sampling=Sampling(temperature=0.0),
        seed=0,
        max_tokens=10_000,
        salt=Salt(str(salt)),
    )
    return Sequence(work, 1, 0)


def said(salt: int, number: int) -> int:
    return SECRET * salt if number == 3 else number


class DrafterMachine(RuleBasedStateMachine):
    """The model: all live texts; tenants share all tokens but one."""

    def __init__(self) -> None:
        super().__init__()
        self.drafter = Drafter()
        self.live: list[tuple[int, Sequence]] = []

    @rule(salt=st.sampled_from([1, 2]), prompt=st.lists(st.integers(0, 3), min_size=1, max_size=6))
    def begin(self, salt: int, prompt: list[int]) -> None:
        self.live.append((salt, known([said(salt, token) for token in prompt], salt)))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Draft, accept some of it, add what the model says instead, and tell."""
        streams, drafted = len(self.live), 0
        may_draft = self.drafter.limit(streams) > 0
        for salt, sequence in self.live:
            limit = data.draw(st.integers(0, 40))
            draft = self.drafter.propose(sequence, limit) if may_draft else []
            assert len(draft) <= limit
            assert all(token in {0, 1, 2, SECRET * salt} for token in draft), "a draft of another tenant's text"
            drafted += len(draft)
            accepted = data.draw(st.just(len(draft)) | st.integers(0, len(draft)))
            more = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
            for token in [*draft[:accepted], *(said(salt, number) for number in more)]:
                sequence.append(token)
            if draft:
                self.drafter.observe(sequence, len(draft), accepted)
        self.drafter.observe_step(streams, drafted, 0.01 + 0.0001 * drafted)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.live) - 1))
        self.drafter.end(self.live.pop(at)[1])

    @invariant()
    def everything_is_whole(self) -> None:
        self.drafter.check()


TestDrafter = DrafterMachine.TestCase
TestDrafter.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)


def naive_continuation(tokens: list[int], places: list[int], limit: int) -> list[int]:
    """Token by token over the text with the draft behind it."""
    draft: list[int] = []
    share = 1.0
    for offset in range(limit):
        nexts = [(tokens + draft)[place + offset] for place in places]
        token, count = Counter(nexts).most_common(1)[0]
        share *= count / len(places)
        if token == BORDER or share < MIN_SHARE:
            break
        places = [place for place, following in zip(places, nexts, strict=True) if following == token]
        draft.append(token)
    return draft


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    tokens=st.lists(st.integers(0, 2), min_size=3, max_size=60),
    limit=st.integers(1, 30),
    is_output=st.booleans(),
    length=st.integers(2, MAX_MATCH),
)
def test_a_continuation_is_that_of_counting_token_by_token(
    tokens: list[int], limit: int, is_output: bool, length: int
) -> None:
    text = tokens + [BORDER] * is_output
    history = History(array("i", text))
    match = history.find(array("i", tokens[-length:]))
    if match.places:
        assert continuation(history, match, limit) == naive_continuation(text, match.places, limit)


def test_memory_is_bounded_however_much_is_answered() -> None:
    drafter = Drafter()

    def ask(prompt: list[int]) -> tuple[Sequence, list[int]]:
        sequence = known(prompt)
        drafter.observe_step(1, 0, 0.004)
        assert drafter.limit(1)
        return sequence, drafter.propose(sequence, 4)

    answers = [[(number * 7919 + at * at) % 50_000 for at in range(1000)] for number in range(60)]
    for answer in answers:
        sequence, _ = ask([1, 2])
        for token in answer:
            sequence.append(token)
        drafter.end(sequence)
    drafter.check()
    assert MAX_OUTPUT_TOKENS < 60 * 1000
    assert ask(answers[-1][500:520])[1] == answers[-1][520:524]
    assert ask(answers[0][500:520])[1] == [], "the first output had to go"
