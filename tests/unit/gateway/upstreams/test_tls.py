"""Backends over TLS and IPv6: who they are is checked, and why it did not hold is said."""

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.upstreams import Upstream, upstream

from headrace.core.errors import UpstreamFault, UpstreamTimeout
from headrace.gateway.settings import Timeouts
from headrace.gateway.upstreams.address import read_url
from headrace.gateway.upstreams.http import Head
from headrace.gateway.upstreams.pool import Pool, PoolSettings, open_tls


def certificate(folder: Path, name: str) -> Path:
    """A certificate that vouches for itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return path


async def ask(url: str, tls: ssl.SSLContext | None, timeouts: Timeouts) -> int:
    address = read_url(url)
    pool = Pool(address, PoolSettings(timeouts=timeouts), tls=tls, name="backend 'b'")
    try:
        head = Head(address, []).write("POST", "/v1/chat/completions", [], 2)
        for _ in range(2):
            answer = await pool.ask(head, b"{}", is_whole=True)
            assert b"Hello there." in await answer.read()
        return answer.status
    finally:
        await pool.close()


def run(
    test: Callable[[Upstream], Awaitable[None]], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> None:
    async def body() -> None:
        async with asyncio.timeout(20), upstream(tls=tls, host=host) as up:
            await test(up)

    asyncio.run(body())


def served(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def test_a_backend_that_an_authority_vouches_for_is_asked_and_its_connection_kept(tmp_path: Path) -> None:
    path = certificate(tmp_path, "localhost")

    async def body(up: Upstream) -> None:
        assert await ask(up.url, open_tls(str(path)), Timeouts()) == 200
        assert up.num_connections == 1

    run(body, served(path))


@pytest.mark.parametrize(("name", "trusts"), [("localhost", False), ("elsewhere.example", True)])
def test_a_backend_that_is_not_who_it_should_be_gets_nothing(tmp_path: Path, name: str, trusts: bool) -> None:
    path = certificate(tmp_path, name)

    async def body(up: Upstream) -> None:
        with pytest.raises(UpstreamFault, match="backend 'b': its certificate was not accepted"):
            await ask(up.url, open_tls(str(path) if trusts else None), Timeouts())
        assert not up.received

    run(body, served(path))


def test_a_backend_that_never_shakes_hands_is_a_timeout(tmp_path: Path) -> None:
    async def body(up: Upstream) -> None:
        up.is_mute = True
        url = up.url.replace("http://127.0.0.1", "https://localhost")
        with pytest.raises(UpstreamTimeout, match=r"no connection to backend 'b' in 0\.2 s"):
            await ask(url, open_tls(), Timeouts(connect_s=0.2))

    run(body)


def test_a_backend_may_be_at_an_address_of_ipv6() -> None:
    async def body(up: Upstream) -> None:
        assert await ask(up.url, None, Timeouts()) == 200
        assert up.received[0].header("host") == f"[::1]:{up.port}"

    run(body, host="::1")
