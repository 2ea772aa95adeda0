"""What an HTTP/1.1 request looks like that we send: its head, what headers may be in it, and which of others' travel.

Framing is ours alone: `host`, `content-length`, `accept-encoding` and credentials are written here and taken from
nobody, so that no caller can make one request look like two. Knows no sockets. RFC 9110 and 9112.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from headrace.core.errors import InvalidRequest
from headrace.core.gateway import Headers
from headrace.gateway.upstreams.address import Address, check_path

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BREAKS: Final = re.compile(rb"[\r\n\x00]")
_QUERY: Final = re.compile(r"[!$-;=?@-Z_a-z~%]*")

# RFC 9110, section 7.6.1, and what one side alone can say.
HOP_BY_HOP: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
OURS: Final = HOP_BY_HOP | frozenset(
    (
        *(b"host", b"content-length", b"content-encoding", b"content-type", b"accept", b"accept-encoding", b"expect"),
        *(b"authorization", b"proxy-authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"cookie"),
        *(b"x-real-ip", b"x-request-id", b"x-should-retry", b"x-client-request-id"),
    )
)
_UPWARD: Final = (b"openai-", b"anthropic-", b"x-")
# Not idempotency-key: at a provider all clients are one account, and one would get what another had asked for.
_UPWARD_NAMES: Final = frozenset((b"traceparent", b"tracestate", b"baggage", b"http-referer"))
# What stands before a client may say who he is; that is no provider's business.
_NOT_UPWARD: Final = (
    *(b"x-headrace-", b"x-forwarded-", b"x-stainless-", b"x-original-", b"x-remote-", b"x-client-ip", b"x-cluster-"),
    *(
        b"x-auth-",
        b"x-csrf",
        b"x-xsrf",
        b"x-envoy-",
        b"x-amzn-",
        b"x-azure-",
        b"x-ms-client-",
        b"x-goog-",
        b"x-vercel-",
    ),
)
_CREDENTIALS: Final = frozenset(b"key apikey token secret auth authorization password credential cookie".split())

_DOWNWARD: Final = (b"openai-", b"anthropic-", b"x-ratelimit-", b"ratelimit", b"x-groq-", b"x-litellm-", b"x-vllm-")
_DOWNWARD_NAMES: Final = frozenset((b"retry-after", b"retry-after-ms", b"x-should-retry", b"request-id"))
# Whose account the operator pays from.
_NOT_DOWNWARD: Final = frozenset((b"openai-organization", b"openai-project", b"anthropic-organization-id"))
_RENAMED: Final = {b"x-request-id": b"x-upstream-request-id"}


class Head:
    """What stands before every body that goes to one backend: written once per path, and not again per request."""

    __slots__ = ("_address", "_fixed", "_heads")

    def __init__(self, address: Address, fixed: Headers) -> None:
        """`fixed` go with every request, credentials among them. Raises ValueError for one that cannot be sent."""
        for name, value in fixed:
            if name in HOP_BY_HOP or name in {b"host", b"content-length", b"accept-encoding"}:
                raise ValueError(f"{name.decode('latin-1')}: is written by the gateway itself; take it out of headers")
            if not _TOKEN.fullmatch(name) or _BREAKS.search(value):
                raise ValueError(f"{name.decode('latin-1')!r}: the header has characters that would end it; mend it")
        self._address = address
        self._fixed = b"".join(b"%b: %b\r\n" % one for one in fixed)
        self._heads: dict[tuple[str, str], bytes] = {}

    def write(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]], num_body_bytes: int) -> bytes:
        """A whole head. Raises InvalidRequest, which names the path or header that may not stand there."""
        begun = self._heads.get((method, path)) or self._begin(method, path)
        parts = [begun]
        for name, value in headers:
            if not _TOKEN.fullmatch(name) or _BREAKS.search(value):
                raise InvalidRequest(f"header {name.decode('latin-1')!r}: has characters that would end it; mend it.")
            parts.append(b"%b: %b\r\n" % (name, value))
        parts.append(b"content-length: %d\r\n\r\n" % num_body_bytes)
        return b"".join(parts)

    def _begin(self, method: str, path: str) -> bytes:
        plain, mark, query = path.partition("?")
        try:
            check_path(plain)
        except ValueError as error:
            raise InvalidRequest(f"path {error}.") from None
        if not _QUERY.fullmatch(query):
            raise InvalidRequest(f"path {path!r}: the query has characters that must be escaped with %.")
        address = self._address
        begun = (
            f"{method} {address.path}{plain}{mark}{query} HTTP/1.1\r\nhost: {address.authority}\r\n"
            "user-agent: headrace\r\naccept-encoding: identity\r\n"
        ).encode("ascii") + self._fixed
        if len(self._heads) < 64:  # Names of models are in some paths, and callers choose them.
            self._heads[(method, path)] = begun
        return begun


def headers_up(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Those of a client's headers that go to a backend; names are in lower case."""
    return [one for one in headers if _goes_up(one[0])]


@lru_cache(maxsize=1024)  # the same few names come with every request
def _goes_up(name: bytes) -> bool:
    if not name.startswith(_UPWARD):
        return name in _UPWARD_NAMES
    return not name.startswith(_NOT_UPWARD) and name not in OURS and _CREDENTIALS.isdisjoint(name.split(b"-"))


def headers_down(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Those of a backend's headers that go to a client; names are in lower case. A backend's id of the request is told
    as `x-upstream-request-id`, because ours has its own. The type of the content is the protocol's, and not among
    them."""
    return [(told, value) for name, value in headers if (told := _name_down(name)) is not None]


@lru_cache(maxsize=1024)
def _name_down(name: bytes) -> bytes | None:
    if name in _NOT_DOWNWARD:
        return None
    return _RENAMED.get(name) or (name if name.startswith(_DOWNWARD) or name in _DOWNWARD_NAMES else None)
