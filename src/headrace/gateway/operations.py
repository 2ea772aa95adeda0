"""What an operator sees of a gateway's backends and can do to one: implements `core.service.Operations`.

Reads the parts that a gate has now. Knows no routes of a server.
"""

from collections.abc import Callable
from typing import Literal

from headrace.core.clock import Clock
from headrace.core.errors import NotFound
from headrace.core.service import BackendState, ModelState
from headrace.gateway.gate import Gate
from headrace.gateway.routing.sightings import RouteSightings
from headrace.gateway.settings import BackendSettings, Target
from headrace.gateway.standing import StandingBook


class GateOperations:
    """Those of one gate."""

    def __init__(self, gate: Gate, sightings: RouteSightings, clock: Clock) -> None:
        self._gate = gate
        self._sightings = sightings
        self._clock = clock

    def backends(self) -> tuple[BackendState, ...]:
        """Every backend as it stands now, the engine too."""
        return tuple(self._state(name) for name in sorted(self._gate.parts.upstreams))

    def drain(self, backend: str) -> BackendState:
        """Give it no new requests. Raises NotFound."""
        return self._change(backend, StandingBook.drain)

    def resume(self, backend: str) -> BackendState:
        """Give it requests again. Raises NotFound."""
        return self._change(backend, StandingBook.resume)

    def _change(self, backend: str, change: Callable[[StandingBook, str], None]) -> BackendState:
        names = sorted(self._gate.parts.upstreams)
        if backend not in names:
            raise NotFound(f"There is no backend {backend[:200]}; there are: {', '.join(names)}.", param="name")
        change(self._gate.parts.standings, backend)
        return self._state(backend)

    def _state(self, name: str) -> BackendState:
        parts = self._gate.parts
        settings = parts.settings.backends.get(name) or BackendSettings(name=name, kind="engine")
        health, line = parts.standings.health(name), parts.admission.line(name)
        share = health.share(self._clock.monotonic_s())
        said: Literal["well", "failing", "warming", "unchecked"]
        said = "unchecked" if settings.health.path is None else "well"
        if share < 1.0:
            said = "failing" if share == 0.0 else "warming"
        return BackendState(
            name=name,
            kind=settings.kind,
            is_draining=parts.standings.is_draining(name),
            health=said,
            share=share,
            last_error=health.last_error,
            num_running=line.num_running,
            num_waiting=line.num_waiting,
            max_concurrency=settings.max_concurrency,
            models=tuple(self._model(Target(name, model)) for model in self._models(settings)),
        )

    def _models(self, settings: BackendSettings) -> list[str]:
        """Those of the settings, and those that were asked for."""
        return sorted({*settings.models, *self._gate.parts.standings.breakers(settings.name)})

    def _model(self, target: Target) -> ModelState:
        now_s = self._clock.monotonic_s()
        breaker = self._gate.parts.standings.breakers(target.backend).get(target.model)
        seen = self._sightings.state(target)
        wait_s = 0.0 if breaker is None else breaker.wait_s(now_s)
        return ModelState(
            name=target.model,
            breaker="closed" if breaker is None else breaker.word(now_s),
            num_failed=0 if breaker is None else breaker.num_failed,
            retry_in_s=wait_s or None,
            num_in_flight=seen.in_flight,
            seconds_per_token=seen.tpot.value(now_s),
            output_tokens=seen.output_tokens.value(now_s),
        )
