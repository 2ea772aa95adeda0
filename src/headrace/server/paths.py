"""The routes by which operators see which way requests went, and what routes there are.

Knows their codec and the service behind them.
"""

from headrace.api.paths import encode_page, encode_path, encode_routes, read_query
from headrace.core.identity import Identity
from headrace.core.paths import RequestPaths
from headrace.server.exchange import Exchange
from headrace.server.routes import Route


def path_routes(paths: RequestPaths) -> list[Route]:
    """`/v1/gateway/routes`, `/v1/gateway/requests` and one of these."""

    async def routes(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_routes(paths.routes()))

    async def requests(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_page(paths.page(read_query(exchange.query()))))

    async def request(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_path(paths.find(exchange.params["id"])))

    return [
        Route("/v1/gateway/routes", "GET", "admin", routes),
        Route("/v1/gateway/requests", "GET", "admin", requests),
        Route("/v1/gateway/requests/{id*}", "GET", "admin", request),
    ]
