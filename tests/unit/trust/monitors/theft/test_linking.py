"""Accounts of several tenants that ask by one template are found, and people who ask alike by chance are not."""

from random import Random

import numpy as np
from bench.trust.traffic import CRAWLS, inputs, person
from hypothesis import given
from hypothesis import strategies as st

from headrace.trust.monitors.theft.linking import LATEST, Group, LinkBook, likeness, minhash


def feed(book: LinkBook, account: str, tenant: str, texts: list[str]) -> Group | None:
    found = None
    for text in texts:
        found = book.add(account, tenant, text) or found
    return found


def texts(name: str, seed: str, count: int = LATEST) -> list[str]:
    return list(inputs(CRAWLS[name], Random(seed), count))


def book() -> LinkBook:
    return LinkBook(0.8, np.random.default_rng(0))


def test_fifty_accounts_that_share_a_crawl_are_one_group_after_twenty_questions_each() -> None:
    links, group = book(), None
    for index in range(50):
        group = feed(links, f"t{index}/k", f"t{index}", texts("chain of thought", str(index)))
        assert (group is None) == (index < 2)
    assert group is not None
    assert len(group.tenants) == 50


def test_people_are_not_linked_and_neither_are_two_different_crawls() -> None:
    links = book()
    for index in range(100):
        assert feed(links, f"p{index}", f"t{index}", list(inputs(person(index), Random(index), 60))) is None
    for index in range(3):
        assert feed(links, f"c{index}", f"a{index}", texts(list(CRAWLS)[index], "x")) is None


def test_users_of_one_tenant_share_a_program_by_right() -> None:
    links = book()
    for index in range(30):
        assert feed(links, f"t/user{index}", "t", texts("rewriting", str(index))) is None
    assert feed(links, "u/one", "u", texts("rewriting", "u")) is None
    group = feed(links, "v/one", "v", texts("rewriting", "v"))
    assert group is not None
    assert group.newest == "v/one"
    assert len(group.tenants) == 32


def test_an_account_that_asks_otherwise_leaves_its_group_and_a_forgotten_one_does_too() -> None:
    links = book()
    for index in range(4):
        feed(links, f"a{index}", f"t{index}", texts("translation", str(index)))
    feed(links, "a0", "t0", list(inputs(person(1), Random(1), LATEST)))
    links.forget("a1")
    group = feed(links, "a2", "t2", texts("translation", "more"))
    assert group is None  # two tenants are left
    group = feed(links, "a9", "t9", texts("translation", "nine"))
    assert group is not None
    assert set(group.tenants) == {"a2", "a3", "a9"}


def test_a_signature_tells_likeness() -> None:
    random = np.random.default_rng(1)
    factors = random.integers(1, 2**31 - 1, 512, dtype=np.uint64)
    offsets = random.integers(0, 2**31 - 1, 512, dtype=np.uint64)
    one = frozenset(range(1000, 1100))
    for common in (100, 80, 50, 0):
        other = frozenset([*range(1000, 1000 + common), *range(5000, 5000 + 100 - common)])
        told = float(np.mean(minhash(one, factors, offsets) == minhash(other, factors, offsets)))
        assert abs(told - likeness(one, other)) < 0.08


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([*CRAWLS, "person", "forget"])), max_size=12))
def test_groups_stay_consistent_whoever_comes_and_goes(steps: list[tuple[int, str]]) -> None:
    links = book()
    for account, what in steps:
        if what == "forget":
            links.forget(f"a{account}")
            continue
        draw = person(account) if what == "person" else CRAWLS[what]
        group = feed(links, f"a{account}", f"t{account}", list(inputs(draw, Random(account), LATEST)))
        if group is not None:
            assert f"a{account}" in group.tenants
            assert len(set(group.tenants.values())) >= 3
