"""Every request of the profiles reached the backend."""

from typing import Any


def check(ran: Any) -> None:
    assert len(ran.requests) >= 3 * 60, len(ran.requests)
