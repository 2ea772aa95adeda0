"""Whatever bytes a backend sends: an answer or one HeadraceError, in time, and no connection is left behind."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from tests import upstreams
from tests.backends import DIALECTS, PASSING, TARGET, joined, raw_body
from tests.upstreams import Script, Step

from headrace.core.errors import HeadraceError
from headrace.core.events import Finished
from headrace.gateway.contract import UpstreamReply
from headrace.gateway.settings import Dialect, Timeouts

# A response's parts, well formed and not, that random bytes alone would never make.
_LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 429 No\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"content-type: text/event-stream\r\n",
        b"content-type: application/json\r\n",
        b"content-length: 2\r\n",
        b"content-length: 18446744073709551616\r\n",
        b"transfer-encoding: chunked\r\n",
        b"content-encoding: gzip\r\n",
        b"connection: close\r\n",
        b"connection: upgrade\r\nupgrade: x\r\n",
        b"\r\n",
        b"2\r\n{}\r\n",
        b"6\r\ndata: \r\n",
        b"1\r\n\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"0\r\n\r\n",
        b"0\r\nx: y\r\n\r\n",
        b"{}",
        b'{"error": 1}',
    ]
)
_PIECES = st.lists(st.one_of(_LINES, _LINES, st.binary(max_size=40)), max_size=14)
_FRAMES = st.lists(
    st.one_of(
        st.integers(0, 8),
        st.binary(max_size=30),
        st.sampled_from(
            [b"data: {}\n\n", b"data: []\n\n", b'data: {"type": 1}\n\n', b"event: error\ndata: 1\n\n", b":\n\n"]
        ),
    ),
    max_size=8,
)


async def _ask(dialect: Dialect, script: Script, *, how: str) -> None:
    patience = Timeouts(connect_s=5, first_event_s=0.2, whole_s=0.2, idle_s=0.2)
    async with asyncio.timeout(10), joined(dialect, patience) as j:
        j.up.script.append(script)
        j.up.script.append(upstreams.failed())  # should it be asked again
        try:
            if how == "events":
                events = await j.events()
                assert isinstance(events[-1], Finished)
            else:
                found = await j.remote.relay(raw_body(dialect, is_stream=how == "stream"), TARGET, max_tokens=None)
                if not isinstance(found, UpstreamReply):
                    async for _ in found.pieces():
                        pass
        except HeadraceError as error:
            assert error.message


@settings(max_examples=120, deadline=None)
@given(pieces=_PIECES, how=st.sampled_from(["events", "stream", "whole"]), dialect=st.sampled_from(DIALECTS))
def test_any_bytes_are_an_answer_or_one_error(pieces: list[bytes], how: str, dialect: Dialect) -> None:
    script = [step for piece in pieces for step in (piece, Step.YIELD)] + [Step.CLOSE]
    asyncio.run(_ask(dialect, script, how=how if dialect in PASSING else "events"))


@settings(max_examples=120, deadline=None)
@given(picks=_FRAMES, how=st.sampled_from(["events", "stream"]), dialect=st.sampled_from(DIALECTS))
def test_any_events_are_an_answer_or_one_error(picks: list[int | bytes], how: str, dialect: Dialect) -> None:
    async def body() -> None:
        async with joined(dialect) as j:
            known = j.frames()
        frames = [pick if isinstance(pick, bytes) else known[pick % len(known)] for pick in picks]
        await _ask(dialect, upstreams.stream(frames), how=how if dialect in PASSING else "events")

    asyncio.run(body())
