"""TLS on the server's socket: who is let in, which versions, and newer certificates without a restart."""

import asyncio
import contextlib
import datetime
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
