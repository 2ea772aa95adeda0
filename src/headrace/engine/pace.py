"""When the engine came to a sequence: the moments that its request's times are made of.

Moments are ends of native calls on the engine's clock, which is where tokens come into being; reading the clock again
for each token would tell nothing more. The engine's thread writes; what others learn of it are the values of `item.py`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from headrace.engine import sequence as sequences
from headrace.engine.batch import Sampled
from headrace.engine.item import Course
from headrace.observe.spans import EngineTimes


def course_of(sequence: sequences.Sequence) -> Course:
    """What is known of a sequence's way so far."""
    pace = sequence.pace
    return Course(
        sequence.choice,
        sequence.arrived,
        pace.scheduled_s,
        pace.first_s,
        pace.last_s,
        pace.num_prompt_steps,
        pace.num_steps - pace.num_prompt_steps,
        sequence.num_tokens - sequence.num_prompt,
        pace.num_preempted,
        pace.max_gap_s,
    )


def times_of(courses: Sequence[Course]) -> EngineTimes | None:
    """The courses of a request's choices as one; None if there are none."""
    if not courses:
        return None
    return EngineTimes(
        arrived_s=min(one.arrived_s for one in courses),
        scheduled_s=min((one.scheduled_s for one in courses if one.scheduled_s is not None), default=None),
        first_s=min((one.first_s for one in courses if one.first_s is not None), default=None),
        last_s=max((one.last_s for one in courses if one.last_s is not None), default=None),
        num_prompt_steps=max(one.num_prompt_steps for one in courses),
        num_decode_steps=max(one.num_decode_steps for one in courses),
        num_drawn=sum(one.num_drawn for one in courses),
        num_preempted=sum(one.num_preempted for one in courses),
        max_gap_s=max(one.max_gap_s for one in courses),
    )


def note_drawn(sampled: Iterable[Sampled], now: float, num_steps: int, gaps: Counter[float]) -> None:
    """Write down that a step, the model's `num_steps`-th, has drawn tokens, and count the gaps in seconds that this
    ends: one for each sequence, as all of a draft come at once."""
    for outcome in sampled:
        pace = outcome.sequence.pace
        before = pace.last_s
        if before == now:
            continue
        pace.last_s = now
        if before is None:
            pace.first_s = now
            pace.num_prompt_steps = num_steps - pace.begun_step
        else:
            gap_s = now - before
            gaps[gap_s] += 1
            pace.max_gap_s = max(pace.max_gap_s, gap_s)
        pace.num_steps = num_steps - pace.begun_step
