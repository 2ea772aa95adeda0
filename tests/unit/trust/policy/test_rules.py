"""Policies are read whole or not at all, and what is wrong is told by file and line."""

import pytest
from tests.doubles_policy import shipped

from headrace.trust.policy.rules import FlawedPolicies, hints, read_rules
from headrace.trust.policy.statement import Source, split

PERMIT = "permit (principal, action, resource);"


def flaws(*texts: str) -> list[str]:
    with pytest.raises(FlawedPolicies) as caught:
        read_rules([Source(f"{index}.cedar", text) for index, text in enumerate(texts)])
    return [str(one) for one in caught.value.flaws]


def test_statements_are_found_with_their_lines_whatever_stands_in_texts_and_comments() -> None:
    text = """// a ; comment "
@id("a;b\\"c") // another; one
permit (principal, action, resource);

  forbid (principal, action, resource) when { context.session like "x;*//" };  permit (principal, action, resource)
"""
    found = list(split(Source("f", text)))
    assert [one.line for one in found] == [2, 5, 5]
    assert [one.text.split()[0] for one in found] == ['@id("a;b\\"c")', "forbid", "permit"]
    assert found[1].text.endswith('"x;*//" };')


def test_a_file_that_cannot_be_parsed_is_told_by_the_line_of_every_policy_that_is_wrong() -> None:
    told = flaws(
        PERMIT, f"{PERMIT}\n\n// x\npermit (principal, action resource);\n{PERMIT}\nforbid (principal) when {{ 1 +"
    )
    assert [one.split(" ")[0] for one in told] == ["1.cedar:4:", "1.cedar:6:"]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("context.nothing == 1", "nothing"),
        ("principal.key == 1", "`key`"),
        ("principal has key && principal.key > 3", "String"),
        ('context.session == "a"', "session"),
        ("context.labels.contains(3)", "Long"),
        ('resource.effect == "read"', "effect"),
        ('Ghost::"x".a == 1', "Ghost"),
    ],
)
def test_what_the_schema_does_not_have_is_refused_at_its_line(condition: str, said: str) -> None:
    told = flaws(f'\n{PERMIT}\n\nforbid (principal, action == Action::"request", resource)\nwhen {{ {condition} }};')
    assert all(one.startswith("0.cedar:4: ") for one in told)
    assert any(said in one for one in told)


def test_an_action_that_there_is_none_of_is_refused() -> None:
    told = flaws('permit (principal, action == Action::"requests", resource);')[0]
    assert told.startswith("0.cedar:1: ")


def test_two_policies_with_one_id_and_templates_are_refused() -> None:
    assert flaws(f'@id("a") {PERMIT}', f'\n@id("a") {PERMIT}') == [
        "1.cedar:2: the id 'a' is that of 0.cedar:1, too; give each policy its own."
    ]
    assert "template" in flaws(PERMIT, "permit (principal == ?principal, action, resource);")[0]


def test_policies_that_ship_are_in_order_and_odd_ones_are_hinted_at() -> None:
    rules = read_rules(shipped("default", "agents"))
    assert list(hints(rules)) == []
    odd = f'@id("a") {PERMIT}\n@id("b") {PERMIT}\nforbid (principal, action, resource);'
    told = [str(one) for one in hints(read_rules([Source("f", odd)]))]
    assert told == [
        "f:2: hint: b says what a (f:1) says.",
        "f:3: hint: has no @id, and is called by its place, which moves.",
        "f:3: hint: f:3 has no @reason; whom it stops is not told why.",
        "f:3: hint: f:3 forbids everything, so that no other policy matters.",
    ]
    assert "everything is denied" in str(next(hints(read_rules([]))))


@pytest.mark.parametrize(
    ("condition", "reads"),
    [
        ('context.minute > 3 && principal.tenant == "a"', {"minute"}),
        ('context has session && context.session == "x"', {"session"}),
        ("[1, 2].contains(if context.weekday == 1 then 1 else 2)", {"weekday"}),
        ("{x: context}.x.minute == 1", None),
        ("context == context", None),
    ],
)
def test_what_policies_read_of_the_context_is_known(condition: str, reads: set[str] | None) -> None:
    rules = read_rules([Source("f", f"permit (principal, action, resource) when {{ {condition} }};")])
    assert rules.reads == reads


def test_more_policies_than_are_read_are_refused_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.trust.policy.rules.MAX_POLICIES", 2)
    assert "at most 2" in flaws(PERMIT * 3)[0]
