"""What was seen of every target while requests ran: loads, times, lengths of answers, and who read which beginnings.

Load counts from dispatch to the end of the stream, on every way that it ends. Memory is bounded: targets that settings
name stay, of others (models that clients name on open backends) the idle ones are forgotten. Knows no policies; used on
one thread.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from headrace.core.clock import Clock
from headrace.core.events import Usage
from headrace.core.shape import Shape
from headrace.gateway.routing.affinity import PrefixIndex
from headrace.gateway.routing.averages import Average
from headrace.gateway.settings import Target

MAX_LOOSE_TARGETS: Final = 1024

BYTES_PER_TOKEN: Final = 4
"""Of usual text."""

NUM_SIZES: Final = 5
"""Classes of input: below 2, 8, 32 and 128 KiB, and above."""


def size_class(num_bytes: int) -> int:
    """The class of an input's bytes: each four times the one before."""
    return min(max(num_bytes.bit_length() - 10, 0) // 2, NUM_SIZES - 1)


@dataclass(slots=True, eq=False)
class BackendState:
    """Requests that a backend is busy with, and tokens of their inputs that it has still to read, by what is known of
    its cache."""

    name: str
    in_flight: int = 0
    unread_tokens: int = 0


@dataclass(slots=True, eq=False)
class TargetState:
    """One target. `ttft` is by size of input, in seconds; `tpot` seconds a token of output. `explorers` are requests on
    the way whose time to first token nobody knows yet, by size. `keeps_prefixes`: some route asks who is warm."""

    target: Target
    backend: BackendState
    in_flight: int = 0
    num_errors: int = 0
    tpot: Average = field(default_factory=Average)
    output_tokens: Average = field(default_factory=Average)
    bytes_per_token: Average = field(default_factory=Average)
    ttft: list[Average] = field(default_factory=lambda: [Average() for _ in range(NUM_SIZES)])
    explorers: list[int] = field(default_factory=lambda: [0] * NUM_SIZES)
    keeps_prefixes: bool = False


@dataclass(slots=True, eq=False)
class _Flight:
    state: TargetState
    shape: Shape
    size: int
    begun_s: float
    unread_tokens: int
    first_s: float | None = None


class RouteSightings:
    """See `gateway.contract.Sightings`. It outlives the settings: a planner made of new ones goes on with what is
    known."""

    def __init__(self, clock: Clock, index: PrefixIndex | None = None) -> None:
        self.index = PrefixIndex() if index is None else index
        self._clock = clock
        self._targets: dict[Target, TargetState] = {}
        self._loose: OrderedDict[Target, TargetState] = OrderedDict()
        self._backends: dict[str, BackendState] = {}
        self._flights: dict[int, _Flight] = {}
        self._last_number = 0

    @property
    def num_in_flight(self) -> int:
        """Requests that began and have not ended."""
        return len(self._flights)

    def pin(self, target: Target) -> TargetState:
        """What is known of a target that settings name; kept from now on."""
        state = self._targets.get(target)
        if state is None:
            state = self._loose.pop(target, None) or TargetState(target, self.backend(target.backend))
            self._targets[target] = state
        return state

    def unpin(self) -> None:
        """Other settings come: what they do not name is kept like what no settings name."""
        for target, state in self._targets.items():
            state.keeps_prefixes = False
            self._loose[target] = state
        self._targets.clear()

    def state(self, target: Target) -> TargetState:
        """What is known of any target."""
        state = self._targets.get(target)
        if state is not None:
            return state
        state = self._loose.get(target)
        if state is None:
            self._forget_idle()
            state = self._loose[target] = TargetState(target, self.backend(target.backend))
        else:
            self._loose.move_to_end(target)
        return state

    def backend(self, name: str) -> BackendState:
        """What is known of a backend."""
        state = self._backends.get(name)
        if state is None:
            state = self._backends[name] = BackendState(name)
        return state

    def begin(self, target: Target, shape: Shape) -> int:
        """See `gateway.contract.Sightings`."""
        state = self._targets.get(target) or self.state(target)
        size = size_class(shape.num_bytes)
        state.in_flight += 1
        state.backend.in_flight += 1
        state.explorers[size] += 1
        unread = shape.num_bytes // BYTES_PER_TOKEN
        if state.keeps_prefixes:
            unread = int(unread * self.index.add(target, shape))
        state.backend.unread_tokens += unread
        self._last_number = number = self._last_number + 1
        self._flights[number] = _Flight(state, shape, size, self._clock.monotonic_s(), unread)
        return number

    def first_event(self, number: int) -> None:
        """See `gateway.contract.Sightings`."""
        flight = self._flights.get(number)
        if flight is None or flight.first_s is not None:
            return
        flight.first_s = now = self._clock.monotonic_s()
        state = flight.state
        state.explorers[flight.size] -= 1
        state.backend.unread_tokens -= flight.unread_tokens
        state.ttft[flight.size].add(now - flight.begun_s, now)

    def end(self, number: int, usage: Usage | None, error: Exception | None, *, is_cancelled: bool = False) -> None:
        """See `gateway.contract.Sightings`. A number that is not under way changes nothing."""
        flight = self._flights.pop(number, None)
        if flight is None:
            return
        state = flight.state
        state.in_flight -= 1
        state.backend.in_flight -= 1
        if flight.first_s is None:
            state.explorers[flight.size] -= 1
            state.backend.unread_tokens -= flight.unread_tokens
        if error is not None:
            state.num_errors += 1
        elif usage is not None and not is_cancelled:
            self._learn(flight, usage)

    def _learn(self, flight: _Flight, usage: Usage) -> None:
        now, state = self._clock.monotonic_s(), flight.state
        if usage.prompt_tokens and flight.shape.num_bytes:
            state.bytes_per_token.add(flight.shape.num_bytes / usage.prompt_tokens, now)
        if usage.completion_tokens:
            state.output_tokens.add(usage.completion_tokens, now)
        if flight.first_s is None:
            self._learn_whole(flight, usage.completion_tokens, now)
        elif usage.completion_tokens > 1:
            state.tpot.add((now - flight.first_s) / (usage.completion_tokens - 1), now)

    def _learn_whole(self, flight: _Flight, num_tokens: int, now: float) -> None:
        """An answer came whole: its first token was not seen, so its time is parted by what is known of the others."""
        state, took_s = flight.state, now - flight.begun_s
        after_s = 0.0
        if num_tokens > 1:
            state.tpot.add(took_s / num_tokens, now)
            after_s = (state.tpot.value(now) or 0.0) * (num_tokens - 1)
        state.ttft[flight.size].add(max(took_s - after_s, 0.0), now)

    def _forget_idle(self) -> None:
        """As many as are too many; those that are busy stay."""
        too_many = len(self._loose) - MAX_LOOSE_TARGETS + 1
        if too_many > 0:
            idle = [target for target, state in self._loose.items() if not state.in_flight]
            for target in idle[:too_many]:
                del self._loose[target]
