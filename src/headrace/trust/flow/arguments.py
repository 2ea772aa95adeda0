"""Where the values of a call's arguments come from: whether somebody who is trusted has said them.

A value is vouched for by text of the operator or the user that has it as a whole; by a field of a tool's result that an
operator has said to be the service's own (`ToolRule.endorses`); for some kinds by a source that the user named
(`NAMED_SOURCE_ENDORSES`); or by an explicit endorsement. What a model wrote vouches for nothing. A user who quotes what
somebody else wrote vouches for it: see the guide.

Values in, values out; linear in what is read, with caps beyond which nothing is vouched for.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any, Final

from headrace.core.request import Message, Role
from headrace.core.trust import Effect, Integrity, Label
from headrace.trust.flow.labels import RuleOf, callers
from headrace.trust.flow.settings import NAMED_SOURCE_ENDORSES, Kind, ToolRule
from headrace.trust.flow.tools import ToolFacts, kind_of
from headrace.trust.flow.values import day_of, days, normal, numbers, occurs, url_forms, urls, words
from headrace.trust.strict import read_json_object

MAX_RESULT: Final = 1_000_000
"""Characters of a tool's result that may vouch for something."""
MAX_LEAVES: Final = 10_000
NOTHING: Final = "*"
"""Stands among untrusted arguments for a call none of whose arguments tells who asked for it."""
UNREAD: Final = "\x00"
"""Stands for what lies too deep to be read: nobody has said it, and nobody can endorse it."""

Vouch = Callable[[str, Any], bool]
"""Whether a value at a path is vouched for from beside the conversation."""


@dataclass(frozen=True)
class Evidence:
    """What trusted text and trusted fields say. `said` is what operator and user wrote, in normal form; `endorsed` are
    values by kind, in normal form; `named` are texts of sources that the user named."""

    said: str
    endorsed: Mapping[Kind, frozenset[str]]
    named: tuple[str, ...] = ()
    is_bounded: bool = False

    @cached_property
    def numbers(self) -> frozenset[Decimal]:
        """Those that trusted text has, and amounts that are endorsed."""
        found = set(numbers(self.said))
        for value in self.endorsed.get(Kind.AMOUNT, ()):
            with contextlib.suppress(InvalidOperation):
                found.add(Decimal(value).normalize())
        return frozenset(found)

    @cached_property
    def today(self) -> date | None:
        """The day that a trusted tool has told, if it told one alone."""
        told = {day for value in self.endorsed.get(Kind.TIME, ()) if (day := day_of(value)) is not None}
        return told.pop() if len(told) == 1 else None

    @cached_property
    def days(self) -> frozenset[tuple[int | None, int, int]]:
        """Days that trusted text names."""
        return frozenset(days(self.said, self.today))

    def vouches(self, kind: Kind, value: Any) -> bool:
        """Whether a value of this kind is one that somebody trusted has said."""
        text = normal(value if isinstance(value, str) else json.dumps(value))
        if text in self.endorsed.get(kind, ()):
            return True
        if kind is Kind.AMOUNT:
            return self._vouches_amount(text)
        if kind is Kind.TIME and self._vouches_day(text):
            return True
        forms = url_forms(text) if kind is Kind.URL else (text,)
        if any(occurs(form, self.said) or form in self.endorsed.get(kind, ()) for form in forms):
            return True
        return kind in NAMED_SOURCE_ENDORSES and any(occurs(text, source) for source in self.named)

    def _vouches_amount(self, text: str) -> bool:
        try:
            amount = Decimal(text).normalize()
        except InvalidOperation:
            return False
        if not amount.is_finite():
            return False
        if amount in self.numbers or any(amount in numbers(source) for source in self.named):
            return True
        return self.is_bounded and 0 <= amount <= max(self.numbers, default=Decimal(-1))

    def _vouches_day(self, text: str) -> bool:
        day = day_of(text)
        if day is None:
            return False
        return (day.year, day.month, day.day) in self.days or (None, day.month, day.day) in self.days


def evidence_of(
    messages: Sequence[Message],
    labels: Sequence[Label],
    rule_of: RuleOf,
    *,
    is_bounded: bool = False,
    explicit: Iterable[tuple[Kind, str]] = (),
) -> Evidence:
    """What a conversation so far vouches for. `explicit` are endorsements from beside it."""
    # A user's turn with a document in it is less than the user's as a whole, and its other parts vouch all the same.
    said = normal(
        "\n\x1f\n".join(
            _own_words(message)
            for message, label in zip(messages, labels, strict=True)
            if message.role is Role.USER
            or (message.role in (Role.SYSTEM, Role.DEVELOPER) and label.integrity >= Integrity.USER)
        )
    )
    endorsed: dict[Kind, set[str]] = {}
    for kind, value in explicit:
        endorsed.setdefault(kind, set()).add(normal(value))
    named: list[str] = []
    calls = {call.id: call.arguments for message in messages for call in message.tool_calls}
    today = None
    for message, caller in zip(messages, callers(messages), strict=True):
        if caller is None:
            continue
        rule = rule_of(caller)
        if rule.endorses and len(message.text) <= MAX_RESULT:
            for kind, value in _endorsed(message.text, rule, said, today):
                endorsed.setdefault(kind, set()).add(value)
        if rule.source and _is_named(calls.get(message.tool_call_id or "", ""), rule, said):
            named.append(normal(message.text))
    frozen = {kind: frozenset(values) for kind, values in endorsed.items()}
    return Evidence(said, frozen, tuple(named), is_bounded)


def _own_words(message: Message) -> str:
    if not any(part.is_quoted for part in message.parts):
        return message.text
    return "\n\x1f\n".join(part.text for part in message.parts if not part.is_quoted)


def untrusted_arguments(
    facts: ToolFacts, arguments: str, evidence: Evidence, vouch: Vouch | None = None
) -> tuple[str, ...]:
    """The names of those arguments of a call that decide about something and that nobody trusted has said.

    `NOTHING` alone where a call that changes or sends something has no such argument at all, and the whole text where
    it cannot be read: what is not known is not trusted. `vouch` is asked last, about what nothing else vouches for.
    """
    return tuple(dict.fromkeys(path for path, _ in untrusted_values(facts, arguments, evidence, vouch)))


def untrusted_values(
    facts: ToolFacts, arguments: str, evidence: Evidence, vouch: Vouch | None = None
) -> tuple[tuple[str, Any], ...]:
    """The same with the values that they have; `NOTHING` has none."""
    given = read_arguments(arguments)
    if given is None:
        return ((NOTHING, None),)
    bad: list[tuple[str, Any]] = []
    num_vouched = 0
    for count, (path, value) in enumerate(_leaves(given, facts.arguments)):
        if count >= MAX_LEAVES:
            return ((NOTHING, None),)
        kind = _kind_at(path, facts)
        if value is None or value == "" or isinstance(value, bool):
            continue
        if kind is Kind.CONTENT:
            leaves = facts.effect is Effect.EGRESS and isinstance(value, str)
            if leaves and not _links_are_vouched(value, evidence) and not (vouch is not None and vouch(path, value)):
                bad.append((path, value))
        elif evidence.vouches(kind, value) or (vouch is not None and vouch(path, value)):
            num_vouched += 1
        else:
            bad.append((path, value))
    if not bad and num_vouched == 0 and facts.effect is not Effect.READ:
        return ((NOTHING, None),)
    return tuple(bad)


def read_arguments(text: str) -> dict[str, Any] | None:
    """A call's arguments; none at all are an empty object. None for those that do not mean one thing to everybody."""
    return _read(text) if text.strip() else {}


def _read(arguments: str) -> dict[str, Any] | None:
    """Arguments that mean one thing to everybody: an object without a key twice, and no number that is none."""
    try:
        return read_json_object(arguments.encode())
    except ValueError:  # also half of a surrogate pair
        return None


def destinations(facts: ToolFacts, arguments: str) -> tuple[str, ...]:
    """Whom or what a call goes to, in normal form."""
    kinds = facts.arguments
    return tuple(
        normal(value)
        for path, value in _leaves(_read(arguments) or {}, kinds)
        if isinstance(value, str) and kinds.get(path) in (Kind.RECIPIENT, Kind.CONTACT, Kind.URL)
    )


def _links_are_vouched(text: str, evidence: Evidence) -> bool:
    return all(evidence.vouches(Kind.URL, url) for url in urls(normal(text)))


def _kind_at(path: str, facts: ToolFacts) -> Kind:
    """What stands at a path: what is said of it, or of the nearest that it is a part of. Where nobody has said which
    arguments decide, one that was not declared is guessed by its name: a tool may take more than it tells."""
    at = path
    while at:
        if (kind := facts.arguments.get(at)) is not None:
            return kind
        at = at.rpartition(".")[0]
    is_told = facts.rule.arguments is not None or not facts.is_declared
    return Kind.CONTENT if is_told else kind_of(path.split(".", 1)[0], None)


def _leaves(value: Any, known: Mapping[str, Kind], path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every value in JSON with its path; lists are gone through. Inside of an argument a name that nobody has said
    anything of is a value too: whoever writes the object chooses it."""
    if depth > 32:
        yield path, UNREAD
    elif isinstance(value, dict):
        for name, inner in value.items():
            at = f"{path}.{name}" if path else str(name)
            if path and at not in known:
                yield path, str(name)
            yield from _leaves(inner, known, at, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, known, path, depth + 1)
    else:
        yield path, value


def _endorsed(text: str, rule: ToolRule, said: str, today: date | None) -> Iterator[tuple[Kind, str]]:
    """Values of a result that its service vouches for."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text  # a result that is no JSON is one value
    said_words, said_days = words(said), frozenset(days(said, today))

    def is_named(record: Any) -> bool:
        if not rule.names:
            return True
        if not isinstance(record, dict):
            return False
        return any(_names(record.get(name), said, said_words, said_days) for name in rule.names)

    for path, kind in rule.endorses.items():
        for record, leaf in _at(value, path.split(".") if path != "*" else [], None):
            if isinstance(leaf, str | int | float) and not isinstance(leaf, bool) and is_named(record):
                yield kind, normal(leaf if isinstance(leaf, str) else json.dumps(leaf))


def _at(value: Any, steps: list[str], record: Any) -> Iterator[tuple[Any, Any]]:
    """What stands at a path, with the record that it is of; lists are gone through."""
    if isinstance(value, list):
        for inner in value:
            yield from _at(inner, steps, record)
    elif not steps:
        yield record, value
    elif isinstance(value, dict):
        if steps[0] == "*":
            for inner in value.values():
                yield from _at(inner, steps[1:], value)
        elif steps[0] in value:
            yield from _at(value[steps[0]], steps[1:], value)


def _names(value: Any, said: str, said_words: frozenset[str], said_days: frozenset[Any]) -> bool:
    """Whether the user has named what has this value: all of it, half of its words, or its day."""
    if not isinstance(value, str) or not value:
        return False
    if (day := day_of(value)) is not None:
        return (day.year, day.month, day.day) in said_days or (None, day.month, day.day) in said_days
    text = normal(value)
    if occurs(text, said):
        return True
    of_it = words(text)
    return bool(of_it) and 2 * len(of_it & said_words) >= len(of_it)


def _is_named(arguments: str, rule: ToolRule, said: str) -> bool:
    """Whether what a call has read was named by the user."""
    given = _read(arguments) or {}
    return any(
        isinstance(value := given.get(name), str) and any(occurs(form, said) for form in url_forms(normal(value)))
        for name in rule.source
    )
