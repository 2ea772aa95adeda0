"""Whose a request is, and which rules hold for one of them: named rules, and those for each of a kind (`*`).

A rule that names its subject takes the place of those for each, measure by measure: with 5 a day for every key and 50
for the key `ci`, `ci` has 50. Of several for one subject the tightest holds. Values only.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from headrace.core.errors import InvalidRequest
from headrace.gateway.settings import BudgetSettings, LimitSettings, Subject

ALL: Final = ("all", "")
EACH: Final = "*"
KINDS: Final = ("all", "tenant", "key", "user", "tag", "route")
MAX_NAME_CHARS: Final = 256

Owner = tuple[str, str]
"""Kind and name of one subject, as a key of dicts."""

_Rule = TypeVar("_Rule", BudgetSettings, LimitSettings)


@dataclass(frozen=True, slots=True)
class Party:
    """Everything about a request that rules can name."""

    tenant: str
    key: str | None
    user: str | None
    tags: tuple[str, ...]
    route: str

    def owners(self) -> Iterator[Owner]:
        """The subjects that it is of, each once."""
        yield ALL
        yield ("tenant", self.tenant)
        if self.key is not None:
            yield ("key", self.key)
        if self.user is not None:
            yield ("user", user_name(self.tenant, self.user))
        for tag in dict.fromkeys(self.tags):
            yield ("tag", tag)
        yield ("route", self.route)


def user_name(tenant: str, user: str) -> str:
    """A user's name among all tenants'. A tenant's has no slash."""
    return f"{tenant}/{user}"


def parse_subject(text: str) -> Subject:
    """What `str(subject)` wrote. Raises InvalidRequest naming what is possible."""
    kind, colon, name = text.partition(":")
    if text == "all" or (kind in KINDS and kind != "all" and colon and 0 < len(name) <= MAX_NAME_CHARS):
        if kind == "user" and name != EACH and "/" not in name:
            raise InvalidRequest(
                f"subject: {text[:200]!r} names no tenant; write user:TENANT/USER, or user:* for each.", param="subject"
            )
        return Subject(kind, name)
    raise InvalidRequest(
        f"subject: {text[:200]!r} is none; write all, or tenant:NAME, key:NAME, user:TENANT/NAME, tag:NAME or "
        "route:NAME, with * as the name for each of them alone.",
        param="subject",
    )


class Rulebook(Generic[_Rule]):
    """Rules by whom they hold for."""

    def __init__(self, rules: Iterable[_Rule]) -> None:
        self._named: dict[Owner, list[_Rule]] = {}
        self._each: dict[str, list[_Rule]] = {}
        for rule in rules:
            subject = rule.subject
            if subject.name == EACH:
                self._each.setdefault(subject.kind, []).append(rule)
            else:
                self._named.setdefault((subject.kind, subject.name), []).append(rule)

    def __bool__(self) -> bool:
        return bool(self._named or self._each)

    def rules(self, owner: Owner) -> list[_Rule]:
        """All that could hold for a subject, those that name it first."""
        return [*self._named.get(owner, ()), *self._each.get(owner[0], ())]

    def is_named(self, owner: Owner) -> bool:
        """Whether a rule names the subject."""
        return owner in self._named


def tightest(rules: Iterable[_Rule], measure: Callable[[_Rule], float | None]) -> tuple[float, str] | None:
    """The smallest of a measure and the rule that says it: of those that name the subject if one of them says it at
    all, else of those for each. None if no rule says it."""
    found: dict[bool, tuple[float, str]] = {}
    for rule in rules:
        value, is_each = measure(rule), rule.subject.name == EACH
        if value is not None and (is_each not in found or value < found[is_each][0]):
            found[is_each] = (value, rule.name)
    return found.get(False) or found.get(True)
