"""Service counters by tenant."""

import pytest

from headrace.engine import fairness
from headrace.engine.fairness import FairShare


def test_service_counts_tokens_by_share() -> None:
    shares = FairShare()
    shares.enter("a")
    shares.enter("b")
    shares.charge("a", 100, 1.0)
    shares.charge("b", 100, 4.0)
    assert (shares.service("a"), shares.service("b")) == (100.0, 25.0)


def test_who_comes_late_starts_with_the_least_served_and_saves_nothing_up() -> None:
    shares = FairShare()
    for tenant in ("a", "b"):
        shares.enter(tenant)
    shares.charge("a", 500, 1.0)
    shares.charge("b", 300, 1.0)
    shares.enter("late")
    assert shares.service("late") == 300.0


def test_a_pause_keeps_what_was_had() -> None:
    shares = FairShare()
    shares.enter("a")
    shares.charge("a", 500, 1.0)
    shares.enter("b")
    shares.leave("a")
    shares.enter("a")
    assert shares.service("a") == 500.0


def test_a_tenant_is_active_while_it_has_any_sequence() -> None:
    shares = FairShare()
    shares.enter("a")
    shares.enter("a")
    shares.leave("a")
    shares.check({"a": 1})
    shares.leave("a")
    shares.check({})
    with pytest.raises(KeyError):
        shares.charge("a", 1, 1.0)


def test_tenants_without_work_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "MAX_IDLE_TENANTS", 2)
    shares = FairShare()
    for tenant in ("a", "b", "c"):
        shares.enter(tenant)
        shares.leave(tenant)
    assert shares.num_tenants == 2
