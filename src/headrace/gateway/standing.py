"""Who can be asked at all: breakers by target, health and drains by backend, read as one `Standing`.

Implements `contract.Standings` for the planner, and takes in how attempts end from the gate. Decides which errors are
faults of a backend, and logs who goes out and comes back. Knows no requests; time comes from the clock that it is
given.
"""

import logging
from collections.abc import Mapping
from typing import Final

from headrace.core.clock import Clock
from headrace.core.errors import (
    EngineFault,
    HeadraceError,
    Overloaded,
    RateLimited,
    Unavailable,
    UpstreamDenied,
    UpstreamFault,
)
from headrace.gateway.breakers import Breaker
from headrace.gateway.contract import Standing
from headrace.gateway.health import HealthState
from headrace.gateway.settings import ENGINE, BackendSettings, BreakerSettings, Health, Target

_log = logging.getLogger("headrace.gateway")

GOOD: Final = Standing()
MAX_BREAKERS: Final = 4096
"""Targets that are remembered. Open backends take any model's name, so that there is no bound by settings."""

FAULTS: Final = (UpstreamFault, EngineFault, Unavailable)
RESTS: Final = (RateLimited, Overloaded)


class StandingBook:
    """Every backend's and target's."""

    def __init__(self, backends: Mapping[str, BackendSettings], clock: Clock) -> None:
        self._clock = clock
        self._backends: Mapping[str, BackendSettings] = {}
        self._breakers: dict[Target, Breaker] = {}
        self._troubled: set[Target] = set()  # whose breaker is open or resting
        self._health: dict[str, HealthState] = {}
        self._unwell: set[str] = set()  # out or warming up
        self._drained: set[str] = set()
        self.replace(backends)

    def replace(self, backends: Mapping[str, BackendSettings]) -> None:
        """Go on with other settings: what was learned of a backend is kept where its settings are what they were."""
        before, self._backends = self._backends, backends
        # The engine of this process needs no settings, and stays what it is.
        same = {name for name in (*backends, ENGINE) if before.get(name) == backends.get(name)}
        health = {name: HealthState(settings.health) for name, settings in backends.items()}
        self._health = health | {name: state for name, state in self._health.items() if name in same}
        self._breakers = {target: breaker for target, breaker in self._breakers.items() if target.backend in same}
        self._troubled &= self._breakers.keys()
        self._unwell &= same
        self._drained &= {*backends, ENGINE}

    @property
    def is_clear(self) -> bool:
        """True if nothing is wrong with any target."""
        return not (self._troubled or self._unwell or self._drained)

    def standing(self, target: Target) -> Standing:
        """How a target stands now."""
        if target.backend in self._drained:
            return Standing(0.0, "draining")
        share = 1.0
        if target.backend in self._unwell:
            state, now_s = self._health[target.backend], self._clock.monotonic_s()
            share = state.share(now_s)
            if share == 0.0:
                return Standing(0.0, f"failed its health checks: {state.last_error.rstrip('.')}")
            if share == 1.0:
                self._unwell.discard(target.backend)
        if target in self._troubled:
            breaker, now_s = self._breakers[target], self._clock.monotonic_s()
            wait_s = breaker.wait_s(now_s)
            if wait_s > 0.0:
                why = "its breaker is open" if breaker.is_open else "asked for a rest"
                return Standing(0.0, why, wait_s)
            if breaker.is_quiet(now_s):
                self._troubled.discard(target)
        return GOOD if share == 1.0 else Standing(share, "warming up")

    def begin(self, target: Target) -> bool | None:
        """An attempt is about to go out: None if it may not, else whether it is a breaker's trial."""
        if target.backend in self._drained:
            return None
        if target.backend in self._unwell and not self._health[target.backend].is_well:
            return None
        breaker = self._breakers.get(target)
        return False if breaker is None else breaker.begin(self._clock.monotonic_s())

    def answer(self, target: Target, *, is_trial: bool) -> None:
        """The first of an answer is here."""
        if is_trial and (breaker := self._breakers.get(target)) is not None:
            breaker.answer(is_trial=True)
            _log.info("the breaker of %s closes: it answers again", target)
            self._come_back(target.backend)

    def end(self, target: Target, error: BaseException | None, *, is_trial: bool) -> None:
        """An attempt ended: well, by an error, or (GeneratorExit, CancelledError) because nobody wants it any more."""
        breaker = self._breakers.get(target) or self._add_breaker(target)
        if error is None:
            breaker.succeed(is_trial=is_trial)
            return
        now_s, was_open = self._clock.monotonic_s(), breaker.is_open
        if isinstance(error, RESTS) and target.backend == ENGINE:
            breaker.forget(is_trial=is_trial)  # it refuses at once and at no cost: asking it is how one knows
        elif isinstance(error, RESTS):
            breaker.rest(now_s, error.retry_after_s, is_trial=is_trial)
        elif isinstance(error, FAULTS) and not isinstance(error, UpstreamDenied):
            # Of a denial nobody can tell whether our key is the cause or one client's text, which must open no breaker.
            breaker.fail(now_s, is_trial=is_trial)
        else:
            breaker.forget(is_trial=is_trial)
        if not breaker.is_quiet(now_s):
            self._troubled.add(target)
        if breaker.is_open and not was_open:
            # What a backend said may repeat what it was asked, and a log holds no prompt.
            why = error.code if isinstance(error, HeadraceError) and error.quotes else error
            _log.warning("the breaker of %s opens for %g s: %s", target, breaker.wait_s(now_s), why)

    def drain(self, backend: str) -> None:
        """No new requests for a backend; those that run end as they would."""
        self._drained.add(backend)

    def resume(self, backend: str) -> None:
        """A drained backend gets requests again, warming up if it is set to."""
        if backend in self._drained:
            self._drained.discard(backend)
            self._come_back(backend)

    def is_draining(self, backend: str) -> bool:
        """Whether an operator has drained it."""
        return backend in self._drained

    def note_check(self, backend: str, error: Exception | None) -> bool:
        """An active check ended; whether that changed how the backend stands."""
        state = self._health_of(backend)
        now_s = self._clock.monotonic_s()
        has_changed = state.note(now_s, error)
        if has_changed and error is not None:
            _log.warning("backend %s is out: it failed its health checks: %s", backend, error)
        elif has_changed:
            _log.info("backend %s is back: it passes its health checks", backend)
        if state.share(now_s) < 1.0:
            self._unwell.add(backend)
        else:
            self._unwell.discard(backend)
        return has_changed

    def health(self, backend: str) -> HealthState:
        """What active checks say of a backend."""
        return self._health_of(backend)

    def breakers(self, backend: str) -> dict[str, Breaker]:
        """By model, those of models that were asked."""
        return {target.model: one for target, one in self._breakers.items() if target.backend == backend}

    def _come_back(self, backend: str) -> None:
        state, now_s = self._health_of(backend), self._clock.monotonic_s()
        state.come_back(now_s)
        if state.share(now_s) < 1.0:
            self._unwell.add(backend)

    def _health_of(self, backend: str) -> HealthState:
        state = self._health.get(backend)
        if state is None:
            state = self._health[backend] = HealthState(Health())
        return state

    def _add_breaker(self, target: Target) -> Breaker:
        if len(self._breakers) >= MAX_BREAKERS:
            idle = next((one for one in self._breakers if one not in self._troubled), next(iter(self._breakers)))
            self._breakers.pop(idle)
            self._troubled.discard(idle)
        settings = self._backends.get(target.backend)
        breaker = self._breakers[target] = Breaker(BreakerSettings() if settings is None else settings.breaker)
        return breaker
