"""Windows of calendar time in UTC: when one began and when the next begins. Values in, values out; reads no clock.

Minutes, hours, days and weeks are of fixed length in Unix time, which knows no leap seconds; months are not.
"""

from datetime import UTC, datetime
from typing import Final

from headrace.gateway.settings import Window

NEVER: Final = 1 << 62
"""The end of a window that never ends."""

_LENGTH_S: Final = {Window.MINUTE: 60, Window.HOUR: 3600, Window.DAY: 86_400, Window.WEEK: 604_800}
# 1970-01-01 was a Thursday: the first Monday is four days later.
_FIRST_MONDAY_S: Final = 4 * 86_400


def bounds(window: Window, now_s: float) -> tuple[int, int]:
    """Unix times of the begin and of the end (which is not in it) of the window that a moment lies in."""
    if window is Window.TOTAL:
        return 0, NEVER
    if window is Window.MONTH:
        now = datetime.fromtimestamp(now_s, UTC)
        start = datetime(now.year, now.month, 1, tzinfo=UTC)
        end = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
        return int(start.timestamp()), int(end.timestamp())
    length_s = _LENGTH_S[window]
    offset_s = _FIRST_MONDAY_S if window is Window.WEEK else 0
    start_s = int((now_s - offset_s) // length_s) * length_s + offset_s
    return start_s, start_s + length_s


def show(moment_s: float) -> str:
    """A moment as people read it: `2026-11-27T00:00:00Z`."""
    return f"{datetime.fromtimestamp(moment_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
