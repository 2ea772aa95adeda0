"""Who signs in at the console and out, told to operators without a way to fill what they are told in.

A visit is in the list of actions, at most so many an hour of one credential, the last of which says so. It changes
nothing: that it cannot be written keeps nobody out. Refused sign-ins can be made by anybody and as many as they like:
they are counted by route and status, as every exchange is, and the log tells of them once a minute. Knows neither
sessions nor where visits are kept.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from headrace.core.actions import ActionBook, Actor, Begun, Through
from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError
from headrace.core.identity import Identity
from headrace.server.exchange import Exchange

SIGN_IN: Final = "POST /console/session"
SIGN_OUT: Final = "DELETE /console/session"
MAX_LISTED: Final = 30
"""Visits of one credential in the list of actions, in `WINDOW_S`."""
WINDOW_S: Final = 3600.0
TELL_S: Final = 60.0
"""How often the log tells of refused sign-ins, at most."""
_MAX_KNOWN: Final = 10_000
_logger = logging.getLogger("headrace.console")


class Visits:
    """Takes them in. Without a `book` nothing is listed."""

    def __init__(self, book: ActionBook | None, clock: Clock) -> None:
        self._book = book
        self._clock = clock
        self._shares: dict[tuple[str, str], tuple[float, int]] = {}  # tenant, name -> until when, how many
        self._num_refused = 0
        self._told_at_s: float | None = None

    async def note(self, name: str, exchange: Exchange, identity: Identity) -> None:
        """Somebody has signed in or out (`name`). Never raises."""
        principal = identity.principal
        whose = identity.key or principal.subject
        share = self._share_of((principal.tenant, whose))
        if self._book is None or share is None:
            return
        left_s, number = share
        begun = Begun(
            actor=Actor(tenant=principal.tenant, subject=principal.subject, key=identity.key, through=Through.CONSOLE),
            name=name,
            target=whose[:200],
            asked={"unlisted_for_s": round(left_s)} if number == MAX_LISTED else {},
            request_id=exchange.record.request_id,
        )
        await self._book.note_visit(begun)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """The block is a sign-in, which may be refused."""
        try:
            yield
        except HeadraceError as error:
            self._num_refused += 1
            now_s = self._clock.monotonic_s()
            if self._told_at_s is None or now_s >= self._told_at_s + TELL_S:
                words = "sign-ins at the console were refused since this was last told: %d, the last with %s"
                _logger.warning(words, self._num_refused, error.code)
                self._told_at_s, self._num_refused = now_s, 0
            raise

    def _share_of(self, whose: tuple[str, str]) -> tuple[float, int] | None:
        """For how long a credential's visits are still counted together, and the number of this one; None for one too
        many."""
        now_s = self._clock.monotonic_s()
        until_s, num = self._shares.pop(whose, (now_s, 0))
        if now_s >= until_s:
            until_s, num = now_s + WINDOW_S, 0
        while len(self._shares) >= _MAX_KNOWN:
            del self._shares[next(iter(self._shares))]
        self._shares[whose] = until_s, num + 1
        return None if num >= MAX_LISTED else (until_s - now_s, num + 1)
