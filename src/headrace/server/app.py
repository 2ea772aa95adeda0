"""The ASGI application: joins all routes, asks who may use them, one boundary for errors, one log line an exchange.

    exchange -> route -> host and key -> handler -> response, or one error in its dialect's shape -> log, metrics

Plain ASGI throughout: no framework stands between a token and its socket. Knows no sockets (`serve.py`, `protocol.py`)
and no engine: it is given a backend.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from headrace.api.errors import ANTHROPIC, OLLAMA, OPENAI, ErrorDialect
from headrace.api.openapi import Listed, document
from headrace.api.trace_context import read_context
from headrace.core.backend import Backend
from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import (
    EngineFault,
    Forbidden,
    HeadraceError,
    MethodNotAllowed,
    NotFound,
    Unavailable,
)
from headrace.core.identity import Authenticator, Identity
from headrace.core.tracing import Tracer
from headrace.observe.metrics import CONTENT_TYPE, Metrics
from headrace.server.accounts import account_routes, key_routes
from headrace.server.actions import action_routes, recorded
from headrace.server.admin import adapter_routes, resident_routes
from headrace.server.answers import Answering
from headrace.server.anthropic import anthropic_routes
from headrace.server.anthropic_batches import anthropic_batch_routes
from headrace.server.batches import batch_routes
from headrace.server.caches import cache_routes
from headrace.server.config import ServerConfig
from headrace.server.console import Console
from headrace.server.credentials import Credentials, Signing
from headrace.server.delegations import delegation_routes
from headrace.server.door import Door
from headrace.server.endorsements import endorsement_routes
from headrace.server.exchange import BodyBudget, Exchange
from headrace.server.explanation import explanation_routes
from headrace.server.feed import ClientGone, Pace, Receive, Scope, Send, Timers
from headrace.server.files import file_routes
from headrace.server.gateway_admin import gateway_routes
from headrace.server.guard import Sweep
from headrace.server.inputs import inputs_routes
from headrace.server.keys import LOCAL, KeyRing
from headrace.server.lifecycle import Lifecycle, Phase
from headrace.server.live import LiveFeed, live_routes
from headrace.server.log import log_routes
from headrace.server.models import model_routes
from headrace.server.monitors import monitor_routes
from headrace.server.ollama import ollama_routes
from headrace.server.openai import openai_routes
from headrace.server.paths import path_routes
from headrace.server.policy import policy_routes
from headrace.server.provenance import record_routes
from headrace.server.relay import gateway_of
from headrace.server.reload import reload_routes
from headrace.server.responses import conversation_routes, responses_routes
from headrace.server.routes import Found, Route, RouteTable
from headrace.server.services import Services
from headrace.server.sessions import Sessions
from headrace.server.sockets import Sockets
from headrace.server.taken import note_taken
from headrace.server.tally import Tally
from headrace.server.tokens import token_routes
from headrace.server.visits import Visits

_ID_BYTES: Final = 12
_IDS_AT_ONCE: Final = 128

_logger = logging.getLogger("headrace.server")

# Which routes a service has; they are there if it is.
_OF_SERVICES: Final[dict[str, Callable[[Answering, Any], list[Route]]]] = {
    "tokens": token_routes,
    "adapters": adapter_routes,
    "residents": resident_routes,
    "responses": responses_routes,
    "conversations": conversation_routes,
    "files": file_routes,
    "batches": batch_routes,
    "caches": cache_routes,
    "reloading": lambda _, service: reload_routes(service),
    "operations": lambda _, service: gateway_routes(service),
    "explaining": explanation_routes,
    "paths": lambda _, service: path_routes(service),
    "accounts": account_routes,
    "key_book": key_routes,
    "monitors": monitor_routes,
    "deciding": policy_routes,
    "public_log": log_routes,
    "records": record_routes,
    "delegating": delegation_routes,
    "endorsing": endorsement_routes,
    "actions": action_routes,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a test replaces: time and chance. `version` is what GET /version says; `tracer` begins traces, None: there
    are none."""

    clock: Clock = SystemClock()  # noqa: RUF009  (has no state)
    timers: Timers | None = None
    new_id: Callable[[], str] = field(default_factory=lambda: _ids().__next__)
    version: str = "unknown"
    tracer: Tracer | None = None


def _ids() -> Iterator[str]:
    """Unguessable ids; chance is asked for many of them at once, which is what it costs."""
    while True:
        digits = secrets.token_hex(_ID_BYTES * _IDS_AT_ONCE)
        for start in range(0, len(digits), 2 * _ID_BYTES):
            yield digits[start : start + 2 * _ID_BYTES]


class App:
    """The application; `build_app` makes one."""

    def __init__(
        self,
        backend: Backend,
        config: ServerConfig,
        keys: KeyRing | None,
        metrics: Metrics,
        surroundings: Surroundings,
        services: Services,
        authenticators: Sequence[Authenticator] = (),
    ) -> None:
        self.config = config
        self._surroundings = surroundings
        signer = services.answer_signer
        self._signer = None if signer is None else Signing(signer, surroundings.clock)
        self.keys = keys
        self.sessions = self._open_sessions(services)
        self.credentials = Credentials(keys, authenticators, surroundings.clock, self.sessions)
        self.door = Door(config)
        self.lifecycle = Lifecycle()
        self._backend = backend
        self._metrics = metrics
        self._tally = Tally(metrics, surroundings.clock, config.max_requests, tracer=surroundings.tracer)
        pace = Pace(surroundings.clock, config.keep_alive_s, config.write_timeout_s, surroundings.timers)
        self._answering = Answering(
            backend=backend,
            gateway=gateway_of(backend),
            config=config,
            lifecycle=self.lifecycle,
            pace=pace,
            sweep=Sweep(pace),
            bodies=BodyBudget(config.max_buffered_bytes),
            new_id=surroundings.new_id,
        )
        version = surroundings.version
        self.live = LiveFeed(self._tally, self.lifecycle, pace, services.watching, version)
        self.routes = RouteTable(self._make_routes(services))
        self.socket_routes = RouteTable(self._make_socket_routes(services))

    def _open_sessions(self, services: Services) -> Sessions | None:
        console, around = self.config.console, self._surroundings
        if console is None or services.session_seal is None:
            return None
        return Sessions(services.session_seal, console.session_hours * 3600.0, around.clock, around.new_id)

    def _make_routes(self, services: Services) -> list[Route]:
        answering = self._answering
        routes = [
            *openai_routes(answering, services.completions, services.caches),
            *anthropic_routes(answering),
            *inputs_routes(answering),
            *model_routes(self._backend),
            *ollama_routes(
                answering, services.residents, services.model_library, self._surroundings.version, services.actions
            ),
            Route("/health", "GET", None, self._health, is_open=True),
            Route("/ready", "GET", None, self._ready, is_open=True),
            Route("/version", "GET", None, self._version),
            Route("/metrics", "GET", "metrics", self._expose_metrics),
            Route("/openapi.json", "GET", None, self._document),
            *live_routes(answering, self.credentials, self.live),
        ]
        for name, of_service in _OF_SERVICES.items():
            if (service := getattr(services, name)) is not None:
                routes += of_service(answering, service)
        if self.config.console is not None:
            visits = Visits(services.actions, self._surroundings.clock)
            routes += Console(self.credentials, self.sessions, lambda: self.door, visits).routes()
        if services.batches is not None and services.files is not None:
            routes += anthropic_batch_routes(answering, services.batches, services.files)
        if (book := services.actions) is not None:
            routes = [recorded(route, book, answering) for route in routes]
        return routes

    def _make_socket_routes(self, services: Services) -> list[Route]:
        if services.responses is None:
            return []
        return Sockets(self._answering, services.responses, self.credentials, self._tally).routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "http":
            new_id, started_s = f"req_{self._surroundings.new_id()}", self._surroundings.clock.monotonic_s()
            exchange = Exchange.open(scope, receive, send, new_id, started_s)
            if self.config.seals_answers:
                exchange.seal(self.config)
            if self._signer is not None:
                self._signer.door = self.door  # a reload puts another in its place
                exchange.sign = self._signer
            await self._exchange(exchange)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            new_id, started_s = f"req_{self._surroundings.new_id()}", self._surroundings.clock.monotonic_s()
            await self._exchange(Exchange.open_socket(scope, receive, send, new_id, started_s))

    async def _exchange(self, exchange: Exchange) -> None:
        record = exchange.record
        if (tracer := self._tally.tracer) is not None:
            exchange.place = tracer.begin(read_context(exchange.scope["headers"]))
        with self._tally.open(record, exchange.started_s, counts=not exchange.is_socket, place=exchange.place):
            try:
                await self._answer(exchange)
            except ClientGone:
                record.outcome = "cancelled"
                await _drop(exchange)
            except asyncio.CancelledError:
                record.outcome = "cancelled"
                raise
            finally:
                if exchange.sealing is not None:
                    exchange.sealing.close()
                if exchange.taken is not None:
                    note_taken(record, exchange.taken)

    async def _answer(self, exchange: Exchange) -> None:
        exchange.closes = self.lifecycle.phase is Phase.DRAINING
        try:
            found = self._find(exchange)
            if self.door.logs_clients:
                self.door.note_client(exchange)
            if self.door.has_pages and await self.door.answer_page(exchange, found):
                return
            self._tally.check_load()
            identity = self._admit(exchange, None if found is None else found.chosen(exchange.record.method))
            await _route_of(exchange, found).handler(exchange, identity)
        except HeadraceError as error:
            await self._refuse(exchange, error)
        except ClientGone:
            raise
        except Exception:
            # The request boundary: a defect in one exchange is answered and logged, and the server goes on.
            _logger.exception("request %s met a defect", exchange.record.request_id)
            await self._refuse(exchange, EngineFault("an unexpected defect ended this request; it is logged."))

    async def _refuse(self, exchange: Exchange, error: HeadraceError) -> None:
        exchange.record.outcome = error.code
        if not exchange.is_started:
            await exchange.refuse(error)
        else:
            await _drop(exchange)

    def _find(self, exchange: Exchange) -> Found | None:
        path: str = exchange.scope["path"]
        found = (self.socket_routes if exchange.is_socket else self.routes).find(path)
        if found is None:
            exchange.errors = _dialect_of(path, exchange)
        else:
            exchange.params = found.params
            exchange.errors = found.any.errors
            exchange.record.route = found.any.name
        return found

    def _admit(self, exchange: Exchange, route: Route | None) -> Identity:
        """Who asks, or a refusal. Unknown paths are refused like any other before they are called unknown."""
        credentials = self.credentials
        if credentials.is_needed and route is not None and route.is_open:
            return LOCAL
        self.door.check(exchange, has_keys=credentials.is_needed)
        identity = credentials.admit(exchange, self.door)
        exchange.record.tenant, exchange.record.key = identity.principal.tenant, identity.key
        if route is not None and not route.admits(identity.principal.scopes):
            raise Forbidden(f"the key lacks the scope {route.scope!r}; ask for a key that has it.")
        return identity

    async def _health(self, exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, b'{"status":"alive"}')

    async def _ready(self, exchange: Exchange, _: Identity) -> None:
        self.lifecycle.check_accepting()
        if not self._backend.models():
            raise Unavailable("no model is loaded yet; try again in a moment.", retry_after_s=1.0)
        await exchange.respond(200, b'{"status":"ready"}')

    async def _version(self, exchange: Exchange, _: Identity) -> None:
        body = msgspec.json.encode({"name": "headrace", "version": self._surroundings.version})
        await exchange.respond(200, body)

    async def _document(self, exchange: Exchange, _: Identity) -> None:
        routes = (Listed(route.name, route.method, route.errors, route.is_open) for route in self.routes)
        await exchange.respond(200, document(routes, self._surroundings.version))

    async def _expose_metrics(self, exchange: Exchange, _: Identity) -> None:
        pieces: list[str] = []
        for piece in self._metrics.pieces():
            pieces.append(piece)
            await asyncio.sleep(0)  # answers go on in between: with many models it is long
        await exchange.respond(200, "".join(pieces).encode(), CONTENT_TYPE.encode())

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.lifecycle.mark_ready()
                self.live.history.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                self.lifecycle.start_draining()
                await self.live.history.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def build_app(
    backend: Backend,
    config: ServerConfig,
    *,
    keys: KeyRing | None = None,
    metrics: Metrics | None = None,
    surroundings: Surroundings | None = None,
    services: Services | None = None,
    authenticators: Sequence[Authenticator] = (),
) -> App:
    """The application around a backend. `authenticators` are asked in their order who calls, before the keys. It
    answers 503 until its lifespan starts (or `lifecycle.mark_ready`)."""
    around = surroundings or Surroundings()
    return App(backend, config, keys, metrics or Metrics(), around, services or Services(), authenticators)


def _route_of(exchange: Exchange, found: Found | None) -> Route:
    """Who answers. Raises NotFound and MethodNotAllowed."""
    if found is None:
        path = exchange.scope["path"][:200]
        raise NotFound(f"{path!r} is no route of this server; see GET /v1/models for a start.")
    method = exchange.record.method
    route = found.method(method)
    if route is None:
        exchange.add_header(b"allow", ", ".join(found.allowed).encode())
        name = found.any.name
        raise MethodNotAllowed(f"{method[:20]} is not possible on {name}; use {' or '.join(found.methods)}.")
    return route


def _dialect_of(path: str, exchange: Exchange) -> ErrorDialect:
    """Whose client asks for a path that is not there."""
    if path.startswith("/api/"):
        return OLLAMA
    return ANTHROPIC if b"anthropic-version" in exchange.headers else OPENAI


async def _drop(exchange: Exchange) -> None:
    """End the connection without an end of the response: the client must not take what it has for all of it."""
    if exchange.wire is not None:
        exchange.wire.abort()
        # The server notices the loss in the next turn of its loop; until then it would call this response unfinished.
        while (await exchange.receive())["type"] != "http.disconnect":
            pass
