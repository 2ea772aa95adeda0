"""TLS on the server's socket: who is let in, which versions, and newer certificates without a restart."""

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.doubles_http import ScriptedBackend, answer, make_app

from headrace.core.errors import InvalidRequest
from headrace.server.config import ServerConfig, Tls
from headrace.server.serve import Server, listen
from headrace.server.tls import open_tls, renew_tls

START = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@dataclass
class Pair:
    """A certificate and its key, in files."""

    certificate: Path
    key: Path


def make_pair(folder: Path, name: str, *, password: bytes | None = None) -> Pair:
    """One that signs itself, for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(START + datetime.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    locked = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    pem = serialization.Encoding.PEM
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    pair.certificate.write_bytes(made.public_bytes(pem))
    pair.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked))
    return pair


def tls_of(pair: Pair, **more: object) -> Tls:
    return Tls(certificate=pair.certificate, key=pair.key, **more)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[tuple[int, str]]:
    """Port and URL of a server with TLS."""
    app = make_app(ScriptedBackend(answer("ok")), ServerConfig(port=0))
    listener = listen(app.config)
    urls: asyncio.Queue[str] = asyncio.Queue()
    server = Server(app, urls.put_nowait, context)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    try:
        url = await urls.get()
        yield listener.getsockname()[1], url
    finally:
        server.handle_exit(0, None)
        await task


async def get(port: int, trusted: Pair, own: Pair | None = None, most: ssl.TLSVersion | None = None) -> bytes:
    """What /health answers to a client that trusts one certificate."""
    context = ssl.create_default_context(cafile=str(trusted.certificate))
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    if most is not None:
        context.maximum_version = most
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_answers_are_given_over_tls_and_plain_http_is_not_answered(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "a")

    async def main() -> None:
        async with serving(open_tls(tls_of(pair))) as (port, url):
            assert url.startswith("https://")
            assert (await get(port, pair)).startswith(b"HTTP/1.1 200")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"alive" not in await reader.read()
            writer.close()

    asyncio.run(main())


def test_a_newer_certificate_is_taken_without_a_restart_and_a_broken_one_is_not(tmp_path: Path) -> None:
    first, second = make_pair(tmp_path, "a"), make_pair(tmp_path, "b")

    async def main() -> None:
        tls = tls_of(first)
        context = open_tls(tls)
        async with serving(context) as (port, _):
            old = Pair(tmp_path / "old.crt", first.key)
            old.certificate.write_bytes(first.certificate.read_bytes())
            first.certificate.write_bytes(b"broken")
            with pytest.raises(InvalidRequest):
                renew_tls(context, tls)
            assert (await get(port, old)).startswith(b"HTTP/1.1 200")
            first.certificate.write_bytes(second.certificate.read_bytes())
            first.key.write_bytes(second.key.read_bytes())
            renew_tls(context, tls)
            assert (await get(port, second)).startswith(b"HTTP/1.1 200")
            with pytest.raises(ssl.SSLError):
                await get(port, old)

    asyncio.run(main())


def test_older_versions_are_refused_where_a_newer_one_is_asked_for(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "a")

    async def main() -> None:
        async with serving(open_tls(tls_of(pair, minimum_version="1.3"))) as (port, _):
            assert (await get(port, pair)).startswith(b"HTTP/1.1 200")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await get(port, pair, most=ssl.TLSVersion.TLSv1_2)

    asyncio.run(main())


def test_with_an_authority_only_its_clients_are_let_in(tmp_path: Path) -> None:
    pair, client, stranger = (make_pair(tmp_path, name) for name in "abc")

    async def main() -> None:
        async with serving(open_tls(tls_of(pair, client_ca=client.certificate))) as (port, _):
            assert (await get(port, pair, client)).startswith(b"HTTP/1.1 200")
            for other in (None, stranger):
                # With TLS 1.3 a client learns of the refusal only when it reads.
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    assert b"alive" not in await get(port, pair, other)

    asyncio.run(main())


def test_files_that_do_not_fit_are_named_with_the_remedy(tmp_path: Path) -> None:
    first, second = make_pair(tmp_path, "a"), make_pair(tmp_path, "b")
    locked = make_pair(tmp_path, "c", password=b"pw")
    junk = tmp_path / "junk"
    junk.write_bytes(b"junk")
    for tls, param, sentence in [
        (Tls(certificate=tmp_path / "no", key=first.key), "certificate", "no cannot be read"),
        (Tls(certificate=first.certificate, key=tmp_path / "no"), "key", "no cannot be read"),
        (Tls(certificate=first.certificate, key=second.key), "certificate", "are no certificate with its key"),
        (Tls(certificate=junk, key=first.key), "certificate", "are no certificate with its key"),
        (tls_of(locked), "certificate", "the key unencrypted"),
        (tls_of(first, client_ca=junk), "client_ca", "holds no certificates"),
        (tls_of(first, client_ca=tmp_path / "no"), "client_ca", "no cannot be read"),
    ]:
        with pytest.raises(InvalidRequest, match=sentence) as caught:
            open_tls(tls)
        assert caught.value.param == param


async def lines(port: int, context: ssl.SSLContext, num: int) -> list[bytes]:
    """What several requests on one connection are answered, until it is closed."""
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
    found = []
    for _ in range(num):
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            break
        found.append(head)
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return found


def test_clients_that_may_show_a_certificate_are_asked_for_one_and_need_none(tmp_path: Path) -> None:
    server, client, stranger = (make_pair(tmp_path, name) for name in ("server", "client", "stranger"))

    async def main() -> None:
        tls = tls_of(server, client_ca=client.certificate, clients="wanted")
        async with serving(open_tls(tls)) as (port, _):
            assert b"200" in await get(port, server)
            assert b"200" in await get(port, server, client)
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                assert b"alive" not in await get(port, server, stranger)

    asyncio.run(main())


def test_a_connection_is_closed_after_an_answer_when_half_of_its_clients_certificate_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = make_pair(tmp_path, "server"), make_pair(tmp_path, "client")
    context = ssl.create_default_context(cafile=str(server.certificate))
    context.load_cert_chain(client.certificate, client.key)

    async def main() -> None:
        async with serving(open_tls(tls_of(server, client_ca=client.certificate))) as (port, _):
            assert len(await lines(port, context, 3)) == 3
            monkeypatch.setattr("headrace.server.protocol.half_life_s", lambda _: 0.0)
            (only,) = await lines(port, context, 3)
            assert b"connection: close" in only.lower()

    asyncio.run(main())


def test_no_ticket_is_given_where_clients_show_certificates(tmp_path: Path) -> None:
    """It would come back without a chain to verify; where nobody is asked, sessions are resumed as ever."""
    server, client = make_pair(tmp_path, "server"), make_pair(tmp_path, "client")

    def is_resumed(port: int) -> bool:
        context = ssl.create_default_context(cafile=str(server.certificate))
        context.load_cert_chain(client.certificate, client.key)
        session = None
        for _ in range(2):
            plain = socket.create_connection(("localhost", port))
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as secured:
                secured.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert secured.recv(4096)
                session, found = secured.session, secured.session_reused
        return bool(found)

    async def main() -> None:
        for tls, is_ever in (
            (tls_of(server), True),
            (tls_of(server, client_ca=client.certificate), False),
        ):
            async with serving(open_tls(tls)) as (port, _):
                assert await asyncio.to_thread(is_resumed, port) == is_ever

    asyncio.run(main())
