"""When the engine came to a request: what its course says, and the gaps between its tokens."""

from collections import Counter

import numpy as np

from headrace.core.request import Sampling
from headrace.engine.batch import Sampled
from headrace.engine.item import Course
from headrace.engine.pace import course_of, note_drawn
from headrace.engine.sequence import Change, Sequence, Work


def make(arrived: float = 1.0) -> Sequence:
    work = Work(model="m", tokens=np.array([1, 2, 3], np.int32), sampling=Sampling(), seed=0, max_tokens=9)
    return Sequence(work, 0, 0, arrived=arrived)


def test_a_course_tells_moments_and_steps() -> None:
    sequence, gaps = make(), Counter[float]()
    sequence.pace.scheduled_s, sequence.pace.begun_step = 3.0, 10
    for now, step in ((5.0, 12), (5.5, 13), (6.0, 14)):
        sequence.append(7)
        note_drawn([Sampled(sequence, 7, None)], now, step, gaps)
    assert course_of(sequence) == Course(0, 1.0, 3.0, 5.0, 6.0, 2, 2, 3, 0, 0.5)
    assert gaps == {0.5: 2}


def test_all_tokens_of_a_draft_come_at_once_and_are_one_gap() -> None:
    sequence, gaps = make(), Counter[float]()
    note_drawn([Sampled(sequence, 7, None)] * 3, 2.0, 1, gaps)
    note_drawn([Sampled(sequence, 7, None)] * 4, 2.25, 2, gaps)
    assert gaps == {0.25: 1}


def test_each_sequence_of_a_step_has_its_own_gap() -> None:
    late, early, gaps = make(), make(), Counter[float]()
    note_drawn([Sampled(early, 7, None)], 1.0, 1, gaps)
    note_drawn([Sampled(late, 7, None)], 2.0, 2, gaps)
    note_drawn([Sampled(early, 7, None), Sampled(late, 7, None)], 4.0, 3, gaps)
    assert gaps == {3.0: 1, 2.0: 1}


def test_a_sequence_that_never_ran_has_no_moments_and_a_preempted_one_says_so() -> None:
    sequence = make()
    assert course_of(sequence) == Course(0, 1.0, None, None, None, 0, 0, 0, 0, 0.0)
    for change in (Change.ADMIT, Change.PREEMPT, Change.ADMIT, Change.PREEMPT):
        sequence.change(change)
    assert course_of(sequence).num_preempted == 2
