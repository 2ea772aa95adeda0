"""Whatever begins and ends, in any order, told twice or never: loads are what a naive twin counts, and none leaks."""

import random
from collections import Counter

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.doubles import ManualClock
from tests.doubles_routing import shape

from headrace.core.errors import UpstreamFault
from headrace.core.events import Usage
from headrace.core.shape import Shape
from headrace.gateway.routing.affinity import PrefixIndex
from headrace.gateway.routing.sightings import RouteSightings, size_class
from headrace.gateway.settings import Target

TARGETS = [Target(backend, model) for backend in ("a", "b", "local") for model in ("m", "n")]
PREFIXES = [(), (1,), (1, 2), (1, 2, 3), (1, 9), (7, 8)]


class Counting(RuleBasedStateMachine):
    """The twin keeps every request that is under way in a plain dict and adds up anew each time."""

    under_way = Bundle("under_way")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.it = RouteSightings(self.clock, PrefixIndex(max_blocks=4))
        self.twin: dict[int, tuple[Target, int]] = {}
        self.silent: set[int] = set()  # without a first event
        self.num_errors: Counter[Target] = Counter()
        for target in TARGETS[::2]:
            self.it.pin(target).keeps_prefixes = True

    @rule(
        target=under_way,
        to=st.sampled_from(TARGETS),
        num_bytes=st.sampled_from([0, 100, 5000, 10**6]),
        prefix=st.sampled_from(PREFIXES),
    )
    def begin(self, to: Target, num_bytes: int, prefix: tuple[int, ...]) -> int:
        asked: Shape = shape(num_bytes=num_bytes, prefix=lambda: prefix)
        number = self.it.begin(to, asked)
        assert number not in self.twin
        self.twin[number] = (to, size_class(num_bytes))
        self.silent.add(number)
        return number

    @rule(number=under_way)
    def first_event(self, number: int) -> None:
        self.it.first_event(number)
        self.silent.discard(number)

    @rule(
        number=consumes(under_way),
        usage=st.one_of(st.none(), st.builds(Usage, st.integers(0, 50), st.integers(0, 50))),
        failed=st.booleans(),
        is_cancelled=st.booleans(),
        times=st.integers(1, 2),
    )
    def end(self, number: int, usage: Usage | None, failed: bool, is_cancelled: bool, times: int) -> None:
        error = UpstreamFault("died.") if failed else None
        for _ in range(times):
            self.it.end(number, usage, error, is_cancelled=is_cancelled)
        self.num_errors[self.twin.pop(number)[0]] += failed
        self.silent.discard(number)

    @rule(number=st.integers(-3, 3))
    def end_nothing(self, number: int) -> None:
        if number not in self.twin:
            self.it.end(number, None, UpstreamFault("late."))

    @rule(seconds=st.floats(0, 1000))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def loads_are_those_of_the_twin(self) -> None:
        assert self.it.num_in_flight == len(self.twin)
        for target in TARGETS:
            state = self.it.state(target)
            mine = [size for number, (one, size) in self.twin.items() if one == target]
            assert state.in_flight == len(mine)
            assert state.num_errors == self.num_errors[target]
            silent = Counter(self.twin[number][1] for number in self.silent if self.twin[number][0] == target)
            assert state.explorers == [silent[size] for size in range(len(state.explorers))]
        for backend in {target.backend for target in TARGETS}:
            state = self.it.backend(backend)
            assert state.in_flight == sum(one.backend == backend for one, _ in self.twin.values())
            assert state.unread_tokens >= 0
            if not any(self.twin[number][0].backend == backend for number in self.silent):
                assert state.unread_tokens == 0

    @invariant()
    def the_index_stays_within_its_bound(self) -> None:
        assert len(self.it.index) <= 4


TestCounting = Counting.TestCase
TestCounting.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_ten_thousand_requests_at_random_leave_nothing_behind() -> None:
    clock, chance = ManualClock(), random.Random(5)
    it = RouteSightings(clock, PrefixIndex(max_blocks=50))
    for target in TARGETS:
        it.pin(target).keeps_prefixes = True
    under_way: list[int] = []
    for place in range(10_000):
        clock.now += chance.random()
        prefix = tuple(range(place, place + 5))
        under_way.append(it.begin(chance.choice(TARGETS), shape(prefix=lambda prefix=prefix: prefix)))
        while under_way and chance.random() < 0.55:
            number = under_way.pop(chance.randrange(len(under_way)))
            if chance.random() < 0.7:
                it.first_event(number)
            it.end(number, Usage(10, 10), None, is_cancelled=chance.random() < 0.2)
    for number in under_way:
        it.end(number, None, None, is_cancelled=True)
    assert (it.num_in_flight, len(it.index)) == (0, 50)
    assert all(it.backend(name).unread_tokens == 0 for name in ("a", "b", "local"))
