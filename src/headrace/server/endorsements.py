"""The routes by which whoever has the right to it lets withheld calls of tools pass. Knows no tools and no judge."""

from headrace.api.endorsements import decode_order, encode_endorsement, encode_endorsements, encode_withheld
from headrace.core.endorsing import SCOPE, Endorsing
from headrace.core.identity import Identity
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route

_PATH = "/v1/endorsements"


def endorsement_routes(answering: Answering, endorsing: Endorsing) -> list[Route]:
    """`/v1/endorsements`, one of them, and the calls that could have one."""

    async def make(exchange: Exchange, identity: Identity) -> None:
        order = decode_order(await exchange.read_body(answering.config, answering.bodies))
        await exchange.respond(200, encode_endorsement(await endorsing.endorse(identity.principal, order)))

    async def show(exchange: Exchange, identity: Identity) -> None:
        await exchange.respond(200, encode_endorsements(endorsing.endorsements(identity.principal)))

    async def withdraw(exchange: Exchange, identity: Identity) -> None:
        ended = await endorsing.withdraw(identity.principal, exchange.params["id"])
        await exchange.respond(200, encode_endorsement(ended, is_withdrawn=True))

    async def show_withheld(exchange: Exchange, identity: Identity) -> None:
        exchange.add_header(b"cache-control", b"no-store")
        await exchange.respond(200, encode_withheld(endorsing.withheld(identity.principal)))

    return [
        Route(_PATH, "POST", SCOPE, make),
        Route(_PATH, "GET", SCOPE, show),
        Route(f"{_PATH}/withheld", "GET", SCOPE, show_withheld),
        Route(f"{_PATH}/{{id}}", "DELETE", SCOPE, withdraw),
    ]
