"""Whatever sequences live side by side: drafts are copies of what their tenant may see, and the index stays whole."""

from array import array
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.engine.draft.drafter import MAX_OUTPUT_TOKENS, MIN_SHARE, Drafter, continuation
from headrace.engine.draft.history import BORDER, MAX_MATCH, History

FOREIGN = 1000  # tokens of a salt are told from another's by their thousands


@dataclass
class Live:
    """A sequence as the model knows it."""

    name: int
    salt: int
    tokens: "array[int]"
    draft: list[int] = field(default_factory=list)


class DrafterMachine(RuleBasedStateMachine):
    """The model: all live texts; tenants share no token."""

    def __init__(self) -> None:
        super().__init__()
        self.drafter = Drafter()
        self.live: list[Live] = []
        self.count = 0

    @rule(salt=st.sampled_from([1, 2]), prompt=st.lists(st.integers(0, 3), min_size=1, max_size=80))
    def begin(self, salt: int, prompt: list[int]) -> None:
        tokens = array("i", [FOREIGN * salt + token for token in prompt])
        self.count += 1
        self.live.append(Live(self.count, salt, tokens))
        self.drafter.begin(self.count, tokens, bytes([salt]))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), step_s=st.floats(0.001, 0.1))
    def step(self, data: st.DataObject, step_s: float) -> None:
        """Draft, accept some of it, add what the model says instead, and tell."""
        streams, drafted = len(self.live), 0
        if self.drafter.begin_step(streams):
            for one in self.live:
                limit = data.draw(st.integers(0, 40))
                one.draft = self.drafter.propose(one.name, limit)
                assert len(one.draft) <= limit
                assert all(token // FOREIGN == one.salt for token in one.draft), "a draft of another tenant's text"
                drafted += len(one.draft)
        for one in self.live:
            accepted = data.draw(st.integers(0, len(one.draft)))
            one.tokens.extend(one.draft[:accepted])
            one.tokens.append(FOREIGN * one.salt + data.draw(st.integers(0, 3)))
            if one.draft:
                self.drafter.observe(one.name, len(one.draft), accepted)
            one.draft = []
        self.drafter.observe_step(streams, drafted, step_s)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.live))
        self.live.remove(one)
        self.drafter.end(one.name)

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
    for number in range(60):
        tokens = array("i", [1, 2])
        drafter.begin(number, tokens, b"one")
        tokens.extend((number * 7919 + at * at) % 50_000 for at in range(1000))
        drafter.end(number)
    drafter.check()
    drafter.begin("asks", array("i", [1, 2, *tokens[500:520]]), b"one")
    drafter.observe_step(1, 0, 0.004)
    assert drafter.begin_step(1)
    assert drafter.propose("asks", 4) == tokens[520:524].tolist()
    drafter.end("asks")
    assert MAX_OUTPUT_TOKENS < 60 * 1000
    drafter.begin("asks late", array("i", [1, 2, *(at * at % 50_000 for at in range(500, 520))]), b"one")
    drafter.observe_step(1, 0, 0.004)
    assert drafter.begin_step(1)
    assert drafter.propose("asks late", 4) == [], "the first output had to go"
