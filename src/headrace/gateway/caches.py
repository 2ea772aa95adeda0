"""Explicit caches as a policy: content is read once, kept in rows and in the prefix cache, and put before requests.

What is kept for ever is nothing: a cache has an expiry, and the keys and values of its content a time to live that ends
with it and is renewed by every request that begins with it. If they were lost meanwhile, because memory was needed or
the server restarted, the next request computes them again: it is slower then, and its usage says so, but it is right.
"""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from headrace.core.backend import Backend
from headrace.core.cache import Cache, CacheContent, CacheOrder, Lifetime
from headrace.core.clock import Clock
from headrace.core.errors import EngineFault, InvalidRequest, NotFound
from headrace.core.events import Finished
from headrace.core.file import ListQuery, Page
from headrace.core.request import (
    MAX_BREAKPOINTS,
    MAX_TTL_S,
    Breakpoint,
    CacheHints,
    Limits,
    Principal,
    Request,
    Task,
)
from headrace.core.service import Tokens
from headrace.memory import caches as rows
from headrace.memory.store import Store

DEFAULT_TTL_S: Final = 3600.0
PREFIX: Final = "caches/"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """Bytes of content that a tenant's caches may hold together, and how long reading one may take."""

    max_tenant_bytes: int = 256 * 2**20
    read_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("max_tenant_bytes", "read_timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not above 0.")


def prefixed(request: Request, content: CacheContent, ttl_s: float) -> Request:
    """The request with the content before its own messages, the content kept for `ttl_s` after this use.

    Breakpoints move with the messages that they stand behind; if they are too many with the content's, the first of
    the request's own goes.
    """
    num_before = len(content.messages)
    moved = tuple(
        point if point.message is None or point.message < 0 else replace(point, message=point.message + num_before)
        for point in request.cache.breakpoints
    )
    kept = Breakpoint(num_before - 1, min(max(ttl_s, 1.0), MAX_TTL_S))
    joined = replace(
        request,
        messages=content.messages + (request.messages or ()),
        tools=content.tools,
        tool_choice=content.tool_choice,
        cache=replace(request.cache, breakpoints=(kept, *moved[1 - MAX_BREAKPOINTS :])),
    )
    joined.check()
    return joined


def expiry_s(lifetime: Lifetime, now_s: float) -> float:
    """When something expires. Raises InvalidRequest for the past, and for what lies too far ahead."""
    field = "ttl" if lifetime.expires_s is None else "expire_time"
    ttl_s = DEFAULT_TTL_S if lifetime.ttl_s is None else lifetime.ttl_s
    at_s = now_s + ttl_s if lifetime.expires_s is None else lifetime.expires_s
    if not now_s + 1 <= at_s <= now_s + MAX_TTL_S:
        raise InvalidRequest(f"{field}: lies {at_s - now_s:g} s ahead; 1 to {MAX_TTL_S:g} are possible.", param=field)
    return at_s


class CacheService:
    """The caches of all tenants; implements `core.cache.Caches`."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        tokens: Tokens,
        clock: Clock,
        new_id: Callable[[], str],
        limits: CacheLimits | None = None,
    ) -> None:
        self._limits = limits or CacheLimits()
        self._store = store
        self._backend = backend
        self._tokens = tokens
        self._clock = clock
        self._new_id = new_id

    async def create(self, principal: Principal, order: CacheOrder) -> Cache:
        """Read the content and keep it. Raises what the backend raises, InvalidRequest, RateLimited."""
        now_s = self._clock.unix_s()
        expires_s = expiry_s(order.lifetime, now_s)
        model = self._model(order.model)
        num_bytes = len(rows.encode_content(order.content))
        max_bytes = self._limits.max_tenant_bytes
        await self._store.call(rows.check_room, principal.tenant, num_bytes, max_bytes, now_s)
        # Counted first: of a name that is no model of the engine (a route, a backend's) nothing is read, and charged.
        num_tokens = await self._count(principal, model, order.content)
        await self._read(principal, model, order.content, expires_s - now_s)
        cache = Cache(
            id=self._new_id(),
            tenant=principal.tenant,
            model=model,
            display_name=order.display_name,
            created_s=now_s,
            updated_s=now_s,
            expires_s=expires_s,
            num_tokens=num_tokens,
            content=order.content,
            labels=principal.labels,
        )
        await self._store.call(rows.insert_cache, cache, max_bytes)
        return cache

    async def get(self, tenant: str, cache_id: str) -> Cache:
        """A cache. Raises NotFound."""
        return await self._store.call(rows.find_cache, tenant, _bare(cache_id), self._clock.unix_s())

    async def list(self, tenant: str, query: ListQuery) -> Page[Cache]:
        """A page of the tenant's caches, newest first. Raises NotFound if `query.after` is none of them."""
        return await self._store.call(rows.list_caches, tenant, query, self._clock.unix_s())

    async def update(self, principal: Principal, cache_id: str, lifetime: Lifetime) -> Cache:
        """Keep it longer or less long. Raises NotFound, InvalidRequest, and what the backend raises."""
        now_s = self._clock.unix_s()
        cache = await self.get(principal.tenant, cache_id)
        expires_s = expiry_s(lifetime, now_s)
        if expires_s > cache.expires_s:
            reader = replace(principal, labels=principal.labels | cache.labels)
            await self._read(reader, cache.model, cache.content, expires_s - now_s)
        return await self._store.call(rows.move_expiry, principal.tenant, cache.id, expires_s, now_s)

    async def delete(self, tenant: str, cache_id: str) -> None:
        """Forget it; its keys and values go when their time is over or their memory is needed. Raises NotFound."""
        await self._store.call(rows.delete_cache, tenant, _bare(cache_id), self._clock.unix_s())

    async def begin(self, request: Request, cache_id: str) -> Request:
        """The request with the content before its own messages. Raises NotFound, InvalidRequest."""
        cache = await self.get(request.principal.tenant, cache_id)
        if self._model(request.model) != cache.model:
            raise InvalidRequest(
                f"cached_content: was made for the model {cache.model}, and the request asks {request.model[:200]!r}; "
                "ask the same model.",
                param="cached_content",
            )
        joined = prefixed(request, cache.content, cache.expires_s - self._clock.unix_s())
        return replace(joined, labels=joined.labels | cache.labels) if cache.labels else joined

    def _model(self, name: str) -> str:
        """The name that a model goes by, whatever it is called. Raises NotFound."""
        cards = self._backend.models()
        for card in cards:
            if name == card.id or name in card.aliases:
                return card.id
        # An adapter that nobody has asked for yet is on no card; its model is.
        base, colon, adapter = name.rpartition(":")
        for card in cards:
            if base == card.id or base in card.aliases:
                return card.id + colon + adapter
        raise NotFound(f"model: {name[:200]!r} is not served here; GET /v1/models lists what is.", param="model")

    async def _read(self, principal: Principal, model: str, content: CacheContent, ttl_s: float) -> None:
        """Have the content's keys and values computed, if they are not there, and kept."""
        request = Request(
            id=f"cache-{self._new_id()}",
            model=model,
            messages=content.messages,
            tools=content.tools,
            tool_choice=content.tool_choice,
            limits=Limits(max_tokens=0, deadline_s=self._limits.read_timeout_s),
            cache=CacheHints(breakpoints=(Breakpoint(len(content.messages) - 1, ttl_s),)),
            principal=principal,
        )
        request.check()
        async with aclosing(self._backend.run(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return
        raise EngineFault("the backend ended without saying that it had read the content; try again.")

    async def _count(self, principal: Principal, model: str, content: CacheContent) -> int:
        request = Request(
            id=f"count-{self._new_id()}",
            model=model,
            task=Task.COUNT,
            messages=content.messages,
            tools=content.tools,
            tool_choice=content.tool_choice,
            principal=principal,
        )
        return len((await self._tokens.tokenize(request, adds_special=True, opens_answer=False)).tokens)


def _bare(name: str) -> str:
    """The id in a name such as `caches/abc`."""
    return name.removeprefix(PREFIX)
