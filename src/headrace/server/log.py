"""The routes of the transparency log: files that anybody may read, C2SP tlog-tiles. Knows neither their form nor where
they lie."""

from typing import Final

from headrace.core.errors import NotFound
from headrace.core.identity import Identity
from headrace.core.public_log import PublicLog
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route

_CHECKPOINTS: Final = ("checkpoint", "checkpoint.witnessed")
# tlog-tiles: "This endpoint is immutable, so its caching headers SHOULD be long-lived"; a checkpoint's "SHOULD prevent
# caching beyond a few seconds".
_LASTING: Final = b"public, max-age=31536000, immutable"
_PASSING: Final = b"no-cache"


def log_routes(_: Answering, log: PublicLog) -> list[Route]:
    """`/log/checkpoint`, `/log/checkpoint.witnessed` and `/log/tile/...`, without a key."""

    async def send(exchange: Exchange, path: str) -> None:
        found = await log.read(path)
        if found is None:
            raise NotFound(f"the log has no file {path!r} now.")
        exchange.add_header(b"cache-control", _LASTING if found.is_lasting else _PASSING)
        await exchange.respond(200, found.data, found.content_type.encode())

    async def tile(exchange: Exchange, _: Identity) -> None:
        await send(exchange, "tile/" + exchange.params["path"])

    async def checkpoint(exchange: Exchange, _: Identity) -> None:
        await send(exchange, exchange.record.route.removeprefix("/log/"))

    return [
        *(Route(f"/log/{name}", "GET", None, checkpoint, is_open=True) for name in _CHECKPOINTS),
        Route("/log/tile/{path*}", "GET", None, tile, is_open=True),
    ]
