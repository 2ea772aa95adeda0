"""`cache_control`: marks on tools, system, messages and the whole request become neutral breakpoints.

Anthropic's rules that are kept, in the order tools -> system -> messages: at most four marks, and none of an hour
behind one of five minutes. Its look-back of 20 blocks is not needed: our prefix tree finds the longest beginning that
is there, wherever it ends. Knows no blocks: it is given marks with their places.
"""

from dataclasses import dataclass, field
from typing import Final

from headrace.api.anthropic_fields import CacheControl
from headrace.api.openai_refusal import show
from headrace.core.errors import InvalidRequest
from headrace.core.ledger import LONG_TTL_S, SHORT_TTL_S
from headrace.core.request import MAX_BREAKPOINTS, Breakpoint

TOOLS: Final = -1
"""The place of what stands before the first message."""

_TTLS_S: Final = {"5m": SHORT_TTL_S, "1h": LONG_TTL_S}


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark and the message it lies in; `path` is where it was found."""

    control: CacheControl
    message: int
    path: str


@dataclass(slots=True)
class Marks:
    """The marks of a request, added in the order in which a model reads what they stand on."""

    count: int = 0
    _ttls_s: dict[int, float] = field(default_factory=dict)
    _last_s: float = LONG_TTL_S
    _last_path: str = ""

    def add(self, mark: Mark) -> None:
        """Take the next mark. Raises InvalidRequest for one that breaks a rule."""
        control = mark.control
        if control.type != "ephemeral":
            raise InvalidRequest(
                f"{mark.path}.type: {show(control.type)} is not known; use 'ephemeral'.", param=f"{mark.path}.type"
            )
        ttl = "5m" if control.ttl is None else control.ttl
        if ttl not in _TTLS_S:
            raise InvalidRequest(
                f"{mark.path}.ttl: {show(ttl)} is not known; use {' or '.join(_TTLS_S)}.", param=f"{mark.path}.ttl"
            )
        self.count += 1
        if self.count > MAX_BREAKPOINTS:
            raise InvalidRequest(
                f"{mark.path}: is mark number {self.count}; at most {MAX_BREAKPOINTS} blocks with cache_control are "
                "allowed.",
                param=mark.path,
            )
        ttl_s = _TTLS_S[ttl]
        if ttl_s > self._last_s:
            raise InvalidRequest(
                f"{mark.path}.ttl: {show(ttl)} comes after 5m at {self._last_path}; longer times come first (tools, "
                "then system, then messages).",
                param=f"{mark.path}.ttl",
            )
        self._last_s, self._last_path = ttl_s, mark.path
        self._ttls_s[mark.message] = max(ttl_s, self._ttls_s.get(mark.message, 0.0))

    def add_automatic(self, control: CacheControl | None, num_messages: int) -> None:
        """Take the mark of the whole request: on its last block, unless that has one already."""
        last = num_messages - 1
        if control is not None and last not in self._ttls_s:
            self.add(Mark(control, last, "cache_control"))

    def breakpoints(self) -> tuple[Breakpoint, ...]:
        """One for each message that has marks."""
        return tuple(Breakpoint(message, ttl_s) for message, ttl_s in sorted(self._ttls_s.items()))
