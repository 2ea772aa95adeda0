"""Explicit caches in the state database: functions over a connection, for `Store.call`.

Every row is a tenant's; one that has expired is not found, and the next write removes it. Knows no wire format and no
model.
"""

import sqlite3
from typing import Any, Final

import msgspec

from headrace.core.cache import Cache, CacheContent
from headrace.core.errors import NotFound, RateLimited
from headrace.core.file import ListQuery, Page

_COLUMNS: Final = "id, tenant, model, display_name, created_s, updated_s, expires_s, num_tokens, content, labels"

_decode_content = msgspec.json.Decoder(CacheContent).decode


def check_room(connection: sqlite3.Connection, tenant: str, num_bytes: int, max_bytes: int, now_s: float) -> None:
    """Raise RateLimited if a tenant could not keep so many bytes more."""
    connection.execute("DELETE FROM caches WHERE expires_s <= ?", (now_s,))
    used = connection.execute(
        "SELECT coalesce(sum(length(content)), 0) FROM caches WHERE tenant = ?", (tenant,)
    ).fetchone()[0]
    if used + num_bytes > max_bytes:
        raise RateLimited(
            f"your caches hold {used} bytes of content, {num_bytes} more would exceed {max_bytes}; delete some.",
            code="storage_quota_exceeded",
        )


def insert_cache(connection: sqlite3.Connection, cache: Cache, max_bytes: int) -> None:
    """Keep a new cache. Raises RateLimited as `check_room` does."""
    content = encode_content(cache.content)
    check_room(connection, cache.tenant, len(content), max_bytes, cache.created_s)
    connection.execute(
        f"INSERT INTO caches ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            cache.id,
            cache.tenant,
            cache.model,
            cache.display_name,
            cache.created_s,
            cache.updated_s,
            cache.expires_s,
            cache.num_tokens,
            content,
            " ".join(sorted(cache.labels)),
        ),
    )


def find_cache(connection: sqlite3.Connection, tenant: str, cache_id: str, now_s: float) -> Cache:
    """A tenant's cache that has not expired. Raises NotFound."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM caches WHERE id = ? AND tenant = ? AND expires_s > ?",  # noqa: S608
        (cache_id, tenant, now_s),
    ).fetchone()
    if row is None:
        raise _no_cache(cache_id)
    return _cache(row)


def list_caches(connection: sqlite3.Connection, tenant: str, query: ListQuery, now_s: float) -> Page[Cache]:
    """A page of a tenant's caches, newest first. Raises NotFound if `query.after` is none of them."""
    where, values = "tenant = ? AND expires_s > ?", [tenant, now_s]
    if query.after is not None:
        found = connection.execute("SELECT number FROM caches WHERE id = ? AND tenant = ?", (query.after, tenant))
        if (row := found.fetchone()) is None:
            raise _no_cache(query.after)
        where += " AND number < ?"
        values.append(row[0])
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM caches WHERE {where} ORDER BY number DESC LIMIT ?",  # noqa: S608
        (*values, query.limit + 1),
    ).fetchall()
    return Page(tuple(map(_cache, rows[: query.limit])), has_more=len(rows) > query.limit)


def move_expiry(connection: sqlite3.Connection, tenant: str, cache_id: str, expires_s: float, now_s: float) -> Cache:
    """Let a cache expire at another time. Raises NotFound."""
    find_cache(connection, tenant, cache_id, now_s)
    connection.execute("UPDATE caches SET expires_s = ?, updated_s = ? WHERE id = ?", (expires_s, now_s, cache_id))
    return find_cache(connection, tenant, cache_id, now_s)


def delete_cache(connection: sqlite3.Connection, tenant: str, cache_id: str, now_s: float) -> None:
    """Forget a cache. Raises NotFound."""
    find_cache(connection, tenant, cache_id, now_s)
    connection.execute("DELETE FROM caches WHERE id = ?", (cache_id,))


def erase(connection: sqlite3.Connection, tenant: str) -> int:
    """Forget all caches of a tenant, and count them."""
    return connection.execute("DELETE FROM caches WHERE tenant = ?", (tenant,)).rowcount


def encode_content(content: CacheContent) -> bytes:
    """Content as it is kept."""
    return msgspec.json.encode(content)


def _cache(row: tuple[Any, ...]) -> Cache:
    found = dict(zip(_COLUMNS.split(", "), row, strict=True))
    content, labels = _decode_content(found["content"]), frozenset(found["labels"].split())
    return Cache(**found | {"content": content, "labels": labels})


def _no_cache(cache_id: str) -> NotFound:
    return NotFound(
        f"there is no cache {cache_id[:100]!r}, or its time is over; GET /v1/caches lists yours.",
        param="cached_content",
    )
