"""The engine's own word on what it has read: asked where it matters, believed before the index's guess."""

import asyncio

import pytest
from tests.doubles_routing import Hand, backend, card, route, settings, shape, target

from headrace.core.backend import Probe
from headrace.core.errors import HeadraceError, InvalidRequest, Unavailable
from headrace.core.request import Request
from headrace.gateway.routing.warmth import engine_share
from headrace.gateway.settings import Policy

LOCAL = target("local/smol")


def mixed(*policies: Policy) -> Hand:
    made = route("r", "a/m", "local/smol", policies=policies)
    return Hand(settings([backend("a")], [made]), cards=[card("smol")])


def test_the_engine_is_asked_where_it_is_one_of_several_that_are_chosen_by_warmth() -> None:
    it = mixed(Policy.CACHE_AFFINITY)
    assert it.planner.asks_engine(shape()) == LOCAL
    assert it.planner.asks_engine(shape("smol")) is None
    assert it.planner.asks_engine(shape("a/m")) is None
    assert it.planner.asks_engine(shape("nothing")) is None
    assert mixed(Policy.LEAST_LOADED).planner.asks_engine(shape()) is None


def test_what_it_says_counts_and_not_what_the_index_believes() -> None:
    it = mixed(Policy.CACHE_AFFINITY)
    asked = shape(prefix=lambda: (1, 2, 3))
    it.sightings.end(it.sightings.begin(LOCAL, asked), None, None)
    assert it.planner.plan(asked).candidates[0].target == LOCAL
    assert it.planner.plan(asked, engine_share=0.5).candidates[0].reason == "warm 0.50"
    it.sightings.end(it.sightings.begin(target("a/m"), asked), None, None)
    # Everything of it was evicted from the engine, and the other has it.
    assert it.planner.plan(asked, engine_share=0.0).candidates[0].target == target("a/m")


class Engine:
    """Answers with one probe, or raises."""

    def __init__(self, answer: Probe | HeadraceError) -> None:
        self.answer = answer
        self.models: list[str] = []

    async def probe(self, request: Request) -> Probe:
        self.models.append(request.model)
        if isinstance(self.answer, HeadraceError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "share"),
    [(Probe(100, 64, fits=True), 0.64), (Probe(0, 0, fits=True), None), (Unavailable("not in memory."), None)],
)
def test_its_share_is_of_the_prompt_and_nothing_is_said_where_it_cannot_be(
    answer: Probe | HeadraceError, share: float | None
) -> None:
    engine = Engine(answer)
    request = Request(id="1", model="r", prompt="x")
    assert asyncio.run(engine_share(engine, LOCAL, lambda: request)) == share  # type: ignore[arg-type]
    assert engine.models == ["smol"]


def test_a_body_that_cannot_be_decoded_is_not_asked_about() -> None:
    def refuse() -> Request:
        raise InvalidRequest("x: unknown.")

    engine = Engine(Probe(1, 1, fits=True))
    assert asyncio.run(engine_share(engine, LOCAL, refuse)) is None  # type: ignore[arg-type]
    assert engine.models == []
