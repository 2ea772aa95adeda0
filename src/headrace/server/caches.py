"""The routes of explicit caches. Knows the codec and the service; reading the content is the service's affair."""

from headrace.api.caches import decode_cache, decode_change, encode_cache, encode_caches, read_page
from headrace.core.cache import Caches
from headrace.core.errors import UnsupportedField
from headrace.core.identity import Identity
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.hints import labelled
from headrace.server.routes import Route


def cache_routes(answering: Answering, caches: Caches) -> list[Route]:
    """`/v1/caches` and `/v1/caches/{id}`."""

    async def create(exchange: Exchange, identity: Identity) -> None:
        answering.lifecycle.check_accepting()
        asker = labelled(identity.principal, exchange.headers)
        order = decode_cache(await exchange.read_body(answering.config, answering.bodies))
        exchange.record.model = order.model[:200]
        await exchange.respond(200, encode_cache(await caches.create(asker, order)))

    async def show_all(exchange: Exchange, identity: Identity) -> None:
        page = await caches.list(identity.principal.tenant, read_page(exchange.query()))
        await exchange.respond(200, encode_caches(page))

    async def show(exchange: Exchange, identity: Identity) -> None:
        await exchange.respond(200, encode_cache(await caches.get(identity.principal.tenant, exchange.params["id"])))

    async def change(exchange: Exchange, identity: Identity) -> None:
        answering.lifecycle.check_accepting()
        for name in exchange.query():
            if name not in ("update_mask", "updateMask"):  # says what the body says
                raise UnsupportedField(f"{name[:100]}: is not supported here; leave it out.", param=name[:100])
        lifetime = decode_change(await exchange.read_body(answering.config, answering.bodies))
        cache = await caches.update(identity.principal, exchange.params["id"], lifetime)
        await exchange.respond(200, encode_cache(cache))

    async def delete(exchange: Exchange, identity: Identity) -> None:
        await caches.delete(identity.principal.tenant, exchange.params["id"])
        await exchange.respond(200, b"{}")

    return [
        Route("/v1/caches", "POST", "generate", create),
        Route("/v1/caches", "GET", "generate", show_all),
        Route("/v1/caches/{id}", "GET", "generate", show),
        Route("/v1/caches/{id}", "PATCH", "generate", change),
        Route("/v1/caches/{id}", "DELETE", "generate", delete),
    ]
