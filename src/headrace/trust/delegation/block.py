"""How bounds are written as a block's Datalog, and read from it again.

    models, tools, effects, labels    reject if model($m), !{"a", "b"}.contains($m);
    expiry                            check if time($t), $t < 2027-01-01T00:00:00Z;
    counts, depth, whose it is        max_calls(10); max_cost_nanos(5000); max_depth(0); holder("spiffe://d/agent");

`reject if` and `check if` hold for whoever verifies the token with Biscuit alone; counts need somebody who counts.
Other checks may stand beside: they are run, and can only refuse. Statements that could be meant as a bound and are none
that is known make the token void, because ignoring them would widen it. Knows no signatures.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from headrace.core.trust import Effect
from headrace.trust.delegation.grant import Bounds

_SETS: Final[Mapping[str, tuple[str, str]]] = {
    "models": ("model", "m"),
    "tools": ("tool", "t"),
    "effects": ("effect", "e"),
    "labels": ("label", "l"),
}
_COUNTS: Final = ("max_calls", "max_cost_nanos", "max_depth")
# Only the first block says these: of whoever adds a block, nobody knows whose it is.
_OF_AUTHORITY: Final = ("tenant", "subject", "scope", "carry", "tag", "user", "priority")

_TEXT = r'"[^"\\]*"'
_SET = re.compile(rf"reject if (\w+)\(\$(\w+)\), !\{{((?:{_TEXT}(?:, {_TEXT})*)|,)\}}\.contains\(\$(\w+)\)")
_EXPIRY = re.compile(r"check if time\(\$t\), \$t < (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)")
_NUMBER = re.compile(r"(\w+)\((\d{1,19})\)")
_WORD = re.compile(rf"(\w+)\(({_TEXT})\)")
_CHECK = re.compile(r"(?:check if|check all|reject if) ")


@dataclass(frozen=True, slots=True)
class BlockText:
    """What a block says. `facts` are its facts of one text each; those of one name come in order. `has_checks`: it has
    others than those that its bounds stand for."""

    bounds: Bounds = field(default_factory=Bounds)
    holder: str | None = None
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_checks: bool = False


def write_block(bounds: Bounds, holder: str | None) -> str:
    """The Datalog of a block. Values were checked when they were made: none can end its own quotes."""
    lines = [] if holder is None else [f'holder("{holder}");']
    for name, (predicate, variable) in _SETS.items():
        if (names := getattr(bounds, name)) is not None:
            texts = ", ".join(f'"{one}"' for one in sorted(map(_word, names))) or ","
            lines.append(f"reject if {predicate}(${variable}), !{{{texts}}}.contains(${variable});")
    lines += [f"{name}({value});" for name in _COUNTS if (value := getattr(bounds, name)) is not None]
    if bounds.expires_s is not None:
        until = datetime.fromtimestamp(int(bounds.expires_s), UTC)
        lines.append(f"check if time($t), $t < {until:%Y-%m-%dT%H:%M:%SZ};")
    return "\n".join(lines)


def read_block(source: str, *, is_authority: bool) -> BlockText:
    """What a block's Datalog says, as Biscuit prints it. Its texts must be without quotes and line ends (`wire.py`
    tells), for Biscuit prints them as they are. Raises ValueError naming the statement that makes it void."""
    given: dict[str, Any] = {}
    facts: dict[str, list[str]] = {}
    has_checks = False
    for statement in filter(None, (line.strip() for line in source.split(";\n"))):
        for pattern, take in _STATEMENTS:
            if (found := pattern.fullmatch(statement)) is not None and take(found, given, facts):
                break
        else:
            if _CHECK.match(statement) is None:
                raise ValueError(f"a block says {statement[:100]!r}, which nobody here understands")
            has_checks = True
    holders = facts.pop("holder", [])
    if len(holders) > 1:
        raise ValueError("a block names two holders")
    if not is_authority and (misplaced := facts.keys() & set(_OF_AUTHORITY)):
        raise ValueError(f"only the first block says whose it is; a later one has {min(misplaced)}")
    told = {name: tuple(words) for name, words in facts.items()}
    return BlockText(Bounds(**given), holders[0] if holders else None, told, has_checks)


def _take_set(found: re.Match[str], given: dict[str, Any], _: dict[str, list[str]]) -> bool:
    predicate, variable, texts, other = found.groups()
    for name, (one, _variable) in _SETS.items():
        if one == predicate and variable == other:
            named = frozenset(text[1:-1] for text in re.findall(_TEXT, texts))
            read = frozenset(map(_effect, named)) if name == "effects" else named
            given[name] = given[name] & read if name in given else read
            return True
    return False


def _take_expiry(found: re.Match[str], given: dict[str, Any], _: dict[str, list[str]]) -> bool:
    until_s = datetime.strptime(found[1], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    given["expires_s"] = min(until_s, given.get("expires_s", until_s))
    return True


def _take_number(found: re.Match[str], given: dict[str, Any], _: dict[str, list[str]]) -> bool:
    name, value = found[1], int(found[2])
    if name not in _COUNTS:
        return False
    given[name] = min(value, given.get(name, value))
    return True


def _take_word(found: re.Match[str], _: dict[str, Any], facts: dict[str, list[str]]) -> bool:
    name = found[1]
    if name.startswith("max_") or name in _SETS:
        return False  # meant as a bound, and none
    facts.setdefault(name, []).append(found[2][1:-1])
    return True


_Take = Callable[[re.Match[str], dict[str, Any], dict[str, list[str]]], bool]
_STATEMENTS: Final[tuple[tuple[re.Pattern[str], _Take], ...]] = (
    (_SET, _take_set),
    (_EXPIRY, _take_expiry),
    (_NUMBER, _take_number),
    (_WORD, _take_word),
)


def _word(name: str | Effect) -> str:
    return name.name.lower() if isinstance(name, Effect) else name


def _effect(word: str) -> Effect:
    if word.upper() not in Effect.__members__ or word != word.lower():
        raise ValueError(f"a block bounds effects to {word[:40]!r}; there are read, write and egress")
    return Effect[word.upper()]
