"""Who takes part in a trial: a share of the requests goes to a canary or is copied to a shadow.

A session's or a user's requests go the same way, always and on every server: the share is of their names' hashes.
Requests that have neither are drawn one by one.
"""

import random
from hashlib import blake2b
from typing import Final

from headrace.core.shape import Shape

_WHOLE: Final = float(2**64)


def is_chosen(route: str, shape: Shape, share: float, rng: random.Random) -> bool:
    """Whether the request is one of the share of a route's."""
    if share <= 0:
        return False
    who = sticky_name(shape)
    return (rng.random() if who is None else place_of(route, who)) < share


def sticky_name(shape: Shape) -> str | None:
    """What a request is held to its side by; None if it belongs to nothing."""
    principal = shape.principal
    if shape.session is not None:
        return f"session\0{principal.tenant}\0{shape.session}"
    if principal.user is not None:
        return f"user\0{principal.tenant}\0{principal.user}"
    return None


def place_of(route: str, who: str) -> float:
    """Where a name falls between 0 and 1 for a route: apart from where it falls for another."""
    digest = blake2b(f"{route}\0{who}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _WHOLE
