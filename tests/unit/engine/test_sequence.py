"""A sequence's own arithmetic: growing tokens, page keys, order."""

import numpy as np

from headrace.core.request import Sampling
from headrace.engine.sequence import Sequence, Work


def work(length: int, priority: int = 0) -> Work:
    tokens = np.arange(length, dtype=np.int32)
    return Work(model="m", tokens=tokens, sampling=Sampling(), seed=0, max_tokens=100, priority=priority)


def test_appending_leaves_the_prompt_that_siblings_share_alone() -> None:
    item = work(5)
    one, two = Sequence(item, 1, 0), Sequence(item, 1, 1)
    for token in range(100):
        one.append(1000 + token)
    assert item.tokens.tolist() == two.tokens.tolist() == list(range(5))
    assert one.tokens[: one.num_tokens].tolist() == [*range(5), *range(1000, 1100)]
    assert (one.last_token, two.last_token) == (1099, 4)
    assert len(one.tokens) <= 105


def test_one_token_is_always_left_to_compute() -> None:
    assert [len(Sequence(work(length), 1, 0).reusable_keys()) for length in (1, 32, 33, 64, 65)] == [0, 0, 1, 1, 2]


def test_reusable_keys_are_the_keys_of_the_pages() -> None:
    sequence = Sequence(work(100), 1, 0)
    assert sequence.reusable_keys() == [sequence.page_key(index) for index in range(3)]


def test_priority_then_arrival_then_choice_decides_the_order() -> None:
    urgent, early, late = Sequence(work(3, 1), 9, 0), Sequence(work(3), 1, 1), Sequence(work(3), 2, 0)
    sibling = Sequence(work(3), 1, 0)
    assert sorted([late, early, sibling, urgent], key=lambda s: s.order) == [urgent, sibling, early, late]
