"""A witness over HTTP, C2SP tlog-witness, as a small ASGI application: a program of its own, best another machine's.

One request at a time is judged and remembered before it is answered. Logs that it knows come from a trust file. Plain
ASGI; knows no sockets.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError
from headrace.memory.witness_state import WitnessState
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.fault import LogFault
from headrace.trust.log.keys import VerifierKey
from headrace.trust.log.log_keys import KeySet
from headrace.trust.log.note import MAX_NOTE_BYTES, Note, open_note, parse_note
from headrace.trust.log.witness import MAX_PROOF_LINES, TEXT_TYPE, Answer, judge

_logger = logging.getLogger("headrace.witness")

MAX_BODY_BYTES: Final = MAX_NOTE_BYTES + 64 * (MAX_PROOF_LINES + 1)
_BODY_TIMEOUT_S: Final = 10.0

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class WitnessApp:
    """The application. `logs` are the keys that are trusted for each origin."""

    def __init__(
        self, logs: Mapping[str, Sequence[VerifierKey]], keys: KeySet, state: WitnessState, clock: Clock
    ) -> None:
        """Raises LogFault if what was remembered is no checkpoint of its log that this witness cosigned: to go on from
        it, or to begin anew, would forget what was cosigned."""
        self._logs = logs
        self._keys = keys
        self._state = state
        self._clock = clock
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Future[Answer]] = set()
        self._remembered: dict[str, Note] = {}
        for origin in logs:
            if (data := state.read(origin)) is not None:
                self._remembered[origin] = self._check(origin, data)

    def _check(self, origin: str, data: bytes) -> Note:
        wrong = "it is of another log."
        try:
            note = parse_note(data)
            open_note(note, self._keys.keys)
            if Checkpoint.decode(note.text).origin == origin:
                return note
        except LogFault as error:
            wrong = str(error)
        raise LogFault(
            f"what is remembered of {origin!r} is not what this witness cosigned ({wrong}) Its folder is damaged, or "
            "its keys are others; put both back, or begin a witness with another name."
        )

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            answer = await self._answer(scope, receive)
            body = b"" if scope["method"] == "HEAD" else answer.body
            headers = [
                (b"content-type", answer.content_type.encode()),
                (b"content-length", str(len(answer.body)).encode()),
                (b"cache-control", b"no-cache"),
            ]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Mapping[str, Any], receive: Receive) -> Answer:
        path, method = scope["path"], scope["method"]
        if path == "/add-checkpoint":
            if method != "POST":
                return Answer(405, b"add-checkpoint is a POST.\n")
            try:
                body = await _read(receive)
            except TimeoutError:
                return Answer(408, b"the body did not arrive in time.\n")
            return Answer(413, b"the body is too long.\n") if body is None else await self.add_checkpoint(body)
        origin_hash, _, rest = path.removeprefix("/").partition("/")
        if rest == "checkpoint" and method in {"GET", "HEAD"}:
            found = await asyncio.to_thread(self._state.by_hash, origin_hash)
            if found is not None:
                return Answer(200, found, TEXT_TYPE)
        return Answer(404, b"there is nothing here.\n")

    async def add_checkpoint(self, body: bytes) -> Answer:
        """What is said to a checkpoint. "checking the old size against the latest checkpoint and persisting the new
        checkpoint must be performed atomically": nobody else is judged until both are done, also if the caller that
        was first has gone."""
        task = asyncio.ensure_future(self._judge(body))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _judge(self, body: bytes) -> Answer:
        async with self._turn:
            time_s = int(self._clock.unix_s())
            answer = judge(body, self._logs, self._remembered, self._keys.signers, time_s)
            if answer.state is None:
                return answer
            try:
                # "The witness MUST persist the new checkpoint before responding."
                await asyncio.to_thread(self._state.write, answer.origin, answer.state.encode())
            except HeadraceError as error:
                _logger.error("a checkpoint of %s could not be remembered: %s", answer.origin, error)  # noqa: TRY400
                return Answer(503, b"the checkpoint could not be remembered, so it is not cosigned.\n")
            self._remembered[answer.origin] = answer.state
            return answer


async def _read(receive: Receive) -> bytes | None:
    pieces: list[bytes] = []
    num_bytes, more = 0, True
    async with asyncio.timeout(_BODY_TIMEOUT_S):
        while more:
            message = await receive()
            pieces.append(message.get("body", b""))
            num_bytes += len(pieces[-1])
            if num_bytes > MAX_BODY_BYTES:
                return None
            more = message.get("more_body", False)
    return b"".join(pieces)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
