"""The routes by which callers hand on a part of their rights, and operators take that back. Knows no tokens."""

from headrace.api.delegations import decode_order, decode_revocation, encode_delegated, encode_revoked
from headrace.core.delegating import Delegating
from headrace.core.identity import Identity
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route

_PATH = "/v1/delegations/revoked"


def delegation_routes(answering: Answering, delegating: Delegating) -> list[Route]:
    """`/v1/delegations` and what was taken back of them."""

    async def delegate(exchange: Exchange, identity: Identity) -> None:
        order = decode_order(await exchange.read_body(answering.config, answering.bodies))
        made = delegating.delegate(identity.principal, order)
        exchange.add_header(b"cache-control", b"no-store")
        await exchange.respond(200, encode_delegated(made))

    async def show(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_revoked(await delegating.revoked()))

    async def revoke(exchange: Exchange, _: Identity) -> None:
        asked = decode_revocation(await exchange.read_body(answering.config, answering.bodies))
        await exchange.respond(200, encode_revoked(await delegating.revoke(asked.ids, asked.reason)))

    return [
        Route("/v1/delegations", "POST", "generate", delegate),
        Route(_PATH, "GET", "admin", show),
        Route(_PATH, "POST", "admin", revoke),
    ]
