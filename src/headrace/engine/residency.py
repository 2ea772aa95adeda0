"""Which of the served models are in memory: who may use one, who waits, what is loaded next and what has to go.

    absent -> (somebody asks) waiting -> loading -> ready -> leaving -> absent

Pure: what has happened goes in with its time, what is to be done comes out, in order; nothing here loads, frees or
waits. The rules kept:

- Models that are loading, ready or leaving never hold more than the budget together.
- A model that somebody uses is never taken from them. Where one that is in use has to go, its requests end as they
  would, and new ones for it wait behind those that it goes for.
- Who waits is served in order of arrival: memory goes to the first whose model is not there, so nobody starves. All who
  wait for one model are served when it is ready.
- Idle models go first, the least recently used before others; then those in use, the least recently asked for first.
  The others' need decides how many: none goes that need not.
- Everybody who waits is told: of the model, of the error that its loading met, or that it can never fit.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.core.service import Residence

Waiter = Hashable
"""Whoever waits, as the caller knows them."""


class State(StrEnum):
    """Where a model is; see the file's head. Waiting: asked for, and for memory or its turn to be loaded."""

    ABSENT = "absent"
    WAITING = "waiting"
    LOADING = "loading"
    READY = "ready"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a model takes: its weights, and its pages for keys and values."""

    weights_bytes: int
    pages_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both together."""
        return self.weights_bytes + self.pages_bytes


@dataclass(frozen=True, slots=True)
class Load:
    """To be done: load a model, then say `loaded` or `failed`."""

    name: str


@dataclass(frozen=True, slots=True)
class Unload:
    """To be done: free a model that nobody uses, then say `unloaded`."""

    name: str


@dataclass(frozen=True, slots=True)
class Grant:
    """To be told: the waiter has a lease on its model now, and gives it back with `release`."""

    waiter: Waiter


@dataclass(frozen=True, slots=True)
class Refuse:
    """To be told: the waiter gets no model."""

    waiter: Waiter
    error: HeadraceError


Action = Load | Unload | Grant | Refuse


@dataclass(slots=True)
class _Model:
    need: Need
    ttl_s: float
    state: State = State.ABSENT
    num_leases: int = 0
    last_asked: float = -inf
    last_used: float = -inf
    is_dismissed: bool = False  # it goes as soon as nobody uses it, even if nobody needs its memory
    is_going: bool = False  # leaving, and the caller has been told to free it


@dataclass(slots=True)
class _Place:
    """One who waits in the queue."""

    waiter: Waiter
    name: str


@dataclass(slots=True)
class Residency:
    """The served models of one process. `budget_bytes` None: no bound. One load is under way at a time."""

    budget_bytes: int | None = None
    _models: dict[str, _Model] = field(default_factory=dict)
    _queue: list[_Place] = field(default_factory=list)

    # -- what there is ----------------------------------------------------------------------------------------------

    def add(self, name: str, need: Need, *, ttl_s: float = inf, is_ready: bool = False) -> None:
        """Serve a model: one that is there already, or one to be loaded when somebody asks.

        ttl_s: it leaves when nobody has used it for so long. Raises InvalidRequest if it can never fit, or if it is
        there and does not fit beside the others.
        """
        assert name not in self._models
        self._check_fits(name, need)
        if is_ready and self.budget_bytes is not None and self.held_bytes + need.total_bytes > self.budget_bytes:
            raise InvalidRequest(
                f"memory: {name} ({_sum(need)}) does not fit beside what is loaded already "
                f"({_mb(self.held_bytes)} of {_mb(self.budget_bytes)}); raise --memory.",
                param="memory",
            )
        self._models[name] = _Model(need, ttl_s, State.READY if is_ready else State.ABSENT)

    @property
    def num_waiting(self) -> int:
        """How many wait for a model."""
        return len(self._queue)

    @property
    def held_bytes(self) -> int:
        """What all models hold that are not absent."""
        return sum(one.need.total_bytes for one in self._models.values() if _holds(one))

    def state(self, name: str) -> State:
        """Where a model is."""
        model = self._models[name]
        if model.state is State.ABSENT and any(place.name == name for place in self._queue):
            return State.WAITING
        return model.state

    def is_free(self, name: str) -> bool:
        """Whether nobody uses a model or waits for it."""
        return self._models[name].num_leases == 0 and not any(place.name == name for place in self._queue)

    def describe(self, name: str, now: float) -> Residence:
        """A model for those who ask what there is."""
        model = self._models[name]
        idle_s = now - model.last_used if model.num_leases == 0 and model.last_used > -inf else None
        expires = self._expiry(model)
        return Residence(
            name=name,
            state=self.state(name),
            bytes_held=model.need.total_bytes if _holds(model) else 0,
            num_requests=model.num_leases,
            idle_s=idle_s,
            unloads_in_s=None if expires == inf else max(0.0, expires - now),
        )

    # -- what happens -----------------------------------------------------------------------------------------------

    def ask(self, name: str, waiter: Waiter, now: float) -> list[Action]:
        """Somebody wants to use a model: a grant at once, or a place in the queue. Raises InvalidRequest if never."""
        model = self._models[name]
        self._check_fits(name, model.need)
        model.last_asked = now
        if model.state is State.READY:
            return [self._grant(name, waiter, now)]
        self._queue.append(_Place(waiter, name))
        return self._advance(now)

    def leave(self, waiter: Waiter, now: float) -> list[Action]:
        """Somebody waits no longer; nothing happens to who has been served."""
        self._queue = [place for place in self._queue if place.waiter != waiter]
        return self._advance(now)

    def release(self, name: str, now: float) -> list[Action]:
        """A lease ends."""
        model = self._models[name]
        assert model.num_leases > 0, f"{name}: released more often than granted"
        model.num_leases -= 1
        model.last_used = now
        return self._advance(now)

    def dismiss(self, name: str, now: float) -> list[Action]:
        """Let a model go when those who use it have ended and those who wait for it already were served."""
        model = self._models[name]
        if _holds(model):
            model.is_dismissed = True
        return self._advance(now)

    def loaded(self, name: str, need: Need, now: float) -> list[Action]:
        """A load is done, and this is what the model takes: at most what was said of it, as a rule.

        Should it be more, and too much, it goes again at once, and comes back when there is room for it.
        """
        model = self._models[name]
        assert model.state is State.LOADING
        model.need, model.state, model.last_used = need, State.READY, now
        if self.budget_bytes is not None and self.held_bytes > self.budget_bytes:
            model.state, model.is_going = State.LEAVING, True
            return [Unload(name), *self._advance(now)]
        return [*self._serve(name, now), *self._advance(now)]

    def failed(self, name: str, error: HeadraceError, now: float) -> list[Action]:
        """A load has met an error: all who wait for it get it. The next who asks tries again."""
        model = self._models[name]
        assert model.state is State.LOADING
        model.state, model.is_dismissed = State.ABSENT, False
        return [*self._refuse(name, error), *self._advance(now)]

    def unloaded(self, name: str, now: float) -> list[Action]:
        """A model's memory is free."""
        model = self._models[name]
        assert model.is_going
        model.state, model.is_going, model.is_dismissed = State.ABSENT, False, False
        actions: list[Action] = []
        try:
            self._check_fits(name, model.need)  # what it takes may have turned out to be more than was said
        except InvalidRequest as error:
            actions += self._refuse(name, error)
        return [*actions, *self._advance(now)]

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        return self._advance(now)

    def next_expiry(self) -> float:
        """When `tick` has something to do next, if nothing happens before; infinite if never."""
        return min((self._expiry(model) for model in self._models.values()), default=inf)

    def check(self) -> None:
        """Assert what must always hold."""
        assert self.budget_bytes is None or self.held_bytes <= self.budget_bytes or self._is_correcting()
        for name, model in self._models.items():
            waits = any(place.name == name for place in self._queue)
            assert not (waits and model.state is State.READY), f"{name} is ready, and somebody waits for it"
            assert model.num_leases == 0 or model.state in {State.READY, State.LEAVING}, name
            assert not (model.is_going and model.num_leases), f"{name} is freed under its users"
            assert model.state is not State.LEAVING or model.is_going or model.num_leases, f"{name} leaves for ever"
        assert sum(model.state is State.LOADING for model in self._models.values()) <= 1

    # -- decisions --------------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> list[Action]:
        """Everything that follows from the state as it is, until nothing does."""
        actions: list[Action] = []
        while True:
            wanted = self._next_wanted()
            leaving = self._whom_to_let_go(wanted)
            restored = [name for name, model in self._models.items() if _leaves_for_room(model) and name not in leaving]
            if restored:  # whoever it was to make room for waits no longer, or gets it elsewhere
                for name in restored:
                    self._models[name].state = State.READY
                    actions += self._serve(name, now)
                continue
            actions += self._let_go(leaving, now)
            is_loading = any(model.state is State.LOADING for model in self._models.values())
            if wanted is None or is_loading or not self._has_room(self._models[wanted].need.total_bytes):
                return actions
            self._models[wanted].state = State.LOADING
            actions.append(Load(wanted))

    def _next_wanted(self) -> str | None:
        """The model that memory goes to next: the first in the queue that is on no way already."""
        for place in self._queue:
            model = self._models[place.name]
            if model.state is State.ABSENT:
                return place.name
            if _leaves_for_room(model) or model.is_going:
                # Nobody before needs its memory and it stays; or it will be absent in a moment, and is first then.
                return None
            # It is being loaded; or it was dismissed while somebody uses it, and comes back into its own memory.
        return None

    def _whom_to_let_go(self, wanted: str | None) -> set[str]:
        """Those whose memory the wanted model needs: none of them if there is room."""
        if wanted is None or self.budget_bytes is None:
            return set()
        room = self.budget_bytes - self.held_bytes
        room += sum(model.need.total_bytes for model in self._models.values() if model.is_going)
        lacking = self._models[wanted].need.total_bytes - room
        chosen: list[str] = []
        for name in self._candidates():
            if lacking <= 0:
                break
            chosen.append(name)
            lacking -= self._models[name].need.total_bytes
        for name in reversed(chosen):  # those last in line stay if the others suffice
            size = self._models[name].need.total_bytes
            if lacking + size <= 0:
                chosen.remove(name)
                lacking += size
        return set(chosen)

    def _candidates(self) -> list[str]:
        """Who could make room, whoever it disturbs least first.

        Of those in use, who was chosen before stays chosen: or two that are asked for in turn would save each other.
        """

        def rank(name: str) -> tuple[bool, bool, float]:
            model = self._models[name]
            if model.num_leases == 0:
                return False, False, model.last_used
            return True, model.state is State.READY, model.last_asked

        names = [
            name
            for name, model in self._models.items()
            if model.state in {State.READY, State.LEAVING} and not model.is_going and not model.is_dismissed
        ]
        return sorted(names, key=rank)

    def _let_go(self, leaving: set[str], now: float) -> list[Action]:
        actions: list[Action] = []
        for name, model in self._models.items():
            is_over = self._expiry(model) <= now
            if model.state is State.READY and (name in leaving or model.is_dismissed or is_over):
                model.state = State.LEAVING
            if model.state is State.LEAVING and model.num_leases == 0 and not model.is_going:
                model.is_going = True
                actions.append(Unload(name))
        return actions

    def _serve(self, name: str, now: float) -> list[Action]:
        """Grants for all who wait for a model that is ready."""
        return [self._grant(name, place.waiter, now) for place in self._take_places(name)]

    def _has_room(self, num_bytes: int) -> bool:
        return self.budget_bytes is None or self.held_bytes + num_bytes <= self.budget_bytes

    def _grant(self, name: str, waiter: Waiter, now: float) -> Grant:
        model = self._models[name]
        model.num_leases += 1
        model.last_asked = model.last_used = now
        return Grant(waiter)

    def _refuse(self, name: str, error: HeadraceError) -> list[Action]:
        return [Refuse(place.waiter, error) for place in self._take_places(name)]

    def _take_places(self, name: str) -> list[_Place]:
        places = [place for place in self._queue if place.name == name]
        self._queue = [place for place in self._queue if place.name != name]
        return places

    def _expiry(self, model: _Model) -> float:
        is_idle = model.state is State.READY and model.num_leases == 0
        return model.last_used + model.ttl_s if is_idle and model.last_used > -inf else inf

    def _is_correcting(self) -> bool:
        """Whether a model that turned out larger than was said is on its way out."""
        return any(model.is_going for model in self._models.values())

    def _check_fits(self, name: str, need: Need) -> None:
        if self.budget_bytes is not None and need.total_bytes > self.budget_bytes:
            raise InvalidRequest(
                f"{name} can never be loaded: {_sum(need)}, but the budget is {_mb(self.budget_bytes)}; "
                "raise --memory or lower --kv-memory.",
                param="model",
                code="model_too_large",
            )


def _holds(model: _Model) -> bool:
    return model.state in {State.LOADING, State.READY, State.LEAVING}


def _leaves_for_room(model: _Model) -> bool:
    """Whether a model that is in use is to go because another one needs its memory."""
    return model.state is State.LEAVING and not model.is_going and not model.is_dismissed


def _sum(need: Need) -> str:
    return f"weights {_mb(need.weights_bytes)} + pages {_mb(need.pages_bytes)} = {_mb(need.total_bytes)}"


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
