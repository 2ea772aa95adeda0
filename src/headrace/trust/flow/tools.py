"""Tools by what calling them can do: what an operator says of them, and a guess to the higher effect where nobody does.

A declaration comes from whoever runs the tool, so nothing in it lowers anything: annotations such as `readOnlyHint` are
not looked at, and words can only raise. A pinned manifest that has changed is another tool. Knows no requests.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final

from headrace.core.request import Tool
from headrace.core.trust import Effect
from headrace.trust.flow.settings import Kind, ToolRule

MAX_READ: Final = 4096
"""Characters of a description that a guess looks at. A digest covers all of it."""
_PARTS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_READS: Final = _words(
    "get list read search find lookup look query show view check describe count summarize summarise retrieve load scan"
    " inspect status info calculate compute convert translate compare validate verify explain"
)
_WRITES: Final = _words(
    "create update delete remove add set write append edit modify change cancel move rename reserve book schedule"
    " reschedule save store insert drop clear reset enable disable start stop restart approve reject merge close"
    " archive mark assign install uninstall register buy purchase order put patch make"
)
_SENDS: Final = _words(
    "send publish upload forward reply invite pay transfer submit push notify tweet http https curl wget webhook browse"
    " visit fetch navigate open ping connect execute exec run eval shell sql deploy withdraw wire donate broadcast"
    " announce dispatch transmit"
)
_SENDS_FIRST: Final = _words("email mail message request call post share export download script")
"""Verbs at the beginning of a name; behind another word they are what is read or removed."""
_RAISES: Final = {
    **dict.fromkeys(
        _words("deletes delete removes remove overwrites creates updates modifies writes cancels"), Effect.WRITE
    ),
    **dict.fromkeys(
        _words("sends send posts post uploads upload transmits transmit emails pays transfers executes"), Effect.EGRESS
    ),
}
"""Words of a description that say more than the name did."""
_KINDS: Final[Sequence[tuple[Kind, frozenset[str]]]] = (
    (Kind.SECRET, _words("password passcode passphrase secret token credential credentials pin otp apikey")),
    (Kind.URL, _words("url urls uri link href endpoint webhook host hostname domain site website")),
    (
        Kind.RECIPIENT,
        _words(
            "recipient recipients to cc bcc receiver destination dest iban account payee email emails phone channel"
            " user users username participant participants attendee attendees invitee invitees member members assignee"
            " contact address server owner group"
        ),
    ),
    (Kind.PATH, _words("path paths file files filename filenames folder directory dir")),
    (Kind.AMOUNT, _words("amount sum price cost fee total quantity qty")),
    (Kind.TIME, _words("date time start end day when deadline until from")),
    (Kind.ID, _words("id ids uuid guid key ref reference")),
    (
        Kind.CONTENT,
        _words(
            "body text message content contents description subject title note notes comment summary reason query"
            " caption html markdown greeting"
        ),
    ),
)
"""What a parameter's name says; the first that has a word of it holds."""


@dataclass(frozen=True, slots=True)
class ToolFacts:
    """What holds for a tool of a request. `manifest` is the digest of its declaration; `is_pinned`: an operator has
    said which it must be; `is_changed`: it is another."""

    name: str
    effect: Effect
    arguments: Mapping[str, Kind]
    manifest: str
    is_pinned: bool
    is_changed: bool
    rule: ToolRule
    is_declared: bool = True


def manifest_digest(tool: Tool) -> str:
    """`sha256:` and the digest of a declaration's canonical JSON: name, description and parameters, keys sorted."""
    declared = {"name": tool.name, "description": tool.description, "parameters": _plain(tool.parameters)}
    text = json.dumps(declared, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


class ToolBook:
    """What an operator says of tools, by name: an exact name goes before patterns, longer before shorter."""

    def __init__(self, rules: Mapping[str, ToolRule]) -> None:
        self._exact = {name: rule for name, rule in rules.items() if "*" not in name}
        self._patterns = sorted(
            (rule for name, rule in rules.items() if "*" in name), key=lambda rule: (-len(rule.name), rule.name)
        )

    @property
    def honey(self) -> frozenset[str]:
        """Names of tools that nobody has reason to call."""
        return frozenset(name for name, rule in self._exact.items() if rule.is_honey)

    def rule(self, name: str) -> ToolRule:
        """What is said of a tool; an empty rule under its own name if nothing is."""
        if (rule := self._exact.get(name)) is not None:
            return rule
        for rule in self._patterns:
            if fnmatchcase(name, rule.name):
                return rule
        return ToolRule(name=name)

    def among(self, tools: Sequence[Tool]) -> Callable[[str], ToolRule]:
        """What is said of tools, as they are declared in one request: of one whose declaration is not the approved one
        holds nothing that makes it trusted."""
        changed = {
            tool.name
            for tool in tools
            if (pinned := self.rule(tool.name).manifest) is not None and pinned != manifest_digest(tool)
        }

        def rule(name: str) -> ToolRule:
            said = self.rule(name)
            return ToolRule(name=said.name, confidentiality=said.confidentiality) if name in changed else said

        return rule

    def facts(self, name: str, tools: Sequence[Tool]) -> ToolFacts:
        """What holds for a call of a name. A tool that the request did not declare is taken for one of EGRESS, and so
        is a trap, whatever is said of it."""
        rule = self.rule(name)
        if rule.is_honey:
            rule = replace(rule, effect=Effect.EGRESS)
        # A client that joins the tools of several servers may declare a name twice: nobody knows which one it calls.
        declared = [tool for tool in tools if tool.name == name]
        if not declared:
            effect = Effect.EGRESS if rule.effect is None else rule.effect
            return ToolFacts(name, effect, rule.arguments or {}, "", rule.manifest is not None, False, rule, False)
        digests = [manifest_digest(tool) for tool in declared]
        effect = max(map(guess_effect, declared)) if rule.effect is None else rule.effect
        arguments = rule.arguments
        if arguments is None:
            arguments = {path: kind for tool in declared for path, kind in guess_kinds(tool).items()}
        is_changed = any(digest != (rule.manifest or digests[0]) for digest in digests)
        return ToolFacts(name, effect, arguments, digests[0], rule.manifest is not None, is_changed, rule)


def guess_effect(tool: Tool) -> Effect:
    """The effect of a tool that nobody has said anything of: the highest that a word of its name or its parameters
    stands for. A name without a word that is known is EGRESS; words of the description can only raise."""
    parts = name_parts(tool.name)
    if not parts:
        return Effect.EGRESS
    found = [effect for part in parts if (effect := _effect_of(part)) is not None]
    if parts[0] in _SENDS_FIRST:
        found.append(Effect.EGRESS)
    effect = max(found, default=Effect.EGRESS)
    if effect is Effect.READ and Kind.URL in guess_kinds(tool).values():
        return Effect.EGRESS  # who may choose the address can send by it
    for word in re.findall(r"[a-z]+", tool.description[:MAX_READ].lower()):
        effect = max(effect, _RAISES.get(word, Effect.READ))
    return effect


def guess_kinds(tool: Tool) -> Mapping[str, Kind]:
    """A kind for each parameter of a tool that nobody has said anything of; VALUE where its name says nothing."""
    properties = tool.parameters.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    return {str(name): kind_of(str(name), schema) for name, schema in properties.items()}


@lru_cache(maxsize=4096)
def name_parts(name: str) -> tuple[str, ...]:
    """The words of a name, however they are joined."""
    return tuple(part.lower() for part in _PARTS.findall(name[:256]))


def kind_of(name: str, schema: Any) -> Kind:
    """A guess from a parameter's name and form."""
    declared = schema.get("type") if isinstance(schema, Mapping) else None
    if declared in ("boolean", "null"):
        return Kind.CONTENT
    if isinstance(schema, Mapping) and schema.get("format") in ("uri", "url", "iri"):
        return Kind.URL
    parts = name_parts(name)
    for kind, known in _KINDS:
        if not known.isdisjoint(parts):
            return kind
    return Kind.VALUE


def _effect_of(part: str) -> Effect | None:
    if part in _SENDS:
        return Effect.EGRESS
    if part in _WRITES:
        return Effect.WRITE
    return Effect.READ if part in _READS else None
