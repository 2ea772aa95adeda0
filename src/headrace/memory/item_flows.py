"""What stored items are worth: the label of all that whoever wrote one had read. Functions over a connection, for
`Store.call`.

An item that nobody labelled has none. One that lies in several places is worth what the least of them says. Knows items
only by their ids, and nothing of how labels come to be.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from headrace.core.trust import Confidentiality, Integrity, Label


def keep_flows(connection: sqlite3.Connection, tenant: str, owner: str, flows: Mapping[str, Label]) -> None:
    """Label items of a response or a conversation; ids that it has not are passed over."""
    connection.executemany(
        "UPDATE items SET flow = ? WHERE tenant = ? AND owner = ? AND id = ?",
        [(_encode(label), tenant, owner, item_id) for item_id, label in flows.items()],
    )


def owned_flows(connection: sqlite3.Connection, tenant: str, owners: Sequence[str]) -> dict[str, Label]:
    """The labels of what responses or conversations hold, by the items' ids."""
    query = "SELECT id, flow FROM items WHERE tenant = ? AND owner = ? AND flow != ''"
    return _joined(row for owner in owners for row in connection.execute(query, (tenant, owner)))


def item_flows(connection: sqlite3.Connection, tenant: str, ids: Sequence[str]) -> dict[str, Label]:
    """The labels of items, wherever they are, by their ids."""
    query = "SELECT id, flow FROM items WHERE tenant = ? AND id = ? AND flow != ''"
    return _joined(row for item_id in ids for row in connection.execute(query, (tenant, item_id)))


def _joined(rows: Iterable[tuple[str, str]]) -> dict[str, Label]:
    found: dict[str, Label] = {}
    for item_id, text in rows:
        label = _decode(text)
        found[item_id] = label if (known := found.get(item_id)) is None else known.join(label)
    return found


def _encode(label: Label) -> str:
    sources = sorted(one.encode("utf-8", "replace").decode() for one in label.sources)
    return msgspec.json.encode((int(label.integrity), int(label.confidentiality), sources)).decode()


def _decode(text: str) -> Label:
    integrity, confidentiality, sources = msgspec.json.decode(text, type=tuple[int, int, list[str]])
    return Label(Integrity(integrity), Confidentiality(confidentiality), frozenset(sources))
