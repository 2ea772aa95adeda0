"""SPIFFE IDs (SPIFFE-ID.md, section 2): read strictly, compared by their text, matched by patterns.

An ID has one spelling, so that two IDs are the same exactly if their texts are. Knows no document that carries one.
"""

import re
from dataclasses import dataclass
from typing import Final

MAX_ID_BYTES: Final = 2048  # 2.3
MAX_TRUST_DOMAIN_BYTES: Final = 255  # 2.3

_SCHEME: Final = "spiffe://"
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+")  # 2.1
_SEGMENT: Final = re.compile(r"[a-zA-Z0-9._-]+")  # 2.2


class InvalidSvid(ValueError):
    """A name, document or key that must not be believed; the text says which clause it breaks."""


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """`path` is empty for a trust domain itself, else it begins with a slash."""

    trust_domain: str
    path: str = ""

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}{self.path}"


def parse_trust_domain(text: str) -> str:
    """A trust domain's name. Raises InvalidSvid."""
    # 2.1: the host is not empty, lower case, of these characters, without user, port or percent-encoding
    if len(text) > MAX_TRUST_DOMAIN_BYTES:
        raise InvalidSvid(f"the trust domain has {len(text)} characters; at most {MAX_TRUST_DOMAIN_BYTES}")
    if not _TRUST_DOMAIN.fullmatch(text):
        raise InvalidSvid(
            f"{text[:80]!r} is no trust domain; it has lower-case letters, digits, dots, dashes and underscores"
        )
    return text


def parse_id(text: str) -> SpiffeId:
    """An ID as it is written. Raises InvalidSvid."""
    if len(text) > MAX_ID_BYTES:  # 2.3
        raise InvalidSvid(f"the SPIFFE ID has {len(text)} characters; at most {MAX_ID_BYTES}")
    if not text.startswith(_SCHEME):  # 2: the scheme; another spelling of it would be another text for the same ID
        raise InvalidSvid(f"{text[:80]!r} is no SPIFFE ID; it begins with {_SCHEME}")
    host, slash, path = text.removeprefix(_SCHEME).partition("/")
    trust_domain = parse_trust_domain(host)
    if slash:
        _check_segments(path)
    return SpiffeId(trust_domain, slash + path)


def parse_workload_id(text: str) -> SpiffeId:
    """The ID of a workload, which has a path (X509-SVID.md 3.1). Raises InvalidSvid."""
    found = parse_id(text)
    if not found.path:
        raise InvalidSvid(f"{text} names a trust domain and no workload in it; the ID needs a path")
    return found


def _check_segments(path: str, *, stars: bool = False) -> None:
    segments = path.split("/")
    for index, segment in enumerate(segments):
        if stars and (segment == "*" or (segment == "**" and index == len(segments) - 1)):
            continue
        # 2.2: no empty segments and no slash at the end, no dot segments, none but these characters
        if not segment:
            raise InvalidSvid(f"the path {path[:80]!r} has an empty segment, or ends with a slash")
        if segment in {".", ".."}:
            raise InvalidSvid(f"the path {path[:80]!r} has the segment {segment!r}, which names no place")
        if not _SEGMENT.fullmatch(segment):
            raise InvalidSvid(
                f"the segment {segment[:80]!r} has other characters than letters, digits, dots, dashes and underscores"
            )


@dataclass(frozen=True, slots=True)
class IdPattern:
    """IDs of workloads: each segment is itself, or `*` for any one, or `**` at the end for one or more."""

    trust_domain: str
    segments: tuple[str, ...]

    def match(self, spiffe_id: SpiffeId) -> tuple[str, ...] | None:
        """What the stars stand for in this ID, in order; None if it is none of these."""
        if spiffe_id.trust_domain != self.trust_domain or not spiffe_id.path:
            return None
        given = spiffe_id.path[1:].split("/")
        if self.segments[-1] == "**":
            if len(given) < len(self.segments):
                return None
            given = [*given[: len(self.segments) - 1], "/".join(given[len(self.segments) - 1 :])]
        if len(given) != len(self.segments):
            return None
        stars = []
        for wanted, segment in zip(self.segments, given, strict=True):
            if wanted in {"*", "**"}:
                stars.append(segment)
            elif wanted != segment:
                return None
        return tuple(stars)

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain}/{'/'.join(self.segments)}"


def parse_pattern(text: str) -> IdPattern:
    """A pattern. Raises InvalidSvid: a star stands for whole segments of the path, and never for a trust domain."""
    if not text.startswith(_SCHEME):
        raise InvalidSvid(f"{text[:80]!r} is no pattern of SPIFFE IDs; it begins with {_SCHEME}")
    host, _, path = text.removeprefix(_SCHEME).partition("/")
    trust_domain = parse_trust_domain(host)
    _check_segments(path, stars=True)
    return IdPattern(trust_domain, tuple(path.split("/")))
