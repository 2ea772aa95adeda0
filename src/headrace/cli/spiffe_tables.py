"""The table of a settings file that says which workload gets which name, and what names may do. Opens nothing."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from headrace.cli.gateway_tables import LABEL, LABELS, NAME, NAMES, PATH, SUBJECT_NAME
from headrace.cli.keys import MAX_PRIORITY, MAX_SHARE
from headrace.cli.kinds import (
    TRUTH,
    WRONG,
    Kind,
    Spot,
    WrongKey,
    integer,
    leaf,
    named,
    number,
    one_of,
    seconds,
    several,
    table,
    word,
)
from headrace.core.request import SCOPES
from headrace.trust.spiffe.ids import parse_pattern, parse_trust_domain, parse_workload_id
from headrace.trust.spiffe.rhythm import Rhythm
from headrace.trust.spiffe.settings import (
    MAX_JWT_TTL_S,
    MAX_X509_TTL_S,
    EntrySettings,
    SpiffeSettings,
    WorkloadSettings,
)

_T = TypeVar("_T")
_MIN_TTL_S: Final = 10.0
_OF_AN_ISSUER: Final = ("serve", "entries", "federated", "rhythm", "x509_ttl_s", "jwt_ttl_s")


def _text(parse: Callable[[str], _T]) -> Callable[[Any], _T]:
    def read(value: Any) -> _T:
        if not isinstance(value, str):
            raise ValueError("the value is no text; write it in quotes")  # noqa: TRY004 - settings errors are ValueErrors
        return parse(value)

    return read


def _socket(value: str) -> str:
    """SPIFFE_Workload_Endpoint.md 4."""
    path = value.removeprefix("unix://")
    if path == value or not path.startswith("/") or "?" in path or "#" in path:
        raise ValueError(f'{value!r} is no address of a socket; write "unix:///run/spire/sockets/agent.sock"')
    return value


_ID: Final = leaf(_text(parse_workload_id), {"type": "string", "pattern": "^spiffe://[^/]+/.+$"}, show=None)
_TRUST_DOMAIN: Final = leaf(_text(parse_trust_domain), {"type": "string", "pattern": "^[a-z0-9._-]{1,255}$"}, show=None)
_SOCKET: Final = leaf(_text(_socket), {"type": "string", "pattern": "^unix:///.+$"}, show=None)
_X509_TTL: Final = seconds(_MIN_TTL_S, MAX_X509_TTL_S)
_JWT_TTL: Final = seconds(_MIN_TTL_S, MAX_JWT_TTL_S)


def _entry(**given: Any) -> EntrySettings:
    if not given.keys() & {"uid", "gid", "exe", "sha256"}:
        raise ValueError("says nothing of the process, so everybody would get the name; give uid, gid, exe or sha256")
    return EntrySettings(**given)


ENTRY: Final = table(
    _entry,
    {
        "id": _ID,
        "uid": integer(0, 2**32 - 2),
        "gid": integer(0, 2**32 - 2),
        "exe": word("/.+", str, "is no path of a program; it begins with a slash"),
        "sha256": word("[0-9a-f]{64}", str, "is no SHA-256; it has 64 lower-case hexadecimal digits"),
        "hint": word(".{1,1024}", str, "is no hint of 1 to 1024 characters"),
        "x509_ttl_s": _X509_TTL,
        "jwt_ttl_s": _JWT_TTL,
    },
    needs=("id",),
)


def _workload(*, name: str, **given: Any) -> WorkloadSettings:
    return WorkloadSettings(pattern=parse_pattern(name), **given)


WORKLOAD: Final = table(
    _workload,
    {
        "tenant": SUBJECT_NAME,
        "agent": word(r"\*|[A-Za-z0-9][A-Za-z0-9._@/-]{0,199}", str, "is neither a name nor *"),
        "scopes": several(one_of(SCOPES, str, "scope"), frozenset),
        "priority": integer(-MAX_PRIORITY, MAX_PRIORITY),
        "share": number(0, MAX_SHARE, is_low_in=False),
        "tags": several(LABEL),
        "labels": LABELS,
        "routes": NAMES,
    },
    is_named=True,
    needs=("tenant",),
)
_FEDERATED: Final = named(PATH)


def _read_federated(value: Any, spot: Spot) -> Any:
    found = _FEDERATED.read(value, spot)
    if found is WRONG:
        return WRONG
    for name in found:
        try:
            parse_trust_domain(name)
        except ValueError as error:
            return spot.at(name).say(str(error))
    return found


def _spiffe(**given: Any) -> SpiffeSettings:
    settings = SpiffeSettings(**given)
    if settings.socket is not None:
        if settings.trust_domain is not None:
            raise WrongKey("socket", "is there beside trust_domain: identities are issued here, or come from there")
        for only in (one for one in _OF_AN_ISSUER if one in given):
            raise WrongKey(only, "is for an issuer in this program, and identities come from socket; take it out")
    elif settings.trust_domain is None:
        raise ValueError("has neither trust_domain, to issue identities, nor socket, to be given them; name one")
    else:
        _check_issuer(settings, settings.trust_domain)
    return settings


def _check_issuer(settings: SpiffeSettings, trust_domain: str) -> None:
    if settings.id is not None and settings.id.trust_domain != trust_domain:
        raise WrongKey("id", f"{settings.id} is not of the trust domain {trust_domain}")
    for entry in settings.entries:
        if entry.id.trust_domain != trust_domain:
            raise WrongKey("entries", f"name {entry.id}, which is not of the trust domain {trust_domain}")
    if trust_domain in settings.federated:
        raise WrongKey("federated", f"has {trust_domain}, whose identities are issued here; take it out")
    own = [settings.x509_ttl_s, settings.jwt_ttl_s]
    longest_s = max(*own, *((one.x509_ttl_s or 0.0) for one in settings.entries), 0.0)
    if longest_s > settings.rhythm.max_document_s:
        raise WrongKey(
            "rhythm",
            f"leaves documents {settings.rhythm.max_document_s:g} s, and some are to be valid for {longest_s:g} s; "
            "give keys a longer life",
        )
    if settings.workloads and settings.id is None and not settings.audiences:
        raise WrongKey("id", f'is missing: tokens must say whom they are for; id = "spiffe://{trust_domain}/gateway"')


SPIFFE: Final[Kind] = table(
    _spiffe,
    {
        "trust_domain": _TRUST_DOMAIN,
        "socket": _SOCKET,
        "id": _ID,
        "serve": PATH,
        "audiences": several(NAME),
        "x509_ttl_s": _X509_TTL,
        "jwt_ttl_s": _JWT_TTL,
        "rhythm": table(Rhythm, {"life_s": seconds(60, 366 * 86_400.0), "settle_s": seconds(0, 30 * 86_400.0)}),
        "entries": several(ENTRY),
        "federated": Kind(read=_read_federated, schema=_FEDERATED.schema, fields=_FEDERATED.fields),
        "workloads": named(WORKLOAD),
        "is_required": TRUTH,
    },
)
