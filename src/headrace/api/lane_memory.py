"""What one WebSocket remembers of the responses it was answered with: the latest of each lane, stored or not.

A cache over the store and never the store: a lane's next response takes the place of its last one, a failed
continuation takes away what it continued, the end of the connection takes all. Bytes are bounded twice, for the
connection and for its tenant; what was kept longest goes first, and what does not fit is not kept: continuing from it
then meets `previous_response_not_found`, as after a new connection. Knows no sockets and no store.
"""

from dataclasses import dataclass

import msgspec

from headrace.api.responses_service import History


@dataclass(slots=True)
class TenantBytes:
    """What all connections of one tenant remember together."""

    limit: int
    used: int = 0


@dataclass(frozen=True, slots=True)
class _Kept:
    history: History
    num_bytes: int


class LaneMemory:
    """The memory of one connection."""

    def __init__(self, max_bytes: int, tenant: TenantBytes) -> None:
        self._max_bytes = max_bytes
        self._tenant = tenant
        self._kept: dict[int, _Kept] = {}  # by lane, the one kept longest first
        self.num_bytes = 0

    def find(self, response_id: str) -> History | None:
        """What is remembered of a response, on whichever lane it came."""
        return next((one.history for one in self._kept.values() if one.history.response_id == response_id), None)

    def keep(self, lane: int, history: History) -> None:
        """Remember a lane's latest response in the place of its last one."""
        self._drop(lane)
        num_bytes = len(msgspec.json.encode(history.items))
        if num_bytes > min(self._max_bytes, self._tenant.limit - self._tenant.used + self.num_bytes):
            return  # not even in the place of all that this connection keeps
        while not self._fits(num_bytes):
            self._drop(next(iter(self._kept)))
        self._kept[lane] = _Kept(history, num_bytes)
        self._count(num_bytes)

    def evict(self, response_id: str) -> None:
        """Forget a response; an unknown id is no error."""
        for lane in [lane for lane, one in self._kept.items() if one.history.response_id == response_id]:
            self._drop(lane)

    def clear(self) -> None:
        """Forget everything."""
        for lane in list(self._kept):
            self._drop(lane)

    def of(self, lane: int) -> "OneLane":
        """The memory as the service of a lane's turn sees it."""
        return OneLane(self, lane)

    def _fits(self, num_bytes: int) -> bool:
        return self.num_bytes + num_bytes <= self._max_bytes and self._tenant.used + num_bytes <= self._tenant.limit

    def _drop(self, lane: int) -> None:
        kept = self._kept.pop(lane, None)
        if kept is not None:
            self._count(-kept.num_bytes)

    def _count(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        self._tenant.used += num_bytes


@dataclass(frozen=True, slots=True)
class OneLane:
    """A `LocalState`: everything can be found, and what is kept is this lane's."""

    memory: LaneMemory
    lane: int

    def find(self, response_id: str) -> History | None:
        """What is remembered of a response."""
        return self.memory.find(response_id)

    def keep(self, history: History) -> None:
        """Remember a response that has ended well."""
        self.memory.keep(self.lane, history)

    def evict(self, response_id: str) -> None:
        """Forget a response whose continuation failed."""
        self.memory.evict(response_id)
