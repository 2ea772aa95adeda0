"""Responses, their items and conversations in the state database. Functions over a connection, for `Store.call`.

    threads         a chain of responses, each continuing another; it is kept or forgotten as a whole
    responses       one response object each, without its output
    items           what a response was asked and what it answered, or what a conversation holds, in order
    conversations   one conversation object each

Every row has a tenant and every query names it: what another tenant owns is not there. A chain and a conversation are
kept for so long after their last use (`purge`), and both count against one quota of bytes a tenant (`used_bytes`).
Items keep the labels under which they were said: whoever reads them again is under the same.
Knows items only by their `id`; what they mean is the affair of whoever saves them.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from headrace.core.errors import InvalidRequest, NotFound
from headrace.core.trust import Label
from headrace.memory.item_flows import keep_flows, owned_flows

Item = Mapping[str, Any]

# A chain is walked from its end to its beginning; a longer one is no conversation but a defect.
MAX_CHAIN: Final = 10_000
UNFINISHED: Final = ("queued", "in_progress")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseRecord:
    """A response as it is kept. `body` is the response object, `previous` the response that it continues.

    `runner` is the process that is working on it (None: nobody), `events` what a stream of it said, one JSON object a
    line (None: it was not streamed), `labels` those that it was asked under; `flows` what its items are worth, by id.
    """

    tenant: str
    id: str
    thread: str
    previous: str | None
    body: Mapping[str, Any]
    runner: int | None = None
    events: bytes | None = None
    labels: frozenset[str] = frozenset()
    flows: Mapping[str, Label] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredChain:
    """What was said up to the end of a response, under which labels, the chain that it is part of, and what items are
    worth."""

    thread: str
    status: str
    items: tuple[Item, ...]
    labels: frozenset[str] = frozenset()
    flows: Mapping[str, Label] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slice:
    """Which items of a list: at most `limit` after (or before) the one with that id, from which end."""

    limit: int
    is_ascending: bool = False
    after: str | None = None
    before: str | None = None


def used_bytes(connection: sqlite3.Connection, tenant: str) -> int:
    """What a tenant stores."""
    used: int = connection.execute(
        "SELECT (SELECT COALESCE(SUM(num_bytes), 0) FROM threads WHERE tenant = ?1)"
        " + (SELECT COALESCE(SUM(num_bytes), 0) FROM conversations WHERE tenant = ?1)",
        (tenant,),
    ).fetchone()[0]
    return used


def save_response(
    connection: sqlite3.Connection,
    record: ResponseRecord,
    asked: Sequence[Item],
    answered: Sequence[Item],
    now_s: float,
    conversation: str | None = None,
) -> int:
    """Keep a response with what it was asked and what it answered, in the place of an earlier state of it; the bytes
    that this adds.

    With a conversation, both are appended to it. Raises NotFound if that was deleted meanwhile.
    """
    body = _encode({name: value for name, value in record.body.items() if name != "output"})
    connection.execute(
        "INSERT INTO threads (tenant, id, used_at, num_bytes) VALUES (?, ?, ?, 0)"
        " ON CONFLICT (tenant, id) DO UPDATE SET used_at = excluded.used_at",
        (record.tenant, record.thread, now_s),
    )
    num_bytes = -_remove(connection, record.tenant, record.id)
    connection.execute(
        "INSERT INTO responses (tenant, id, thread, previous, created_at, status, runner, body, events)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.tenant,
            record.id,
            record.thread,
            record.previous,
            now_s,
            record.body["status"],
            record.runner,
            body,
            record.events,
        ),
    )
    num_bytes += len(body) + len(record.events or b"")
    labels = record.labels
    num_bytes += _insert(connection, record.tenant, record.id, 0, asked, labels, is_output=False)
    num_bytes += _insert(connection, record.tenant, record.id, len(asked), answered, labels, is_output=True)
    connection.execute(
        "UPDATE threads SET num_bytes = num_bytes + ? WHERE tenant = ? AND id = ?",
        (num_bytes, record.tenant, record.thread),
    )
    if conversation is not None:
        num_bytes += append_items(connection, record.tenant, conversation, [*asked, *answered], now_s, labels)
        keep_flows(connection, record.tenant, conversation, record.flows)
    keep_flows(connection, record.tenant, record.id, record.flows)
    return num_bytes


def load_response(connection: sqlite3.Connection, tenant: str, response_id: str) -> dict[str, Any]:
    """The response object. Raises NotFound."""
    row = connection.execute("SELECT body FROM responses WHERE tenant = ? AND id = ?", (tenant, response_id)).fetchone()
    if row is None:
        raise _no_response(response_id)
    output = connection.execute(
        "SELECT body FROM items WHERE tenant = ? AND owner = ? AND is_output ORDER BY position", (tenant, response_id)
    )
    body: dict[str, Any] = _decode(row[0])
    return body | {"output": [_decode(item) for (item,) in output]}


def load_events(connection: sqlite3.Connection, tenant: str, response_id: str) -> bytes | None:
    """What a stream of the response said, None if it was not streamed. Raises NotFound."""
    row = connection.execute(
        "SELECT events FROM responses WHERE tenant = ? AND id = ?", (tenant, response_id)
    ).fetchone()
    if row is None:
        raise _no_response(response_id)
    events: bytes | None = row[0]
    return events


def load_chain(connection: sqlite3.Connection, tenant: str, response_id: str) -> StoredChain | None:
    """What was said up to the end of a response; None if it, or one that it continues, is not there."""
    chain: list[str] = []
    thread, status = "", ""
    wanted: str | None = response_id
    while wanted is not None:
        row = connection.execute(
            "SELECT thread, previous, status FROM responses WHERE tenant = ? AND id = ?", (tenant, wanted)
        ).fetchone()
        if row is None or len(chain) >= MAX_CHAIN:
            return None
        if not chain:
            thread, status = row[0], row[2]
        chain.append(wanted)
        wanted = row[1]
    items: list[Item] = []
    for owner in reversed(chain):
        rows = connection.execute(
            "SELECT body FROM items WHERE tenant = ? AND owner = ? ORDER BY position", (tenant, owner)
        )
        items += [_decode(body) for (body,) in rows]
    labels, flows = owned_labels(connection, tenant, chain), owned_flows(connection, tenant, chain)
    return StoredChain(thread, status, tuple(items), labels, flows)


def find_items(connection: sqlite3.Connection, tenant: str, ids: Sequence[str]) -> dict[str, Item]:
    """Items by their ids, wherever they are; an id that is nowhere is left out."""
    found: dict[str, Item] = {}
    for item_id in ids:
        row = connection.execute(
            "SELECT body FROM items WHERE tenant = ? AND id = ? LIMIT 1", (tenant, item_id)
        ).fetchone()
        if row is not None:
            found[item_id] = _decode(row[0])
    return found


def owned_labels(connection: sqlite3.Connection, tenant: str, owners: Sequence[str]) -> frozenset[str]:
    """The labels of everything that responses or conversations hold."""
    return _labels(connection, "SELECT DISTINCT labels FROM items WHERE tenant = ? AND owner = ?", tenant, owners)


def item_labels(connection: sqlite3.Connection, tenant: str, ids: Sequence[str]) -> frozenset[str]:
    """The labels of items by their ids, wherever they are."""
    return _labels(connection, "SELECT DISTINCT labels FROM items WHERE tenant = ? AND id = ?", tenant, ids)


def _labels(connection: sqlite3.Connection, query: str, tenant: str, names: Sequence[str]) -> frozenset[str]:
    rows = (row for name in names for row in connection.execute(query, (tenant, name)))
    return frozenset(word for (words,) in rows for word in words.split())


def delete_response(connection: sqlite3.Connection, tenant: str, response_id: str) -> None:
    """Forget a response and its items; those that continue it stay, and cannot be continued. Raises NotFound."""
    row = connection.execute(
        "SELECT thread FROM responses WHERE tenant = ? AND id = ?", (tenant, response_id)
    ).fetchone()
    if row is None:
        raise _no_response(response_id)
    num_bytes, thread = _remove(connection, tenant, response_id), row[0]
    connection.execute(
        "UPDATE threads SET num_bytes = num_bytes - ? WHERE tenant = ? AND id = ?", (num_bytes, tenant, thread)
    )
    connection.execute(
        "DELETE FROM threads WHERE tenant = ?1 AND id = ?2"
        " AND NOT EXISTS (SELECT 1 FROM responses WHERE tenant = ?1 AND thread = ?2)",
        (tenant, thread),
    )


def _remove(connection: sqlite3.Connection, tenant: str, response_id: str) -> int:
    """Take a response and its items out, if it is there; their bytes."""
    num_bytes: int = connection.execute(
        "SELECT (SELECT COALESCE(SUM(LENGTH(body) + COALESCE(LENGTH(events), 0)), 0) FROM responses"
        " WHERE tenant = ?1 AND id = ?2)"
        " + (SELECT COALESCE(SUM(LENGTH(body)), 0) FROM items WHERE tenant = ?1 AND owner = ?2)",
        (tenant, response_id),
    ).fetchone()[0]
    connection.execute("DELETE FROM items WHERE tenant = ? AND owner = ?", (tenant, response_id))
    connection.execute("DELETE FROM responses WHERE tenant = ? AND id = ?", (tenant, response_id))
    return num_bytes


def input_items(connection: sqlite3.Connection, tenant: str, response_id: str, part: Slice) -> tuple[list[Item], bool]:
    """A part of what a response was asked, and whether there is more. Raises NotFound."""
    if (
        connection.execute("SELECT 1 FROM responses WHERE tenant = ? AND id = ?", (tenant, response_id)).fetchone()
        is None
    ):
        raise _no_response(response_id)
    return _page(connection, tenant, response_id, part, has_output=False)


def create_conversation(
    connection: sqlite3.Connection,
    tenant: str,
    conversation_id: str,
    metadata: Mapping[str, str],
    items: Sequence[Item],
    now_s: float,
    labels: frozenset[str] = frozenset(),
) -> int:
    """Keep a new conversation with its first items, said under some labels; their bytes. Raises InvalidRequest for an
    id that comes twice."""
    connection.execute(
        "INSERT INTO conversations (tenant, id, created_at, used_at, num_bytes, metadata) VALUES (?, ?, ?, ?, 0, ?)",
        (tenant, conversation_id, now_s, now_s, _encode(metadata)),
    )
    return append_items(connection, tenant, conversation_id, items, now_s, labels)


def load_conversation(
    connection: sqlite3.Connection, tenant: str, conversation_id: str
) -> tuple[float, dict[str, str]]:
    """When a conversation was created (Unix seconds) and its metadata. Raises NotFound."""
    row = connection.execute(
        "SELECT created_at, metadata FROM conversations WHERE tenant = ? AND id = ?", (tenant, conversation_id)
    ).fetchone()
    if row is None:
        raise _no_conversation(conversation_id)
    return row[0], _decode(row[1])


def update_conversation(
    connection: sqlite3.Connection, tenant: str, conversation_id: str, metadata: Mapping[str, str], now_s: float
) -> None:
    """Give a conversation other metadata. Raises NotFound."""
    changed = connection.execute(
        "UPDATE conversations SET metadata = ?, used_at = ? WHERE tenant = ? AND id = ?",
        (_encode(metadata), now_s, tenant, conversation_id),
    )
    if changed.rowcount == 0:
        raise _no_conversation(conversation_id)


def delete_conversation(connection: sqlite3.Connection, tenant: str, conversation_id: str) -> None:
    """Forget a conversation and its items; responses made in it stay. Raises NotFound."""
    gone = connection.execute("DELETE FROM conversations WHERE tenant = ? AND id = ?", (tenant, conversation_id))
    if gone.rowcount == 0:
        raise _no_conversation(conversation_id)
    connection.execute("DELETE FROM items WHERE tenant = ? AND owner = ?", (tenant, conversation_id))


def conversation_items(connection: sqlite3.Connection, tenant: str, conversation_id: str) -> tuple[Item, ...]:
    """Everything that a conversation holds, in order. Raises NotFound."""
    load_conversation(connection, tenant, conversation_id)
    rows = connection.execute(
        "SELECT body FROM items WHERE tenant = ? AND owner = ? ORDER BY position", (tenant, conversation_id)
    )
    return tuple(_decode(body) for (body,) in rows)


def append_items(
    connection: sqlite3.Connection,
    tenant: str,
    conversation_id: str,
    items: Sequence[Item],
    now_s: float,
    labels: frozenset[str] = frozenset(),
) -> int:
    """Add items, said under some labels, to the end of a conversation; their bytes. Raises NotFound, InvalidRequest for
    an id that it has."""
    load_conversation(connection, tenant, conversation_id)
    new: set[str] = set()
    for item in items:
        if item["id"] in new or _position(connection, tenant, conversation_id, item["id"]) is not None:
            raise InvalidRequest(
                f"items: {item['id'][:100]!r} is in the conversation already; leave the id out, and it gets a new one.",
                param="items",
            )
        new.add(item["id"])
    last = connection.execute(
        "SELECT COALESCE(MAX(position), -1) FROM items WHERE tenant = ? AND owner = ?", (tenant, conversation_id)
    ).fetchone()[0]
    num_bytes = _insert(connection, tenant, conversation_id, last + 1, items, labels, is_output=False)
    connection.execute(
        "UPDATE conversations SET used_at = ?, num_bytes = num_bytes + ? WHERE tenant = ? AND id = ?",
        (now_s, num_bytes, tenant, conversation_id),
    )
    return num_bytes


def conversation_page(
    connection: sqlite3.Connection, tenant: str, conversation_id: str, part: Slice
) -> tuple[list[Item], bool]:
    """A part of what a conversation holds, and whether there is more. Raises NotFound."""
    load_conversation(connection, tenant, conversation_id)
    return _page(connection, tenant, conversation_id, part, has_output=True)


def conversation_item(connection: sqlite3.Connection, tenant: str, conversation_id: str, item_id: str) -> Item:
    """One item of a conversation. Raises NotFound."""
    load_conversation(connection, tenant, conversation_id)
    row = connection.execute(
        "SELECT body FROM items WHERE tenant = ? AND owner = ? AND id = ?", (tenant, conversation_id, item_id)
    ).fetchone()
    if row is None:
        raise NotFound(f"item {item_id[:100]!r} is not in this conversation.", param="item_id")
    item: Item = _decode(row[0])
    return item


def delete_item(connection: sqlite3.Connection, tenant: str, conversation_id: str, item_id: str, now_s: float) -> None:
    """Take one item out of a conversation. Raises NotFound."""
    item = conversation_item(connection, tenant, conversation_id, item_id)
    connection.execute(
        "DELETE FROM items WHERE tenant = ? AND owner = ? AND id = ?", (tenant, conversation_id, item_id)
    )
    connection.execute(
        "UPDATE conversations SET used_at = ?, num_bytes = num_bytes - ? WHERE tenant = ? AND id = ?",
        (now_s, len(_encode(item)), tenant, conversation_id),
    )


def fail_unfinished(connection: sqlite3.Connection, is_running: Callable[[int], bool], why: Mapping[str, Any]) -> int:
    """Mark responses failed whose process is gone, with `why` as their error; how many there were."""
    rows = connection.execute(
        "SELECT tenant, id, runner, body FROM responses WHERE status IN (?, ?)", UNFINISHED
    ).fetchall()
    left = [(tenant, name, body) for tenant, name, runner, body in rows if runner is None or not is_running(runner)]
    for tenant, name, body in left:
        failed = _encode(_decode(body) | {"status": "failed", "error": why})
        connection.execute(
            "UPDATE responses SET status = 'failed', runner = NULL, body = ? WHERE tenant = ? AND id = ?",
            (failed, tenant, name),
        )
    return len(left)


def purge(connection: sqlite3.Connection, before_s: float, limit: int = 500) -> int:
    """Forget chains and conversations of all tenants that were last used before a time; how many there were.

    No more than `limit` of each at once, so that others need not wait long; whoever gets that many asks again.
    """
    old = connection.execute(
        "SELECT tenant, id FROM threads WHERE used_at < ? AND NOT EXISTS (SELECT 1 FROM responses"
        " WHERE responses.tenant = threads.tenant AND thread = threads.id AND status IN (?, ?)) LIMIT ?",
        (before_s, *UNFINISHED, limit),
    ).fetchall()
    for tenant, thread in old:
        connection.execute(
            "DELETE FROM items WHERE tenant = ?1"
            " AND owner IN (SELECT id FROM responses WHERE tenant = ?1 AND thread = ?2)",
            (tenant, thread),
        )
        connection.execute("DELETE FROM responses WHERE tenant = ? AND thread = ?", (tenant, thread))
        connection.execute("DELETE FROM threads WHERE tenant = ? AND id = ?", (tenant, thread))
    talks = connection.execute(
        "SELECT tenant, id FROM conversations WHERE used_at < ? LIMIT ?", (before_s, limit)
    ).fetchall()
    for tenant, conversation_id in talks:
        delete_conversation(connection, tenant, conversation_id)
    return len(old) + len(talks)


def erase(connection: sqlite3.Connection, tenant: str) -> tuple[int, int]:
    """Forget everything of a tenant; how many responses and conversations there were."""
    responses = connection.execute("DELETE FROM responses WHERE tenant = ?", (tenant,)).rowcount
    conversations = connection.execute("DELETE FROM conversations WHERE tenant = ?", (tenant,)).rowcount
    connection.execute("DELETE FROM items WHERE tenant = ?", (tenant,))
    connection.execute("DELETE FROM threads WHERE tenant = ?", (tenant,))
    return responses, conversations


def _insert(
    connection: sqlite3.Connection,
    tenant: str,
    owner: str,
    first: int,
    items: Sequence[Item],
    labels: frozenset[str],
    *,
    is_output: bool,
) -> int:
    """Write items from a position on; their bytes."""
    words = " ".join(sorted(labels))
    rows = [
        (tenant, owner, first + index, item["id"], int(is_output), _encode(item), words)
        for index, item in enumerate(items)
    ]
    connection.executemany(
        "INSERT INTO items (tenant, owner, position, id, is_output, body, labels) VALUES (?, ?, ?, ?, ?, ?, ?)", rows
    )
    return sum(len(row[5]) for row in rows)


def _position(connection: sqlite3.Connection, tenant: str, owner: str, item_id: str) -> int | None:
    row = connection.execute(
        "SELECT position FROM items WHERE tenant = ? AND owner = ? AND id = ?", (tenant, owner, item_id)
    ).fetchone()
    return None if row is None else int(row[0])


# Forwards and backwards: the part of a list between two positions.
_PAGES: Final = {
    True: "SELECT body FROM items WHERE tenant = ? AND owner = ? AND is_output <= ? AND position > ? AND position < ?"
    " ORDER BY position ASC LIMIT ?",
    False: "SELECT body FROM items WHERE tenant = ? AND owner = ? AND is_output <= ? AND position > ? AND position < ?"
    " ORDER BY position DESC LIMIT ?",
}


def _page(
    connection: sqlite3.Connection, tenant: str, owner: str, part: Slice, *, has_output: bool
) -> tuple[list[Item], bool]:
    low, high = -1, 2**62
    for mark, name, is_low in (
        (part.after, "after", part.is_ascending),
        (part.before, "before", not part.is_ascending),
    ):
        if mark is None:
            continue
        position = _position(connection, tenant, owner, mark)
        if position is None:
            raise InvalidRequest(f"{name}: {mark[:100]!r} is not in this list; give the id of an item.", param=name)
        low, high = (position, high) if is_low else (low, position)
    rows = connection.execute(
        _PAGES[part.is_ascending], (tenant, owner, int(has_output), low, high, part.limit + 1)
    ).fetchall()
    return [_decode(body) for (body,) in rows[: part.limit]], len(rows) > part.limit


def _no_response(response_id: str) -> NotFound:
    return NotFound(f"response {response_id[:100]!r} is not there; it may have expired.", param="response_id")


def _no_conversation(conversation_id: str) -> NotFound:
    return NotFound(f"conversation {conversation_id[:100]!r} is not there.", param="conversation_id")
