"""The routes of records: one with all that verifies it offline, its erasure, and the trust file that the server tells
of itself. Knows the service and no statements."""

import math

import msgspec

from headrace.core.errors import InvalidRequest
from headrace.core.identity import Identity
from headrace.core.provenance import RecordBook
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route

MAX_WAIT_S = 30.0


def record_routes(_: Answering, records: RecordBook) -> list[Route]:
    """`/v1/provenance/{record_id}` and `/v1/provenance/trust-file`; no record's id has a dash."""

    async def get(exchange: Exchange, identity: Identity) -> None:
        wait_s = _wait_s(exchange.query())
        await exchange.respond(200, await records.bundle(exchange.params["record_id"], identity.principal, wait_s))

    async def erase(exchange: Exchange, identity: Identity) -> None:
        record_id = exchange.params["record_id"]
        await records.erase(record_id, identity.principal)
        told = {"object": "provenance.erased", "id": record_id, "erased": True}
        await exchange.respond(200, msgspec.json.encode(told))

    async def trust_file(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, records.trusted, b"text/plain; charset=utf-8")

    path = "/v1/provenance/{record_id}"
    return [
        Route(path, "GET", None, get),
        Route(path, "DELETE", None, erase),
        Route("/v1/provenance/trust-file", "GET", None, trust_file),
    ]


def _wait_s(query: dict[str, list[str]]) -> float:
    unknown = sorted(query.keys() - {"wait_s"})
    if unknown:
        raise InvalidRequest(f"{unknown[0][:100]}: is not known here; possible is wait_s.", param=unknown[0][:100])
    values = query.get("wait_s", ["0"])
    try:
        wait_s = float(values[0])
    except ValueError:
        wait_s = math.nan
    if len(values) > 1 or not 0 <= wait_s <= MAX_WAIT_S:
        raise InvalidRequest(
            f"wait_s: {values[-1][:40]!r} is not in [0, {MAX_WAIT_S:g}]; give a number of seconds, once.",
            param="wait_s",
        )
    return wait_s
