"""Chat completions that are kept: one table, every row a tenant's. Knows no wire format: answers are bytes here."""

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from headrace.core.errors import NotFound, QuotaFull
from headrace.core.service import CompletionPage, CompletionQuery, StoredCompletion
from headrace.memory.store import Store

_COLUMNS = "id, created, model, metadata, messages, answer"


class CompletionStore:
    """`core.service.Completions` over the state database. A tenant may keep `max_bytes` of them."""

    def __init__(self, store: Store, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes

    async def check_room(self, tenant: str) -> None:
        """See `core.service.Completions`."""
        await self._store.call(check_room, tenant, self._max_bytes)

    async def add_completion(self, tenant: str, completion: StoredCompletion) -> None:
        """See `core.service.Completions`."""
        await self._store.call(add, tenant, completion)

    async def find_completion(self, tenant: str, completion_id: str) -> StoredCompletion:
        """See `core.service.Completions`."""
        return await self._store.call(find, tenant, completion_id)

    async def list_completions(self, tenant: str, query: CompletionQuery) -> CompletionPage:
        """See `core.service.Completions`."""
        return await self._store.call(select, tenant, query)

    async def update_completion(self, tenant: str, completion_id: str, metadata: Mapping[str, str]) -> StoredCompletion:
        """See `core.service.Completions`."""
        return await self._store.call(update, tenant, completion_id, metadata)

    async def delete_completion(self, tenant: str, completion_id: str) -> None:
        """See `core.service.Completions`."""
        await self._store.call(delete, tenant, completion_id)


def check_room(connection: sqlite3.Connection, tenant: str, max_bytes: int) -> None:
    """Raise QuotaFull for a tenant who keeps that much."""
    used = connection.execute(
        "SELECT COALESCE(SUM(num_bytes), 0) FROM completions WHERE tenant = ?", (tenant,)
    ).fetchone()[0]
    if used >= max_bytes:
        raise QuotaFull(
            f"store: {used} bytes of completions are kept for you, and {max_bytes} are allowed; delete some, or send "
            "store false.",
            param="store",
        )


def add(connection: sqlite3.Connection, tenant: str, completion: StoredCompletion) -> None:
    """Keep a completion."""
    connection.execute(
        f"INSERT INTO completions (tenant, num_bytes, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  (constants)
        (
            tenant,
            len(completion.messages) + len(completion.answer),
            completion.id,
            completion.created,
            completion.model,
            json.dumps(dict(completion.metadata)),
            completion.messages,
            completion.answer,
        ),
    )


def find(connection: sqlite3.Connection, tenant: str, completion_id: str) -> StoredCompletion:
    """One by its id. Raises NotFound."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM completions WHERE tenant = ? AND id = ?",  # noqa: S608  (constants)
        (tenant, completion_id),
    ).fetchone()
    if row is None:
        raise _missing(completion_id, "completion_id")
    return _read(row)


def select(connection: sqlite3.Connection, tenant: str, query: CompletionQuery) -> CompletionPage:
    """A page of a tenant's completions. Raises NotFound."""
    conditions, given = ["tenant = ?"], [tenant]
    if query.after is not None:
        row = connection.execute(
            "SELECT number FROM completions WHERE tenant = ? AND id = ?", (tenant, query.after)
        ).fetchone()
        if row is None:
            raise _missing(query.after, "after")
        conditions.append("number < ?" if query.is_newest_first else "number > ?")
        given.append(row[0])
    if query.model is not None:
        conditions.append("model = ?")
        given.append(query.model)
    for pair in query.metadata.items():
        conditions.append("EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND value = ?)")
        given.extend(pair)
    order = "DESC" if query.is_newest_first else "ASC"
    where = " AND ".join(conditions)
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM completions WHERE {where} ORDER BY number {order} LIMIT ?",  # noqa: S608  (constants)
        (*given, query.limit + 1),
    ).fetchall()
    return CompletionPage(tuple(map(_read, rows[: query.limit])), len(rows) > query.limit)


def update(
    connection: sqlite3.Connection, tenant: str, completion_id: str, metadata: Mapping[str, str]
) -> StoredCompletion:
    """Give one other metadata. Raises NotFound."""
    connection.execute(
        "UPDATE completions SET metadata = ? WHERE tenant = ? AND id = ?",
        (json.dumps(dict(metadata)), tenant, completion_id),
    )
    return find(connection, tenant, completion_id)


def delete(connection: sqlite3.Connection, tenant: str, completion_id: str) -> None:
    """Forget one. Raises NotFound."""
    done = connection.execute("DELETE FROM completions WHERE tenant = ? AND id = ?", (tenant, completion_id))
    if not done.rowcount:
        raise _missing(completion_id, "completion_id")


def erase(connection: sqlite3.Connection, tenant: str) -> int:
    """Forget all of a tenant's; how many there were."""
    return connection.execute("DELETE FROM completions WHERE tenant = ?", (tenant,)).rowcount


def _read(row: tuple[Any, ...]) -> StoredCompletion:
    found, created, model, metadata, messages, answer = row
    return StoredCompletion(
        id=found, created=created, model=model, messages=messages, answer=answer, metadata=json.loads(metadata)
    )


def _missing(completion_id: str, param: str) -> NotFound:
    return NotFound(
        f"{param}: there is no completion {completion_id[:200]!r}; GET /v1/chat/completions lists them.", param=param
    )
