"""The routes that say which models there are. Knows their codec and the backend's cards."""

from headrace.api.openai_models import encode_model, encode_models
from headrace.core.backend import Backend
from headrace.server.exchange import Exchange
from headrace.server.keys import Identity
from headrace.server.routes import Route


def model_routes(backend: Backend) -> list[Route]:
    """`/v1/models` and `/v1/models/{id}`; an id may have slashes."""

    async def show_all(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_models(backend.models()))

    async def show(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_model(backend.models(), exchange.params["id"]))

    return [
        Route("/v1/models", "GET", "generate", show_all),
        Route("/v1/models/{id*}", "GET", "generate", show),
    ]
