"""The ledger alone: windows, whose budgets hold, what a refusal says, and charges that go beyond their bounds."""

from datetime import UTC, datetime

import pytest
from tests.doubles_accounts import THURSDAY_S, budget

from headrace.core.errors import BudgetExceeded, InvalidRequest
from headrace.gateway.accounts.calendar import NEVER, bounds
from headrace.gateway.accounts.ledger import NO_LIMIT, Granted, Ledger, Period, Wanting, nanos_of
from headrace.gateway.accounts.subjects import Party, parse_subject
from headrace.gateway.contract import Bound
from headrace.gateway.settings import Subject, Window

ANNA = Party("anna", "laptop", "bob", ("night",), "small")


def take(ledger: Ledger, bound: Bound, now_s: float = THURSDAY_S, party: Party = ANNA) -> list[Period]:
    """Reserve, with every lease that is asked for granted from empty sums."""
    accounts = ledger.accounts(party.owners(), now_s)
    while isinstance(made := ledger.reserve(accounts, bound, now_s), Wanting):
        for lease in made.leases:
            period, account = lease.period, lease.period.account
            used = (period.used_nanos, period.used_tokens) if period.is_known else (0, 0)
            ceilings = [
                limit if limit >= NO_LIMIT else min(used[index] + more, limit)
                for index, (limit, more) in enumerate(
                    [(account.limit_nanos, lease.more_nanos), (account.limit_tokens, lease.more_tokens)]
                )
            ]
            ledger.grant(lease, Granted(0, 0, *ceilings))
    return made


@pytest.mark.parametrize(
    ("window", "start", "end"),
    [
        (Window.MINUTE, "2024-02-29T23:59:00", "2024-03-01T00:00:00"),
        (Window.HOUR, "2024-02-29T23:00:00", "2024-03-01T00:00:00"),
        (Window.DAY, "2024-02-29T00:00:00", "2024-03-01T00:00:00"),
        (Window.WEEK, "2024-02-26T00:00:00", "2024-03-04T00:00:00"),
        (Window.MONTH, "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
    ],
)
def test_a_window_is_calendar_time_in_utc(window: Window, start: str, end: str) -> None:
    first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in (start, end))
    moment = datetime(2024, 2, 29, 23, 59, 59, 999_000, UTC).timestamp()
    assert bounds(window, moment) == (first, last)
    assert bounds(window, last)[0] == last
    assert bounds(Window.TOTAL, moment) == (0, NEVER)


def test_a_request_is_reserved_in_all_of_its_budgets_or_in_none() -> None:
    ledger = Ledger([budget("wide", "all", money=1), budget("narrow", "key:laptop", money=10e-9)])
    take(ledger, Bound(0, 6))
    with pytest.raises(BudgetExceeded, match="'narrow' of key:laptop"):
        take(ledger, Bound(0, 6))
    assert [one.period.used_nanos for one in ledger.known()] == [6, 6]


def test_a_refusal_names_the_budget_what_is_left_and_when_there_is_more() -> None:
    ledger = Ledger([budget("team", "tenant:anna", Window.DAY, money=5)])
    ledger.settle(take(ledger, Bound(0, nanos_of(4.5))), Bound(0, nanos_of(4.5)), nanos_of(4.5), 0)
    with pytest.raises(BudgetExceeded) as refused:
        take(ledger, Bound(0, nanos_of(0.75)))
    assert refused.value.message == (
        "budget 'team' of tenant:anna: the request could cost 0.75, and 0.5 of 5 are left until 2026-11-27T00:00:00Z, "
        "when the next day begins; ask for less (max_tokens bounds it), or have the budget raised."
    )
    assert refused.value.retry_after_s == 12 * 3600
    take(ledger, Bound(0, nanos_of(0.25)))
    with pytest.raises(BudgetExceeded, match=r"0.25 of 5 are left \(0.25 are set aside for requests that run"):
        take(ledger, Bound(0, nanos_of(0.5)))


def test_of_several_budgets_that_are_used_up_the_one_that_lasts_longest_is_named() -> None:
    ledger = Ledger([budget("hour", "all", Window.HOUR, tokens=5), budget("month", "all", Window.MONTH, tokens=5)])
    with pytest.raises(BudgetExceeded, match="'month' of all: the request could cost 6 tokens, and 5 of 5 tokens"):
        take(ledger, Bound(6, 0))


def test_a_budget_that_never_begins_anew_promises_nothing() -> None:
    with pytest.raises(BudgetExceeded, match="left for good") as refused:
        take(Ledger([budget("gift", "all", Window.TOTAL, tokens=5)]), Bound(6, 0))
    assert refused.value.retry_after_s is None


def test_what_is_spent_in_a_window_is_charged_there_also_when_it_ends_in_the_next() -> None:
    ledger = Ledger([budget("hour", "all", Window.HOUR, tokens=10)])
    before = take(ledger, Bound(9, 0), THURSDAY_S + 3599)
    after = take(ledger, Bound(9, 0), THURSDAY_S + 3600)
    ledger.settle(before, Bound(9, 0), 0, 8)
    assert (before[0].spent_tokens, before[0].used_tokens) == (8, 8)
    assert (after[0].spent_tokens, after[0].used_tokens) == (0, 9)


def test_a_named_subject_has_its_own_budget_instead_of_that_for_each_measure_by_measure() -> None:
    budgets = [budget("each", "key:*", money=2e-9, tokens=10), budget("rich", "key:laptop", money=50e-9)]
    ledger = Ledger(budgets)
    take(ledger, Bound(0, 50))
    with pytest.raises(BudgetExceeded, match="'each' of key:laptop: the request could cost 11 tokens"):
        take(ledger, Bound(11, 0))
    with pytest.raises(BudgetExceeded, match="'each' of key:ci"):
        take(ledger, Bound(0, 3), party=Party("anna", "ci", None, (), "small"))


def test_a_user_is_one_of_a_tenant() -> None:
    ledger = Ledger([budget("each", "user:*", tokens=10)])
    take(ledger, Bound(10, 0))
    take(ledger, Bound(10, 0), party=Party("other", "laptop", "bob", (), "small"))
    with pytest.raises(BudgetExceeded, match="user:anna/bob"):
        take(ledger, Bound(1, 0))


def test_a_charge_beyond_its_bound_is_charged_truly_and_keeps_out_those_who_would_spend() -> None:
    ledger = Ledger([budget("day", "all", money=10e-9)])
    periods = take(ledger, Bound(0, 5))
    ledger.settle(periods, Bound(0, 5), 14, 0)
    assert periods[0].spent_nanos == 14
    with pytest.raises(BudgetExceeded, match="and 0 of 1e-08 are left"):
        take(ledger, Bound(0, 1))
    take(ledger, Bound(100, 0))  # costs nothing


def test_an_absurd_price_keeps_out_only_who_is_under_a_budget() -> None:
    ledger = Ledger([budget("anna's", "tenant:anna", money=1)])
    absurd = Bound(1, 10**30)
    with pytest.raises(BudgetExceeded):
        take(ledger, absurd)
    assert take(ledger, absurd, party=Party("bob", None, None, (), "small")) == []


def test_other_budgets_leave_what_is_spent_and_reserved() -> None:
    ledger = Ledger([budget("day", "all", tokens=10)])
    first, second = take(ledger, Bound(4, 0)), take(ledger, Bound(4, 0))
    ledger.settle(first, Bound(4, 0), 0, 3)
    ledger.configure([budget("renamed", "all", tokens=8)])
    with pytest.raises(BudgetExceeded, match=r"'renamed' of all: .* 1 of 8 tokens"):
        take(ledger, Bound(2, 0))
    ledger.configure([])
    assert take(ledger, Bound(10**6, 0)) == []
    ledger.configure([budget("back", "all", tokens=9)])
    ledger.settle(second, Bound(4, 0), 0, 4)
    with pytest.raises(BudgetExceeded, match="2 of 9 tokens"):
        take(ledger, Bound(3, 0))


def test_a_budget_that_gains_a_measure_asks_for_a_lease_before_it_is_used() -> None:
    ledger = Ledger([budget("day", "all", tokens=10)])
    take(ledger, Bound(1, 4))
    ledger.configure([budget("day", "all", tokens=10, money=1)])
    made = ledger.reserve(ledger.accounts(ANNA.owners(), THURSDAY_S), Bound(1, 1), THURSDAY_S)
    assert isinstance(made, Wanting)


def test_accounts_are_let_go_of_when_nothing_is_reserved_and_all_is_written() -> None:
    ledger = Ledger([budget("each", "user:*", tokens=10)], max_accounts=10)
    for index in range(15):
        party = Party("anna", None, f"u{index}", (), "small")
        periods = take(ledger, Bound(1, 0), party=party)
        if index != 3:
            ledger.settle(periods, Bound(1, 0), 0, 1)
    assert ledger.forget(2) == [] or len(ledger) == 13
    ledger.forget(ledger.charges)
    assert len(ledger) <= 10
    assert ledger.find(("user", "anna/u3"), Window.DAY) is not None


def test_a_period_near_its_ceiling_asks_for_more_before_anybody_waits() -> None:
    ledger = Ledger([budget("day", "all", tokens=1_000_000)])
    periods = take(ledger, Bound(10, 0))
    assert periods[0].ceiling_tokens < 100_000
    assert ledger.thin({periods[0]: Bound(10, 0)}) == []
    while periods[0].room_tokens > 1000:
        take(ledger, Bound(1000, 0))
    assert [lease.period for lease in ledger.thin({periods[0]: Bound(10, 0)})] == [periods[0]]


@pytest.mark.parametrize("text", ["all", "tenant:anna", "key:*", "user:anna/bob", "user:*", "tag:x:y", "route:a/b"])
def test_a_subject_reads_as_it_is_written(text: str) -> None:
    assert str(parse_subject(text)) == text


@pytest.mark.parametrize("text", ["", "key", "key:", "all:x", "team:x", "user:bob", "tenant:" + "x" * 300])
def test_what_is_no_subject_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"subject: .*write"):
        parse_subject(text)


def test_subjects_are_values() -> None:
    assert parse_subject("key:laptop") == Subject("key", "laptop")
