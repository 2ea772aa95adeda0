"""The routes by which operators take delegations back. Knows no tokens."""

from headrace.api.delegations import decode_revocation, encode_revoked
from headrace.core.delegating import Delegating
from headrace.core.identity import Identity
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route

_PATH = "/v1/delegations/revoked"


def delegation_routes(answering: Answering, delegating: Delegating) -> list[Route]:
    """`/v1/delegations/revoked`."""

    async def show(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_revoked(await delegating.revoked()))

    async def revoke(exchange: Exchange, _: Identity) -> None:
        asked = decode_revocation(await exchange.read_body(answering.config, answering.bodies))
        await exchange.respond(200, encode_revoked(await delegating.revoke(asked.ids, asked.reason)))

    return [Route(_PATH, "GET", "admin", show), Route(_PATH, "POST", "admin", revoke)]
