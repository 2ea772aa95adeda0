"""SPIFFE IDs: every rule of SPIFFE-ID.md section 2, and patterns."""

import pytest
from spiffe import SpiffeId as StockId

from headrace.trust.spiffe.ids import InvalidSvid, parse_id, parse_pattern, parse_trust_domain, parse_workload_id

VALID = [
    "spiffe://example.org",
    "spiffe://example.org/agent",
    "spiffe://example.org/ns/staging/sa/default",
    "spiffe://a_b-c.9/A.b_C-d",
    "spiffe://192.0.2.1/path",
    "spiffe://example.org/...",
    "spiffe://example.org/.hidden",
    f"spiffe://{'a' * 255}/x",
    f"spiffe://example.org/{'a' * (2048 - len('spiffe://example.org/'))}",
]
INVALID = [
    ("", "begins with spiffe"),
    ("example.org/agent", "begins with spiffe"),
    ("http://example.org/agent", "begins with spiffe"),
    ("SPIFFE://example.org/agent", "begins with spiffe"),
    ("spiffe:/example.org/agent", "begins with spiffe"),
    ("spiffe://", "no trust domain"),
    ("spiffe:///agent", "no trust domain"),
    ("spiffe://Example.org/agent", "no trust domain"),
    ("spiffe://example.org:8080/agent", "no trust domain"),
    ("spiffe://user@example.org/agent", "no trust domain"),
    ("spiffe://ex%61mple.org/agent", "no trust domain"),
    ("spiffe://exämple.org/agent", "no trust domain"),
    ("spiffe://[::1]/agent", "no trust domain"),
    ("spiffe://example.org?x", "no trust domain"),
    ("spiffe://example.org\n/agent", "no trust domain"),
    ("spiffe://example.org/", "empty segment"),
    ("spiffe://example.org/agent/", "empty segment"),
    ("spiffe://example.org//agent", "empty segment"),
    ("spiffe://example.org/./agent", "names no place"),
    ("spiffe://example.org/../agent", "names no place"),
    ("spiffe://example.org/agent/..", "names no place"),
    ("spiffe://example.org/%61gent", "other characters"),
    ("spiffe://example.org/a%2Fb", "other characters"),
    ("spiffe://example.org/agent?q", "other characters"),
    ("spiffe://example.org/agent#f", "other characters"),
    ("spiffe://example.org/a b", "other characters"),
    ("spiffe://example.org/agent\n", "other characters"),
    ("spiffe://example.org/ägent", "other characters"),
    ("spiffe://example.org/*", "other characters"),
    (f"spiffe://{'a' * 256}/x", "at most 255"),
    (f"spiffe://example.org/{'a' * 2048}", "at most 2048"),
]


@pytest.mark.parametrize("text", VALID)
def test_what_the_standard_allows_is_read_and_written_as_it_was(text: str) -> None:
    assert str(parse_id(text)) == text


@pytest.mark.parametrize(("text", "why"), INVALID)
def test_what_the_standard_forbids_is_refused_in_its_words(text: str, why: str) -> None:
    with pytest.raises(InvalidSvid, match=why):
        parse_id(text)


@pytest.mark.parametrize("text", [*VALID, *(text for text, _ in INVALID)])
def test_nothing_is_taken_that_the_stock_client_refuses(text: str) -> None:
    try:
        ours = str(parse_id(text))
    except InvalidSvid:
        return
    assert str(StockId(text)) == ours


def test_a_workload_has_a_path_and_a_trust_domain_has_none() -> None:
    assert parse_workload_id("spiffe://example.org/a").path == "/a"
    with pytest.raises(InvalidSvid, match="needs a path"):
        parse_workload_id("spiffe://example.org")
    with pytest.raises(InvalidSvid, match="no trust domain"):
        parse_trust_domain("spiffe://example.org")


@pytest.mark.parametrize(
    ("pattern", "text", "stars"),
    [
        ("spiffe://td/agent/*", "spiffe://td/agent/mail", ("mail",)),
        ("spiffe://td/agent/*", "spiffe://td/agent/mail/1", None),
        ("spiffe://td/agent/*", "spiffe://td/agent", None),
        ("spiffe://td/agent/*", "spiffe://other/agent/mail", None),
        ("spiffe://td/agent/*", "spiffe://td/agents/mail", None),
        ("spiffe://td/agent/**", "spiffe://td/agent/mail/1", ("mail/1",)),
        ("spiffe://td/agent/**", "spiffe://td/agent", None),
        ("spiffe://td/**", "spiffe://td/a", ("a",)),
        ("spiffe://td/**", "spiffe://td", None),
        ("spiffe://td/ns/*/sa/*", "spiffe://td/ns/a/sa/b", ("a", "b")),
        ("spiffe://td/exact", "spiffe://td/exact", ()),
        ("spiffe://td/exact", "spiffe://td/Exact", None),
    ],
)
def test_a_star_stands_for_one_segment_and_two_for_the_rest(
    pattern: str, text: str, stars: tuple[str, ...] | None
) -> None:
    assert parse_pattern(pattern).match(parse_id(text)) == stars


@pytest.mark.parametrize(
    "pattern",
    ["spiffe://*/a", "spiffe://td", "spiffe://td/", "spiffe://td/**/a", "spiffe://td/a*", "td/*", "spiffe://td/../*"],
)
def test_a_pattern_that_could_mean_more_than_it_says_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidSvid):
        parse_pattern(pattern)
