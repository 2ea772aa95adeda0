"""Scheduling decisions, one at a time; `tests/property/test_engine_schedules.py` draws whole schedules."""

from dataclasses import replace

import numpy as np
import pytest
from tests.doubles import TOY_CACHE, ToyProgram, toy_answer

from headrace.core.events import FinishReason
from headrace.core.request import Sampling
from headrace.engine.batch import Batch, Drawn, Sampled
from headrace.engine.config import EngineConfig
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.salt import NO_SALT, Salt
from headrace.engine.runner import Runner
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Change, Sequence, State, Work


def work(length: int, *, max_tokens: int = 8, priority: int = 0, salt: Salt = NO_SALT, first: int = 1) -> Work:
    tokens = (np.arange(length) + first).astype(np.int32) % 97
    sampling = Sampling(temperature=0.0)
    return Work(
        model="toy",
        tokens=tokens,
        sampling=sampling,
        seed=0,
        max_tokens=max_tokens,
        priority=priority,
        salt=salt,
    )


class Bench:
    """A scheduler whose steps are computed by the toy."""

    def __init__(self, num_pages: int = 64, **options: int) -> None:
        config = EngineConfig(**({"max_batch_tokens": 128, "max_sequences": 8, "prefill_chunk": 32} | options))
        self.pool = PagePool.allocate(TOY_CACHE, num_pages)
        self.scheduler = Scheduler(config, self.pool)
        self.runner = Runner(config, ToyProgram(), None, self.pool)
        self.arrivals = 0

    def add(self, item: Work) -> Sequence:
        self.arrivals += 1
        sequence = Sequence(item, self.arrivals, 0)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> tuple[Batch, list[Sampled]]:
        batch = self.scheduler.schedule()
        results = self.scheduler.complete(batch, self.runner.run(batch))
        self.scheduler.check()
        return batch, results


def plan(batch: Batch) -> list[tuple[Sequence, int]]:
    return list(zip(batch.sequences, batch.counts, strict=True))


def test_a_prompt_is_read_in_pieces_of_the_step_budget_and_then_decoded() -> None:
    bench = Bench()
    sequence = bench.add(work(200))
    assert [bench.step()[0].counts for _ in range(4)] == [[128], [72], [1], [1]]
    assert sequence.num_tokens == 203


def test_while_somebody_decodes_prompts_share_the_smaller_chunk() -> None:
    bench = Bench()
    first = bench.add(work(10, max_tokens=50))
    bench.step()
    second = bench.add(work(100, first=50))
    third = bench.add(work(100, first=70))
    assert plan(bench.step()[0]) == [(first, 1), (second, 32)]
    for _ in range(3):
        batch, _ = bench.step()
        assert (batch.sequences[0], batch.counts[0]) == (first, 1)
        assert sum(batch.counts) <= 33
    assert third in bench.scheduler.running


def test_a_larger_priority_goes_first_and_then_the_earlier_arrival() -> None:
    bench = Bench(max_sequences=1, max_batch_tokens=128)
    low, early, late = (bench.add(work(5, priority=p, first=f)) for p, f in ((0, 1), (1, 20), (1, 40)))
    assert list(bench.scheduler.waiting) == [early, late, low]
    assert bench.step()[0].sequences == [early]


def test_pages_run_out_and_the_last_to_arrive_gives_way_with_its_place_in_the_queue() -> None:
    bench = Bench(num_pages=4)
    first = bench.add(work(60, max_tokens=60))
    second = bench.add(work(30, max_tokens=60, first=50))
    bench.step()
    third = bench.add(work(5, first=90))
    while second.state is State.RUNNING:
        bench.step()
    assert list(bench.scheduler.waiting) == [second, third]
    assert second.pages == [] and second.num_computed == 0
    answer = second.num_tokens
    while first.state is State.RUNNING:
        bench.step()
    bench.step()
    assert second.state is State.RUNNING
    assert second.num_tokens == answer + (second.num_computed == answer)


def test_nobody_is_admitted_in_a_step_that_preempts() -> None:
    bench = Bench(num_pages=4)
    bench.add(work(60, max_tokens=60))
    bench.add(work(30, max_tokens=60, first=50))
    bench.step()
    bench.add(work(5, first=90))
    batch, _ = bench.step()
    while not batch.num_preempted:
        batch, _ = bench.step()
    assert batch.num_preempted == 1
    assert batch.admitted == []


def test_equal_prompts_at_once_are_computed_once() -> None:
    bench = Bench()
    first = bench.add(work(100, max_tokens=4))
    second = bench.add(work(100, max_tokens=4))
    batch, _ = bench.step()
    assert plan(batch) == [(first, 100)]
    batch, _ = bench.step()
    # Three full pages are taken over; the rest is computed, beside the other's first decode.
    assert plan(batch) == [(first, 1), (second, 4)]
    assert second.pages[:3] == first.pages[:3]
    assert second.num_reused == 96


def test_waiting_for_somebodys_page_ends_when_that_one_is_cancelled() -> None:
    bench = Bench()
    first = bench.add(work(300))
    second = bench.add(work(300))
    bench.step()
    bench.scheduler.remove(first)
    batch, _ = bench.step()
    assert batch.sequences == [second]
    assert second.num_reused == 128


def test_a_longer_prompt_waits_for_the_last_page_of_a_shorter_one_too() -> None:
    bench = Bench()
    bench.add(work(64, max_tokens=4))
    longer = bench.add(work(90, max_tokens=4))
    bench.step()
    assert longer.state is State.WAITING
    bench.step()
    assert longer.num_reused == 64


def test_a_page_computed_twice_is_kept_once_and_the_table_follows() -> None:
    bench = Bench(num_pages=16)
    first = bench.add(work(20, max_tokens=40))
    second = bench.add(work(20, max_tokens=40))
    for _ in range(14):
        bench.step()
    assert first.pages[0] == second.pages[0]
    assert first.pages[1] != second.pages[1]
    table = bench.runner._tables
    bench.step()
    assert table.row(first.slot)[0] == table.row(second.slot)[0] == first.pages[0]
    bench.scheduler.check()


def test_the_whole_prompt_is_never_taken_from_the_cache() -> None:
    bench = Bench()
    bench.add(work(64, max_tokens=1))
    bench.step()
    again = bench.add(work(64, max_tokens=1))
    batch, results = bench.step()
    assert plan(batch) == [(again, 32)]
    assert results[0].reason is FinishReason.LENGTH


def test_another_salt_shares_nothing() -> None:
    bench = Bench()
    bench.add(work(64, max_tokens=1, salt=Salt("a")))
    bench.step()
    bench.add(work(64, max_tokens=1, salt=Salt("b")))
    assert bench.step()[0].counts == [64]


def test_the_answer_is_cached_too_for_the_next_turn() -> None:
    bench = Bench()
    sequence = bench.add(work(30, max_tokens=40))
    while sequence.state is not State.FINISHED:
        bench.step()
    turn = np.append(sequence.tokens[: sequence.num_tokens], np.int32(5))
    item = work(1)
    again = bench.add(replace(item, tokens=turn, max_tokens=1))
    bench.step()
    assert again.num_reused == 64


def test_a_stop_token_ends_a_sequence_before_its_length_does() -> None:
    bench = Bench()
    item = work(5, max_tokens=30)
    probe = bench.add(item)
    while probe.state is not State.FINISHED:
        bench.step()
    token = int(probe.tokens[9])
    stops = Work(
        model="toy", tokens=item.tokens, sampling=item.sampling, seed=0, max_tokens=30, stop_ids=frozenset({token})
    )
    sequence = bench.add(stops)
    reasons = []
    while sequence.state is not State.FINISHED:
        reasons += [result.reason for result in bench.step()[1]]
    assert reasons[-1] is FinishReason.STOP
    assert sequence.tokens[: sequence.num_tokens].tolist() == probe.tokens[: sequence.num_tokens].tolist()
    assert sequence.num_tokens <= 10


def test_a_row_that_is_no_number_ends_its_sequence_and_leaves_nothing_cached() -> None:
    bench = Bench()
    sequence = bench.add(work(40))
    batch = bench.scheduler.schedule()
    bench.runner.run(batch)
    results = bench.scheduler.complete(batch, Drawn([-1]))
    assert results == [Sampled(sequence, -1, None)]
    assert sequence.state is State.FINISHED
    assert len(bench.pool.free) == bench.pool.num_pages
    bench.scheduler.check()


def test_removing_twice_or_after_the_end_changes_nothing() -> None:
    bench = Bench()
    sequence = bench.add(work(40))
    bench.step()
    for _ in range(2):
        bench.scheduler.remove(sequence)
        bench.scheduler.check()
    assert bench.scheduler.num_available == bench.pool.num_pages


def test_the_queue_has_an_end_but_an_idle_scheduler_takes_any_request() -> None:
    bench = Bench(max_waiting=2, max_sequences=2)
    assert bench.scheduler.has_room(128)
    for _ in range(3):
        bench.add(work(5))
    assert bench.scheduler.has_room(1)
    assert not bench.scheduler.has_room(2)


def test_a_change_that_the_table_lacks_is_a_defect() -> None:
    sequence = Sequence(work(3), 1, 0)
    sequence.change(Change.ADMIT)
    sequence.change(Change.END)
    with pytest.raises(KeyError):
        sequence.change(Change.ADMIT)


def test_check_finds_a_page_that_a_sequence_lost() -> None:
    bench = Bench()
    sequence = bench.add(work(40))
    bench.step()
    sequence.pages.pop()
    with pytest.raises(AssertionError, match="lost"):
        bench.scheduler.check()


def family(bench: Bench, item: Work, count: int) -> list[Sequence]:
    bench.arrivals += 1
    members = [Sequence(item, bench.arrivals, choice) for choice in range(count)]
    bench.scheduler.add(members[0], members[1:])
    return members


def test_choices_compute_their_prompt_once_and_part_on_a_copy_of_its_last_page() -> None:
    bench = Bench()
    first, second, third = family(bench, work(40, max_tokens=30), 3)
    batch, results = bench.step()
    assert plan(batch) == [(first, 40)]
    assert [result.sequence for result in results] == [first, second, third]
    assert {one.state for one in (first, second, third)} == {State.RUNNING}
    assert first.pages[0] == second.pages[0] == third.pages[0]
    assert len({one.pages[1] for one in (first, second, third)}) == 3
    batch, _ = bench.step()
    assert batch.counts == [1, 1, 1]
    assert {one.num_tokens for one in (first, second, third)} == {42}


def test_choices_that_end_with_their_first_token_leave_nothing() -> None:
    bench = Bench()
    members = family(bench, work(40, max_tokens=1), 3)
    _, results = bench.step()
    assert [result.reason for result in results] == [FinishReason.LENGTH] * 3
    assert {one.state for one in members} == {State.FINISHED}
    assert bench.scheduler.num_available == bench.pool.num_pages


def test_a_choice_without_a_slot_waits_with_the_token_it_has() -> None:
    bench = Bench(max_sequences=2)
    third = family(bench, work(40, max_tokens=4), 3)[2]
    bench.step()
    assert list(bench.scheduler.waiting) == [third]
    assert third.num_tokens == 41
    answers: dict[int, list[int]] = {}
    while bench.scheduler.running or bench.scheduler.waiting:
        for result in bench.step()[1]:
            answers.setdefault(result.sequence.choice, []).append(result.token)
    assert answers[0][-3:] == answers[1][-3:] == answers[2][-3:]  # greedy: all alike
    assert bench.scheduler.num_available == bench.pool.num_pages


def test_the_next_choice_takes_over_a_prompt_whose_first_is_cancelled() -> None:
    bench = Bench()
    first, second, third = family(bench, work(200, max_tokens=4), 3)
    bench.step()
    bench.scheduler.remove(first)
    bench.scheduler.check()
    assert (second.state, third.state) == (State.WAITING, State.HELD)
    batch, _ = bench.step()
    assert batch.sequences == [second] and second.num_reused == 128
    assert third.state is State.RUNNING


def test_a_held_choice_can_be_cancelled_alone() -> None:
    bench = Bench()
    first, second, third = family(bench, work(200, max_tokens=4), 3)
    bench.step()
    bench.scheduler.remove(second)
    bench.scheduler.check()
    bench.step()
    assert (first.state, second.state, third.state) == (State.RUNNING, State.FINISHED, State.RUNNING)


def test_the_last_quarter_of_the_queue_is_for_tenants_that_have_nothing_in_it() -> None:
    bench = Bench(max_waiting=8, max_sequences=1)
    for _ in range(8):
        bench.add(replace(work(5), tenant="flood"))
    assert bench.scheduler.has_room(1, "flood")
    bench.add(replace(work(5), tenant="other"))
    assert not bench.scheduler.has_room(1, "flood")
    assert not bench.scheduler.has_room(1, "third")
    bench = Bench(max_waiting=8, max_sequences=1)
    for _ in range(6):
        bench.add(replace(work(5), tenant="flood"))
    bench.add(replace(work(5), tenant="other"))
    assert not bench.scheduler.has_room(1, "flood")
    assert bench.scheduler.has_room(2, "third")


@pytest.mark.parametrize("giant_first", [True, False])
def test_one_giant_and_many_small_all_end_in_a_pool_that_holds_the_giant_alone(giant_first: bool) -> None:
    bench = Bench(num_pages=32, max_sequences=8)
    giant = work(32 * 32 - 40, max_tokens=40, first=3)
    small = [work(20 + at, max_tokens=30, first=at) for at in range(20)]
    sequences = [bench.add(item) for item in ([giant, *small] if giant_first else [*small, giant])]
    answers: dict[int, list[int]] = {}
    while bench.scheduler.running or bench.scheduler.waiting:
        for result in bench.step()[1]:
            answers.setdefault(result.sequence.order[1], []).append(result.token)
    for sequence in sequences:
        item = sequence.work
        assert answers[sequence.order[1]] == toy_answer(item.tokens.tolist(), item.max_tokens, item.sampling)
    assert bench.scheduler.num_available == bench.pool.num_pages
