"""The routes over many texts: one request to embed or score, from body to last byte, always whole.

Knows their codecs and the backend's contract, as `answers.py` does of the generation routes. What is printed is printed
and sent piece by piece, and between two pieces the loop gets to others: the numbers of two thousand vectors are eight
megabytes of text.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final

from headrace.api.inputs import InputsCall, ResultTable, reword
from headrace.api.openai_embeddings import decode_embeddings
from headrace.api.peek import EMBEDDINGS
from headrace.api.rerank import decode_rerank, decode_score
from headrace.core.errors import InvalidRequest
from headrace.core.events import Event
from headrace.core.identity import Identity
from headrace.core.request import Principal
from headrace.server.answers import Answering, Log, send_pieces
from headrace.server.exchange import JSON, Exchange
from headrace.server.feed import ClientGone, Feed
from headrace.server.relay import RelayRoute
from headrace.server.routes import Route

_SCORE = RelayRoute(id_prefix="score-", decode=decode_score, kind=None)
_RERANK = RelayRoute(id_prefix="rerank-", decode=decode_rerank, kind=None)

# Path -> how it is answered. vLLM serves reranking under the paths of Jina's and Cohere's clients.
INPUTS_ROUTES: Final = {
    "/v1/embeddings": RelayRoute(id_prefix="embd-", decode=decode_embeddings, kind=EMBEDDINGS),
    "/v1/score": _SCORE,
    "/score": _SCORE,
    "/v1/rerank": _RERANK,
    "/v2/rerank": _RERANK,
    "/rerank": _RERANK,
}


def inputs_routes(answering: Answering) -> list[Route]:
    """All of these routes."""

    def route(name: str, given: RelayRoute) -> Route:
        async def handle(exchange: Exchange, identity: Identity) -> None:
            await answer_inputs(answering, given, exchange, identity.principal)

        return Route(name, "POST", "generate", handle)

    return [route(name, given) for name, given in INPUTS_ROUTES.items()]


async def answer_inputs(answering: Answering, route: RelayRoute, exchange: Exchange, principal: Principal) -> None:
    """Answer one request. Raises HeadraceError while nothing is sent, and ClientGone."""
    asked = await answering.ask(exchange, principal, route)
    if asked is None:
        return
    call, events = asked
    if events is None:
        await answer_call(answering, call, exchange)
    else:
        await _answer_events(answering, call, exchange, events)


async def answer_call(answering: Answering, call: InputsCall, exchange: Exchange) -> None:
    """Answer a request that was read. Raises HeadraceError while nothing is sent, and ClientGone."""
    answering.admit(exchange, call.request)
    await _answer_events(answering, call, exchange, answering.backend.run(call.request))


async def _answer_events(
    answering: Answering, call: InputsCall, exchange: Exchange, events: AsyncGenerator[Event, None]
) -> None:
    table, log = ResultTable(call.request), Log(exchange, answering.pace)
    async with Feed(events, exchange.receive, exchange.send, answering.lifecycle, answering.pace) as feed:
        try:
            while not table.is_done:
                taken = await feed.take()
                log.note(taken)
                table.add(taken)
        except InvalidRequest as error:
            raise reword(error, call.field) from None
        await _send(exchange, feed, call.encode(table, int(answering.pace.clock.unix_s())))


async def _send(exchange: Exchange, feed: Feed[Any], pieces: Iterator[bytes]) -> None:
    if exchange.waits:
        pieces = await _keep(exchange, feed, pieces)
    piece, following = next(pieces), next(pieces, None)
    # Of a longer answer nobody knows the length before its last piece is printed.
    length = exchange.body_headers(piece) if following is None else []
    await feed.send(exchange.start(200, JSON, length))
    while following is not None:
        await send_pieces(feed, piece, is_last=False)
        await asyncio.sleep(0)
        if feed.is_gone:
            raise ClientGone
        piece, following = following, next(pieces, None)
    await send_pieces(feed, piece, is_last=True)


async def _keep(exchange: Exchange, feed: Feed[Any], pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces again, when the record of them all is in the log."""
    printed = []
    for piece in pieces:
        printed.append(piece)
        await asyncio.sleep(0)
    await feed.during(exchange.keep(printed))
    return iter(printed)
