"""A pool under any interleaving of requests, cancels, ends and failures: never more connections than allowed, nobody
waits while there is room, and at the end nothing is left."""

import asyncio

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.upstreams import CHUNKED, LAST_CHUNK, SSE, Step, chunk, head, upstream, whole

from headrace.core.errors import HeadraceError, UpstreamFault
from headrace.gateway.upstreams.address import read_url
from headrace.gateway.upstreams.answer import Answer
from headrace.gateway.upstreams.http import Head
from headrace.gateway.upstreams.pool import Pool, PoolSettings

# What a request meets, by its body.
SCRIPTS: dict[bytes, list[bytes | Step]] = {
    b"answered": list(whole({})),
    b"streamed": [head(200, SSE, CHUNKED) + b"\r\n" + chunk(b"data: 1\n\n"), Step.YIELD, LAST_CHUNK],
    b"held": [Step.HANG, *whole({})],
    b"begun": [head(200, SSE, CHUNKED) + b"\r\n" + chunk(b"data: 1\n\n"), Step.HANG, LAST_CHUNK],
    b"closed": [Step.CLOSE],
    b"broken": [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", Step.YIELD, Step.ABORT],
    b"last": [head(200, "text/plain", ("connection", "close"), ("content-length", "0")) + b"\r\n", Step.CLOSE],
}
_ACTS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(sorted(SCRIPTS)), st.booleans()),
    st.tuples(st.sampled_from(["cancel", "close", "leave"]), st.integers(0, 7), st.just(False)),
    st.tuples(st.just("run"), st.integers(0, 20), st.just(False)),
    st.tuples(st.just("drop"), st.just(0), st.just(False)),
)


class Asking:
    """The requests of one schedule."""

    def __init__(self, pool: Pool, heads: Head) -> None:
        self._pool = pool
        self._heads = heads
        self.tasks: list[asyncio.Task[None]] = []
        self.answers: dict[int, Answer] = {}

    def ask(self, body: bytes, *, is_whole: bool) -> None:
        number = len(self.tasks)
        self.tasks.append(asyncio.ensure_future(self._read(number, body, is_whole=is_whole)))

    async def act(self, act: str, value: bytes | int, *, is_whole: bool) -> None:
        """One step of a schedule."""
        if isinstance(value, bytes):
            self.ask(value, is_whole=is_whole)
        elif act == "cancel" and self.tasks:
            self.tasks[value % len(self.tasks)].cancel()
        elif act in {"close", "leave"} and self.answers:
            answer = list(self.answers.values())[value % len(self.answers)]
            answer.close() if act == "close" else answer.leave()
        elif act == "run":
            for _ in range(value):
                await asyncio.sleep(0)

    async def _read(self, number: int, body: bytes, *, is_whole: bool) -> None:
        head_bytes = self._heads.write("POST", "/", [], len(body))
        answer = await self._pool.ask(head_bytes, body, is_whole=is_whole)
        self.answers[number] = answer
        try:
            while await answer.more():
                pass
        finally:
            answer.close_unless_left()


@settings(max_examples=150, deadline=None)
@given(acts=st.lists(_ACTS, max_size=30), most=st.integers(1, 3))
@example(
    acts=[
        *(("ask", b"answered", False),) * 2,
        ("run", 1, False),
        ("cancel", 0, False),
        ("cancel", 1, False),
    ],
    most=1,
)
def test_nothing_is_left_whatever_happens(acts: list[tuple[str, bytes | int, bool]], most: int) -> None:
    async def body() -> None:
        async with asyncio.timeout(20), upstream() as up:
            up.respond = lambda request: iter(SCRIPTS[request.body])
            address = read_url(up.url)
            pool = Pool(address, PoolSettings(max_connections=most, max_idle=2))
            asking = Asking(pool, Head(address, []))
            for act, value, flag in acts:
                if act == "drop":
                    up.drop()
                await asking.act(act, value, is_whole=flag)
                assert pool.num_busy <= most
                assert pool.num_idle <= 2
            up.go.set()
            ends = await asyncio.gather(*asking.tasks, return_exceptions=True)
            for end in ends:
                assert end is None or isinstance(end, HeadraceError | asyncio.CancelledError), end
            while pool.num_busy:  # noqa: ASYNC110  one that was left may still be ending
                await asyncio.sleep(0)
            answer = await pool.ask(asking._heads.write("POST", "/", [], 8), b"answered", is_whole=True)
            assert answer.status == 200
            await pool.close()
            with pytest.raises(UpstreamFault):
                await pool.ask(b"", b"", is_whole=True)
            await up.wait_open(0)

    asyncio.run(body())
