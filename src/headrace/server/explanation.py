"""The route that says why a request would go where it would. Nothing is sent to anybody. Knows no backends."""

from headrace.api.explanation import decode_question, encode_explanation
from headrace.core.explanation import Explaining
from headrace.core.identity import Identity
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route


def explanation_routes(answering: Answering, explaining: Explaining) -> list[Route]:
    """`/v1/gateway/explain`."""

    async def explain(exchange: Exchange, _: Identity) -> None:
        question = decode_question(await exchange.read_body(answering.config, answering.bodies))
        await exchange.respond(200, encode_explanation(explaining.explain(question)))

    return [Route("/v1/gateway/explain", "POST", "admin", explain)]
