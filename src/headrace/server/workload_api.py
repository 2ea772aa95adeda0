"""The SPIFFE Workload API over a Unix socket (SPIFFE_Workload_Endpoint.md, SPIFFE_Workload_API.md).

    process -> our socket, where the kernel says who it is -> a second socket of our own -> gRPC -> answers

gRPC tells a servicer nothing of its peer but the address. So connections are taken here, attested, and passed on to
gRPC's own socket (in a folder that only this user may enter) from an address that was made for this one process: by
that address the servicer finds it again, and an address that it does not find gets nothing.

Streams end when the process does, and say all anew when the issuer's keys change or a document is half over. Issues
nothing itself. Imports gRPC: whoever does not speak the API must not import this.
"""

import asyncio
import contextlib
import secrets
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf import json_format
from spiffe._proto import workload_pb2, workload_pb2_grpc

from headrace.core.clock import Clock
from headrace.core.errors import Unavailable
from headrace.core.workload import Attested, WorkloadIssuer
from headrace.server.attestation import Digests, NotAttested, Peer

MAX_CONNECTIONS: Final = 256
"""Of one user, and four times as many of all."""
MAX_AUDIENCES: Final = 16

_BUFFER_BYTES: Final = 64 * 1024
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.so_reuseport", 0),
)
_T = TypeVar("_T")
_HEADER: Final = ("workload.spiffe.io", "true")


class News:
    """Wakes who waits for the issuer's keys to change."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def tell(self) -> None:
        """They have changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    def event(self) -> asyncio.Event:
        """Set by the next `tell`."""
        return self._changed


Wait = Callable[[asyncio.Event, float], Awaitable[None]]


async def wait_until(event: asyncio.Event, delay_s: float) -> None:
    """Until the event, or for so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(0.0, delay_s))


class Servicer(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """The five calls of the two mandatory profiles. WIT-SVIDs are a draft and not among them."""

    def __init__(
        self,
        issuer: WorkloadIssuer,
        peers: Mapping[str, Peer],
        news: News,
        clock: Clock,
        *,
        wait: Wait = wait_until,
    ) -> None:
        """`peers` by gRPC's name of their address."""
        self._issuer = issuer
        self._peers = peers
        self._news = news
        self._clock = clock
        self._wait = wait

    async def FetchX509SVID(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """All names of the caller with keys and bundles (5.2.1)."""
        while True:
            event = self._news.event()
            svids = await _issued(context, self._issuer.x509_svids, await self._attest(context))
            if not svids:
                await _refuse(context)
            bundles = dict(self._issuer.x509_bundles())
            own = next(iter(bundles))
            yield workload_pb2.X509SVIDResponse(
                svids=[
                    workload_pb2.X509SVID(
                        spiffe_id=one.spiffe_id,
                        x509_svid=b"".join(one.certificates),
                        x509_svid_key=one.private_key,
                        bundle=bundles[own],
                        hint=one.hint,
                    )
                    for one in svids
                ],
                federated_bundles={name: bundle for name, bundle in bundles.items() if name != own},
            )
            half_s = min((one.issued_s + one.expires_s) / 2 for one in svids)
            await self._wait(event, half_s - self._clock.unix_s())

    async def FetchX509Bundles(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Who vouches for certificates (5.2.2)."""
        async for _ in self._changes(context):
            yield workload_pb2.X509BundlesResponse(bundles=dict(self._issuer.x509_bundles()))

    async def FetchJWTSVID(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tokens for an audience (6.2.1)."""
        attested = await self._attest(context)
        audience = tuple(request.audience)
        if not audience or not all(audience):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience: name whom the token is for")
        if len(audience) > MAX_AUDIENCES:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"audience: at most {MAX_AUDIENCES} names")
        svids = await _issued(context, self._issuer.jwt_svids, attested, audience, request.spiffe_id or None)
        if not svids:
            await _refuse(context)
        return workload_pb2.JWTSVIDResponse(
            svids=[workload_pb2.JWTSVID(spiffe_id=one.spiffe_id, svid=one.token, hint=one.hint) for one in svids]
        )

    async def FetchJWTBundles(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Who vouches for tokens (6.2.2)."""
        async for _ in self._changes(context):
            yield workload_pb2.JWTBundlesResponse(bundles=dict(self._issuer.jwt_bundles()))

    async def ValidateJWTSVID(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Whether a token is valid for an audience (6.2.3)."""
        await self._attest(context)
        if not request.audience or not request.svid:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience and svid are needed, both")
        try:
            spiffe_id, claims = self._issuer.validate(request.svid, request.audience)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        answer = workload_pb2.ValidateJWTSVIDResponse(spiffe_id=spiffe_id)
        json_format.ParseDict(dict(claims), answer.claims)
        return answer

    async def _changes(self, context: Any) -> AsyncIterator[None]:
        """At once, and after every change, for a process that has a name here."""
        while True:
            event = self._news.event()
            if not self._issuer.has_names(await self._attest(context)):
                await _refuse(context)
            yield
            await self._wait(event, 3600.0)

    async def _attest(self, context: Any) -> Attested:
        """Who calls. Ends the call of one that is nobody, or that lacks the header (SPIFFE_Workload_Endpoint.md 3)."""
        if _HEADER not in {(key, value) for key, value in context.invocation_metadata()}:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        peer = self._peers.get(context.peer())
        if peer is None:
            await _refuse(context)
        assert peer is not None
        try:
            return await peer.attest()
        except NotAttested as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            raise


async def _issued(context: Any, issue: Callable[..., _T], *asked: Any) -> _T:
    """What an issuer gives; one that cannot now may later (SPIFFE_Workload_Endpoint.md 6)."""
    try:
        return issue(*asked)
    except ValueError as error:
        await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        raise


async def _refuse(context: Any) -> None:
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")


class WorkloadApi:
    """Takes connections, attests, and passes on."""

    def __init__(self, path: Path, issuer: WorkloadIssuer, clock: Clock, *, wait: Wait = wait_until) -> None:
        self._path = path
        self._digests = Digests()
        self._peers: dict[str, Peer] = {}
        self._num_of: dict[int, int] = {}
        self._folder = ""
        self._running: set[asyncio.Task[None]] = set()
        self.news = News()
        self.servicer = Servicer(issuer, self._peers, self.news, clock, wait=wait)

    @property
    def num_connections(self) -> int:
        """Processes that are connected now."""
        return len(self._peers)

    async def settle(self) -> None:
        """Until every connection that is open now has ended."""
        await asyncio.gather(*self._running, return_exceptions=True)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve for as long as the block runs. Raises Unavailable if the socket cannot be had."""
        listener = _listen(self._path)
        inode = self._path.stat().st_ino
        try:
            with tempfile.TemporaryDirectory(prefix="headrace-workload-") as folder:
                self._folder = folder
                server = grpc.aio.server(options=_OPTIONS)
                add_servicer: Any = workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server  # has no types
                add_servicer(self.servicer, server)
                server.add_insecure_port(f"unix:{folder}/grpc")
                await server.start()
                accepting = await asyncio.start_unix_server(self._connected, sock=listener, limit=_BUFFER_BYTES)
                try:
                    yield
                finally:
                    accepting.close()
                    for task in tuple(self._running):
                        task.cancel()
                    await asyncio.gather(*self._running, return_exceptions=True)
                    await server.stop(None)
        finally:
            listener.close()
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == inode:  # else it is another server's by now
                    self._path.unlink()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await self._pass_on(reader, writer)
        except (OSError, NotAttested, asyncio.CancelledError):
            pass  # the process has gone, or never was one of ours, or the server ends: the connection ends
        finally:
            self._running.discard(task)
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer.of(writer.get_extra_info("socket"), self._digests)
        address = f"{self._folder}/{secrets.token_hex(16)}"
        name = f"unix:{address}"
        num = self._num_of.get(peer.uid, 0)
        try:
            if num >= MAX_CONNECTIONS or len(self._peers) >= 4 * MAX_CONNECTIONS:
                return
            self._num_of[peer.uid] = num + 1
            self._peers[name] = peer
            inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            inner.setblocking(False)
            inner.bind(address)
            await asyncio.get_running_loop().sock_connect(inner, f"{self._folder}/grpc")
            inward, outward = await asyncio.open_unix_connection(sock=inner, limit=_BUFFER_BYTES)
            try:
                ends = [asyncio.ensure_future(_pump(reader, outward)), asyncio.ensure_future(_pump(inward, writer))]
                try:
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for end in ends:
                        end.cancel()
                    await asyncio.gather(*ends, return_exceptions=True)
            finally:
                outward.transport.abort()
        finally:
            if self._peers.pop(name, None) is not None:
                self._num_of[peer.uid] -= 1
            peer.close()
            _remove(Path(address))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BUFFER_BYTES):
        writer.write(data)
        await writer.drain()


def _listen(path: Path) -> socket.socket:
    """Take the path. A socket there that nobody answers on is what an ended server left."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.is_socket():
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                else:
                    raise Unavailable(f"{path}: another server speaks there; stop it, or choose another path.")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            # Everybody on this machine may ask: who gets an answer is told by entries, not by files.
            path.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH)
            listener.listen(128)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise Unavailable(f"{path}: cannot be listened on ({error.strerror or error}); choose another path.") from error
    return listener
