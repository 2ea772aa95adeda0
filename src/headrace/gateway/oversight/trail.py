"""Which record belongs to which request, as long as somebody may still refer to it: how an answer names where it comes
from. Bounded; what has left it is named without its digest. Knows no records' contents."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MAX_TRACES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Trace:
    """A record's id, and the SHA-256 of its envelope."""

    record_id: str
    digest: bytes


class Trail:
    """Traces by tenant and request, least recently used first out."""

    def __init__(self, max_traces: int = MAX_TRACES) -> None:
        self._max = max_traces
        self._traces: OrderedDict[tuple[str, str], Trace] = OrderedDict()

    def add(self, tenant: str, request_id: str, trace: Trace) -> None:
        """A request has its record. Services ask several times for one request and number them: the last stands for
        all."""
        for name in {request_id, request_id.partition(".")[0]}:
            self._traces[tenant, name] = trace
            self._traces.move_to_end((tenant, name))
        while len(self._traces) > self._max:
            self._traces.popitem(last=False)

    def find(self, tenant: str, request_id: str) -> Trace | None:
        """The trace of a tenant's own request: nobody comes from what is another's."""
        trace = self._traces.get((tenant, request_id))
        if trace is not None:
            self._traces.move_to_end((tenant, request_id))
        return trace
