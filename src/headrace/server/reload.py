"""The route that has the settings read again. Nothing of its request is read: what holds is what the file says.

Knows no file.
"""

from headrace.api.reload import encode_reloaded
from headrace.core.identity import Identity
from headrace.core.service import Reloading
from headrace.server.exchange import Exchange
from headrace.server.routes import Route


def reload_routes(reloading: Reloading) -> list[Route]:
    """`/v1/gateway/reload`."""

    async def reload(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_reloaded(await reloading.reload()))

    return [Route("/v1/gateway/reload", "POST", "admin", reload)]
