"""What Headrace's own request headers say of a request, whatever the protocol of its body.

    x-headrace-session: ID        the conversation it belongs to
    x-headrace-parent: ID         the request that caused it
    x-headrace-timeout: SECONDS   its own time limit; the server's is never exceeded
    x-headrace-explain: cache     the answer says why the cache did not have more of the input
    x-headrace-labels: A, B       what the request holds ("restricted"): only backends cleared for all may see it
    x-headrace-tags: A, B         what its spending is counted under beside its key's own tags
    x-headrace-no-cache: true     no answer that was given before is given again; `cache-control` with no-cache or
                                  no-store (RFC 9111) says the same
    x-headrace-record: inline     the signed record of a streamed answer stands in the stream, as a comment

Reads headers and decides nothing: what an id means is the backend's affair.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from headrace.core.errors import InvalidRequest
from headrace.core.request import Principal

MAX_ID_CHARS = 128
MAX_WORDS: Final = 16
"""Labels or tags of one request."""
MAX_WORD_CHARS: Final = 64

LISTS: Final = frozenset({b"x-headrace-labels", b"x-headrace-tags"})
"""Headers that hold a list, over as many lines as a client likes."""

# Printable ASCII without spaces: it may stand in a log line, a label and a file.
_ID = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_ID_CHARS)
_WORD = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/@=+-]{0,%d}" % (MAX_WORD_CHARS - 1))
_SECONDS = re.compile(rb"\d{1,7}(\.\d{1,6})?")


@dataclass(frozen=True, slots=True)
class Hints:
    """The headers of one request, checked; None where one is missing."""

    session: str | None = None
    parent: str | None = None
    timeout_s: float | None = None
    explains_cache: bool = False
    labels: frozenset[str] = frozenset()
    tags: tuple[str, ...] = ()
    is_fresh: bool = False
    inlines_record: bool = False

    def deadline_s(self, limit_s: float | None) -> float | None:
        """The shorter of the request's limit and the server's."""
        given = [limit for limit in (self.timeout_s, limit_s) if limit is not None]
        return min(given, default=None)


def labelled(principal: Principal, headers: Mapping[bytes, bytes]) -> Principal:
    """Who asks, under the labels and tags of the request itself too: for what is kept now and asked later. Raises
    InvalidRequest as `read_hints` does."""
    hints = read_hints(headers)
    if not hints.labels and not hints.tags:
        return principal
    tags = tuple(dict.fromkeys((*principal.tags, *hints.tags)))
    return replace(principal, labels=principal.labels | hints.labels, tags=tags)


def read_hints(headers: Mapping[bytes, bytes]) -> Hints:
    """The hints of a request. Raises InvalidRequest naming the header, its value and what is possible."""
    for name in headers:
        if name.startswith(_OURS) or name == b"cache-control":
            break
    else:
        return _NO_HINTS
    timeout = headers.get(b"x-headrace-timeout")
    timeout_s = None
    if timeout is not None:
        timeout_s = float(timeout) if _SECONDS.fullmatch(timeout) else 0.0
        if not timeout_s > 0:
            raise _wrong("x-headrace-timeout", timeout, "give seconds above 0, such as 2.5")
    explain = headers.get(b"x-headrace-explain")
    if explain not in (None, b"cache"):
        raise _wrong("x-headrace-explain", explain or b"", "the only thing that can be explained is 'cache'")
    record = headers.get(b"x-headrace-record")
    if record not in (None, b"inline"):
        raise _wrong("x-headrace-record", record or b"", "the only place that can be asked for is 'inline'")
    return Hints(
        inlines_record=record is not None,
        session=_id(headers, "x-headrace-session"),
        parent=_id(headers, "x-headrace-parent"),
        timeout_s=timeout_s,
        explains_cache=explain is not None,
        labels=frozenset(_words(headers, "x-headrace-labels")),
        tags=_words(headers, "x-headrace-tags"),
        is_fresh=_is_fresh(headers),
    )


_OURS: Final = b"x-headrace-"
_NO_HINTS: Final = Hints()


def _words(headers: Mapping[bytes, bytes], name: str) -> tuple[str, ...]:
    """A list with commas, each word once. An empty header is no word; an empty word among others is a mistake."""
    given = headers.get(name.encode(), b"").strip()
    if not given:
        return ()
    words = [word.strip() for word in given.split(b",", MAX_WORDS)]
    if len(words) > MAX_WORDS:
        raise _wrong(name, given, f"give at most {MAX_WORDS} words with commas between them")
    for word in words:
        if not _WORD.fullmatch(word):
            remedy = f"a word has 1 to {MAX_WORD_CHARS} letters, digits or ._:/@=+- and begins with a letter or digit"
            raise _wrong(name, word, remedy)
    return tuple(dict.fromkeys(word.decode() for word in words))


def _is_fresh(headers: Mapping[bytes, bytes]) -> bool:
    # RFC 9111: what a client says to any cache between it and the server.
    wishes = headers.get(b"cache-control", b"").lower()
    if b"no-cache" in wishes or b"no-store" in wishes:
        return True
    given = headers.get(b"x-headrace-no-cache", b"false").strip().lower()
    if given not in (b"true", b"false", b"1", b"0"):
        raise _wrong("x-headrace-no-cache", given, "give true or false")
    return given in (b"true", b"1")


def _id(headers: Mapping[bytes, bytes], name: str) -> str | None:
    given = headers.get(name.encode())
    if given is None:
        return None
    if not _ID.fullmatch(given):
        raise _wrong(name, given, f"give 1 to {MAX_ID_CHARS} printable ASCII characters without spaces")
    return given.decode()


def _wrong(name: str, value: bytes, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"{name}: {value[:80].decode('latin-1')!r} is not understood; {remedy}.", param=name)
