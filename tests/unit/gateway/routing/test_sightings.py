"""What is counted while requests run: loads to the end of every stream, averages, and never more than a bound of it."""

import pytest
from tests.doubles import ManualClock
from tests.doubles_routing import shape, target

from headrace.core.errors import UpstreamFault
from headrace.core.events import Usage
from headrace.core.request import Principal, Task
from headrace.gateway.routing.affinity import PrefixIndex
from headrace.gateway.routing.averages import HALF_LIFE_S, Average
from headrace.gateway.routing.sightings import MAX_LOOSE_TARGETS, NUM_SIZES, RouteSightings, size_class
from headrace.gateway.settings import Target

A = target("a/m")


def seen() -> tuple[RouteSightings, ManualClock]:
    clock = ManualClock()
    return RouteSightings(clock), clock


@pytest.mark.parametrize("ends", ["finished", "error", "cancelled", "no usage"])
def test_load_counts_from_dispatch_to_the_end_of_the_stream_however_it_ends(ends: str) -> None:
    it, _ = seen()
    number = it.begin(A, shape())
    it.first_event(number)
    assert (it.state(A).in_flight, it.backend("a").in_flight) == (1, 1)
    error = UpstreamFault("died.") if ends == "error" else None
    it.end(number, Usage(10, 10) if ends == "finished" else None, error, is_cancelled=ends == "cancelled")
    assert (it.state(A).in_flight, it.backend("a").in_flight, it.num_in_flight) == (0, 0, 0)
    assert it.state(A).num_errors == (ends == "error")


def test_an_end_that_is_told_twice_or_of_nothing_changes_nothing() -> None:
    it, _ = seen()
    number = it.begin(A, shape())
    it.end(number, None, None)
    it.end(number, None, None)
    it.end(99, None, None)
    it.first_event(number)
    assert it.state(A).in_flight == 0


def test_two_targets_of_a_backend_load_it_together() -> None:
    it, _ = seen()
    it.begin(A, shape())
    it.begin(target("a/other"), shape())
    assert (it.state(A).in_flight, it.backend("a").in_flight) == (1, 2)


def test_what_a_backend_has_still_to_read_is_what_was_cold_there_until_its_first_event() -> None:
    it, _ = seen()
    it.pin(A).keeps_prefixes = True
    numbers = [
        it.begin(A, shape(num_bytes=400, prefix=lambda prefix=prefix: prefix)) for prefix in ((1, 2), (1, 2, 3, 4))
    ]
    assert it.backend("a").unread_tokens == 100 + 50
    it.first_event(numbers[0])
    it.first_event(numbers[0])
    assert it.backend("a").unread_tokens == 50
    for number in numbers:
        it.end(number, None, None, is_cancelled=True)
    assert it.backend("a").unread_tokens == 0


def test_times_and_lengths_are_averaged_by_size_of_input() -> None:
    it, clock = seen()
    number = it.begin(A, shape(num_bytes=100))
    clock.now += 0.5
    it.first_event(number)
    clock.now += 2.0
    it.end(number, Usage(25, 21), None)
    state = it.state(A)
    assert state.ttft[0].value(clock.now) == pytest.approx(0.5)
    assert state.ttft[1].value(clock.now) is None
    assert state.tpot.value(clock.now) == pytest.approx(0.1)
    assert state.output_tokens.value(clock.now) == 21
    assert state.bytes_per_token.value(clock.now) == 4


def test_an_answer_that_came_whole_tells_how_long_the_next_will_take() -> None:
    it, clock = seen()
    for num_tokens in (10, 100, 40, 100, 10, 60) * 5:
        number = it.begin(A, shape(num_bytes=100))
        clock.now += 0.5 + num_tokens * 0.1
        it.end(number, Usage(25, num_tokens), None)
    state = it.state(A)
    for num_tokens in (20, 80):
        expected = (state.ttft[0].value(clock.now) or 0) + num_tokens * (state.tpot.value(clock.now) or 0)
        assert expected == pytest.approx(0.5 + num_tokens * 0.1, rel=0.2)
    number = it.begin(A, shape(num_bytes=100_000, task=Task.EMBED))
    clock.now += 3.0
    it.end(number, Usage(25, 0), None)
    assert state.ttft[size_class(100_000)].value(clock.now) == 3.0


def test_an_answer_that_was_cut_off_says_nothing_of_lengths() -> None:
    it, clock = seen()
    number = it.begin(A, shape())
    it.end(number, Usage(25, 1), None, is_cancelled=True)
    assert it.state(A).output_tokens.value(clock.now) is None


def test_targets_that_clients_name_are_forgotten_when_idle_and_never_when_busy() -> None:
    it, _ = seen()
    busy, pinned = Target("a", "busy"), it.pin(Target("a", "pinned"))
    number = it.begin(busy, shape())
    for place in range(3 * MAX_LOOSE_TARGETS):
        it.state(Target("a", f"m{place}"))
    assert len(it._loose) <= MAX_LOOSE_TARGETS
    assert it.state(busy).in_flight == 1
    it.end(number, None, None)
    assert it.backend("a").in_flight == 0
    assert it.pin(Target("a", "pinned")) is pinned


def test_other_settings_keep_what_they_name_and_let_go_of_the_rest() -> None:
    it, _ = seen()
    pinned = it.pin(A)
    pinned.keeps_prefixes = True
    number = it.begin(A, shape())
    it.unpin()
    assert (it.state(A), it.state(A).keeps_prefixes) == (pinned, False)
    for place in range(2 * MAX_LOOSE_TARGETS):
        it.state(Target("a", f"m{place}"))
    assert it.pin(A) is pinned
    it.end(number, None, None)
    assert pinned.in_flight == 0
    it.unpin()
    for place in range(2 * MAX_LOOSE_TARGETS):
        it.state(Target("a", f"m{place}"))
    assert it.state(A) is not pinned


def test_size_classes_grow_by_four() -> None:
    edges = [0, 2047, 2048, 8191, 8192, 32_767, 32_768, 131_071, 131_072, 10**9]
    assert [size_class(edge) for edge in edges] == [0, 0, 1, 1, 2, 2, 3, 3, NUM_SIZES - 1, NUM_SIZES - 1]


def test_an_average_follows_a_change_and_forgets_what_is_old() -> None:
    average = Average()
    for tick in range(1000):
        average.add(1.0, tick * 0.01)
    assert average.value(10.0) == pytest.approx(1.0)
    for tick in range(200):
        average.add(3.0, 10 + tick * 0.01)
    assert 2.8 < (average.value(12.0) or 0) <= 3.0
    assert average.value(12.0 + 9 * HALF_LIFE_S) is None
    average.add(5.0, 12.0 + 9 * HALF_LIFE_S)
    assert 4.5 < (average.value(12.0 + 9 * HALF_LIFE_S) or 0) <= 5.0


def test_one_sample_is_believed_for_two_half_lives() -> None:
    average = Average()
    average.add(1.0, 0.0)
    assert average.value(1.9 * HALF_LIFE_S) == 1.0
    assert average.value(2.1 * HALF_LIFE_S) is None


def test_the_index_finds_the_longest_beginning_that_each_target_has_read() -> None:
    index, b = PrefixIndex(), target("b/m")
    index.add(A, shape(prefix=lambda: (1, 2, 3)))
    index.add(b, shape(prefix=lambda: (1, 2, 4, 5)))
    assert index.warm(shape(prefix=lambda: (1, 2, 4, 9)), has_engine=False) == ({A: 2, b: 3}, 4)
    assert index.warm(shape(prefix=lambda: (7,)), has_engine=False) == ({}, 1)


def test_the_index_is_bounded_and_forgets_the_ends_of_old_conversations_first() -> None:
    index = PrefixIndex(max_blocks=6)
    index.add(A, shape(prefix=lambda: (1, 2, 3, 4)))
    index.add(A, shape(prefix=lambda: (1, 2, 13, 14, 15)))
    assert len(index) == 6
    assert index.warm(shape(prefix=lambda: (1, 2, 3, 4)), has_engine=False)[0] == {A: 3}
    assert index.warm(shape(prefix=lambda: (1, 2, 13, 14, 15)), has_engine=False)[0] == {A: 5}


def test_what_the_engine_read_for_one_tenant_is_not_warm_for_another() -> None:
    index, local = PrefixIndex(), target("local/m")
    anna, bob = (shape(prefix=lambda: (1, 2), principal=Principal(tenant=name)) for name in ("anna", "bob"))
    index.add(local, anna)
    index.add(A, anna)
    assert index.warm(anna, has_engine=True)[0] == {A: 2, local: 2}
    assert index.warm(bob, has_engine=True)[0] == {A: 2}
