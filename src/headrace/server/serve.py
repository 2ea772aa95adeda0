"""Runs the application on a socket with uvicorn, and stops it well.

    first SIGTERM or SIGINT   no new connections, new requests get 503, running answers have `drain_s` to finish,
                              then each gets an error that says why; the function returns
    second                    running answers are failed at once
    SIGHUP                    what may change while it runs is read again

Knows no backend: who opened one closes it after `serve` returns.
"""

import asyncio
import functools
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from headrace.core.errors import HeadraceError, Unavailable
from headrace.server.app import App
from headrace.server.config import ServerConfig, check_bind
from headrace.server.protocol import LimitedHttpProtocol
from headrace.server.socket_protocol import LimitedSocketProtocol

_BACKLOG = 2048
# What failed answers get to send their last bytes, before their tasks are cancelled.
_LAST_WORDS_S = 5.0

_logger = logging.getLogger("headrace.server")


def listen(config: ServerConfig) -> socket.socket:
    """Take the port, before anything slow is loaded. Raises Unavailable with the remedy."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {config.host} port {config.port}: {error.strerror or error}; choose another --port, or "
            "stop what listens there.",
            param="port",
        ) from error


async def serve(
    app: App,
    listener: socket.socket,
    on_ready: Callable[[str], None] | None = None,
    *,
    on_reload: Callable[[], None] | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serve until a signal says stop. `on_ready` is told the address once requests are answered; `on_reload` is called
    for SIGHUP, None: the keys are read again."""
    check_bind(app.config, has_keys=app.credentials.is_needed)
    server = Server(app, on_ready, tls)
    loop = asyncio.get_running_loop()
    if on_reload is None and app.keys is not None:
        on_reload = functools.partial(_reload_keys, app)
    reloads = on_reload is not None and threading.current_thread() is threading.main_thread()
    if reloads:
        assert on_reload is not None
        loop.add_signal_handler(signal.SIGHUP, on_reload)
    try:
        await server.serve(sockets=[listener])
    finally:
        if reloads:
            loop.remove_signal_handler(signal.SIGHUP)


class Server(uvicorn.Server):
    """uvicorn's server with our way of stopping."""

    def __init__(self, app: App, on_ready: Callable[[str], None] | None, tls: ssl.SSLContext | None = None) -> None:
        self._lifecycle = app.lifecycle
        self._drain_s = app.config.drain_s
        self._on_ready = on_ready
        config = _uvicorn_config(app)
        config.load()
        config.ssl = tls  # uvicorn would make one of files, which could not be renewed
        self._scheme = "http" if tls is None else "https"
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, then tell."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self._on_ready is not None and sockets:
            self._on_ready(_url(self._scheme, sockets[0]))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop well on the first signal, at once on the second; uvicorn would raise the first again after a drain."""
        # A signal handler may run between any two instructions, so what touches the loop is put into its queue.
        if not self.should_exit:
            self.should_exit = True
            self._lifecycle.start_draining()
        else:
            self.force_exit = True
            self._loop.call_soon_threadsafe(self._lifecycle.fail_running)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what runs finish within `drain_s`, then fail it."""
        self._lifecycle.start_draining()
        timer = self._loop.call_later(self._drain_s, self._lifecycle.fail_running)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()
        if self.force_exit:  # uvicorn then leaves the lifespan open
            await self.lifespan.shutdown()


def _uvicorn_config(app: App) -> uvicorn.Config:
    config = app.config
    protocol: Any = functools.partial(LimitedHttpProtocol, limits=config)
    application: Any = app
    return uvicorn.Config(
        application,
        http=protocol,
        ws=LimitedSocketProtocol,
        ws_max_size=config.max_message_bytes,
        ws_ping_interval=config.ping_interval_s,
        ws_ping_timeout=config.ping_timeout_s,
        ws_per_message_deflate=False,
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(config.idle_timeout_s),
        timeout_graceful_shutdown=int(config.drain_s + _LAST_WORDS_S),
    )


def _reload_keys(app: App) -> None:
    assert app.keys is not None
    try:
        app.keys.reload()
    except HeadraceError as error:
        _logger.error("the keys were not read again, those in force stay: %s", error.message)  # noqa: TRY400
    else:
        _logger.info("read %d keys", len(app.keys))


def _url(scheme: str, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
