"""The routes of batches. Knows the codec and the service; lines are run elsewhere and at their time."""

from headrace.api.batches import MAX_LISTED_BATCHES, NAME, decode_order, encode_batch, encode_batches
from headrace.api.files import read_list_query
from headrace.core.batch import Batches
from headrace.core.identity import Identity
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.hints import labelled
from headrace.server.routes import Route

DEFAULT_LISTED = 20


def batch_routes(answering: Answering, batches: Batches) -> list[Route]:
    """`/v1/batches`, `/v1/batches/{id}` and `/v1/batches/{id}/cancel`."""

    async def create(exchange: Exchange, identity: Identity) -> None:
        answering.lifecycle.check_accepting()
        order = decode_order(await exchange.read_body(answering.config, answering.bodies))
        asker = labelled(identity.principal, exchange.headers)
        await exchange.respond(200, encode_batch(await batches.create(asker, order)))

    async def show_all(exchange: Exchange, identity: Identity) -> None:
        query = read_list_query(exchange.query(), default=DEFAULT_LISTED, most=MAX_LISTED_BATCHES)
        await exchange.respond(200, encode_batches(await batches.list(identity.principal.tenant, query, NAME)))

    async def show(exchange: Exchange, identity: Identity) -> None:
        await exchange.respond(200, encode_batch(await batches.get(identity.principal.tenant, exchange.params["id"])))

    async def cancel(exchange: Exchange, identity: Identity) -> None:
        await exchange.respond(
            200, encode_batch(await batches.cancel(identity.principal.tenant, exchange.params["id"]))
        )

    return [
        Route("/v1/batches", "POST", "generate", create),
        Route("/v1/batches", "GET", "generate", show_all),
        Route("/v1/batches/{id}", "GET", "generate", show),
        Route("/v1/batches/{id}/cancel", "POST", "generate", cancel),
    ]
