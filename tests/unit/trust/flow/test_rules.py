"""The plain rules and the Cedar policies that ship say the same of every call."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.cli.policy import shipped
from headrace.core.policy import Judge, Question
from headrace.core.request import Principal
from headrace.core.trust import Decision, Delegation, Effect
from headrace.trust.flow.rules import PlainJudge
from headrace.trust.policy.decision_log import DecisionLog
from headrace.trust.policy.in_force import JudgeInForce
from headrace.trust.policy.judge import CedarJudge
from headrace.trust.policy.rules import read_rules
from headrace.trust.policy.settings import SETS

RULES = read_rules([shipped(name) for name in SETS])
CEDAR: Judge = JudgeInForce(CedarJudge(RULES, lambda: 0.0), DecisionLog(lambda *_: None, lambda: 0.0))
_EFFECTS = st.none() | st.frozensets(st.sampled_from(Effect))
_DELEGATIONS = st.none() | st.builds(
    Delegation,
    chain=st.just(("key:k", "agent:a")),
    tools=st.none() | st.just(frozenset({"pay"})) | st.just(frozenset({"other"})),
    effects=_EFFECTS,
)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    attributes = {
        "effect": draw(st.sampled_from(["read", "write", "egress"])),
        "manifest": "",
        "is_pinned": True,
        "is_changed": draw(st.booleans()),
    }
    context = {
        "integrity": draw(st.integers(0, 3)),
        "confidentiality": draw(st.integers(0, 2)),
        "untrusted_arguments": draw(st.sampled_from([(), ("to",), ("*",)])),
        "verdicts": draw(st.sampled_from([(), ("theft",), ("hijack",), ("canary", "theft"), ("honey-tool",)])),
        "is_endorsed": draw(st.booleans()),
    }
    left_out = draw(st.sets(st.sampled_from(sorted(context))))
    for name in left_out - {"verdicts", "is_endorsed"}:
        del context[name]
    return Question(
        principal=Principal(subject="key:k", key="k", delegation=draw(_DELEGATIONS)),
        action="tool",
        resource="pay",
        attributes=attributes,
        context=context,
    )


@given(questions())
def test_plain_rules_and_shipped_policies_agree(question: Question) -> None:
    plain, cedar = PlainJudge().decide(question), CEDAR.decide(question)
    assert plain.is_allowed == cedar.is_allowed, (plain, cedar)


def test_a_denial_says_why() -> None:
    question = Question(
        principal=Principal(),
        action="tool",
        resource="pay",
        attributes={"effect": "egress"},
        context={"integrity": 1, "confidentiality": 1, "untrusted_arguments": ("to", "amount")},
    )
    decision: Decision = PlainJudge(is_enforced=False).decide(question)
    assert (decision.is_allowed, decision.is_enforced) == (False, False)
    assert "amount, to" in decision.reason


def test_what_is_no_tool_is_not_its_affair() -> None:
    assert PlainJudge().decide(Question(principal=Principal(), action="request", resource="m")).is_allowed
