"""Explicit caches: content that many requests begin with, named once and kept for a stated time. Values and a protocol.

How one looks on the wire is `api/caches.py`'s, where it is kept `memory/caches.py`'s, what it does to a request
`gateway/caches.py`'s knowledge.
"""

from dataclasses import dataclass
from typing import Protocol

from headrace.core.file import ListQuery, Page
from headrace.core.request import Message, Principal, Request, Tool, ToolChoice

NO_CHOICE = ToolChoice()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheContent:
    """What a request begins with: a model's tools, and the first messages."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = NO_CHOICE


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """How long: for `ttl_s` seconds from now, or until `expires_s`, in Unix seconds. One of them is given."""

    ttl_s: float | None = None
    expires_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOrder:
    """What a caller asks for."""

    model: str
    content: CacheContent
    lifetime: Lifetime
    display_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Content that is kept. Times are Unix seconds; `num_tokens` is what it counts in its model's tokens; whoever uses
    it is under its `labels`, too."""

    id: str
    tenant: str
    model: str
    display_name: str
    created_s: float
    updated_s: float
    expires_s: float
    num_tokens: int
    content: CacheContent
    labels: frozenset[str] = frozenset()


class Caches(Protocol):
    """Caches of tenants. Whoever names another tenant's, or one that has expired, is told that there is none."""

    async def create(self, principal: Principal, order: CacheOrder) -> Cache:
        """Read the content, so that its keys and values are there, and keep it. Raises what its backend raises,
        InvalidRequest for times, RateLimited if the tenant keeps too much."""
        ...

    async def get(self, tenant: str, cache_id: str) -> Cache:
        """A cache. Raises NotFound."""
        ...

    async def list(self, tenant: str, query: ListQuery) -> Page[Cache]:
        """A page of the tenant's caches. Raises NotFound if `query.after` is none of them."""
        ...

    async def update(self, principal: Principal, cache_id: str, lifetime: Lifetime) -> Cache:
        """Keep it longer, for which what is lost of the content is read again, or less long. Raises NotFound."""
        ...

    async def delete(self, tenant: str, cache_id: str) -> None:
        """Forget it. Raises NotFound."""
        ...

    async def begin(self, request: Request, cache_id: str) -> Request:
        """The request with the content before its own messages. Raises NotFound, and InvalidRequest for another
        model."""
        ...
