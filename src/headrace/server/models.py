"""The routes that say which models there are, in the shape of the client that asks: Anthropic's send a header of their
own. Knows both codecs and the backend's cards.
"""

from headrace.api import anthropic_models, openai_models
from headrace.api.errors import ANTHROPIC
from headrace.core.backend import Backend, ModelCard
from headrace.core.identity import Identity
from headrace.server.exchange import Exchange
from headrace.server.relay import gateway_of
from headrace.server.routes import Route


def model_routes(backend: Backend) -> list[Route]:
    """`/v1/models` and `/v1/models/{id}`; an id may have slashes. Of a gateway's, those that the caller may ask for."""
    gateway = gateway_of(backend)

    def cards_for(identity: Identity) -> tuple[ModelCard, ...]:
        return backend.models() if gateway is None else gateway.models_for(identity.principal)

    async def show_all(exchange: Exchange, identity: Identity) -> None:
        cards = cards_for(identity)
        if _is_anthropic(exchange):
            body = anthropic_models.encode_models(cards, exchange.query())
        else:
            body = openai_models.encode_models(cards)
        await exchange.respond(200, body)

    async def show(exchange: Exchange, identity: Identity) -> None:
        encode = anthropic_models.encode_model if _is_anthropic(exchange) else openai_models.encode_model
        await exchange.respond(200, encode(cards_for(identity), exchange.params["id"]))

    return [
        Route("/v1/models", "GET", "generate", show_all),
        Route("/v1/models/{id*}", "GET", "generate", show),
    ]


def _is_anthropic(exchange: Exchange) -> bool:
    """Whose client asks; it is refused in its own shape, too."""
    if b"anthropic-version" not in exchange.headers:
        return False
    exchange.errors = ANTHROPIC
    return True
