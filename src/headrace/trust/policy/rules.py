"""Policies that were read and found to be good: parsed once, each known by its id, its effect, its place and what it
reads of the context.

A set in which anything is wrong is no set: all that is wrong is told at once, by file and line. Knows no questions.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import cedarpy

from headrace.trust.policy.schema import write_schema
from headrace.trust.policy.statement import Source, Statement, split

MAX_POLICIES: Final = 20_000
_POSITION: Final = re.compile(r"policy(\d+)")


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with a policy, or (a hint) only odd about it."""

    place: str
    sentence: str
    is_hint: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {'hint: ' if self.is_hint else ''}{self.sentence}"


class FlawedPolicies(ValueError):
    """Policies that cannot be put in force; `flaws` are all that is wrong with them."""

    def __init__(self, flaws: Sequence[Flaw]) -> None:
        super().__init__("\n".join(map(str, flaws)))
        self.flaws = tuple(flaws)


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy. `id` is its @id, else its place; `reason` is its @reason, what callers are told."""

    id: str
    place: str
    is_forbid: bool
    reason: str
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Rules:
    """Policies in force. `reads` are the fields of a context that any of them looks at, None: maybe all of them."""

    rules: tuple[Rule, ...]
    parsed: Any = field(repr=False)
    reads: frozenset[str] | None = frozenset()

    def __len__(self) -> int:
        return len(self.rules)

    def permits(self) -> "Rules":
        """Those that permit, alone: what would be if nothing forbade it."""
        rules = tuple(rule for rule in self.rules if not rule.is_forbid)
        return Rules(rules, cedarpy.PolicySet.from_str("\n".join(rule.text for rule in rules)), self.reads)

    def find(self, position: str) -> Rule | None:
        """The policy that Cedar calls `policyN`."""
        found = _POSITION.fullmatch(position)
        return self.rules[int(found[1])] if found and int(found[1]) < len(self.rules) else None


def read_rules(sources: Iterable[Source]) -> Rules:
    """Policies from their texts, checked against the schema. Raises FlawedPolicies."""
    statements = [one for source in sources for one in split(source)]
    if len(statements) > MAX_POLICIES:
        place = statements[MAX_POLICIES].place
        raise FlawedPolicies([Flaw(place, f"there are {len(statements)} policies; at most {MAX_POLICIES} are read.")])
    # One statement a policy, in order: Cedar numbers them by position, which is how they are found again.
    text = "\n".join(one.text for one in statements)
    try:
        parsed = cedarpy.PolicySet.from_str(text)
        document = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise FlawedPolicies(list(_broken(statements)) or [Flaw(statements[0].place, f"{error}.")]) from error
    flaws = [Flaw(statements[_number(one)].place, _NO_TEMPLATES) for one in document["templates"]]
    policies: dict[str, Any] = document["staticPolicies"]
    if not flaws and len(policies) != len(statements):
        flaws.append(Flaw(statements[0].place, "the policies could not be told apart; write one a semicolon."))
    if flaws:
        raise FlawedPolicies(flaws)
    rules = [_rule(policies[f"policy{index}"], one) for index, one in enumerate(statements)]
    flaws = [*_named_twice(rules), *_invalid(text, rules)]
    if flaws:
        raise FlawedPolicies(flaws)
    return Rules(tuple(rules), parsed, _reads(policies.values()))


_NO_TEMPLATES: Final = "?principal and ?resource make a template, which nobody links; write the policy itself."


def _number(position: str) -> int:
    found = _POSITION.fullmatch(position)
    return int(found[1]) if found else 0


def _rule(policy: dict[str, Any], statement: Statement) -> Rule:
    notes = policy.get("annotations") or {}
    return Rule(
        id=notes.get("id") or statement.place,
        place=statement.place,
        is_forbid=policy["effect"] != "permit",
        reason=notes.get("reason") or "",
        text=statement.text,
    )


def _broken(statements: Sequence[Statement]) -> Iterator[Flaw]:
    for one in statements:
        try:
            cedarpy.PolicySet.from_str(one.text)
        except ValueError as error:
            yield Flaw(one.place, f"{error}.")


def _named_twice(rules: Iterable[Rule]) -> Iterator[Flaw]:
    first: dict[str, Rule] = {}
    for rule in rules:
        if (other := first.setdefault(rule.id, rule)) is not rule:
            yield Flaw(rule.place, f"the id {rule.id!r} is that of {other.place}, too; give each policy its own.")


def _invalid(text: str, rules: Sequence[Rule]) -> Iterator[Flaw]:
    errors = cedarpy.validate_policies(text, write_schema()).errors
    for error in sorted(errors, key=lambda one: (_number(one.policy_id), one.error)):
        rule = rules[_number(error.policy_id)]
        sentence = re.sub(r"for policy `policy\d+`, ", "", error.error).strip()
        yield Flaw(rule.place, f"{sentence}.")


def hints(rules: Rules) -> Iterator[Flaw]:
    """What is odd about policies that are in order."""
    seen: dict[str, Rule] = {}
    for rule in rules.rules:
        body = " ".join(re.sub(r"@\w+\s*\([^)]*\)", "", rule.text).split())
        if rule.id == rule.place:
            yield Flaw(rule.place, "has no @id, and is called by its place, which moves.", is_hint=True)
        if rule.is_forbid and not rule.reason:
            yield Flaw(rule.place, f"{rule.id} has no @reason; whom it stops is not told why.", is_hint=True)
        if (other := seen.setdefault(body, rule)) is not rule:
            yield Flaw(rule.place, f"{rule.id} says what {other.id} ({other.place}) says.", is_hint=True)
        if rule.is_forbid and re.fullmatch(r"forbid ?\( ?principal ?, ?action ?, ?resource ?\) ?;", body):
            yield Flaw(rule.place, f"{rule.id} forbids everything, so that no other policy matters.", is_hint=True)
    if not any(not rule.is_forbid for rule in rules.rules):
        yield Flaw("policies", "none of them permits anything, so that everything is denied.", is_hint=True)


def _reads(policies: Iterable[dict[str, Any]]) -> frozenset[str] | None:
    """Fields of the context that conditions look at; None if one looks at the context as a whole."""
    found: set[str] = set()
    todo: list[Any] = [policy.get("conditions") or [] for policy in policies]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo.extend(node)
        elif isinstance(node, dict):
            if node.get("Var") == "context" and len(node) == 1:
                return None
            for name, inner in node.items():
                if name in (".", "has") and isinstance(inner, dict) and inner.get("left") == {"Var": "context"}:
                    attribute = inner.get("attr")
                    if not isinstance(attribute, str):
                        return None
                    found.add(attribute)
                else:
                    todo.append(inner)
    return frozenset(found)
