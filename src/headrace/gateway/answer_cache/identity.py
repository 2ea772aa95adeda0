"""Which requests one answer is for: a digest of everything that decides an answer, and of everything but a question.

Left out is what decides none: who asks, ids, labels (which are compared, not hashed), deadlines, marks for caches. All
else counts, so that a field that is added to requests counts from the day it is there.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from headrace.core.request import CacheHints, Principal, Request, Role, Task, TextPart
from headrace.core.shape import Shape

MAX_QUESTION_CHARS: Final = 1000
"""Longer questions are only compared letter by letter: a model of meanings would read their beginnings alone."""

_NOBODY: Final = Principal()

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose answer it is. Nobody else is given it, whatever they ask."""

    tenant: str
    labels: frozenset[str]
    route: str


@dataclass(frozen=True, slots=True)
class Identity:
    """What an answer answers. `question` is the last thing that a user said and `frame` the digest of all else, both
    empty where there is no such thing; `digest` is that of all together."""

    owner: Owner
    digest: bytes
    frame: bytes = b""
    question: str = ""


def is_eligible(shape: Shape) -> bool:
    """Whether answers to such requests may be kept and given again: the same comes out each time, and a caller did not
    ask for a new one."""
    if shape.is_fresh:
        return False
    return shape.task is Task.EMBED or (shape.task is Task.GENERATE and shape.is_deterministic)


def identify(shape: Shape, request: Request, route: str, *, compares: bool) -> Identity | None:
    """What the answer to a request would answer, with its question if questions are compared; None for requests that
    want more than words: warming a cache up, or to know what a cache held."""
    if request.limits.max_tokens == 0 or request.cache.explain:
        return None
    owner = Owner(shape.principal.tenant, shape.labels, route)
    said = replace(
        request,
        id="",
        model="",
        principal=_NOBODY,
        cache=CacheHints(salt=request.cache.salt),
        limits=replace(request.limits, deadline_s=None),
        session=None,
        parent=None,
        labels=frozenset(),
        tags=(),
    )
    try:
        digest = _digest(said)
        question = _question(request) if compares else ""
        frame = _digest(_without_question(said)) if question else b""
    except (TypeError, UnicodeError):
        return None  # a value that is not JSON's, or half a character: it cannot be told apart for certain
    return Identity(owner, digest, frame, question)


def _digest(request: Request) -> bytes:
    # A set has no order of its own to be hashed in.
    sampling = request.sampling
    plain = replace(request, sampling=replace(sampling, defaults=frozenset())) if sampling.defaults else request
    return hashlib.blake2b(_encode((plain, sorted(sampling.defaults))), digest_size=32).digest()


def _question(request: Request) -> str:
    if request.task is not Task.GENERATE or not request.messages or request.messages[-1].role is not Role.USER:
        return ""
    text = request.messages[-1].text.strip()
    return text if len(text) <= MAX_QUESTION_CHARS else ""


def _without_question(request: Request) -> Request:
    assert request.messages
    *before, last = request.messages
    return replace(request, messages=(*before, replace(last, parts=(TextPart(""),))))
