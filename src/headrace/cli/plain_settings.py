"""The settings that are one value each: their defaults, and how one is read from a file, a variable or a flag.

A parser takes what TOML or a shell gives and raises ValueError, whose text goes on from the value. Knows no files.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from headrace.cli.kinds import parse_bytes
from headrace.engine.config import KV_TYPES, SPECULATION
from headrace.models.catalog import DEFAULT_MODEL

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
NO_MODEL: Final = "none"
"""As `model`: no engine in this process."""


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
    "trusted_proxies": (),
    "allowed_hosts": (),
    "log_clients": False,
    "default_max_tokens": 4096,
    "usage_days": 90,
    "max_in_flight": 2048,
}

PARSERS: Final[dict[str, Callable[[Any], Any]]] = {
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
    "trusted_proxies": _networks,
    "allowed_hosts": _names,
    "log_clients": _truth,
    "default_max_tokens": _integer(1, 2**31),
    "usage_days": _integer(1, 3650),
    "max_in_flight": _integer(1, 1_000_000),
}
