"""The settings that are one value each: their defaults, and how one is read from a file, a variable or a flag.

A parser takes what TOML or a shell gives and raises ValueError, whose text goes on from the value. Knows no files.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headrace.cli.kinds import SIZE, parse_bytes
from headrace.engine.config import KV_TYPES, SPECULATION
from headrace.models.catalog import DEFAULT_MODEL

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("auto", "json", "text")
NO_MODEL: Final = "none"
"""As `model`: no engine in this process."""


@dataclass(frozen=True, slots=True)
class Plain:
    """How one setting is read, and how a JSON schema says it."""

    parse: Callable[[Any], Any]
    schema: Mapping[str, Any]

    def __call__(self, value: Any) -> Any:
        """The value. Raises ValueError."""
        return self.parse(value)


def _integer(low: int, high: int) -> Plain:
    def parse(value: Any) -> int:
        try:
            number = int(value) if not isinstance(value, float | bool) else None
        except (TypeError, ValueError):
            number = None
        if number is None or not low <= number <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return number

    return Plain(parse, {"type": "integer", "minimum": low, "maximum": high})


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


def _one_of(choices: Iterable[str]) -> Plain:
    names = tuple(choices)

    def parse(value: Any) -> str:
        if str(value).lower() not in names:
            raise ValueError(f"is not one of {', '.join(names)}")
        return str(value).lower()

    return Plain(parse, {"enum": list(names)})


def _truth(value: Any) -> bool:
    found = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
    text = str(value).lower()
    if text not in found:
        raise ValueError("is neither true nor false")
    return found[text]


def _networks(value: Any) -> tuple[str, ...]:
    names = _names(value)
    for name in names:
        try:
            ipaddress.ip_network(name)
        except ValueError as error:
            raise ValueError(f"has {name!r}, which is no network ({error}); write for example 10.0.0.0/8") from error
    return names


DEFAULTS: Final[dict[str, Any]] = {
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
    "log_format": "auto",
    "trusted_proxies": (),
    "allowed_hosts": (),
    "log_clients": False,
    "default_max_tokens": 4096,
    "usage_days": 90,
    "max_in_flight": 2048,
    "kept_requests": 1000,
    "slow_request": 10.0,
}

_STRING: Final = {"type": "string"}
_LISTED: Final = {"anyOf": [{"type": "array", "items": {"type": "string", "minLength": 1}}, _STRING]}

_TEXT: Final = Plain(_text, {"type": "string", "minLength": 1})
_ANY_TEXT: Final = Plain(_any_text, _STRING)
_PATH: Final = Plain(_path, {"type": "string", "minLength": 1})
_NAMES: Final = Plain(_names, _LISTED)
_NAMES_OF_NETWORKS: Final = Plain(_networks, _LISTED)
_CPUS: Final = Plain(_cpus, _STRING)
_SIZE: Final = Plain(parse_bytes, SIZE.schema)
_SECONDS: Final = Plain(_seconds, {"type": "number", "minimum": 0.001, "maximum": 86_400})
_SWITCH: Final = Plain(_switch_or_path, {"type": ["boolean", "string"]})
_TRUTH: Final = Plain(_truth, {"type": "boolean"})

PARSERS: Final[Mapping[str, Plain]] = {
    "model": _TEXT,
    "guests": _NAMES,
    "host": _TEXT,
    "port": _integer(0, 65_535),
    "threads": _integer(1, 1024),
    "pin_threads": _CPUS,
    "memory": _SIZE,
    "model_ttl": _SECONDS,
    "kv_memory": _SIZE,
    "kv_type": _one_of(KV_TYPES),
    "disk_cache": _SWITCH,
    "disk_cache_bytes": _SIZE,
    "disk_cache_days": _integer(1, 3650),
    "disk_cache_key": _PATH,
    "responses_days": _integer(1, 3650),
    "responses_bytes": _SIZE,
    "file_bytes": _SIZE,
    "file_quota": _SIZE,
    "batch_lines": _integer(1, 1024),
    "max_batch_tokens": _integer(2, 65_536),
    "max_sequences": _integer(1, 4096),
    "context": _integer(1, 2**24),
    "adapters": _PATH,
    "adapter_memory": _SIZE,
    "queue": _integer(0, 1_000_000),
    "max_gap": _SECONDS,
    "aging": _SECONDS,
    "cache_min_tokens": _integer(0, 2**31 - 1),
    "speculation": _one_of(SPECULATION),
    "request_timeout": _SECONDS,
    "system": _ANY_TEXT,
    "keys": _PATH,
    "home": _PATH,
    "log_level": _one_of(LOG_LEVELS),
    "log_format": _one_of(LOG_FORMATS),
    "trusted_proxies": _NAMES_OF_NETWORKS,
    "allowed_hosts": _NAMES,
    "log_clients": _TRUTH,
    "default_max_tokens": _integer(1, 2**31),
    "usage_days": _integer(1, 3650),
    "max_in_flight": _integer(1, 1_000_000),
    "kept_requests": _integer(0, 100_000),
    "slow_request": _SECONDS,
}
