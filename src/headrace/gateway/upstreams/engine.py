"""The embedded engine, or any other `Backend`, as an `Upstream`: always in events, never in bytes. Knows no HTTP."""

from collections.abc import AsyncGenerator

from headrace.core.backend import Backend
from headrace.core.errors import EngineFault, UpstreamFault
from headrace.core.events import Event
from headrace.core.gateway import RawBody
from headrace.core.request import Request
from headrace.gateway.contract import UpstreamReply, UpstreamStream
from headrace.gateway.settings import Target


class Engine:
    """A backend of this process. Who made it closes it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def dialects(self) -> frozenset[str]:
        """None: it speaks no protocol."""
        return frozenset()

    def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer in events."""
        return self._backend.run(request)

    async def relay(self, raw: RawBody, target: Target, *, max_tokens: int | None) -> UpstreamReply | UpstreamStream:
        """Refused: nobody may ask for it, since `dialects` is empty."""
        raise EngineFault(f"{target} was asked in bytes of {raw.dialect}, which an engine of this process never is.")

    async def check(self) -> None:
        """Raises UpstreamFault if it serves no model."""
        if not self._backend.models():
            raise UpstreamFault("the engine of this process serves no model.")

    async def close(self) -> None:
        """Nothing is held open."""
