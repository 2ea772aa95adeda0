"""The routes by which operators see a gateway's backends, drain one and bring it back.

Knows their codec and the service behind them; what a drain means is the service's affair.
"""

from headrace.api.backends import encode_backend, encode_backends
from headrace.core.identity import Identity
from headrace.core.service import Operations
from headrace.server.exchange import Exchange
from headrace.server.routes import Route

_PATH = "/v1/gateway/backends"


def gateway_routes(operations: Operations) -> list[Route]:
    """`/v1/gateway/backends` and what can be done to one."""

    async def show(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_backends(operations.backends()))

    async def drain(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_backend(operations.drain(exchange.params["name"])))

    async def resume(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_backend(operations.resume(exchange.params["name"])))

    return [
        Route(_PATH, "GET", "admin", show),
        Route(f"{_PATH}/{{name}}/drain", "POST", "admin", drain),
        Route(f"{_PATH}/{{name}}/resume", "POST", "admin", resume),
    ]
