"""Every change that an administrator makes over HTTP is remembered: begun before its handler runs, ended afterwards.

Which routes those are is said once, by `is_change`, from a route's method and scope: a new one is recorded without
being named anywhere; what one of the others changes beside its answer says so itself, by `acting`. What cannot be
remembered is not done. Also the route that shows what was. Knows neither what the handlers do nor where actions are
kept.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from headrace.api.actions import encode_actions, read_asked, read_query
from headrace.api.openapi_routes import OPERATIONS, UNKNOWN
from headrace.core.actions import ActionBook, Actor, Begun, Outcome, Through, outcome_of
from headrace.core.errors import HeadraceError
from headrace.core.identity import Identity
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.feed import Message
from headrace.server.routes import Route

_SCOPES: Final = frozenset({"admin", "accounts", "endorse"})
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Not for administrators alone: theirs are recorded, and what a tenant does to its own is its own affair. It could fill
# the list otherwise, until what administrators did has left it.
_ALSO: Final = frozenset({("DELETE", "/v1/provenance/{record_id}")})
# They ask, in a body because it is long, and change nothing.
_ASKS: Final = frozenset({("POST", "/v1/gateway/explain")})
_CLI: Final = b"headrace-cli"


def is_change(route: Route) -> bool:
    """Whether what is done by a route is an administrator's change."""
    which = (route.method, route.name)
    return which in _ALSO or (route.method not in _READS and route.scope in _SCOPES and which not in _ASKS)


def action_routes(_: Answering, book: ActionBook) -> list[Route]:
    """`/v1/admin/actions`."""

    async def show(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_actions(await book.actions(read_query(exchange.query()))))

    return [Route("/v1/admin/actions", "GET", "admin", show)]


def recorded(route: Route, book: ActionBook, answering: Answering) -> Route:
    """A route whose changes are remembered; itself if it makes none."""
    if not is_change(route):
        return route
    handler, name = route.handler, f"{route.method} {route.name}"
    kind = OPERATIONS.get((route.method, route.name), UNKNOWN).body

    is_for_all = (route.method, route.name) in _ALSO

    async def handle(exchange: Exchange, identity: Identity) -> None:
        if is_for_all and "admin" not in identity.principal.scopes:
            await handler(exchange, identity)
            return
        exchange.body = await exchange.read_body(answering.config, answering.bodies)
        target, asked = read_asked(kind, exchange.params, exchange.body)
        async with acting(book, exchange, begun_by(exchange, identity, name, target, asked)):
            await handler(exchange, identity)

    return replace(route, handler=handle)


def begun_by(exchange: Exchange, identity: Identity, name: str, target: str, asked: Mapping[str, Any]) -> Begun:
    """The beginning of what a caller does by a request."""
    request_id = exchange.record.request_id
    return Begun(actor=_actor(exchange, identity), name=name, target=target, asked=asked, request_id=request_id)


@asynccontextmanager
async def acting(book: ActionBook, exchange: Exchange, begun: Begun) -> AsyncIterator[None]:
    """The block is an action. Raises what `book` does, and then the block is not entered."""
    ending = _Ending(book, await book.begin(begun), exchange)
    try:
        yield
    except HeadraceError as error:
        # What fails by our fault or another's may have changed something before.
        await ending.end(outcome_of(error), error.code)
        raise
    except BaseException:
        await ending.end(Outcome.UNKNOWN)
        raise
    await ending.end(Outcome.DONE)


class _Ending:
    """The end of one action. It is remembered before the end of the response is sent: who has the answer finds it in
    the list."""

    def __init__(self, book: ActionBook, action_id: str, exchange: Exchange) -> None:
        self._book = book
        self._id = action_id
        self._exchange = exchange
        self._send = exchange.send
        self._is_over = False
        exchange.send = self._sending

    async def end(self, outcome: Outcome, code: str | None = None) -> None:
        """It ended so, unless it had ended before."""
        if not self._is_over:
            self._is_over = True
            self._exchange.send = self._send
            await self._book.end(self._id, outcome, code)

    async def _sending(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            said = self._exchange.record.outcome  # a refusal within a stream says so itself
            await self.end(Outcome.DONE) if said == "ok" else await self.end(Outcome.FAILED, said)
        await self._send(message)


def _actor(exchange: Exchange, identity: Identity) -> Actor:
    principal = identity.principal
    return Actor(tenant=principal.tenant, subject=principal.subject, key=identity.key, through=_through(exchange))


def _through(exchange: Exchange) -> Through:
    """As the caller says it: a credential is good for any way."""
    headers = exchange.headers
    if headers.get(b"x-headrace-console") == b"1" and headers.keys().isdisjoint((b"authorization", b"x-api-key")):
        return Through.CONSOLE
    return Through.CLI if exchange.headers.get(b"user-agent", b"").startswith(_CLI) else Through.API
