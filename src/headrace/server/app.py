"""The ASGI application: routes, who may use them, one boundary for errors, one log line for every exchange.

    exchange -> route -> host and key -> handler -> response, or one error in OpenAI's shape -> log, metrics

Plain ASGI throughout: no framework stands between a token and its socket. Knows no sockets (`serve.py`, `protocol.py`)
and no engine: it is given a backend.
"""

import asyncio
import functools
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from headrace.api.lora import decode_lora_name, encode_loaded, encode_unloaded
from headrace.api.openai_models import encode_model, encode_models
from headrace.api.residents import decode_change, encode_changed, encode_residences
from headrace.core.backend import Backend
from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import (
    EngineFault,
    Forbidden,
    HeadraceError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    Unavailable,
)
from headrace.core.request import Principal
from headrace.core.service import Adapters, Residents
from headrace.observe.logs import log_access
from headrace.observe.metrics import Metrics
from headrace.server.answers import GENERATION_ROUTES, Answering
from headrace.server.config import ServerConfig, is_loopback
from headrace.server.exchange import BodyBudget, Exchange
from headrace.server.feed import ClientGone, Pace, Receive, Scope, Send, Timers
from headrace.server.inputs import INPUTS_ROUTES, answer_inputs
from headrace.server.keys import LOCAL, Identity, KeyRing
from headrace.server.lifecycle import Lifecycle, Phase

_MODEL_PREFIX = "/v1/models/"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_logger = logging.getLogger("headrace.server")

Handler = Callable[[Exchange, Identity], Awaitable[None]]
Answer = Callable[[Exchange, Principal], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route:
    """One path: its name in logs and metrics, its method, the scope it needs (None: any key), who answers."""

    name: str
    method: str
    scope: str | None
    handler: Handler
    is_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a test replaces: time and chance. `version` is what GET /version says."""

    clock: Clock = SystemClock()  # noqa: RUF009  (has no state)
    timers: Timers | None = None
    new_id: Callable[[], str] = lambda: secrets.token_hex(12)
    version: str = "unknown"


class App:
    """The application; `build_app` makes one."""

    def __init__(
        self,
        backend: Backend,
        config: ServerConfig,
        keys: KeyRing | None,
        metrics: Metrics,
        surroundings: Surroundings,
        adapters: Adapters | None,
        residents: Residents | None,
    ) -> None:
        self.config = config
        self.keys = keys
        self.lifecycle = Lifecycle()
        self._backend = backend
        self._metrics = metrics
        self._surroundings = surroundings
        self._num_open = 0
        self._answering = Answering(
            backend=backend,
            config=config,
            lifecycle=self.lifecycle,
            pace=Pace(surroundings.clock, config.keep_alive_s, config.write_timeout_s, surroundings.timers),
            bodies=BodyBudget(config.max_buffered_bytes),
            new_id=surroundings.new_id,
        )
        partial = functools.partial
        works = {name: _work(name, partial(self._answering.answer, given)) for name, given in GENERATION_ROUTES.items()}
        works |= {name: _work(name, partial(answer_inputs, self._answering, it)) for name, it in INPUTS_ROUTES.items()}
        self._routes = works | {
            "/v1/models": Route("/v1/models", "GET", "generate", self._models),
            "/health": Route("/health", "GET", None, self._health, is_open=True),
            "/ready": Route("/ready", "GET", None, self._ready, is_open=True),
            "/version": Route("/version", "GET", None, self._version),
            "/metrics": Route("/metrics", "GET", "metrics", self._expose_metrics),
        }
        if adapters is not None:
            for name in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
                self._routes[name] = self._adapter_route(name, adapters)
        if residents is not None:
            self._routes["/models"] = Route("/models", "GET", "admin", partial(_list_residents, residents))
            for name in ("/models/load", "/models/unload"):
                self._routes[name] = self._resident_route(name, residents)
        self._model_route = Route("/v1/models/{id}", "GET", "generate", self._model)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "http":
            new_id, started_s = f"req_{self._surroundings.new_id()}", self._surroundings.clock.monotonic_s()
            await self._exchange(Exchange.open(scope, receive, send, new_id, started_s))
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "there are no WebSocket routes"})

    async def _exchange(self, exchange: Exchange) -> None:
        record = exchange.record
        self._num_open += 1
        self._metrics.http_in_flight.inc()
        try:
            await self._answer(exchange)
        except ClientGone:
            record.outcome = "cancelled"
            await _drop(exchange)
        except asyncio.CancelledError:
            record.outcome = "cancelled"
            raise
        finally:
            self._num_open -= 1
            self._metrics.http_in_flight.dec()
            record.duration_s = round(self._surroundings.clock.monotonic_s() - exchange.started_s, 6)
            method = record.method if record.method in _METHODS else "other"
            self._metrics.http_requests.labels(record.route, method, str(record.status)).inc()
            log_access(record)

    async def _answer(self, exchange: Exchange) -> None:
        exchange.closes = self.lifecycle.phase is Phase.DRAINING
        try:
            self._check_load()
            route = self._find(exchange)
            identity = self._admit(exchange, route)
            await self._method(exchange, route).handler(exchange, identity)
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

    def _check_load(self) -> None:
        if self._num_open > self.config.max_requests:
            raise Overloaded("the server has as many requests open as it takes.", retry_after_s=1.0)

    def _find(self, exchange: Exchange) -> Route | None:
        path: str = exchange.scope["path"]
        route = self._routes.get(path)
        if route is None and path.startswith(_MODEL_PREFIX) and len(path) > len(_MODEL_PREFIX):
            route = self._model_route
        if route is not None:
            exchange.record.route = route.name
        return route

    def _admit(self, exchange: Exchange, route: Route | None) -> Identity:
        """Who asks, or a refusal. Unknown paths are refused like any other before they are called unknown."""
        if self.keys is None:
            self._check_host(exchange)
            identity = LOCAL
        elif route is not None and route.is_open:
            return LOCAL
        else:
            identity = self.keys.authenticate(exchange.bearer())
        exchange.record.tenant, exchange.record.key = identity.principal.tenant, identity.key
        if route is not None and route.scope is not None and route.scope not in identity.principal.scopes:
            raise Forbidden(f"the key lacks the scope {route.scope!r}; ask for a key that has it.")
        return identity

    def _check_host(self, exchange: Exchange) -> None:
        """Without keys, refuse what a web page of another site could send through its reader's browser."""
        host = exchange.headers.get(b"host", b"").decode("latin-1")
        if not self._is_own(f"//{host}"):
            raise Forbidden(
                f"host: {host[:100]!r} is not a name of this machine; without a keys file only those are answered.",
                param="host",
                code="host_not_allowed",
            )
        origin = exchange.headers.get(b"origin")
        if origin is not None and not self._is_own(origin.decode("latin-1")):
            raise Forbidden(
                "origin: pages of other sites may not call a server that has no keys file.",
                param="origin",
                code="origin_not_allowed",
            )

    def _is_own(self, url: str) -> bool:
        try:
            name = urlsplit(url).hostname or ""
        except ValueError:
            return False
        return is_loopback(name) or name in self.config.allowed_hosts

    def _method(self, exchange: Exchange, route: Route | None) -> Route:
        if route is None:
            path = exchange.scope["path"][:200]
            raise NotFound(f"{path!r} is no route of this server; see GET /v1/models for a start.")
        method = exchange.record.method
        if method != route.method and not (method == "HEAD" and route.method == "GET"):
            exchange.add_header(b"allow", b"GET, HEAD" if route.method == "GET" else route.method.encode())
            raise MethodNotAllowed(f"{method[:20]} is not possible on {route.name}; use {route.method}.")
        return route

    def _adapter_route(self, name: str, adapters: Adapters) -> Route:
        async def change(exchange: Exchange, _: Identity) -> None:
            self.lifecycle.check_accepting()
            wanted = decode_lora_name(await exchange.read_body(self.config, self._answering.bodies))
            if name == "/v1/load_lora_adapter":
                answer = encode_loaded(await adapters.load_adapter(wanted))
            else:
                await adapters.unload_adapter(wanted)
                answer = encode_unloaded(wanted)
            await exchange.respond(200, answer)

        return Route(name, "POST", "admin", change)

    def _resident_route(self, name: str, residents: Residents) -> Route:
        async def change(exchange: Exchange, _: Identity) -> None:
            self.lifecycle.check_accepting()
            is_load = name == "/models/load"
            body = await exchange.read_body(self.config, self._answering.bodies)
            asked = decode_change(body, may_wait=not is_load)
            if is_load:
                residence = await residents.load_model(asked.model)
            else:
                residence = await residents.unload_model(asked.model, waits=asked.waits)
            await exchange.respond(200, encode_changed(residence))

        return Route(name, "POST", "admin", change)

    async def _models(self, exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_models(self._backend.models()))

    async def _model(self, exchange: Exchange, _: Identity) -> None:
        name = exchange.scope["path"].removeprefix(_MODEL_PREFIX)
        await exchange.respond(200, encode_model(self._backend.models(), name))

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

    async def _expose_metrics(self, exchange: Exchange, _: Identity) -> None:
        text, content_type = self._metrics.expose()
        await exchange.respond(200, text, content_type.encode())

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.lifecycle.mark_ready()
                await send({"type": "lifespan.startup.complete"})
            else:
                self.lifecycle.start_draining()
                await send({"type": "lifespan.shutdown.complete"})
                return


def build_app(
    backend: Backend,
    config: ServerConfig,
    *,
    keys: KeyRing | None = None,
    metrics: Metrics | None = None,
    surroundings: Surroundings | None = None,
    adapters: Adapters | None = None,
    residents: Residents | None = None,
) -> App:
    """The application around a backend. It answers 503 until its lifespan starts (or `lifecycle.mark_ready`)."""
    return App(backend, config, keys, metrics or Metrics(), surroundings or Surroundings(), adapters, residents)


def _work(name: str, answer: Answer) -> Route:
    """A route that runs a model."""

    async def handle(exchange: Exchange, identity: Identity) -> None:
        await answer(exchange, identity.principal)

    return Route(name, "POST", "generate", handle)


async def _list_residents(residents: Residents, exchange: Exchange, _: Identity) -> None:
    await exchange.respond(200, encode_residences(residents.residences(), residents.memory_bytes))


async def _drop(exchange: Exchange) -> None:
    """End the connection without an end of the response: the client must not take what it has for all of it."""
    abort = exchange.scope.get("extensions", {}).get("headrace.abort")
    if abort is not None:
        abort["call"]()
        # The server notices the loss in the next turn of its loop; until then it would call this response unfinished.
        while (await exchange.receive())["type"] != "http.disconnect":
            pass
