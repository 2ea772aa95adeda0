"""Default deny, forbid wins, and nothing that goes wrong ever permits."""

import json
from dataclasses import replace
from typing import Any

import cedarpy
import pytest
from tests.doubles_policy import LAPTOP, judge, question

from headrace.core.request import Principal
from headrace.core.trust import Delegation, Integrity
from headrace.trust.policy.judge import NOT_PERMITTED
from headrace.trust.policy.schema import ACTION_TABLE, write_schema
from headrace.trust.policy.settings import SubjectSettings

PERMIT = '@id("all") permit (principal, action, resource);'


def test_what_no_policy_permits_is_denied() -> None:
    said = judge('@id("other") permit (principal == Key::"desk", action, resource);').decide(question())
    assert (said.is_allowed, said.policies, said.reason) == (False, (), NOT_PERMITTED)


def test_a_forbid_wins_and_is_told_with_its_reason() -> None:
    text = (
        PERMIT
        + '@id("no") @reason("not at this hour") forbid (principal, action, resource) when { context.minute == 630 };'
    )
    said = judge(text).decide(question())
    assert (said.is_allowed, said.policies, said.reason) == (False, ("no",), "not at this hour")
    assert judge(text, now_s=0.0).decide(question()).policies == ("all",)


# What a schema's validator cannot rule out: numbers and times that overflow.
FAILS = [
    "context.prompt_tokens + 9223372036854775807 > 3",
    "context.prompt_tokens * 2 > 3",
    "0 - 9223372036854775807 - context.prompt_tokens < 3",
    'datetime("2026-01-01").offset(duration("9223372036854775807ms")) > datetime("2026-01-01")',
]


@pytest.mark.parametrize("condition", FAILS)
def test_a_forbid_that_errors_denies_and_a_permit_that_errors_does_not_permit(condition: str) -> None:
    asked = question(prompt_tokens=2**62, task="generate")
    scope = '(principal, action == Action::"request", resource)'
    forbids = judge(f'{PERMIT}\n@id("broken") forbid {scope} when {{ {condition} }};')
    said = forbids.decide(asked)
    assert (said.is_allowed, said.policies) == (False, ("broken",))
    assert "could not be evaluated" in said.reason
    permits = judge(f'@id("broken") permit {scope} when {{ {condition} }};')
    assert not permits.decide(asked).is_allowed
    assert permits.explain(asked)[1][0].startswith("broken: ")
    # Beside a permit that holds, one that errors does no harm.
    assert judge(f'{PERMIT}\n@id("broken") permit {scope} when {{ {condition} }};').decide(asked).policies == ("all",)


@pytest.mark.parametrize(
    "condition",
    ["principal.nothing == 1", 'Tenant::"x".a == 1', "context.task + 1 == 2", "ip(context.task).isLoopback()"],
)
def test_even_policies_that_no_schema_ever_saw_deny_where_they_error(condition: str) -> None:
    at = judge(PERMIT)
    text = f"{PERMIT}\nforbid (principal, action, resource) when {{ {condition} }};"
    object.__setattr__(at.rules, "parsed", cedarpy.PolicySet.from_str(text))
    object.__setattr__(at.rules, "rules", (*at.rules.rules, at.rules.rules[0].__class__("ghost", "", True, "")))
    object.__setattr__(at.rules, "reads", None)
    assert at.decide(question(task="generate")).policies == ("ghost",)


def test_an_error_that_names_no_policy_that_is_known_denies() -> None:
    at = judge(PERMIT)
    text = f"{PERMIT}\npermit (principal, action, resource) when {{ principal.nothing == 1 }};"
    object.__setattr__(at.rules, "parsed", cedarpy.PolicySet.from_str(text))
    said = at.decide(question())
    assert (said.is_allowed, said.policies) == (False, ("unknown",))


def test_entities_that_are_not_there_are_not_in_anything() -> None:
    assert not judge('permit (principal in Group::"ghosts", action, resource);').decide(question()).is_allowed
    assert not judge('permit (principal, action, resource == Model::"ghost");').decide(question()).is_allowed


@pytest.mark.parametrize(
    "asked",
    [
        question(action="delete"),
        question(labls=("a",)),
        question(labels="a"),
        question(prompt_tokens=True),
        question(prompt_tokens=2**63),
        question(is_stream=1),
        question(session=3),
        question(attributes={"nothing": 1}),
        question(action="tool", attributes={"effect": 2}),
        question(labels=(1,)),
        question(labels=([],)),
        question(resource="\ud800"),
        question(session="\udfff"),
    ],
)
def test_a_question_that_cannot_be_put_is_denied_however_often_it_is_asked(asked: object) -> None:
    at = judge(
        '@id("all") permit (principal, action, resource) unless { context has session && context.session == "x" };'
    )
    for _ in range(2):
        said = at.decide(asked)  # type: ignore[arg-type]
        assert not said.is_allowed
        assert said.reason.startswith("the question cannot be put: ")


def test_who_asks_is_a_key_a_user_a_workload_or_an_agent() -> None:
    for principal, entity in (
        (LAPTOP, 'Key::"laptop"'),
        (Principal(key="k"), 'Key::"k"'),
        (Principal(subject="user:https://i.example#ann"), 'User::"https://i.example#ann"'),
        (Principal(subject="spiffe://d/a"), 'Workload::"spiffe://d/a"'),
        (Principal(), 'User::"local"'),
        (Principal(subject="key:laptop", agent="planner"), 'Agent::"planner"'),
    ):
        said = judge(f"permit (principal == {entity}, action, resource);").decide(question(principal=principal))
        assert said.is_allowed, entity


def test_an_agent_is_in_everybody_that_it_acts_for() -> None:
    chain = ("key:laptop", "planner", "spiffe://d/reader")
    agent = Principal(tenant="acme", subject="key:laptop", delegation=Delegation(chain=chain))
    for scope in (
        'principal == Agent::"spiffe://d/reader"',
        'principal in Key::"laptop"',
        'principal in Tenant::"acme"',
    ):
        assert not judge(f"{PERMIT} forbid ({scope}, action, resource);").decide(question(principal=agent)).is_allowed
    assert (
        judge(f'{PERMIT} forbid (principal in Key::"desk", action, resource);')
        .decide(question(principal=agent))
        .is_allowed
    )
    deep = "permit (principal, action, resource) when { principal.is_delegated && principal.depth == 2 };"
    assert judge(deep).decide(question(principal=agent)).is_allowed
    assert not judge(deep).decide(question()).is_allowed


def test_groups_and_facts_are_what_the_operator_says_and_an_agent_is_in_its_principals_groups() -> None:
    known = {"key:laptop": SubjectSettings(groups=("staff",), facts={"department": "finance"})}
    text = """permit (principal in Group::"staff", action, resource)
    when { principal.hasTag("department") && principal.getTag("department") == "finance" };"""
    agent = Principal(tenant="acme", subject="key:laptop", key="laptop", agent="planner")
    at = judge(text, subjects=known)
    assert at.decide(question()).is_allowed
    assert not at.decide(question(principal=Principal(subject="key:desk"))).is_allowed
    in_group = judge('permit (principal in Group::"staff", action, resource);', subjects=known)
    assert in_group.decide(question(principal=agent)).is_allowed
    other = {"key:laptop": SubjectSettings(groups=("staff",), facts={"department": "sales"})}
    assert not judge(text, subjects=other).decide(question()).is_allowed


def test_decisions_are_remembered_under_all_that_the_policies_see_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    real = cedarpy.is_authorized
    monkeypatch.setattr(cedarpy, "is_authorized", lambda *given: asked.append(given) or real(*given))
    text = 'permit (principal, action, resource) when { context.labels.contains("a") };'
    at = judge(text)
    assert at.decide(question(labels=("a", "b"), prompt_tokens=1)).is_allowed
    assert at.decide(question(labels=("b", "a", "a"), prompt_tokens=2)).is_allowed
    assert len(asked) == 1
    assert not at.decide(question(labels=("b",))).is_allowed
    assert at.decide(question(labels=("a", "b"), resource="large")).is_allowed
    assert at.decide(question(labels=("a", "b"), principal=Principal(subject="key:desk"))).is_allowed
    assert len(asked) == 4
    # What nobody reads is not even handed over.
    assert json.dumps(asked[0][0]["context"]) == '{"labels": ["a", "b"]}'


def test_questions_with_huge_names_are_answered_and_not_remembered() -> None:
    at = judge(PERMIT)
    for asked in (
        question(resource="x" * 10**6),
        question(labels=("x" * 10**6,)),
        question(labels=tuple(map(str, range(1000)))),
        question(session="x" * 10**6),
    ):
        assert at.decide(asked).is_allowed
    assert not at._decisions
    assert len(at.decide(question(**{"x" * 10**6: 1})).reason) < 500


@pytest.mark.parametrize(
    ("field", "value", "condition"),
    [
        ("tenant", "rival", 'principal in Tenant::"rival"'),
        ("subject", "key:desk", 'principal.subject == "key:desk"'),
        ("key", "desk", 'principal has key && principal.key == "desk"'),
        ("user", "ann", 'principal has user && principal.user == "ann"'),
        ("agent", "planner", 'principal has agent && principal.agent == "planner"'),
        ("workload", "spiffe://d/a", 'principal has workload && principal.workload == "spiffe://d/a"'),
        ("scopes", frozenset({"admin"}), 'principal.scopes.contains("admin")'),
        ("tags", ("x",), 'principal.tags.contains("x")'),
        ("labels", frozenset({"secret"}), 'principal.labels.contains("secret")'),
        ("delegation", Delegation(chain=("key:laptop", "a", "b")), "principal.depth == 2"),
        ("delegation", Delegation(chain=("key:laptop",)), "principal.is_delegated"),
        ("delegation", Delegation(chain=("x", "laptop")), 'principal.chain.contains("x")'),
    ],
)
def test_what_is_remembered_of_one_principal_is_not_said_of_another(field: str, value: Any, condition: str) -> None:
    at = judge(f"permit (principal, action, resource) when {{ {condition} }};")
    other = replace(LAPTOP, **{field: value})
    for _ in range(2):
        assert not at.decide(question()).is_allowed
        assert at.decide(question(principal=other)).is_allowed


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    at = judge(PERMIT, max_decisions=2)
    for name in ("a", "b", "a", "c"):
        at.decide(question(resource=name))
    assert len(at._decisions) == 2
    assert [key[2] for key in at._decisions] == ["a", "c"]  # type: ignore[index]


def test_numbers_and_truths_are_not_one_to_the_memory() -> None:
    at = judge(
        'permit (principal, action == Action::"tool", resource) when { context.depth == 1 && resource.is_pinned };'
    )
    assert at.decide(question("tool", attributes={"is_pinned": True}, depth=1)).is_allowed
    assert not at.decide(question("tool", attributes={"is_pinned": 1}, depth=1)).is_allowed
    assert not at.decide(question("tool", attributes={"is_pinned": True}, depth=True)).is_allowed


def test_a_watched_judge_says_so() -> None:
    assert not judge("", is_enforced=False).decide(question()).is_enforced


def test_ten_thousand_policies_load_and_decide() -> None:
    text = "\n".join(
        f'@id("p{number}") permit (principal == Key::"k{number}", action, resource)'
        f" when {{ context.minute > {number % 60} }};"
        for number in range(10_000)
    )
    at = judge(text)
    assert at.decide(question(principal=Principal(subject="key:k9999"))).policies == ("p9999",)
    assert not at.decide(question()).is_allowed


def test_the_schema_has_every_kind_of_question() -> None:
    text = write_schema()
    cedarpy.Schema.from_str(text)
    for name, action in ACTION_TABLE.items():
        assert f"action {name} appliesTo" in text
        assert f"entity {action.resource} =" in text


def test_the_default_set_permits_what_was_permitted_and_the_agents_set_only_forbids_tools() -> None:
    at = judge("", "default", "agents")
    assert at.decide(question()).is_allowed
    assert at.decide(question("route", "near/small")).is_allowed
    trusted = {"integrity": Integrity.USER, "confidentiality": 1, "untrusted_arguments": ("to",)}
    assert at.decide(question("tool", "mail", attributes={"effect": "egress"}, **trusted)).is_allowed
    hijacked = trusted | {"integrity": Integrity.TOOL}
    said = at.decide(question("tool", "mail", attributes={"effect": "egress"}, **hijacked))
    assert (said.is_allowed, said.policies) == (False, ("agents-untrusted-egress",))
    assert at.decide(question("tool", "mail", attributes={"effect": "read"}, **hijacked)).is_allowed
    assert at.decide(question("tool", "mail", attributes={"effect": "write"}, **hijacked, is_endorsed=True)).is_allowed
    # A question that says nothing of the moment is about the worst.
    assert not at.decide(question("tool", "mail")).is_allowed
