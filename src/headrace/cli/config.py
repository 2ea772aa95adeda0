"""What an operator can set: one table of settings, composed from a TOML file, the environment and flags, in that order.

An unknown key is an error that names the nearest known one; a bad value is an error that names the setting, the value,
where it came from and what is allowed. Values that are left to "auto" (None) are resolved by their owners, for example
`engine/config.py`.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from headrace.core.errors import InvalidRequest
from headrace.core.ledger import PriceList, Prices
from headrace.engine.config import KV_TYPES, SPECULATION
from headrace.models.catalog import DEFAULT_MODEL
from headrace.models.store import default_home

CONFIG_FILE = "headrace.toml"
PREFIX = "HEADRACE_"
# Variables of the same prefix that are read elsewhere and are no settings of the server.
OTHER_VARIABLES = {"HEADRACE_CONFIG", "HEADRACE_KERNELS", "HEADRACE_TEST_MODEL", "HEADRACE_SANITIZE"}
OTHER_VARIABLES |= {"HEADRACE_API_KEY"}
LOG_LEVELS = ("debug", "info", "warning", "error")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything `headrace serve` needs to know. None stands for "auto"."""

    model: str
    guests: tuple[str, ...]
    host: str
    port: int
    threads: int | None
    pin_threads: str
    memory: int | None
    model_ttl: float
    kv_memory: int | None
    kv_type: str
    disk_cache: str
    disk_cache_bytes: int
    disk_cache_days: int
    disk_cache_key: Path | None
    responses_days: int
    responses_bytes: int
    file_bytes: int
    file_quota: int
    batch_lines: int
    max_batch_tokens: int
    max_sequences: int
    context: int | None
    adapters: Path | None
    adapter_memory: int
    queue: int
    max_gap: float
    aging: float
    cache_min_tokens: int
    speculation: str
    request_timeout: float
    system: str | None
    keys: Path | None
    home: Path
    log_level: str
    prices: PriceList


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings with the place each value came from: default, a file, a variable or a flag."""

    settings: Settings
    origins: Mapping[str, str]

    def toml(self) -> str:
        """The settings as a TOML document that could be used as a configuration file; what is not set is a comment."""
        lines: list[str] = []
        for field in fields(Settings):
            value = getattr(self.settings, field.name)
            if isinstance(value, PriceList):  # tables, and so the last of the settings
                lines.extend(_price_tables(value))
                continue
            if value is None:
                lines.append(f"# {field.name} is not set")
                continue
            if isinstance(value, tuple):
                shown: Any = "[" + ", ".join(map(_toml_string, value)) + "]"
            else:
                shown = value if isinstance(value, int | float) else _toml_string(str(value))
            lines.append(f"{field.name} = {shown}  # {self.origins[field.name]}")
        return "\n".join(lines) + "\n"


def compose(flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None = None) -> Resolved:
    """Settings from defaults, then the TOML file, then `environ`, then those `flags` that are not None.

    `config` names the file; else $HEADRACE_CONFIG does; else ./headrace.toml is read if it is there.
    Raises InvalidRequest.
    """
    named = config or (Path(environ["HEADRACE_CONFIG"]) if environ.get("HEADRACE_CONFIG") else None)
    layers = [
        (f"from {named or CONFIG_FILE}", _from_file(named)),
        ("from the environment", _from_environ(environ)),
        ("from the command line", {name: value for name, value in flags.items() if value is not None}),
    ]
    values: dict[str, Any] = {**_DEFAULTS, "home": default_home(environ)}
    origins = dict.fromkeys(values, "default")
    for origin, layer in layers:
        for name, value in layer.items():
            try:
                values[name] = PARSERS[name](value)
            except ValueError as error:
                raise InvalidRequest(f"{name}: {value!r} ({origin}) {error}.", param=name) from error
            origins[name] = origin
    return Resolved(Settings(**values), origins)


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


def _from_file(named: Path | None) -> dict[str, Any]:
    path = named or Path(CONFIG_FILE)
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        if named is None:
            return {}
        raise InvalidRequest(f"config: there is no file {path}; correct --config or HEADRACE_CONFIG.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"config: {path} cannot be read ({error}).") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"config: {path} is not valid TOML: {error}.") from error
    for name in document:
        if name not in PARSERS:
            raise InvalidRequest(_unknown(name, str(path), sorted(PARSERS)))
    return document


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES or value == "":
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in PARSERS or variable != PREFIX + name.upper():
            known = sorted(OTHER_VARIABLES | {PREFIX + name.upper() for name in PARSERS})
            raise InvalidRequest(_unknown(variable, "the environment", known))
        found[name] = value
    return found


def _unknown(name: str, where: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
    return f"{name} ({where}) is no setting; {hint}"


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        try:
            number = int(value) if not isinstance(value, float | bool) else None
        except (TypeError, ValueError):
            number = None
        if number is None or not low <= number <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return number

    return parse


def _seconds(value: Any) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else 0.0
    except (TypeError, ValueError):
        number = 0.0
    if not 0.001 <= number <= 86_400:
        raise ValueError("is not a number of seconds from 0.001 to 86400")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("is not a text with something in it")
    return value


def _names(value: Any) -> tuple[str, ...]:
    """A list of texts, or one text with commas."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError("is not a list of names")
    return tuple(names)


def _any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not a text")  # noqa: TRY004 - settings errors are ValueErrors
    return value


def _path(value: Any) -> Path:
    return Path(_text(str(value) if isinstance(value, Path) else value)).expanduser()


def _switch_or_path(value: Any) -> str:
    """on, off, or a path as text; TOML's true and false are on and off."""
    if isinstance(value, bool):
        return "on" if value else "off"
    text = _text(str(value) if isinstance(value, Path) else value)
    return text.lower() if text.lower() in {"on", "off"} else str(Path(text).expanduser())


def _cpus(value: Any) -> str:
    text = str(value).lower().replace(" ", "")
    if isinstance(value, bool) or not re.fullmatch(r"none|cores|\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise ValueError("is neither none nor cores nor a list of CPUs such as 0,2-5")
    return text


def _one_of(choices: Iterable[str]) -> Callable[[Any], str]:
    names = tuple(choices)

    def parse(value: Any) -> str:
        if str(value).lower() not in names:
            raise ValueError(f"is not one of {', '.join(names)}")
        return str(value).lower()

    return parse


def _prices(value: Any) -> PriceList:
    """A table for each model; its keys are the fields of `Prices`."""
    if isinstance(value, PriceList):
        return value
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise ValueError("is not a table of prices; write [prices.MODEL] with input and output in the settings file")
    return PriceList({model: _model_prices(model, table) for model, table in value.items()})


def _model_prices(model: str, table: dict[str, Any]) -> Prices:
    known = [field.name for field in fields(Prices)]
    for name, price in table.items():
        if name not in known:
            raise ValueError(f"has {name} for {model}, which is no price; known are {', '.join(known)}")
        if isinstance(price, bool) or not isinstance(price, int | float):
            raise ValueError(f"has {price!r} as {name} of {model}, no number")  # noqa: TRY004 - as `_any_text`
    missing = [name for name in ("input", "output") if name not in table]
    if missing:
        raise ValueError(f"lacks {' and '.join(missing)} for {model}")
    try:
        return Prices(**table)
    except ValueError as error:
        raise ValueError(f"is wrong for {model}: {error}") from error


def _price_tables(prices: PriceList) -> Iterable[str]:
    for model, given in prices.models.items():
        yield f"[prices.{_toml_string(model)}]"
        for field in fields(Prices):
            if (price := getattr(given, field.name)) is not None:
                yield f"{field.name} = {price!r}"


def _toml_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


_DEFAULTS: dict[str, Any] = {
    "model": DEFAULT_MODEL,
    "guests": (),
    "host": "127.0.0.1",
    "port": 8000,
    "threads": None,
    "pin_threads": "none",
    "memory": None,
    "model_ttl": 600.0,
    "kv_memory": None,
    "kv_type": "auto",
    # Prompts in effect: who serves decides whether they are written down.
    "disk_cache": "off",
    "disk_cache_bytes": 4 * 2**30,
    "disk_cache_days": 7,
    "disk_cache_key": None,
    "responses_days": 30,
    "responses_bytes": 4 * 2**30,
    "file_bytes": 512 * 10**6,
    "file_quota": 10 * 10**9,
    "batch_lines": 8,
    "max_batch_tokens": 512,
    "max_sequences": 64,
    "context": None,
    "adapters": None,
    "adapter_memory": 2**29,
    "queue": 1024,
    "max_gap": 0.1,
    "aging": 30.0,
    "cache_min_tokens": 0,
    "speculation": "auto",
    "request_timeout": 600.0,
    "system": None,
    "keys": None,
    "log_level": "info",
    "prices": PriceList(),
}

PARSERS: dict[str, Callable[[Any], Any]] = {
    "model": _text,
    "guests": _names,
    "host": _text,
    "port": _integer(0, 65_535),
    "threads": _integer(1, 1024),
    "pin_threads": _cpus,
    "memory": parse_bytes,
    "model_ttl": _seconds,
    "kv_memory": parse_bytes,
    "kv_type": _one_of(KV_TYPES),
    "disk_cache": _switch_or_path,
    "disk_cache_bytes": parse_bytes,
    "disk_cache_days": _integer(1, 3650),
    "disk_cache_key": _path,
    "responses_days": _integer(1, 3650),
    "responses_bytes": parse_bytes,
    "file_bytes": parse_bytes,
    "file_quota": parse_bytes,
    "batch_lines": _integer(1, 1024),
    "max_batch_tokens": _integer(2, 65_536),
    "max_sequences": _integer(1, 4096),
    "context": _integer(1, 2**24),
    "adapters": _path,
    "adapter_memory": parse_bytes,
    "queue": _integer(0, 1_000_000),
    "max_gap": _seconds,
    "aging": _seconds,
    "cache_min_tokens": _integer(0, 2**31 - 1),
    "speculation": _one_of(SPECULATION),
    "request_timeout": _seconds,
    "system": _any_text,
    "keys": _path,
    "home": _path,
    "log_level": _one_of(LOG_LEVELS),
    "prices": _prices,
}
