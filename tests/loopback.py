"""A real server on a port of its own, inside the test's loop: for the official client and for raw sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from headrace.server.app import App
from headrace.server.serve import Server, listen


@contextlib.asynccontextmanager
async def listening(app: App) -> AsyncIterator[tuple[Server, int]]:
    """The running server and its port; leaving stops it as a signal would."""
    listener = listen(app.config)
    port: int = listener.getsockname()[1]
    ready = asyncio.Event()
    server = Server(app, lambda _: ready.set())
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    try:
        await ready.wait()
        yield server, port
    finally:
        server.handle_exit(0, None)
        await task


async def exchange(port: int, *parts: bytes) -> bytes:
    """Send bytes on a fresh connection and read until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    with contextlib.suppress(ConnectionError):
        data = await reader.read()
        writer.close()
        return data
    return b""


def socket_option(writer: asyncio.StreamWriter, option: int) -> int:
    """A TCP option of a connection."""
    connection: socket.socket = writer.get_extra_info("socket")
    return connection.getsockopt(socket.IPPROTO_TCP, option)
