"""The lanes of one WebSocket, without I/O: who runs, who waits, what a response can still become, what steering does.

    WAITING --start--> STARTING --create--> ACTIVE --call--> CALLING --.
                          |                    |--halt--> HALTING -----|--complete--> COMPLETED
                          '--fail--> FAILED <--+-----------------------+--stop------> INCOMPLETE
                                               '-----------------------'--fail------> FAILED

A lane runs one turn at a time, in the order in which they came; lanes run side by side. Steering ends an ACTIVE
response at once and lets a CALLING one finish: half a call is worth nothing. What was accepted is owed to the client as
one of two things: the beginning of a successor, or `response.steer.failed` with the input in it.

Inputs are what a client sent (`create`, `steer`) and what became of a turn (`created`, `calls`, `finished`); answers
are actions, to be done in their order. Knows no bytes (`socket_frames.py`), no sockets and no service.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from headrace.api.socket_frames import Create, Steer
from headrace.core.errors import InvalidRequest

# OpenAI's limits for one connection: responses that run or wait, and names.
MAX_IN_FLIGHT: Final = 16
MAX_NAMED_LANES: Final = 32
MAX_STEERS: Final = 8
# Ended responses of which the connection can still say why they cannot be steered.
_MAX_ENDED: Final = 256


class Phase(Enum):
    """Where a turn stands."""

    WAITING = "waiting"
    STARTING = "starting"
    ACTIVE = "active"
    CALLING = "calling"
    HALTING = "halting"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"


class Move(Enum):
    """What can happen to a turn."""

    START = "start"
    CREATE = "create"
    CALL = "call"
    HALT = "halt"
    COMPLETE = "complete"
    STOP = "stop"
    FAIL = "fail"


ENDS: Final = frozenset({Move.COMPLETE, Move.STOP, Move.FAIL})

# The only moves there are.
PHASES: Final[Mapping[tuple[Phase, Move], Phase]] = {
    (Phase.WAITING, Move.START): Phase.STARTING,
    (Phase.STARTING, Move.CREATE): Phase.ACTIVE,
    (Phase.STARTING, Move.FAIL): Phase.FAILED,
    (Phase.ACTIVE, Move.CALL): Phase.CALLING,
    (Phase.ACTIVE, Move.HALT): Phase.HALTING,
    (Phase.ACTIVE, Move.COMPLETE): Phase.COMPLETED,
    (Phase.ACTIVE, Move.STOP): Phase.INCOMPLETE,
    (Phase.ACTIVE, Move.FAIL): Phase.FAILED,
    (Phase.CALLING, Move.CALL): Phase.CALLING,
    (Phase.CALLING, Move.COMPLETE): Phase.COMPLETED,
    (Phase.CALLING, Move.STOP): Phase.INCOMPLETE,
    (Phase.CALLING, Move.FAIL): Phase.FAILED,
    # What was on its way when the order came.
    (Phase.HALTING, Move.CALL): Phase.HALTING,
    (Phase.HALTING, Move.COMPLETE): Phase.COMPLETED,
    (Phase.HALTING, Move.STOP): Phase.INCOMPLETE,
    (Phase.HALTING, Move.FAIL): Phase.FAILED,
}

# Why a response in a phase takes no steering; it does in those that are not here.
NO_STEERING: Final[Mapping[Phase, str]] = {
    Phase.COMPLETED: "response_already_completed",
    Phase.INCOMPLETE: "response_not_active",
    Phase.FAILED: "response_not_active",
}

_MESSAGES: Final[Mapping[str, str]] = {
    "response_not_found": "no response of this connection has that id; steer one that it is answering.",
    "response_already_completed": "the response is complete; continue from it with response.create.",
    "response_not_active": "the response has ended, so nothing continues from it here; send the input in a request.",
    "steering_not_supported": "responses of a conversation, and those that generate nothing, cannot be steered.",
    "successor_creation_failed": "the response that was to continue with it could not be begun; send it in a request.",
    "too_many_pending_steers": f"{MAX_STEERS} inputs wait for the response already; let it take them first.",
}


@dataclass(slots=True, eq=False)
class Turn:
    """One response from its order to its end. `steers` are begun by it, `queued` came while it ran; `num_sent` counts
    what was sent of it, which numbers the next."""

    lane: "Lane"
    create: Create
    steers: tuple[Steer, ...] = ()
    phase: Phase = Phase.WAITING
    response_id: str | None = None
    queued: list[Steer] = field(default_factory=list)
    num_sent: int = 0

    def move(self, move: Move) -> None:
        """Go on in the table; anything else is a defect of ours."""
        assert (self.phase, move) in PHASES, (self.phase, move)
        self.phase = PHASES[self.phase, move]

    def next_number(self) -> int:
        """The sequence number of what is sent now."""
        self.num_sent += 1
        return self.num_sent - 1


@dataclass(slots=True, eq=False)
class Parked:
    """Steering that waits for the client to answer the calls of `parent`."""

    parent: Turn
    steers: list[Steer]


@dataclass(slots=True, eq=False)
class Lane:
    """One queue: `name` is the client's word for it (None: the one without a name), `index` ours."""

    name: str | None
    index: int
    turn: Turn | None = None
    waiting: deque[Turn] = field(default_factory=deque)
    parked: Parked | None = None
    has_answered: bool = False

    @property
    def state(self) -> str:
        """IDLE before the first turn, RUNNING during one, DONE after it."""
        return "RUNNING" if self.turn is not None else "DONE" if self.has_answered else "IDLE"


@dataclass(frozen=True, slots=True)
class Start:
    """Answer a turn."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Halt:
    """End a turn's response now, as incomplete."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class Say:
    """Send a frame about steering: `fields` but for its sequence number, which is the turn's next (None: has none)."""

    fields: Mapping[str, Any]
    turn: Turn | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Tell that a turn will not be begun."""

    turn: Turn


Action = Start | Halt | Say | Drop


class Lanes:
    """All lanes of one connection."""

    def __init__(self) -> None:
        self._lanes: dict[str | None, Lane] = {}
        self._turns: dict[str, Turn] = {}  # by response id; the last ones that ended, too
        self._is_closed = False
        self.num_in_flight = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def create(self, create: Create) -> list[Action]:
        """Take an order. Raises InvalidRequest above a limit."""
        lane = self._lanes.get(create.stream_id)
        if self.num_in_flight >= MAX_IN_FLIGHT:
            raise _limit(f"{MAX_IN_FLIGHT} responses of this connection run or wait; let one end first")
        if lane is None:
            num_named = len(self._lanes) - (None in self._lanes)
            if create.stream_id is not None and num_named >= MAX_NAMED_LANES:
                raise _limit(f"this connection has named {MAX_NAMED_LANES} lanes; use one of them, or connect again")
            lane = self._lanes[create.stream_id] = Lane(create.stream_id, len(self._lanes))
        self.num_in_flight += 1
        lane.waiting.append(Turn(lane, create))
        return self._start_next(lane)

    def steer(self, steer: Steer, steer_id: str) -> list[Action]:
        """Take input for a response that is being answered; `steer_id` names it if it is accepted."""
        turn = self._turns.get(steer.previous_response_id)
        if turn is None:
            return [failed(steer, "response_not_found", None)]
        code = self._refusal(turn)
        if code is not None:
            return [failed(steer, code, turn)]
        steer = replace(steer, id=steer_id)
        turn.queued.append(steer)
        actions: list[Action] = [Say(_steer_frame("response.steer.accepted", steer), turn)]
        if turn.phase is Phase.ACTIVE:
            turn.move(Move.HALT)
            actions.append(Halt(turn))
        return actions

    def created(self, turn: Turn, response_id: str) -> None:
        """A turn's response has begun: what steered it there is committed."""
        turn.move(Move.CREATE)
        turn.response_id = response_id
        turn.steers = ()
        self._turns[response_id] = turn
        while len(self._turns) > _MAX_ENDED:
            oldest = next((key for key, one in self._turns.items() if one.phase in NO_STEERING), None)
            if oldest is None:
                break
            del self._turns[oldest]

    def calls(self, turn: Turn) -> None:
        """A call has begun in a turn's response."""
        turn.move(Move.CALL)

    def finished(
        self, turn: Turn, end: Move, required: Sequence[Mapping[str, Any]] = (), reason: str | None = None
    ) -> list[Action]:
        """A turn has ended. `required` are the calls that its client has to answer, as stubs of the answers; `reason`
        says why it failed."""
        lane = turn.lane
        assert lane.turn is turn
        assert end in ENDS
        turn.move(end)
        lane.turn, lane.has_answered = None, True
        self.num_in_flight -= 1
        actions: list[Action] = [failed(steer, "successor_creation_failed", turn, reason) for steer in turn.steers]
        queued, turn.queued = turn.queued, []
        if end is Move.FAIL:
            actions += [failed(steer, "response_not_active", turn) for steer in queued]
        elif self._is_closed:
            actions += [failed(steer, "successor_creation_failed", turn) for steer in queued]
        elif queued and required:
            lane.parked = Parked(turn, queued)
            actions += [Say(_pending_frame(steer, required), turn) for steer in queued]
        elif queued:
            assert turn.response_id is not None
            self.num_in_flight += 1
            lane.waiting.appendleft(Turn(lane, turn.create.successor(turn.response_id, queued), tuple(queued)))
        return actions + self._start_next(lane)

    def abandon(self) -> list[Action]:
        """The connection takes no more: what waits is given up, and steering that waits is given back."""
        self._is_closed = True
        actions: list[Action] = []
        for lane in self._lanes.values():
            self.num_in_flight -= len(lane.waiting)
            actions += [Drop(turn) for turn in lane.waiting]
            lane.waiting.clear()
            actions += self._unpark(lane)
        return actions

    def _start_next(self, lane: Lane) -> list[Action]:
        if lane.turn is not None or not lane.waiting:
            return []
        turn = lane.turn = lane.waiting.popleft()
        turn.move(Move.START)
        actions: list[Action] = []
        if lane.parked is not None:
            if lane.parked.parent.response_id == turn.create.previous_response_id:
                turn.steers = tuple(lane.parked.steers)
                turn.create = turn.create.prepend(turn.steers)
                lane.parked = None
            else:
                actions += self._unpark(lane)
        return [*actions, Start(turn)]

    @staticmethod
    def _refusal(turn: Turn) -> str | None:
        if turn.phase in NO_STEERING:
            return NO_STEERING[turn.phase]
        if not turn.create.is_steerable:
            return "steering_not_supported"
        return "too_many_pending_steers" if len(turn.queued) >= MAX_STEERS else None

    @staticmethod
    def _unpark(lane: Lane) -> list[Action]:
        parked, lane.parked = lane.parked, None
        if parked is None:
            return []
        return [failed(steer, "response_not_active", parked.parent) for steer in parked.steers]


def failed(steer: Steer, code: str, turn: Turn | None, message: str | None = None) -> Say:
    """Give input back that was not used. It has an id if it was accepted before."""
    error = {"type": "invalid_request_error", "code": code, "message": message or _MESSAGES[code]}
    given: dict[str, Any] = {"previous_response_id": steer.previous_response_id, "input": steer.given}
    if steer.id is not None:
        given["id"] = steer.id
    return Say({"type": "response.steer.failed", "steer": given, "error": error}, turn)


def _steer_frame(kind: str, steer: Steer) -> dict[str, Any]:
    return {"type": kind, "steer": {"id": steer.id, "previous_response_id": steer.previous_response_id}}


def _pending_frame(steer: Steer, required: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    more = {"reason": "waiting_for_required_input", "required_input": list(required)}
    return _steer_frame("response.steer.pending", steer) | more


def _limit(sentence: str) -> InvalidRequest:
    return InvalidRequest(f"{sentence}.", param="stream_id", code="websocket_stream_limit_reached")
