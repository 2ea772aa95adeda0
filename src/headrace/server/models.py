"""The routes that say which models there are, in the shape of the client that asks: Anthropic's send a header of their
own. Knows both codecs and the backend's cards.
"""

from headrace.api import anthropic_models, openai_models
from headrace.api.errors import ANTHROPIC
from headrace.core.backend import Backend
from headrace.server.exchange import Exchange
from headrace.server.keys import Identity
from headrace.server.routes import Route


def model_routes(backend: Backend) -> list[Route]:
    """`/v1/models` and `/v1/models/{id}`; an id may have slashes."""

    async def show_all(exchange: Exchange, _: Identity) -> None:
        if _is_anthropic(exchange):
            body = anthropic_models.encode_models(backend.models(), exchange.query())
        else:
            body = openai_models.encode_models(backend.models())
        await exchange.respond(200, body)

    async def show(exchange: Exchange, _: Identity) -> None:
        encode = anthropic_models.encode_model if _is_anthropic(exchange) else openai_models.encode_model
        await exchange.respond(200, encode(backend.models(), exchange.params["id"]))

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
