"""The routes by which agents and tool hosts ask what the policies permit them, and operators which there are. Nothing
is done. Knows no policies."""

from headrace.api.policy import decode_questions, encode_decisions, encode_policies
from headrace.core.deciding import Deciding
from headrace.core.identity import Identity
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route


def policy_routes(answering: Answering, deciding: Deciding) -> list[Route]:
    """`/v1/policy` and `/v1/policy/decide`."""

    async def decide(exchange: Exchange, identity: Identity) -> None:
        body = await exchange.read_body(answering.config, answering.bodies)
        questions = decode_questions(body, identity.principal)
        await exchange.respond(200, encode_decisions(deciding.decide(questions)))

    async def show(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_policies(deciding.policies()))

    return [Route("/v1/policy", "GET", "admin", show), Route("/v1/policy/decide", "POST", "generate", decide)]
