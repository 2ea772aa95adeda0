"""Whatever holders add, a token allows what every block allows and nothing else: against sets, and against Biscuit."""

import contextlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles_delegation import NOW_S, desk, granted, read

from headrace.core.trust import Effect
from headrace.trust.delegation.bounds import refusal
from headrace.trust.delegation.budget import DelegationBudgets, Reservation
from headrace.trust.delegation.grant import Bounds
from headrace.trust.delegation.token import Moment, VoidToken, authorize, narrow_token
from headrace.trust.delegation.wire import count_blocks

NAMES = ("a", "b", "c")
some = st.none() | st.frozensets(st.sampled_from(NAMES))
a_bounds = st.builds(
    Bounds,
    models=some,
    tools=some,
    effects=st.none() | st.frozensets(st.sampled_from(Effect)),
    labels=some,
    max_calls=st.none() | st.integers(0, 5),
    max_cost_nanos=st.none() | st.integers(0, 50),
    max_depth=st.none() | st.integers(0, 5),
    expires_s=st.none() | st.sampled_from([NOW_S - 1, NOW_S + 1, NOW_S + 100]),
)
a_chain = st.lists(st.tuples(a_bounds, st.none() | st.sampled_from(["x", "spiffe://d/y"])), max_size=5)


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants."""

    model: str | None = None
    tool: str | None = None
    effect: Effect | None = None
    labels: frozenset[str] = frozenset()
    now_s: float = NOW_S


an_asked = st.builds(
    Asked,
    model=st.none() | st.sampled_from((*NAMES, "d")),
    tool=st.none() | st.sampled_from((*NAMES, "d")),
    effect=st.none() | st.sampled_from(Effect),
    labels=st.frozensets(st.sampled_from(NAMES)),
    now_s=st.sampled_from([NOW_S - 2, NOW_S, NOW_S + 50]),
)


def allows(bounds: Bounds, asked: Asked) -> bool:
    """The naive twin of one block."""
    return (
        (bounds.models is None or asked.model is None or asked.model in bounds.models)
        and (bounds.tools is None or asked.tool is None or asked.tool in bounds.tools)
        and (bounds.effects is None or asked.effect is None or asked.effect in bounds.effects)
        and (bounds.labels is None or asked.labels <= bounds.labels)
        and (bounds.expires_s is None or asked.now_s < bounds.expires_s)
    )


@settings(max_examples=300, deadline=None)
@given(first=a_bounds, chain=a_chain, asked=an_asked)
def test_a_chain_of_narrowings_is_the_intersection_of_all_of_them(first: Bounds, chain: Any, asked: Asked) -> None:
    text = granted(**{name: getattr(first, name) for name in Bounds.__slots__})
    blocks = [first]
    for bounds, holder in chain:
        if bounds.is_empty and holder is None:
            continue
        text = narrow_token(text, bounds, holder)
        blocks.append(bounds)
    depths = [
        one.max_depth - (len(blocks) - 1 - index) for index, one in enumerate(blocks) if one.max_depth is not None
    ]
    try:
        token = read(text)
    except VoidToken as error:
        assert "more often" in str(error)
        assert min(depths) < 0
        return
    assert min(depths, default=0) >= 0
    expected = all(allows(one, asked) for one in blocks)
    # Biscuit, with the whole token.
    moment = Moment(
        operation="request",
        unix_s=asked.now_s,
        model=asked.model,
        tool=asked.tool,
        effect=None if asked.effect is None else asked.effect.name.lower(),
        labels=asked.labels,
    )
    assert (authorize(token, moment) is None) == expected
    # And what everybody else goes by.
    delegation = token.grant.delegation()
    why = refusal(delegation, model=asked.model, tool=asked.tool, effect=asked.effect, labels=asked.labels)
    ended = delegation.expires_s is not None and asked.now_s >= delegation.expires_s
    assert (why is None and not ended) == expected
    for name in ("max_calls", "max_cost_nanos"):
        values = [value for one in blocks if (value := getattr(one, name)) is not None]
        assert getattr(delegation, name) == min(values, default=None)


@settings(max_examples=300, deadline=None)
@given(
    parent=st.tuples(st.integers(0, 4), st.integers(0, 40)),
    child=st.tuples(st.integers(0, 4), st.integers(0, 40)),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 30), st.booleans()), max_size=12),
)
def test_requests_at_once_never_spend_more_than_there_is(parent: Any, child: Any, steps: Any) -> None:
    text = granted(max_calls=parent[0], max_cost_nanos=parent[1])
    below = narrow_token(text, Bounds(max_calls=child[0], max_cost_nanos=child[1]), "helper")
    of_parent, of_child = read(text).grant.blocks, read(below).grant.blocks
    budgets = DelegationBudgets()
    running: list[tuple[bool, Reservation]] = []
    spent = {True: [0, 0], False: [0, 0]}  # by child: calls and nanos
    for is_child, bound, cost, ends in steps:
        held = budgets.begin(of_child if is_child else of_parent, NOW_S)
        if not isinstance(held, str):
            spent[is_child][0] += 1
            if held.covers(bound):
                running.append((is_child, held))
            else:
                held.settle(0, is_call=False)
                spent[is_child][0] -= 1
        if ends and running:
            was_child, first = running.pop(0)
            # Nothing costs more than its bound.
            took = min(cost, first.nanos)
            first.settle(took, is_call=True)
            spent[was_child][1] += took
        held_child = sum(one.nanos for was, one in running if was)
        held_all = sum(one.nanos for _, one in running)
        assert spent[True][0] <= child[0]
        assert spent[True][0] + spent[False][0] <= parent[0]
        assert spent[True][1] + held_child <= child[1]
        assert spent[True][1] + spent[False][1] + held_all <= parent[1]
    for was_child, one in running:
        one.settle(0, is_call=True)
        assert was_child in spent
    assert budgets.count(of_parent[0]).held_nanos == 0
    assert budgets.count(of_parent[0]).num_running == 0
    assert desk().budgets.left(of_parent)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100))
def test_bytes_of_any_kind_are_counted_or_refused_and_no_text_of_any_kind_is_a_token(given_bytes: bytes | str) -> None:
    if isinstance(given_bytes, bytes):
        with contextlib.suppress(ValueError):
            count_blocks(given_bytes)
    else:
        with pytest.raises(VoidToken):
            read(given_bytes)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 10**6), change=st.integers(1, 255), cut=st.booleans())
def test_a_token_that_was_changed_anywhere_says_the_same_or_nothing(at: int, change: int, cut: bool) -> None:
    whole = urlsafe_b64decode(narrow_token(granted(models=frozenset({"a"})), Bounds(max_calls=1), "helper"))
    at %= len(whole)
    changed = whole[:at] if cut else bytes([*whole[:at], whole[at] ^ change, *whole[at + 1 :]])
    try:
        found = read(urlsafe_b64encode(changed).decode()).grant
    except VoidToken:
        return
    # Only what is no part of any block could differ: the number that names the key, or how the message is written.
    assert found.bounds.models == {"a"}
    assert found.bounds.max_calls == 1
    assert found.chain == ("key:laptop", "planner", "helper")
