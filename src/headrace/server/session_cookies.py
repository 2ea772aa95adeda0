"""How the text of a session lies in a browser's cookies: in one, or cut over several, since browsers keep none of more
than 4,096 bytes (RFC 6265bis, section 5.6).

    headrace-session-8000   = 3.AAAA...     how many there are, and the first piece
    headrace-session-8000.1 = BBBB...
    headrace-session-8000.2 = CCCC...

The text is sealed as a whole, so that whatever is missing, changed, of another session or in another place is found
when it is opened; here is only told which pieces there have to be. Knows no seal, and nothing of what a session is.
"""

from collections.abc import Sequence
from typing import Final

from headrace.core.errors import Unauthenticated
from headrace.server.exchange import Exchange

NAME: Final = "headrace-session"
MAX_COOKIE_BYTES: Final = 4096
"""Of name, value and attributes together."""
# 16,384 characters, the longest token that any issuer may have given, take five. Browsers keep some 180 a host, and
# servers in front take headers of 16 KiB and more where they are told to.
MAX_PIECES: Final = 5
_ATTRIBUTE_BYTES: Final = 128

_Pairs = Sequence[tuple[str, str]]


def name_of(exchange: Exchange, scheme: str) -> str:
    """Of the first cookie. A browser keeps one jar for all ports of a host, so that two servers on one machine need two
    names. `__Host-`: set over TLS by this host for itself alone (RFC 6265bis, section 4.1.3.2)."""
    host = exchange.headers.get(b"host", b"").decode("latin-1")
    port = host.rpartition(":")[2]
    name = f"{NAME}-{port}" if port.isascii() and port.isdigit() else NAME
    return f"__Host-{name}" if scheme == "https" else name


def split(name: str, text: str) -> list[tuple[str, str]] | None:
    """The cookies that hold a text; None if MAX_PIECES do not."""
    names = _names(name)
    piece_len = MAX_COOKIE_BYTES - _ATTRIBUTE_BYTES - len(names[-1]) - len("=1.")
    pieces = [text[start : start + piece_len] for start in range(0, len(text), piece_len)] or [""]
    if len(pieces) > MAX_PIECES:
        return None
    return list(zip(names, [f"{len(pieces)}.{pieces[0]}", *pieces[1:]], strict=False))


def join(name: str, pairs: _Pairs) -> str | None:
    """The text that cookies of a session hold; None if one of its pieces is missing. More of them than it has, of a
    session before, say nothing. Raises Unauthenticated for a cookie that is there twice: a browser does not tell which
    of two this server set."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unauthenticated(
            f"cookie: {name!r} or a piece of it is there twice, one set for another path or by another host of the "
            "domain; delete this site's cookies in the browser and sign in again.",
            param="cookie",
        )
    told, _, first = found.get(name, "").partition(".")
    if told not in _NUMBERS:
        return None
    rest = [found.get(one) for one in _names(name)[1 : int(told)]]
    whole = [one for one in rest if one is not None]
    return first + "".join(whole) if len(whole) == len(rest) else None


def shown(exchange: Exchange, name: str) -> list[tuple[str, str]]:
    """The cookies of a session with which a request comes, whole or not."""
    given = exchange.headers.get(b"cookie")
    if given is None:
        return []
    wanted = _names(name)
    pairs = (pair.strip(" \t").partition("=") for pair in given.decode("latin-1").split(";"))
    return [(one, value) for one, _, value in pairs if value and one in wanted]


def put(exchange: Exchange, scheme: str, cookies: _Pairs, age_s: int) -> None:
    """Have the answer set these for `age_s` seconds, and delete what the request has of a session before."""
    for name, value in cookies:
        line = f"{name}={value}; Max-Age={age_s}; {_attributes(scheme)}"
        exchange.add_header(b"set-cookie", line.encode())
    taken = {name for name, _ in cookies}
    first = name_of(exchange, scheme)
    clear(exchange, scheme, {one for one, _ in shown(exchange, first)} - taken)


def clear(exchange: Exchange, scheme: str, names: set[str]) -> None:
    """Have the answer delete cookies."""
    for name in sorted(names):
        exchange.add_header(b"set-cookie", f"{name}=; Max-Age=0; {_attributes(scheme)}".encode())


def _names(name: str) -> tuple[str, ...]:
    return (name, *(f"{name}.{number}" for number in range(1, MAX_PIECES)))


def _attributes(scheme: str) -> str:
    return "Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if scheme == "https" else "")


_NUMBERS: Final = frozenset(str(number) for number in range(1, MAX_PIECES + 1))
