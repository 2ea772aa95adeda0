"""The tables of a settings file that describe the server itself: keys, TLS, and pages of other sites that may call it.

Reads values and refuses what is wrong by itself; opens nothing. Knows no environment and no secrets.
"""

import re
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from headrace.cli.gateway_tables import LABEL, LABELS, NAMES, PATH, SECRET, SUBJECT_NAME
from headrace.cli.key_table import KeyTable
from headrace.cli.keys import MAX_PRIORITY, MAX_SHARE
from headrace.cli.kinds import TRUTH, Kind, WrongKey, integer, leaf, number, one_of, seconds, several, table, word
from headrace.core.request import SCOPES
from headrace.server.config import ConsoleSettings, Cors, Tls

__all__ = ["CONSOLE", "CORS", "KEY", "PATH", "TLS"]


def _time(value: Any) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("is no time with its zone; write 2027-01-31T00:00:00Z, without quotes")
    return value


def _origin(value: Any) -> str:
    """RFC 6454: scheme, host and port, as a browser says it."""
    remedy = 'is no origin; write "https://app.example.com", with a port if it is not the usual one and without a path'
    if value == "*":
        raise ValueError("would let every site call with its visitors' keys; name the sites one by one")
    if not isinstance(value, str):
        raise ValueError(remedy)  # noqa: TRY004 - settings errors are ValueErrors
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(remedy) from error
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    said = f"{parts.scheme}://{shown}" + ("" if port in (None, usual) else f":{port}")
    if usual is None or not host or value.lower() != said or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(remedy)
    return said


KEY: Final = table(
    KeyTable,
    {
        "name": SUBJECT_NAME,
        "tenant": SUBJECT_NAME,
        "scopes": several(one_of(SCOPES, str, "scope"), frozenset),
        "sha256": word("[0-9a-f]{64}", str, "is no SHA-256; it has 64 lower-case hexadecimal digits"),
        "secret": SECRET,
        "priority": integer(-MAX_PRIORITY, MAX_PRIORITY),
        "share": number(0, MAX_SHARE, is_low_in=False),
        "user": SUBJECT_NAME,
        "tags": several(LABEL),
        "labels": LABELS,
        "routes": NAMES,
        "expires": leaf(_time, {}),
        "is_disabled": TRUTH,
    },
    needs=("name",),
)
TLS: Final = table(
    Tls,
    {
        "certificate": PATH,
        "key": PATH,
        "minimum_version": one_of(("1.2", "1.3")),
        "client_ca": PATH,
        "identity": one_of(("spiffe",)),
        "clients": one_of(("wanted", "required")),
    },
)


def _cors(**given: Any) -> Cors:
    if not given["origins"]:
        raise WrongKey("origins", 'is empty; name sites: origins = ["https://app.example.com"]')
    return Cors(**given)


CORS: Final[Kind] = table(
    _cors,
    {"origins": several(leaf(_origin, {"type": "string", "pattern": "^https?://[^/]+$"})), "max_age_s": seconds(0)},
    needs=("origins",),
)
CONSOLE: Final = table(ConsoleSettings, {"is_on": TRUTH, "session_hours": number(0, 720, is_low_in=False)})
