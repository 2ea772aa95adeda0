"""Names of models: what each leads to, what is listed, and what is said of a name that leads nowhere."""

from dataclasses import replace

import pytest
from tests.doubles_routing import Hand, backend, card, route, rules, settings

from headrace.core.errors import NotFound
from headrace.core.request import Principal
from headrace.gateway.routing.names import MAX_LOOSE_ROUTES
from headrace.gateway.settings import GatewaySettings, TenantRule

TWO = [backend("a", "x", "both"), backend("b", "y", "both")]


def test_without_settings_every_model_of_the_engine_is_a_route_to_it() -> None:
    it = Hand(GatewaySettings(), cards=[card("smol", aliases=("s",)), card("smol:ad", parent="smol")])
    assert it.names("smol") == it.names("s") == it.names("local/smol") == it.names("local/s") == ["local/smol"]
    assert it.names("smol:ad") == it.names("s:ad") == ["local/smol:ad"]
    assert it.plan("s").route == "smol"
    assert it.planner.models() == (it.cards[0], it.cards[1])


def test_the_engine_says_itself_what_it_cannot_do() -> None:
    it = Hand(GatewaySettings(), cards=[card("smol", context_length=64)])
    assert it.names("smol", num_bytes=1_000_000) == ["local/smol"]


def test_models_of_the_engine_come_and_go_at_run_time() -> None:
    it = Hand(GatewaySettings(), cards=[card("one")])
    with pytest.raises(NotFound):
        it.plan("two")
    it.cards = [card("two")]
    assert it.names("two") == ["local/two"]
    it.clock.now += 2
    with pytest.raises(NotFound, match="served: two"):
        it.plan("one")


def test_a_model_of_one_backend_goes_by_its_own_name_and_by_both() -> None:
    it = Hand(settings(TWO))
    assert it.names("x") == it.names("a/x") == ["a/x"]
    assert it.plan("a/x").route == it.plan("x").route == "x"


def test_a_model_of_several_backends_needs_the_backends_name() -> None:
    it = Hand(settings(TWO))
    assert it.names("b/both") == ["b/both"]
    with pytest.raises(NotFound, match="a/both or b/both"):
        it.plan("both")


def test_a_route_hides_a_model_of_its_name_but_not_the_target() -> None:
    it = Hand(settings(TWO, [route("x", "b/y")]))
    assert it.names("x") == ["b/y"]
    assert it.names("a/x") == ["a/x"]
    assert it.plan("a/x").route == "a/x"


def test_names_of_settings_go_before_those_of_the_engine() -> None:
    it = Hand(settings(TWO), cards=[card("x"), card("z")])
    assert it.names("x") == ["a/x"]
    assert it.names("local/x") == ["local/x"]
    assert it.plan("local/x").route == "local/x"
    assert it.names("z") == ["local/z"]


def test_any_name_goes_to_the_one_open_backend() -> None:
    it = Hand(settings([backend("a", "x"), backend("b", "y", is_open=True)]))
    assert it.names("anything/else") == ["b/anything/else"]
    assert it.plan("b/new").route == it.plan("new").route == "b/new"


def test_with_two_open_backends_a_name_has_to_say_which() -> None:
    it = Hand(settings([backend("a", is_open=True), backend("b", is_open=True)]))
    assert it.names("a/new") == ["a/new"]
    with pytest.raises(NotFound):
        it.plan("new")


def test_a_backend_that_is_not_open_serves_only_what_it_names() -> None:
    with pytest.raises(NotFound, match="served: both, x"):
        Hand(settings([backend("a", "x", "both")])).plan("a/new")


def test_names_that_clients_make_up_are_forgotten_again() -> None:
    it = Hand(settings([backend("a", is_open=True)]))
    for number in range(3 * MAX_LOOSE_ROUTES):
        it.plan(f"made-up-{number}")
    assert len(it.planner._names._loose) <= MAX_LOOSE_ROUTES
    assert len(it.sightings._loose) <= MAX_LOOSE_ROUTES


def test_a_tenant_with_routes_sees_and_reaches_those_alone_under_all_their_names() -> None:
    rule = TenantRule(tenant="anna", routes=frozenset({"x", "smart"}))
    it = Hand(settings(TWO, [route("smart", "b/y")], tenants=rules(rule)), cards=[card("smol")])
    anna = Principal(tenant="anna")
    assert it.names("x", principal=anna) == it.names("a/x", principal=anna) == ["a/x"]
    assert {one.id for one in it.planner.models(anna)} == {"x", "smart"}
    assert {one.id for one in it.planner.models(replace(anna, routes=frozenset({"a/x"})))} == {"x"}
    everything = {"x", "y", "a/both", "b/both", "smart", "smol"}
    assert {one.id for one in it.planner.models(Principal(tenant="bob"))} == everything
    for name in ("y", "b/y", "smol", "both", "nothing"):
        with pytest.raises(NotFound) as told:
            it.plan(name, principal=anna)
        assert str(told.value) == f"Model {name} is not served here; served: smart, x."
