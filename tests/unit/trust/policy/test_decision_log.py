"""Denials are told once and counted after that, so that nobody who is denied fills a disk."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.core.request import Principal
from headrace.core.trust import Decision
from headrace.trust.policy.decision_log import MAX_KINDS, WINDOW_S, DecisionLog

NO = Decision(action="tool", resource="mail", is_allowed=False, policies=("p",), reason="because")
WHO = Principal(tenant="acme", subject="key:laptop")


class Told:
    """A log over a clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lines: list[tuple[str, Mapping[str, Any]]] = []
        self.log = DecisionLog(lambda message, fields: self.lines.append((message, fields)), lambda: self.now_s)


def test_what_is_allowed_is_not_told_and_a_denial_once_with_all_that_is_known() -> None:
    told = Told()
    told.log.add(replace(NO, is_allowed=True), WHO)
    for _ in range(1000):
        told.log.add(NO, WHO)
    assert told.lines == [
        (
            "denied",
            {
                "tenant": "acme",
                "subject": "key:laptop",
                "action": "tool",
                "resource": "mail",
                "policies": ["p"],
                "reason": "because",
                "is_enforced": True,
            },
        )
    ]


def test_repetitions_are_counted_and_told_when_the_window_ends_whatever_names_they_chose() -> None:
    told = Told()
    for number in range(5):
        told.log.add(replace(NO, resource=f"mail-{number}"), WHO)
    told.now_s = WINDOW_S
    told.log.add(NO, WHO)
    assert [message for message, _ in told.lines] == ["denied", "denied again", "denied"]
    assert told.lines[1][1]["times"] == 4
    assert "resource" not in told.lines[1][1]


def test_counts_are_told_when_the_window_ends_though_nobody_is_denied_any_more() -> None:
    told = Told()
    calls: list[Any] = []
    told.log = DecisionLog(
        lambda message, fields: told.lines.append((message, fields)), lambda: 0.0, lambda *call: calls.append(call)
    )
    for number in range(3):
        told.log.add(replace(NO, reason=f"the name {number}"), WHO)
    ((seconds, flush),) = calls
    assert seconds == WINDOW_S
    flush()
    assert [message for message, _ in told.lines] == ["denied", "denied again"]


def test_many_kinds_of_denials_are_counted_together() -> None:
    told = Told()
    for number in range(MAX_KINDS + 7):
        told.log.add(NO, replace(WHO, subject=f"key:{number}"))
    assert len(told.lines) == MAX_KINDS
    told.log.flush()
    assert told.lines[-1] == ("denied, of more kinds than are told one by one", {"times": 7})


def test_what_is_only_watched_says_so_and_a_long_name_is_cut() -> None:
    told = Told()
    told.log.add(replace(NO, resource="x" * 10_000, is_enforced=False), WHO)
    ((message, fields),) = told.lines
    assert message == "would be denied"
    assert len(fields["resource"]) == 200
