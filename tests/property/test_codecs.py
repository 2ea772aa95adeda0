"""A few hundred damaged inputs for every codec and every route; `make fuzz` tries a million."""

import random
from typing import Any

import pytest
from fuzz.__main__ import fuzz
from fuzz.exchanges import exchanges
from fuzz.mutation import Mutator, cuts
from fuzz.target import Target, check_refusal
from fuzz.targets import CODECS

from headrace.core.errors import EngineFault
from headrace.core.events import Started, TextDelta

SEED = b'{"a":{"b":[1,"two"]},"c":null}'


@pytest.mark.parametrize("target", CODECS, ids=lambda target: target.name)
def test_damaged_inputs_are_requests_or_refusals(target: Target) -> None:
    fuzz(target, 300, seed=7)


def test_no_route_fails_on_a_damaged_body_and_no_answer_on_what_a_model_says() -> None:
    with exchanges(CODECS) as targets:
        assert len(targets) > 10
        for target in targets:
            fuzz(target, 30, seed=7)


def test_a_defect_in_a_writer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: list[Any] = [Started("r", "scripted", 3), TextDelta(0, 7, 1)]  # type: ignore[arg-type]
    monkeypatch.setattr("fuzz.answers.make_events", lambda _: broken)
    with exchanges(CODECS) as targets, pytest.raises(AssertionError, match="expected str instance"):
        next(target for target in targets if target.name == "orders").check(b"")


@pytest.mark.parametrize("target", CODECS, ids=lambda target: target.name)
def test_every_seed_is_accepted_by_its_own_codec_or_is_an_error_that_it_tells(target: Target) -> None:
    num_accepted = len(target.seeds) - target.num_refused
    assert num_accepted
    for index, seed in enumerate(target.seeds):
        assert target.check(seed) is (index < num_accepted), seed


def test_the_same_seed_gives_the_same_inputs_and_they_differ() -> None:
    once, again = (Mutator([SEED], random.Random(3)) for _ in range(2))
    inputs = [once.next() for _ in range(500)]
    assert inputs == [again.next() for _ in range(500)]
    assert len(set(inputs)) > 400


def test_pieces_add_up_to_the_whole() -> None:
    shapes = [cuts(SEED, random.Random(seed)) for seed in range(50)]
    assert all(b"".join(pieces) == SEED for pieces in shapes)
    assert {1, len(SEED)} < {len(pieces) for pieces in shapes}


def test_a_fault_of_ours_is_found() -> None:
    def broken(data: bytes) -> bool:
        if data != SEED:
            raise KeyError(data)
        return True

    with pytest.raises(KeyError):
        fuzz(Target("broken", [SEED], broken), 10, seed=1)
    with pytest.raises(AssertionError):
        check_refusal(EngineFault("ours"))
