"""Stop strings in a stream of text: ends it at the first one that is complete, holding back as little as possible.

Of two stop strings that are complete at the same character the longer wins, so the outcome does not depend on how the
text is cut into pieces and is known as early as it can be: nothing waits for a longer stop string once a shorter one
has ended the answer. Text is held only while it is the beginning of a stop string. Knows nothing of tokens.
"""

import re
from collections.abc import Sequence


class StopMatcher:
    """Stop strings for the text of one choice. After a match it is not pushed to again."""

    __slots__ = ("_first", "_held", "_longest", "_stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(dict.fromkeys(filter(None, stops)))
        self._longest = max(map(len, self._stops), default=0)
        firsts = "".join(re.escape(char) for char in sorted({stop[0] for stop in self._stops}))
        self._first = re.compile(f"[{firsts}]") if firsts else None
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Text that may be shown now, and the stop string that ended it, if one did."""
        if self._first is None or (not self._held and self._first.search(text) is None):
            return text, None
        text = self._held + text
        if (found := self._complete(text)) is not None:
            self._held = ""
            start, stop = found
            return text[:start], stop
        start = self._beginning(text)
        self._held = text[start:]
        return text[:start], None

    def flush(self) -> str:
        """What was held, now that no more text comes."""
        held, self._held = self._held, ""
        return held

    def _complete(self, text: str) -> tuple[int, str] | None:
        """Where the first complete stop string begins, and which it is."""
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if not found:
            return None
        _, start, stop = min(found)
        return start, stop

    def _beginning(self, text: str) -> int:
        """Where the longest end of `text` that may still become a stop string begins."""
        assert self._first is not None
        for match in self._first.finditer(text, max(0, len(text) - self._longest + 1)):
            end = text[match.start() :]
            if any(stop.startswith(end) for stop in self._stops):
                return match.start()
        return len(text)
