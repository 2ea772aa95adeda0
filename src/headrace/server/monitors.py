"""The routes by which operators see what monitors have against accounts, and take it back.

Knows their codec and the service behind them; what a flag means is the monitor's affair.
"""

from headrace.api.monitors import decode_clear, encode_cleared, encode_monitors
from headrace.core.identity import Identity
from headrace.core.monitors import Monitors
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route

_PATH = "/v1/monitors"


def monitor_routes(answering: Answering, monitors: Monitors) -> list[Route]:
    """`/v1/monitors` and `/v1/monitors/clear`."""

    async def show(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_monitors(monitors))

    async def clear(exchange: Exchange, identity: Identity) -> None:
        account = decode_clear(await exchange.read_body(answering.config, answering.bodies))
        by = identity.principal.subject or identity.key or "local"
        await exchange.respond(200, encode_cleared(monitors.clear(account, by)))

    return [Route(_PATH, "GET", "admin", show), Route(f"{_PATH}/clear", "POST", "admin", clear)]
