"""Bounds hold for everything that an answer can be charged for, whatever the prices."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tests.doubles_routing import PRICES, shape

from headrace.core.ledger import LONG_TTL_S, SHORT_TTL_S, Ledger, PriceList, Prices
from headrace.core.usage import to_nanos
from headrace.gateway.routing.pricing import Rate, bound_of, prices_of
from headrace.gateway.settings import BackendSettings, GatewaySettings, ModelSettings, Target

price = st.floats(0, 1000, allow_nan=False)
optional = st.one_of(st.none(), price)
all_prices = st.builds(
    Prices,
    input=price,
    output=price,
    cache_read=optional,
    cache_write_5m=optional,
    cache_write_1h=optional,
    cache_write=optional,
)


@st.composite
def ledgers(draw: st.DrawFn, prompt: int, completion: int) -> Ledger:
    """Any split of at most so many tokens."""
    left = used = draw(st.integers(0, prompt))
    cached = draw(st.integers(0, left))
    left -= cached
    writes = []
    for ttl_s in (SHORT_TTL_S, LONG_TTL_S, 60.0):
        tokens = draw(st.integers(0, left))
        left -= tokens
        writes.append((ttl_s, tokens))
    return Ledger(
        prompt_tokens=used,
        completion_tokens=draw(st.integers(0, completion)),
        cached_tokens=cached,
        writes=tuple(writes),
    )


@settings(max_examples=300, deadline=None)
@given(all_prices, st.integers(0, 10**6), st.integers(0, 10**5), st.integers(1, 8), st.integers(0, 3), st.data())
def test_no_ledger_within_a_bound_costs_more(
    prices: Prices, num_bytes: int, max_tokens: int, num_choices: int, num_media: int, data: st.DataObject
) -> None:
    asked = shape(num_bytes=num_bytes, num_choices=num_choices, num_media=num_media)
    model = ModelSettings()
    bound = bound_of(asked, model, Rate.of(prices), max_tokens)
    prompt = asked.prompt_bound + num_media * model.media_tokens
    ledger = data.draw(ledgers(prompt, max_tokens * num_choices))
    assert ledger.total_tokens <= bound.tokens
    assert to_nanos(prices.cost(ledger)) <= bound.nanos


OTHER = Prices(input=9.0, output=9.0)


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ({}, None),
        ({"m": OTHER}, OTHER),
        ({"a/m": OTHER, "m": PRICES}, OTHER),
    ],
)
def test_the_list_holds_for_a_model_its_target_and_its_adapters(
    listed: dict[str, Prices], found: Prices | None
) -> None:
    made = GatewaySettings(backends={"a": BackendSettings(name="a", kind="vllm", models={"m": ModelSettings()})})
    assert prices_of(made, PriceList(listed), Target("a", "m")) == found
    assert prices_of(made, PriceList(listed), Target("a", "m:adapter")) == found


def test_an_entrys_own_prices_go_before_those_of_the_list() -> None:
    entry = ModelSettings(prices=PRICES)
    made = GatewaySettings(backends={"a": BackendSettings(name="a", kind="vllm", models={"m": entry})})
    assert prices_of(made, PriceList({"a/m": OTHER, "m": OTHER}), Target("a", "m")) == PRICES
    assert prices_of(made, PriceList({"m": OTHER}), Target("b", "m")) == OTHER
