"""The sets that ship, against their rules written out in Python."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles_policy import judge, question

JUDGE = judge("", "default", "agents")
MAYBE: Any = st.none()


def forbidden(attributes: dict[str, Any], context: dict[str, Any]) -> set[str]:
    """The naive twin: which rules of the set `agents` hold. What is not said counts as the worst."""
    effect = attributes.get("effect", "egress")
    integrity, confidentiality = context.get("integrity", 0), context.get("confidentiality", 2)
    untrusted = context.get("untrusted_arguments", ("*",))
    verdicts, is_endorsed = context.get("verdicts", ()), context.get("is_endorsed", False)
    found = set()
    if attributes.get("is_changed", False):
        found.add("agents-changed-tool")
    if is_endorsed:
        return found
    if effect == "write" and integrity < 2 and untrusted:
        found.add("agents-untrusted-write")
    if effect == "egress" and integrity < 2 and untrusted:
        found.add("agents-untrusted-egress")
    if effect == "egress" and integrity < 2 and confidentiality >= 2:
        found.add("agents-secret-egress")
    if effect != "read" and {"canary", "honey-tool"} & set(verdicts):
        found.add("agents-trap")
    return found


a_set = st.lists(st.sampled_from(["to", "url", "canary", "honey-tool", "surprise"]), max_size=3).map(tuple)


@settings(max_examples=500, deadline=None)
@given(
    attributes=st.fixed_dictionaries(
        {},
        optional={
            "effect": st.sampled_from(["read", "write", "egress"]),
            "is_changed": st.booleans(),
            "is_pinned": st.booleans(),
            "manifest": st.text(max_size=5),
        },
    ),
    context=st.fixed_dictionaries(
        {},
        optional={
            "integrity": st.integers(0, 3),
            "confidentiality": st.integers(0, 2),
            "untrusted_arguments": a_set,
            "verdicts": a_set,
            "is_endorsed": st.booleans(),
            "depth": st.integers(0, 4),
            "calls": st.integers(0, 2**62),
            "session": st.text(max_size=5),
        },
    ),
    name=st.text(min_size=1, max_size=8),
)
def test_a_tool_call_is_decided_as_the_rules_say(attributes: Any, context: Any, name: str) -> None:
    said = JUDGE.decide(question("tool", name, attributes=attributes, **context))
    expected = forbidden(attributes, context)
    if any("\ud800" <= one <= "\udfff" for one in name):
        assert not said.is_allowed
        return
    assert said.is_allowed == (not expected)
    assert set(said.policies) == (expected or {"default-tool"})


@settings(max_examples=200, deadline=None)
@given(
    action=st.sampled_from(["request", "route"]),
    name=st.text(min_size=1, max_size=8),
    context=st.fixed_dictionaries(
        {}, optional={"prompt_tokens": st.integers(0, 2**62), "labels": a_set, "integrity": st.integers(0, 3)}
    ),
)
def test_what_was_permitted_without_policies_is_permitted_with_those_that_ship(
    action: str, name: str, context: Any
) -> None:
    assert JUDGE.decide(question(action, name, **context)).policies == (f"default-{action}",)
