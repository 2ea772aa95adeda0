"""Who is waiting for an answer now: a backend that counts what passes through it, so that other work can stand back.

Knows nothing of what is asked or answered.
"""

from collections.abc import AsyncGenerator, Callable

from headrace.core.backend import Backend, ModelCard, Probe
from headrace.core.events import Event
from headrace.core.request import Request
from headrace.gateway.batches import BACKGROUND_PRIORITY


class Foreground:
    """A backend around another. `num_running` requests are under way for which somebody waits, all that are not of a
    batch; `on_idle` are called when the last one ends."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.num_running = 0
        self.on_idle: list[Callable[[], None]] = []

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer as the backend does."""
        events = self._backend.run(request)
        num_waiting = int(request.principal.priority > BACKGROUND_PRIORITY)
        self.num_running += num_waiting
        try:
            async for event in events:
                yield event
        finally:
            try:
                await events.aclose()
            finally:
                self.num_running -= num_waiting
                if num_waiting and not self.num_running:
                    for call in self.on_idle:
                        call()

    def models(self) -> tuple[ModelCard, ...]:
        """The backend's."""
        return self._backend.models()

    async def probe(self, request: Request) -> Probe:
        """The backend's."""
        return await self._backend.probe(request)

    async def release(self, session: str, tenant: str = "local") -> None:
        """The backend's."""
        await self._backend.release(session, tenant)
