"""Shapes of explicit caches for the OpenAPI document: what clients may rely on in answers, and a row for each route.

Only the document is made from them. Encoders do not use them, so that tests can hold each against the other.
"""

from typing import Annotated, Any, Final

import msgspec

from headrace.api.caches import MAX_PAGE, CacheBody, CacheChange
from headrace.api.openapi_operation import Operation


class CacheUsage(msgspec.Struct):
    """What the content counts in its model's tokens."""

    total_token_count: int


class CacheAnswer(msgspec.Struct):
    """A cache."""

    name: str
    model: str
    display_name: str
    create_time: str
    update_time: str
    expire_time: str
    usage_metadata: CacheUsage


class CacheList(msgspec.Struct, omit_defaults=True):
    """A page of caches."""

    cached_contents: list[CacheAnswer]
    next_page_token: str | msgspec.UnsetType = msgspec.UNSET


_PAGE: Final[dict[str, Any]] = {
    "page_size": Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)],
    "page_token": str,
}

CACHE_OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", "/v1/caches"): Operation("Keep content that requests begin with.", CacheBody, CacheAnswer),
    ("GET", "/v1/caches"): Operation("Your caches.", answer=CacheList, query=_PAGE),
    ("GET", "/v1/caches/{id}"): Operation("A cache.", answer=CacheAnswer),
    ("PATCH", "/v1/caches/{id}"): Operation("Keep a cache longer, or less long.", CacheChange, CacheAnswer),
    ("DELETE", "/v1/caches/{id}"): Operation("Forget a cache.", answer=dict[str, Any]),
}
