"""Sameness: what share of some inputs is by one template, long ones only, against a count by definition."""

from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.trust.monitors.theft.linking import grams_of
from headrace.trust.monitors.theft.sameness import LEAST_GRAMS, MAX_GRAMS, grams_at_ends, sameness

LONG = "Answer the question below with one word and give no reason at all please :"
SHORT = "what does this mean :"


def same(texts: list[str]) -> float:
    return sameness(np.array([grams_at_ends(text.split()) for text in texts]))


def made(num: int, template: str, numbers: "count[int]") -> list[str]:
    return [f"{template} {' '.join(f'w{next(numbers)}' for _ in range(12))}".strip() for _ in range(num)]


@pytest.mark.parametrize("num_hidden", [0, 2, 10, 25, 50])
def test_inputs_by_one_long_template_are_counted_wherever_they_stand_and_turns_of_speech_are_not(
    num_hidden: int,
) -> None:
    numbers = count()
    texts = made(num_hidden, LONG, numbers) + made(50 - num_hidden, SHORT, numbers)
    order = np.random.default_rng(1).permutation(50)
    assert same([texts[place] for place in order]) == max(num_hidden, 1) / 50


def test_a_template_at_the_end_of_long_inputs_counts_and_one_in_their_middle_does_not() -> None:
    numbers = count()
    filler = [" ".join(f"w{next(numbers)}" for _ in range(60)) for _ in range(40)]
    assert same([f"{text} {LONG}" for text in filler]) == 1.0
    assert same([f"{text} {LONG} {other}" for text, other in zip(filler[:20], filler[20:], strict=True)]) == 1 / 20


def test_inputs_of_a_few_words_have_no_template() -> None:
    assert same([""] * 10) == 0.0
    assert same(["thank you very much"] * 10) == 0.0


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=30), min_size=1, max_size=12))
def test_it_is_the_largest_share_of_which_each_has_enough_in_common_with_as_many(inputs: list[list[str]]) -> None:
    found = [grams_of(words[:24]) | grams_of(words[24:][-24:]) for words in inputs]
    counts = {gram: sum(gram in one for one in found) for grams in found for gram in grams}

    def is_reached(num: int) -> bool:
        return sum(sum(counts[gram] >= num for gram in one) >= LEAST_GRAMS for one in found) >= num

    largest = max((num for num in range(1, len(inputs) + 1) if is_reached(num)), default=0)
    grams = np.array([grams_at_ends(words) for words in inputs])
    assert grams.shape == (len(inputs), MAX_GRAMS)
    assert sameness(grams) == largest / len(inputs)
