"""`wss /v1/responses`: many responses over one connection, each a turn of a lane, with the same events as over HTTP.

    receive -> frame -> lanes -> actions -> a task for each turn -> service -> events -> outbox -> send

Decides nothing about lanes (`api/lanes.py`) and runs no model: turns are the service's. A connection ends when its
client closes it, stops reading or stops answering, when its key is taken back, an hour after it began, and when the
server drains; whatever ends it, every turn's stream is closed and every lane's pages are released before it is left.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, Final

from headrace.api.lane_memory import LaneMemory, TenantBytes
from headrace.api.lanes import Action, Halt, Lane, Lanes, Move, Say, Start, Turn, failed
from headrace.api.openai import Caller
from headrace.api.openai_models import check_task
from headrace.api.responses import decode_turn
from headrace.api.responses_service import CreateCall, ResponseEvent, ResponsesService
from headrace.api.responses_service import Halt as Order
from headrace.api.socket_frames import (
    Create,
    InvalidSteer,
    begins_call,
    decode_create_frame,
    decode_frame,
    decode_steer,
    encode_error_frame,
    encode_event,
    encode_notice,
    encode_say,
    required_input,
)
from headrace.core.errors import EngineFault, HeadraceError, InvalidRequest, Unauthenticated, Unavailable
from headrace.core.identity import Identity
from headrace.observe.logs import AccessRecord
from headrace.server.answers import Answering
from headrace.server.credentials import Credentials, ShownKey
from headrace.server.exchange import Exchange
from headrace.server.feed import ClientGone, Message
from headrace.server.hints import Hints, read_hints
from headrace.server.outbox import Outbox
from headrace.server.routes import Route
from headrace.server.socket_protocol import SocketControl
from headrace.server.tally import MESSAGE, Tally

PATH: Final = "/v1/responses"
# A client that is wrong this often without being right once in between understands nothing of what it is told.
MAX_ERRORS_IN_A_ROW: Final = 64

GOING_AWAY: Final = 1001
UNSUPPORTED_DATA: Final = 1003
POLICY_VIOLATION: Final = 1008
SERVICE_RESTART: Final = 1012

_ENDS: Final = {
    "response.completed": Move.COMPLETE,
    "response.incomplete": Move.STOP,
    "response.failed": Move.FAIL,
}

_NOT_BEGUN: Final = Unavailable("the connection ends and does not begin this response; send it on a new one.")

_logger = logging.getLogger("headrace.server")


@dataclass(slots=True)
class Sockets:
    """What the connections of a server share."""

    answering: Answering
    responses: ResponsesService
    credentials: Credentials
    tally: Tally
    tenants: dict[str, TenantBytes] = field(default_factory=dict)

    def routes(self) -> list[Route]:
        """The paths that a WebSocket can be opened on."""
        return [Route(PATH, "GET", "generate", self.serve)]

    async def serve(self, exchange: Exchange, identity: Identity) -> None:
        """Answer a handshake that may be accepted, and the connection until it ends. Raises HeadraceError before."""
        self.answering.lifecycle.check_accepting()
        hints = read_hints(exchange.headers)
        if hints.session is not None:
            raise InvalidRequest(
                "x-headrace-session: every lane of a WebSocket is a session of its own; leave it out.",
                param="x-headrace-session",
            )
        if hints.inlines_record:
            raise InvalidRequest(
                "x-headrace-record: a WebSocket has no comments to put records in; leave it out.",
                param="x-headrace-record",
            )
        key = self.credentials.key_of(exchange, identity)
        await Socket(self, exchange, identity, hints, key).run()

    def who(self, identity: Identity, key: ShownKey | None) -> Identity:
        """Whose connection it is now. Raises Unauthenticated for a caller whose credentials were taken back or have
        expired since the connection began."""
        now = self.credentials.check_again(identity, key)
        if now.principal.tenant != identity.principal.tenant or "generate" not in now.principal.scopes:
            raise Unauthenticated("the API key may no longer do what this connection does; connect again.")
        return now

    def memory(self, tenant: str) -> LaneMemory:
        """The memory of a connection that begins."""
        config = self.answering.config
        shared = self.tenants.setdefault(tenant, TenantBytes(config.max_tenant_lane_bytes))
        return LaneMemory(config.max_lane_bytes, shared)


class Running:
    """A turn that is being answered, as the server's lifecycle sees it."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.order = Order()
        self.error: HeadraceError | None = None
        self.task: asyncio.Task[None] | None = None

    def fail(self, error: HeadraceError) -> None:
        """End the turn; its client gets to see the error."""
        if self.error is None and self.task is not None:
            self.error = error
            self.task.cancel()


class Socket:
    """One connection."""

    def __init__(
        self, sockets: Sockets, exchange: Exchange, identity: Identity, hints: Hints, key: ShownKey | None
    ) -> None:
        self._sockets = sockets
        self._answering = sockets.answering
        self._clock = sockets.answering.pace.clock
        self._exchange = exchange
        self._identity = identity
        self._tenant = identity.principal.tenant
        self._hints = hints
        self._key = key
        self._request_id = exchange.record.request_id
        self._id = sockets.answering.new_id()
        self._lanes = Lanes()
        self._memory = sockets.memory(self._tenant)
        self._running: dict[Turn, Running] = {}
        self._sessions: set[str] = set()
        self._num_errors = 0
        self._num_held = 0
        self._closing: tuple[int, str] | None = None  # as soon as nothing runs any more
        self._has_notice = False
        self._expired: HeadraceError | None = None
        extension = exchange.scope.get("extensions", {}).get("headrace.socket")
        self._control = extension if extension is not None else SocketControl(lambda: None)
        self._outbox = Outbox(exchange.send, self._answering.pace, self._control.abort, self._beat)

    async def run(self) -> None:
        """Accept, answer, and leave nothing behind."""
        await self._exchange.receive()  # the handshake itself
        self._exchange.is_started = True
        self._exchange.record.status = 101
        self._control.on_drain = self._drain
        try:
            headers = [(b"x-request-id", self._request_id.encode())]
            await self._exchange.send({"type": "websocket.accept", "headers": headers})
            async with self._outbox:
                await self._read()
                await self._stop_turns()
        except (ClientGone, OSError):
            self._exchange.record.outcome = "cancelled"
        except Exception:
            # The boundary of a connection: its defect must not take others down.
            _logger.exception("WebSocket %s met a defect", self._id)
            self._control.abort()
        finally:
            self._control.on_drain = None
            await self._leave()

    # -- what comes in --------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            await self._outbox.room()
            message = await self._exchange.receive()
            if message["type"] == "websocket.disconnect":
                return
            if not self._outbox.is_closed:  # else it crossed our close on its way
                self._take(message)

    def _take(self, message: Message) -> None:
        text = message.get("text")
        if text is None:
            self._close(UNSUPPORTED_DATA, "messages are JSON texts")
            return
        stream_id = None
        try:
            frame = decode_frame(text)
            if frame.type == "response.create":
                stream_id = frame.stream_id
                actions = self._order(decode_create_frame(frame))
            else:
                steer_id = f"steer_{self._answering.new_id()}"
                actions = self._lanes.steer(decode_steer(frame), steer_id)
        except InvalidSteer as wrong:
            actions = [failed(wrong.steer, "invalid_input", None, wrong.message)]
        except HeadraceError as error:
            self._refuse(error, stream_id)
            return
        self._act(actions)

    def _order(self, create: Create) -> list[Action]:
        """Put an order into its lane; it is held in memory until it has ended. Raises HeadraceError."""
        if self._expired is not None:
            raise self._expired
        self._answering.lifecycle.check_accepting()
        bodies = self._answering.bodies
        try:
            bodies.add(create.num_bytes)
            actions = self._lanes.create(create)
        except HeadraceError:
            bodies.used -= create.num_bytes
            raise
        self._num_held += create.num_bytes
        return actions

    def _let_go(self, num_bytes: int) -> None:
        """An order is no longer held."""
        self._answering.bodies.used -= num_bytes
        self._num_held -= num_bytes

    def _refuse(self, error: HeadraceError, stream_id: str | None) -> None:
        self._outbox.put(encode_error_frame(error, self._request_id, stream_id))
        self._num_errors += 1
        if self._num_errors >= MAX_ERRORS_IN_A_ROW:
            self._close(POLICY_VIOLATION, "too many messages in a row could not be understood")

    # -- what is done about it ------------------------------------------------------------------------------------

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                self._start(action.turn)
            elif isinstance(action, Halt):
                self._running[action.turn].order.reason = "steered"
            elif isinstance(action, Say):
                self._say(action)
            else:
                self._let_go(action.turn.create.num_bytes)
                self._outbox.put(encode_error_frame(_NOT_BEGUN, self._request_id, action.turn.lane.name))
        if self._closing is not None and not self._lanes.num_in_flight:
            self._close(*self._closing)

    def _start(self, turn: Turn) -> None:
        running = self._running[turn] = Running(turn)
        running.task = asyncio.get_running_loop().create_task(self._run(running))
        running.task.add_done_callback(lambda _: self._running.pop(turn, None))

    def _say(self, say: Say) -> None:
        turn = say.turn
        number = 0 if turn is None else turn.next_number()
        self._outbox.put(encode_say(say.fields, number, None if turn is None else turn.lane.name))

    async def _run(self, running: Running) -> None:
        """Answer a turn, whatever happens, and tell the lanes how it ended."""
        turn, lifecycle = running.turn, self._answering.lifecycle
        record = AccessRecord(f"resp_{self._answering.new_id()}", MESSAGE, PATH, tenant=self._tenant)
        started_s = self._clock.monotonic_s()
        end, required, error = Move.FAIL, [], None
        lifecycle.running.add(running)
        try:
            with self._sockets.tally.open(record, started_s):
                try:
                    last = await self._answer(running, record, started_s)
                    end = _ENDS[last.type]
                    required = required_input(last.response or {})
                except HeadraceError as refusal:
                    error = refusal
                except ClientGone:
                    record.outcome = "cancelled"
                    return
                except asyncio.CancelledError:
                    record.outcome = "cancelled"
                    if running.error is None or running.task is None:
                        raise
                    running.task.uncancel()
                    error = running.error
                    self._give_up(error)
                except Exception:
                    _logger.exception("turn %s met a defect", record.request_id)
                    error = EngineFault("an unexpected defect ended this response; it is logged.")
                if error is not None:
                    self._lament(turn, error, record)
        finally:
            lifecycle.running.discard(running)
            self._running.pop(turn, None)
        if end is Move.FAIL and turn.create.previous_response_id is not None:
            self._memory.evict(turn.create.previous_response_id)
        self._let_go(turn.create.num_bytes)
        self._act(self._lanes.finished(turn, end, required, None if error is None else error.message))

    async def _answer(self, running: Running, record: AccessRecord, started_s: float) -> ResponseEvent:
        """Send a turn's events; its last one. Raises HeadraceError for a turn that is refused."""
        turn = running.turn
        call = self._call(turn, record)
        events = self._sockets.responses.run(call, local=self._memory.of(turn.lane.index), halt=running.order)
        try:
            async for event in events:
                if event.type == "response.created":
                    self._lanes.created(turn, call.request.id)
                    self._num_errors = 0
                elif begins_call(event):
                    self._lanes.calls(turn)
                if record.ttft_s is None and event.response is None:
                    record.ttft_s = self._clock.monotonic_s() - started_s
                await self._outbox.room()
                self._outbox.put(encode_event(event, turn.next_number(), turn.lane.name))
                if event.is_last:
                    _note(record, event)
                    return event
        finally:
            await events.aclose()
        raise EngineFault("the response ended without saying how; send it again.")

    def _call(self, turn: Turn, record: AccessRecord) -> CreateCall:
        self._sockets.tally.check_load()
        identity = self._sockets.who(self._identity, self._key)
        record.key = identity.key
        session = self._session(turn.lane)
        caller = Caller(
            request_id=record.request_id,
            principal=identity.principal,
            deadline_s=self._hints.deadline_s(self._answering.config.request_timeout_s),
            session=session,
            parent=self._hints.parent,
            explains_cache=self._hints.explains_cache,
            headers=self._exchange.headers,
            prices=self._answering.config.prices,
            labels=self._hints.labels,
            tags=self._hints.tags,
            is_fresh=self._hints.is_fresh,
        )
        call = decode_turn(turn.create.body, caller, generates=turn.create.generates)
        record.model = call.request.model[:200]
        check_task(self._answering.backend.models(), call.request)
        return call

    def _session(self, lane: Lane) -> str:
        session = f"socket_{self._id}_{lane.index}"
        self._sessions.add(session)
        return session

    def _lament(self, turn: Turn, error: HeadraceError, record: AccessRecord) -> None:
        """Tell what a turn failed of."""
        record.outcome, record.status = error.code, error.status
        if not turn.create.is_automatic or turn.response_id is not None:
            self._outbox.put(encode_error_frame(error, record.request_id, turn.lane.name))
        if isinstance(error, Unauthenticated):
            self._close(POLICY_VIOLATION, "the API key is no longer valid")

    # -- how it ends ----------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        config = self._answering.config
        age_s = self._clock.monotonic_s() - self._exchange.started_s
        left_s = config.max_socket_age_s - age_s
        if left_s <= config.socket_notice_s and not self._has_notice:
            self._has_notice = True
            self._outbox.put(encode_notice(max(0.0, left_s)))
        if left_s <= 0 and self._expired is None:
            minutes = config.max_socket_age_s / 60
            self._expired = InvalidRequest(
                f"this connection has lived its {minutes:g} minutes; open a new one to continue.",
                code="websocket_connection_limit_reached",
            )
            self._outbox.put(encode_error_frame(self._expired, self._request_id))
            self._end_when_idle(GOING_AWAY, "the connection has lived its time")
        if left_s <= -config.drain_s and self._expired is not None:
            self._give_up(self._expired)

    def _drain(self) -> None:
        """The server stops: what runs and waits may finish, and nothing else is taken."""
        self._end_when_idle(SERVICE_RESTART, "the server restarts")

    def _end_when_idle(self, code: int, reason: str) -> None:
        self._closing = (code, reason)
        self._act([])

    def _give_up(self, error: HeadraceError) -> None:
        """Fail what runs, and do not begin what waits."""
        self._act(self._lanes.abandon())
        for running in list(self._running.values()):
            running.fail(error)

    def _close(self, code: int, reason: str) -> None:
        self._closing = None
        self._act(self._lanes.abandon())
        self._outbox.close(code, reason)

    async def _stop_turns(self) -> None:
        self._lanes.abandon()
        while tasks := [running.task for running in self._running.values() if running.task is not None]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _leave(self) -> None:
        """Close every stream, forget every response, release every lane's pages."""
        await self._stop_turns()
        self._let_go(self._num_held)
        self._memory.clear()
        for session in sorted(self._sessions):
            await self._answering.backend.release(session, self._tenant)


def _note(record: AccessRecord, event: ResponseEvent) -> None:
    """What an answer used, for the log."""
    response: Any = event.response or {}
    usage = response.get("usage") or {}
    record.status = 200 if event.error is None else event.error.status
    record.outcome = "ok" if event.error is None else event.error.code
    record.prompt_tokens = usage.get("input_tokens", 0)
    record.cached_tokens = usage.get("input_tokens_details", {}).get("cached_tokens", 0)
    record.completion_tokens = usage.get("output_tokens", 0)
