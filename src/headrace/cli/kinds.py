"""Kinds of values in a settings file: how one is read, and how a JSON schema says it. A table of values is one, too.

A kind reads a value at a `Spot`, which takes what is wrong with it, so that one reading finds all mistakes of a file;
what could not be read is `WRONG`. Sentences begin with the value and end with the remedy. Knows no settings.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from headrace.cli.toml_lines import Lines, Path
from headrace.core.errors import InvalidRequest


class _Wrong:
    def __repr__(self) -> str:
        return "WRONG"


WRONG: Final = _Wrong()
"""Stands for a value that could not be read; why was said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake: where (`line` None: not in the file's text) and a sentence with value and remedy."""

    file: str
    line: int | None
    key: str
    sentence: str
    is_warning: bool = False

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.sentence}" if self.key else f"{place}: {self.sentence}"


class WrongSettings(InvalidRequest):
    """Everything that is wrong with a file. The message is one sentence, or a list of them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        shown = [str(problem) for problem in self.problems]
        if len(shown) > 1:
            shown = [f"{len(shown)} settings are wrong:", *(f"  {line}" for line in shown)]
        super().__init__("\n".join(shown))


@dataclass(slots=True)
class Report:
    """Takes what is wrong with one file."""

    file: str
    lines: Lines
    problems: list[Problem] = field(default_factory=list)

    def end(self) -> None:
        """Raise WrongSettings if anything was wrong."""
        wrong = [problem for problem in self.problems if not problem.is_warning]
        if wrong:
            raise WrongSettings(sorted(wrong, key=lambda problem: problem.line or 0))


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a file."""

    report: Report
    path: Path = ()

    def at(self, *names: str | int) -> "Spot":
        """A place below."""
        return Spot(self.report, (*self.path, *names))

    def say(self, sentence: str, *, is_warning: bool = False) -> _Wrong:
        """Something is wrong here."""
        line = self.report.lines.find(self.path)
        sentence = sentence if sentence.endswith((".", "?")) else f"{sentence}."
        problem = Problem(
            file=self.report.file, line=line, key=shown_path(self.path), sentence=sentence, is_warning=is_warning
        )
        if problem not in self.report.problems:  # rules are asked again when more is known
            self.report.problems.append(problem)
        return WRONG


class WrongKey(ValueError):
    """What a table's builder raises about one of its keys, named as its parameter."""

    def __init__(self, parameter: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = file_name(parameter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of value. `schema` is its JSON schema; `fields` are those of a table, by their names in the file."""

    read: Callable[[Any, Spot], Any]
    schema: Mapping[str, Any]
    fields: Mapping[str, "Kind"] = field(default_factory=dict)


def shown(value: Any) -> str:
    """A value for a sentence, short."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def outlined(value: Any) -> str:
    """A value of another shape than its place has: of one with others in it nothing is shown, they may be secrets."""
    return "the value" if isinstance(value, dict | list) else shown(value)


def hidden(_: Any) -> str:
    """Stands in a sentence for a value that may be a secret, in a place where none should be."""
    return "the value"


def leaf(parse: Callable[[Any], Any], schema: Mapping[str, Any], *, show: Callable[[Any], str] | None = shown) -> Kind:
    """A kind without others in it. `parse` raises ValueError, whose text goes on from the value as `show` has it; None:
    the text says all."""

    def read(value: Any, spot: Spot) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            return spot.say(str(error) if show is None else f"{show(value)} {error}")

    return Kind(read=read, schema=schema)


def table(
    build: Callable[..., Any],
    fields: Mapping[str, Kind],
    *,
    needs: Iterable[str] = (),
    tells: str = "",
    is_named: bool = False,
) -> Kind:
    """A table with known keys: `build` gets what was read, under the names of its parameters; see `file_name`. `build`
    raises ValueError for what does not go together, WrongKey if it is one key's fault. `needs` must be there;
    `is_named`: its own key is the parameter `name`."""
    by_name = {file_name(parameter): (parameter, kind) for parameter, kind in fields.items()}
    needed = [file_name(parameter) for parameter in needs]

    def read(value: Any, spot: Spot) -> Any:
        if not isinstance(value, dict):
            return spot.say(f"{outlined(value)} is not a table; its keys would be {', '.join(by_name)}.")
        given, is_wrong = {}, False
        for name, inner in value.items():
            if name not in by_name:
                is_wrong = True
                spot.at(name).say(unknown(name, by_name, also=OTHER_NAMES))
                continue
            parameter, kind = by_name[name]
            given[parameter] = kind.read(inner, spot.at(name))
        for name in needed:
            if name not in value:
                is_wrong = True
                spot.say(f"{name} is missing; give one.")
        if is_wrong or any(inner is WRONG for inner in given.values()):
            return WRONG
        if is_named:
            given["name"] = spot.path[-1]
        try:
            return build(**given)
        except WrongKey as error:
            return spot.at(error.key).say(str(error))
        except ValueError as error:
            return spot.say(str(error))

    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: kind.schema for name, (_, kind) in by_name.items()},
        "additionalProperties": False,
    }
    schema |= {"required": needed} if needed else {}
    schema |= {"description": tells} if tells else {}
    return Kind(read=read, schema=schema, fields={name: kind for name, (_, kind) in by_name.items()})


def named(kind: Kind) -> Kind:
    """A table whose keys are names that the operator gives."""

    def read(value: Any, spot: Spot) -> Any:
        if not isinstance(value, dict):
            return spot.say(f"{outlined(value)} is not a table of tables; write [{shown_path((*spot.path, 'NAME'))}].")
        found = {name: kind.read(inner, spot.at(name)) for name, inner in value.items()}
        return WRONG if any(inner is WRONG for inner in found.values()) else found

    return Kind(read=read, schema={"type": "object", "additionalProperties": kind.schema}, fields={"*": kind})


def several(kind: Kind, build: Callable[[Iterable[Any]], Any] = tuple, *, or_one: bool = False) -> Kind:
    """A list; `or_one`: one of them alone may stand for a list of it."""

    def read(value: Any, spot: Spot) -> Any:
        if or_one and not isinstance(value, list):
            value = [value]
        if not isinstance(value, list):
            is_table = bool(kind.fields) and isinstance(value, dict)
            remedy = f"write [[{shown_path(spot.path)}]]" if is_table else "write it in brackets"
            return spot.say(f"{outlined(value)} is not a list; {remedy}.")
        found = [kind.read(inner, spot.at(index)) for index, inner in enumerate(value)]
        return WRONG if any(inner is WRONG for inner in found) else build(found)

    schema: dict[str, Any] = {"type": "array", "items": kind.schema}
    return Kind(read=read, schema={"anyOf": [schema, kind.schema]} if or_one else schema, fields={"*": kind})


def file_name(parameter: str) -> str:
    """What a parameter is called in the file: without the unit and without `is_`, which the value itself tells."""
    return parameter.removeprefix("is_").removesuffix("_s")


OTHER_NAMES: Final = {
    "api_key": "secret",
    "api_base": "url",
    "base_url": "url",
    "provider": "kind",
    "type": "kind",
    "model": "models",
    "policy": "policies",
    "strategy": "policies",
    "fallback": "fallbacks",
    "targets": "candidates",
    "backends": "candidates",
    "models": "candidates",
    "timeout": "timeouts",
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "max_budget": "money",
    "period": "window",
    "cert": "certificate",
}
"""What other programs call a setting."""


def unknown(name: str, known: Iterable[str], what: str = "setting", also: Mapping[str, str] | None = None) -> str:
    """A sentence on a name that is not known. `also` are known names by others for them."""
    known = list(known)
    near = [other] if (other := (also or {}).get(name)) in known else None
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"is no {what}; " + (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")


def shown_path(path: Path) -> str:
    """A key as it could be written in the file: `backends.fast.models."gpt-4.1"`; places in lists count from 1."""
    text = ""
    for name in path:
        if isinstance(name, int):
            text += f"[{name + 1}]"
        else:
            text += ("." if text else "") + (name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else quoted(name))
    return text


def quoted(text: str) -> str:
    """A TOML text."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    escaped = "".join(one if one >= " " and one != "\x7f" else f"\\u{ord(one):04x}" for one in escaped)
    return f'"{escaped}"'


def integer(low: int, high: int = 2**53) -> Kind:
    """A whole number."""

    def parse(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return value

    return leaf(parse, {"type": "integer", "minimum": low, "maximum": high})


def number(low: float, high: float, *, is_low_in: bool = True) -> Kind:
    """A number; `is_low_in`: the low end is one of them."""

    def parse(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or (value == low and not is_low_in):
            raise ValueError(f"is not a number {'from' if is_low_in else 'above'} {low:g} to {high:g}")
        return float(value)

    return leaf(parse, {"type": "number", "minimum" if is_low_in else "exclusiveMinimum": low, "maximum": high})


_UNITS: Final = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12} | {
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def parse_bytes(value: Any) -> int:
    """A size: a number of bytes, or text such as 512MiB, 2g or 1.5GB."""
    if isinstance(value, int) and not isinstance(value, bool):
        number, unit = float(value), ""
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value).lower())
        if match is None or match[2] not in _UNITS:
            raise ValueError("is not a size; write for example 512MiB, 2GiB or a number of bytes")
        number, unit = float(match[1]), match[2]
    size = int(number * _UNITS[unit])
    if not 1 <= size <= 2**46:
        raise ValueError("is not between 1 byte and 64 TiB")
    return size


SIZE: Final = leaf(parse_bytes, {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]})

_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_TIMES: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(low: float = 0.001, high: float = 86_400.0) -> Kind:
    """A time: a number of seconds, or a text such as 100ms, 5s, 2m, 1h."""

    def parse(value: Any) -> float:
        found = _TIME.fullmatch(value) if isinstance(value, str) else None
        time_s = float(found[1]) * _TIMES[found[2]] if found else value
        if not isinstance(time_s, int | float) or isinstance(time_s, bool) or not low <= time_s <= high:
            raise ValueError(f"is not a time from {low:g} to {high:g} s; write seconds, or for example 100ms, 5s or 2m")
        return float(time_s)

    pattern = {"type": "string", "pattern": f"^{_TIME.pattern}$"}
    return leaf(parse, {"anyOf": [{"type": "number", "minimum": low, "maximum": high}, pattern]})


def _parse_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or any(one < " " for one in value):
        raise ValueError("is not one line of text with something in it")
    return value


def _parse_truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")  # noqa: TRY004 - settings errors are ValueErrors
    return value


TEXT: Final = leaf(_parse_text, {"type": "string", "minLength": 1})
TRUTH: Final = leaf(_parse_truth, {"type": "boolean"})


def one_of(choices: Iterable[str], build: Callable[[str], Any] = str, what: str = "") -> Kind:
    """One of some words; `what` they are, for the sentence."""
    names = [str(choice) for choice in choices]

    def parse(value: Any) -> Any:
        if isinstance(value, str) and value in names:
            return build(value)
        raise ValueError(unknown(str(value), names, what) if what else f"is not one of {', '.join(names)}")

    return leaf(parse, {"enum": names})


def word(pattern: str, build: Callable[[str], Any], remedy: str) -> Kind:
    """A text of a form; `remedy` goes on from the value."""

    def parse(value: Any) -> Any:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(remedy)
        return build(value)

    return leaf(parse, {"type": "string", "pattern": f"^(?:{pattern})$"})
