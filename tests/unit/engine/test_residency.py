"""Who is in memory and who waits: the budget holds, nobody is cut off or forgotten, and everybody keeps turn."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.core.errors import InvalidRequest, ModelFileError
from headrace.engine.residency import Action, Grant, Load, Need, Refuse, Residency, State, Unload

BROKEN = ModelFileError("a.gguf: is truncated; download it again.")


def make(budget: int | None = 20, *names: str, ttl_s: float = 600.0, size: int = 10) -> Residency:
    """Models of `size` bytes each, the first of them there already."""
    residency = Residency(budget)
    for index, name in enumerate(names or ("a", "b", "c")):
        residency.add(name, Need(size - 4, 4), ttl_s=ttl_s, is_ready=index == 0)
    return residency


def bring(residency: Residency, name: str, waiter: str, now: float) -> None:
    """Load a model for somebody, where nothing stands in the way."""
    assert residency.ask(name, waiter, now) == [Load(name)]
    assert Grant(waiter) in residency.loaded(name, Need(6, 4), now)


def test_who_asks_for_a_model_that_is_there_gets_it_at_once() -> None:
    residency = make()
    assert residency.ask("a", "r1", 1.0) == [Grant("r1")]
    assert residency.describe("a", 2.0).num_requests == 1
    assert residency.release("a", 3.0) == []
    assert residency.describe("a", 5.0).idle_s == 2.0


def test_all_who_wait_for_a_model_are_served_when_it_is_loaded() -> None:
    residency = make()
    assert residency.ask("b", "r1", 1.0) == [Load("b")]
    assert residency.ask("b", "r2", 2.0) == []
    assert residency.state("b") is State.LOADING
    assert residency.loaded("b", Need(6, 4), 3.0) == [Grant("r1"), Grant("r2")]
    assert residency.held_bytes == 20


def test_the_idle_model_that_was_used_longest_ago_makes_room() -> None:
    residency = make()
    bring(residency, "b", "r1", 1.0)
    residency.release("b", 2.0)
    residency.ask("a", "r2", 3.0)
    residency.release("a", 4.0)
    assert residency.ask("c", "r3", 5.0) == [Unload("b")]
    assert residency.state("c") is State.WAITING
    assert residency.unloaded("b", 6.0) == [Load("c")]


def test_a_model_in_use_goes_only_when_all_are_and_after_its_requests_have_ended() -> None:
    residency = make()
    residency.ask("a", "r1", 1.0)
    bring(residency, "b", "r2", 2.0)
    assert residency.ask("c", "r3", 3.0) == []
    assert (residency.state("a"), residency.state("b")) == (State.LEAVING, State.READY)
    assert residency.ask("a", "r4", 4.0) == []  # behind the one it makes room for
    assert residency.ask("b", "r5", 4.0) == [Grant("r5")]
    assert residency.release("a", 5.0) == [Unload("a")]
    assert residency.unloaded("a", 6.0) == [Load("c")]
    # The next in line is the first model again, and now the others are asked to go for it.
    assert residency.loaded("c", Need(6, 4), 7.0) == [Grant("r3")]
    assert residency.state("b") is State.LEAVING
    assert residency.release("b", 8.0) == []
    assert residency.release("b", 8.0) == [Unload("b")]
    assert residency.unloaded("b", 9.0) == [Load("a")]


def test_a_model_that_was_to_make_room_stays_when_nobody_needs_it_any_more() -> None:
    residency = make()
    residency.ask("a", "r1", 1.0)
    bring(residency, "b", "r2", 2.0)
    residency.ask("c", "r3", 3.0)
    residency.ask("a", "r4", 4.0)
    assert residency.leave("r3", 5.0) == [Grant("r4")]
    assert residency.state("a") is State.READY


def test_who_came_before_gets_a_model_back_before_it_goes_for_who_came_after() -> None:
    residency = make(20, "a", "b", "c", "d")
    residency.ask("a", "r1", 1.0)
    bring(residency, "b", "r2", 2.0)
    residency.ask("c", "r3", 3.0)
    residency.ask("a", "r4", 4.0)
    residency.ask("d", "r5", 5.0)
    assert residency.leave("r3", 6.0) == [Grant("r4")]
    assert (residency.state("a"), residency.state("b")) == (State.READY, State.LEAVING)


def test_two_models_asked_for_in_turn_do_not_save_each_other_for_ever() -> None:
    residency = make()
    residency.ask("a", "a0", 1.0)
    bring(residency, "b", "b0", 2.0)
    residency.ask("c", "c0", 3.0)
    for index in range(1, 4):
        residency.ask("a", f"a{index}", 3.0 + index)
        residency.ask("b", f"b{index}", 3.5 + index)
        assert residency.state("a") is State.LEAVING
    assert residency.release("a", 9.0) == [Unload("a")]


def test_no_more_models_go_than_are_needed() -> None:
    residency = Residency(100)
    residency.add("small", Need(10, 0), is_ready=True)
    residency.add("large", Need(60, 0), is_ready=True)
    residency.add("new", Need(50, 0))
    residency.ask("small", "r1", 1.0)
    residency.release("small", 1.0)
    residency.ask("large", "r2", 2.0)
    residency.release("large", 2.0)
    assert residency.ask("new", "r3", 3.0) == [Unload("large")]


def test_a_model_leaves_when_nobody_has_used_it_for_its_time() -> None:
    residency = make(None, ttl_s=60.0)
    assert residency.next_expiry() == float("inf")
    bring(residency, "b", "r1", 1.0)
    assert residency.tick(1000.0) == []
    residency.release("b", 1000.0)
    assert residency.next_expiry() == 1060.0
    assert residency.describe("b", 1010.0).unloads_in_s == 50.0
    assert residency.tick(1059.0) == []
    assert residency.tick(1060.0) == [Unload("b")]
    assert residency.next_expiry() == float("inf")


def test_a_dismissed_model_serves_who_was_there_before_and_comes_back_for_who_comes_after() -> None:
    residency = make()
    residency.ask("a", "r1", 1.0)
    assert residency.dismiss("a", 2.0) == []
    assert residency.state("a") is State.LEAVING
    assert residency.ask("a", "r2", 3.0) == []
    assert residency.release("a", 4.0) == [Unload("a")]
    assert residency.unloaded("a", 5.0) == [Load("a")]
    assert residency.loaded("a", Need(6, 4), 6.0) == [Grant("r2")]
    assert residency.release("a", 7.0) == []


def test_who_waits_for_a_dismissed_model_does_not_hold_up_those_behind() -> None:
    residency = make()
    residency.ask("a", "r1", 1.0)
    residency.dismiss("a", 2.0)
    residency.ask("a", "r2", 3.0)
    assert residency.ask("b", "r3", 4.0) == [Load("b")]


def test_a_model_dismissed_while_it_is_loaded_serves_who_waits_and_goes() -> None:
    residency = make()
    residency.ask("b", "r1", 1.0)
    assert residency.dismiss("b", 2.0) == []
    assert residency.loaded("b", Need(6, 4), 3.0) == [Grant("r1")]
    assert residency.release("b", 4.0) == [Unload("b")]
    assert residency.dismiss("c", 5.0) == []  # it is not there


def test_a_load_that_fails_is_told_to_all_who_wait_and_its_memory_is_free() -> None:
    residency = make()
    residency.ask("b", "r1", 1.0)
    residency.ask("b", "r2", 1.0)
    assert residency.ask("c", "r3", 1.0) == [Unload("a")]  # while the other is loaded
    actions = residency.failed("b", BROKEN, 2.0)
    assert actions == [Refuse("r1", BROKEN), Refuse("r2", BROKEN), Load("c")]
    assert residency.ask("b", "r4", 3.0) == []
    assert residency.unloaded("a", 4.0) == []
    assert residency.loaded("c", Need(6, 4), 5.0) == [Grant("r3"), Load("b")]  # the next one tries again


def test_what_can_never_fit_is_refused_at_once_with_the_sum() -> None:
    residency = Residency(150_000_000)
    with pytest.raises(InvalidRequest) as caught:
        residency.add("huge", Need(105_200_000, 64_000_000))
    assert "weights 105.2 MB + pages 64.0 MB = 169.2 MB, but the budget is 150.0 MB" in caught.value.message
    assert "--memory" in caught.value.message
    residency.add("a", Need(80_000_000, 0), is_ready=True)
    with pytest.raises(InvalidRequest, match="beside what is loaded"):
        residency.add("b", Need(80_000_000, 0), is_ready=True)


def test_a_model_that_turns_out_larger_goes_again_and_comes_back_when_there_is_room() -> None:
    residency = make(22)
    residency.ask("b", "r1", 1.0)
    assert residency.loaded("b", Need(10, 4), 2.0) == [Unload("b")]
    assert residency.unloaded("b", 3.0) == [Unload("a")]
    assert residency.unloaded("a", 4.0) == [Load("b")]
    assert residency.loaded("b", Need(10, 4), 5.0) == [Grant("r1")]


def test_a_model_that_turns_out_larger_than_the_budget_is_refused() -> None:
    residency = make(22)
    residency.ask("b", "r1", 1.0)
    residency.loaded("b", Need(30, 4), 2.0)
    (refusal,) = residency.unloaded("b", 3.0)
    assert isinstance(refusal, Refuse) and refusal.waiter == "r1" and "can never" in refusal.error.message
    with pytest.raises(InvalidRequest):
        residency.ask("b", "r2", 4.0)


SIZES = {"a": 10, "b": 10, "c": 7, "d": 16, "e": 3}


class Machine(RuleBasedStateMachine):
    """Random traffic beside a twin that keeps nothing but lists, and looks at every action."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.residency = Residency(20)
        for name, size in SIZES.items():
            self.residency.add(name, Need(size, 0), ttl_s=30.0)
        self.number = 0
        self.waiting: list[tuple[int, str]] = []  # in order of arrival
        self.leases: list[str] = []
        self.there: dict[str, str] = {}  # model -> loading, ready or going
        self.dismissed: set[str] = set()

    def follow(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Grant):
                (name,) = [name for number, name in self.waiting if number == action.waiter]
                assert self.there[name] == "ready", "granted, and not there"
                self.waiting.remove((action.waiter, name))  # type: ignore[arg-type]
                self.leases.append(name)
            elif isinstance(action, Refuse):
                (name,) = [name for number, name in self.waiting if number == action.waiter]
                self.waiting.remove((action.waiter, name))  # type: ignore[arg-type]
            elif isinstance(action, Load):
                self.follow_load(action.name)
            else:
                assert self.there[action.name] == "ready"
                assert action.name not in self.leases, "freed under somebody"
                self.there[action.name] = "going"

    def follow_load(self, name: str) -> None:
        assert name not in self.there and "loading" not in self.there.values()
        before = [other for _, other in self.waiting][: [other for _, other in self.waiting].index(name)]
        assert set(before) <= self.dismissed, "somebody who came first is passed over"
        self.there[name] = "loading"
        assert sum(SIZES[other] for other in self.there) <= 20

    @rule(name=st.sampled_from(sorted(SIZES)))
    def ask(self, name: str) -> None:
        self.number += 1
        self.waiting.append((self.number, name))
        self.follow(self.residency.ask(name, self.number, self.now))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        place = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(place)
        self.follow(self.residency.leave(place[0], self.now))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        name = data.draw(st.sampled_from(self.leases))
        self.leases.remove(name)
        self.follow(self.residency.release(name, self.now))

    @rule(name=st.sampled_from(sorted(SIZES)))
    def dismiss(self, name: str) -> None:
        if name in self.there:
            self.dismissed.add(name)
        self.follow(self.residency.dismiss(name, self.now))

    @precondition(lambda self: "loading" in self.there.values())
    @rule(works=st.integers(0, 4))
    def end_load(self, works: int) -> None:
        (name,) = [name for name, state in self.there.items() if state == "loading"]
        if works:
            self.there[name] = "ready"
            self.follow(self.residency.loaded(name, Need(SIZES[name], 0), self.now))
        else:
            del self.there[name]
            self.dismissed.discard(name)
            self.follow(self.residency.failed(name, BROKEN, self.now))
            assert name not in [other for _, other in self.waiting] or self.there.get(name)

    @precondition(lambda self: "going" in self.there.values())
    @rule(data=st.data())
    def end_unload(self, data: Any) -> None:
        name = data.draw(st.sampled_from([name for name, state in self.there.items() if state == "going"]))
        del self.there[name]
        self.dismissed.discard(name)
        self.follow(self.residency.unloaded(name, self.now))

    @rule(seconds=st.floats(0.0, 40.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.follow(self.residency.tick(self.now))
        for name, state in self.there.items():
            if state == "ready" and name not in self.leases:
                described = self.residency.describe(name, self.now)
                assert described.unloads_in_s is not None and described.unloads_in_s > 0

    @invariant()
    def the_books_agree(self) -> None:
        self.residency.check()
        assert self.residency.num_waiting == len(self.waiting)
        assert self.residency.held_bytes == sum(SIZES[name] for name in self.there) <= 20
        for name in SIZES:
            assert self.residency.describe(name, self.now).num_requests == self.leases.count(name)
            assert (self.residency.state(name) in {State.ABSENT, State.WAITING}) == (name not in self.there)

    def teardown(self) -> None:
        """Whatever has happened: when all requests end as they come, everybody who waits is served in the end."""
        for _ in range(10_000):
            if "loading" in self.there.values():
                self.end_load(1)
            elif going := [name for name, state in self.there.items() if state == "going"]:
                del self.there[going[0]]
                self.dismissed.discard(going[0])
                self.follow(self.residency.unloaded(going[0], self.now))
            elif self.leases:
                self.follow(self.residency.release(self.leases.pop(0), self.now))
            else:
                break
        assert self.waiting == []
        self.the_books_agree()


Machine.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None, derandomize=True)
test_random_traffic_keeps_the_rules = Machine.TestCase
