"""Where an answer comes from: its record, the records that it names, and so on, as a graph.

A record names another by the SHA-256 of its envelope, so nobody can name one that is made later: a circle, or a record
that is not the one that was named, is a forgery and is told as one. Values only; whoever asks finds the records.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from headrace.core.errors import HeadraceError
from headrace.trust.records import dsse
from headrace.trust.records.statement import Source, Statement, read_statement

MAX_RECORDS: Final = 1000
"""Of one graph: what lies further is named and not followed."""

Find = Callable[[str], bytes | None]
"""The envelope of a record; None: it is not known here, or was erased. Raises HeadraceError."""


@dataclass(frozen=True, slots=True)
class Node:
    """A record. `statement` None: it is not known here; `problem` is what is wrong with it."""

    record_id: str
    statement: Statement | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """One record comes from another. `problem` is what is wrong with how it names it."""

    record_id: str
    source: Source
    problem: str = ""


@dataclass(slots=True)
class Lineage:
    """The graph of `root`."""

    root: str
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    is_cut: bool = False

    @property
    def problems(self) -> list[str]:
        """What does not hold."""
        found = [f"{one.record_id}: {one.problem}" for one in self.nodes.values() if one.problem]
        return found + [
            f"{one.record_id} -> {one.source.record_id}: {one.problem}" for one in self.edges if one.problem
        ]

    def sources(self, record_id: str) -> list[Edge]:
        """What a record comes from."""
        return [one for one in self.edges if one.record_id == record_id]


def trace(root: str, find: Find) -> Lineage:
    """The graph of a record. Raises HeadraceError if that one itself cannot be found."""
    lineage = Lineage(root)
    envelopes: dict[str, bytes | None] = {}
    waiting = [root]
    while waiting:
        record_id = waiting.pop()
        if record_id in lineage.nodes:
            continue
        if len(lineage.nodes) >= MAX_RECORDS:
            lineage.is_cut = True
            break
        envelopes[record_id] = find(record_id)
        node = _node(record_id, envelopes[record_id])
        lineage.nodes[record_id] = node
        for source in () if node.statement is None else node.statement.sources:
            lineage.edges.append(Edge(record_id, source))
            waiting.append(source.record_id)
    circle = _circle(lineage)
    lineage.edges = [
        Edge(one.record_id, one.source, _problem(one, lineage.nodes, envelopes, circle)) for one in lineage.edges
    ]
    return lineage


def _node(record_id: str, envelope: bytes | None) -> Node:
    if not envelope:
        return Node(record_id, None)
    try:
        statement = read_statement(dsse.read(envelope).payload)
    except HeadraceError as error:
        return Node(record_id, None, error.message)
    problem = "" if statement.record_id == record_id else f"it is the record {statement.record_id}."
    return Node(record_id, statement, problem)


def _problem(
    edge: Edge, nodes: Mapping[str, Node], envelopes: Mapping[str, bytes | None], circle: frozenset[str]
) -> str:
    source = edge.source
    if edge.record_id in circle and source.record_id in circle:
        return "it comes from itself, which no true record can."
    envelope = envelopes.get(source.record_id)
    if source.digest is None or not envelope:
        return ""
    if sha256(envelope).digest() != source.digest:
        return "the record that is there is not the one that was named."
    child, parent = nodes[edge.record_id].statement, nodes[source.record_id].statement
    if child is not None and parent is not None and parent.finished_on > child.finished_on:
        return "it says that it ended after what comes from it."
    return ""


def _circle(lineage: Lineage) -> frozenset[str]:
    """Records that come from themselves: what is left when those without sources are taken away, over and over, from
    both ends."""
    sources = {
        name: {one.source.record_id for one in lineage.sources(name)} & lineage.nodes.keys() for name in lineage.nodes
    }
    left = set(lineage.nodes)
    while True:
        ends = {name for name in left if not sources[name] & left}
        ends |= {name for name in left if not any(name in sources[other] for other in left)}
        if not ends:
            return frozenset(left)
        left -= ends
