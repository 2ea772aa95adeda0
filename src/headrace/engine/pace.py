"""When the engine came to a sequence: the moments that its request's times are made of.

Moments are ends of native calls on the engine's clock, which is where tokens come into being; reading the clock again
for each token would tell nothing more. The engine's thread writes; what others learn of it are the values of `item.py`.
"""

from collections import Counter
from collections.abc import Iterable

from headrace.engine.batch import Sampled
from headrace.engine.item import Course
from headrace.engine.sequence import Sequence


def course_of(sequence: Sequence) -> Course:
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
            gaps[now - before] += 1
        pace.num_steps = num_steps - pace.begun_step
