"""TLS to one backend as an operator says: its own authorities, our certificate, who it must be; and for how long."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.spiffe_world import TD, SetClock, make_issuer
from tests.unit.server.test_tls import Pair, make_pair
from tests.upstreams import Upstream, upstream

from headrace.core.clock import SystemClock
from headrace.core.errors import Unavailable, UpstreamFault
from headrace.gateway.settings import BackendSettings, Dialect
from headrace.gateway.upstreams.address import read_url
from headrace.gateway.upstreams.catalog import open_remote
from headrace.gateway.upstreams.http import Head
from headrace.gateway.upstreams.pool import Pool, PoolSettings
from headrace.gateway.upstreams.security import BackendSecurity
from headrace.gateway.workloads.contexts import show, trust
from headrace.gateway.workloads.source import Material, NoSource
from headrace.trust.spiffe.ids import IdPattern, parse_id, parse_pattern
from headrace.trust.spiffe.issuer import Issuer

ENGINE = parse_pattern(f"spiffe://{TD}/engine/*")


@dataclass
class Given:
    """A source that a test changes."""

    now: Material | None

    def material(self) -> Material:
        if self.now is None:
            raise Unavailable("there is no SVID")
        return self.now

    def bundles(self) -> Any:
        return {} if self.now is None else self.now.bundles

    def token(self, audience: str) -> str:
        return f"token-for-{audience}"


def issuer_of_now(seed: int = 1) -> Issuer:
    return make_issuer(SetClock(SystemClock().unix_s()), seed=seed)


def material(issuer: Issuer, path: str = "/gateway", **more: Any) -> Material:
    return Material(issuer.mint_x509(parse_id(f"spiffe://{TD}{path}"), **more), issuer.bundles)


def server_context(issuer: Issuer, path: str = "/engine/one", **more: Any) -> ssl.SSLContext:
    """A backend that shows an SVID and wants one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust(context, issuer.bundles)
    show(context, material(issuer, path, **more).svid)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def settings(up: Upstream, **more: Any) -> BackendSettings:
    return BackendSettings(name="b", kind="openai-compatible", dialect=Dialect.CHAT, url=f"{up.url}/v1", **more)


@contextlib.asynccontextmanager
async def pool_to(up: Upstream, security: BackendSecurity) -> AsyncIterator[Pool]:
    pool = Pool(read_url(up.url), PoolSettings(), tls=security, name="backend 'b'")
    try:
        yield pool
    finally:
        await pool.close()


async def ask(up: Upstream, pool: Pool) -> int:
    head = Head(read_url(up.url), []).write("POST", "/v1/chat/completions", [], 2)
    return (await pool.ask(head, b"{}", is_whole=True)).status


def test_both_ends_show_who_they_are_and_nothing_is_sent_to_another(tmp_path: Path) -> None:
    async def main() -> None:
        issuer = issuer_of_now()
        source = Given(material(issuer))
        async with upstream(tls=server_context(issuer)) as up:
            for wanted, is_right in (
                (ENGINE, True),
                (parse_pattern(f"spiffe://{TD}/engine/one"), True),
                (parse_pattern(f"spiffe://{TD}/engine/two"), False),
                (parse_pattern(f"spiffe://{TD}/engine/one/more"), False),
                (parse_pattern("spiffe://other.org/engine/one"), False),
            ):
                security = BackendSecurity(settings(up, identity="spiffe", spiffe_id=wanted), source, SystemClock())
                async with pool_to(up, security) as pool:
                    before = len(up.received)
                    if is_right:
                        assert await ask(up, pool) == 200
                    else:
                        with pytest.raises(UpstreamFault, match="nothing was sent to it"):
                            await ask(up, pool)
                        assert len(up.received) == before
                        assert pool.num_busy == pool.num_idle == 0

    asyncio.run(main())


def test_a_backend_of_a_stranger_is_no_backend(tmp_path: Path) -> None:
    async def main() -> None:
        issuer, stranger = issuer_of_now(), issuer_of_now(seed=9)
        async with upstream(tls=server_context(stranger)) as up:
            security = BackendSecurity(
                settings(up, identity="spiffe", spiffe_id=ENGINE), Given(material(issuer)), SystemClock()
            )
            async with pool_to(up, security) as pool:
                with pytest.raises(UpstreamFault, match="certificate was not accepted"):
                    await ask(up, pool)
            assert up.received == []

    asyncio.run(main())


def test_a_certificate_of_our_authorities_that_is_no_svid_is_refused_after_the_handshake(tmp_path: Path) -> None:
    """OpenSSL takes it; who it is, is for the verifier to say."""

    async def main() -> None:
        issuer = issuer_of_now()
        pair = make_pair(tmp_path, "plain")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        source = Given(material(issuer))
        async with upstream(tls=context) as up:
            security = BackendSecurity(settings(up, spiffe_id=ENGINE), source, SystemClock())
            security.context().load_verify_locations(cafile=str(pair.certificate))
            async with pool_to(up, security) as pool:
                with pytest.raises(
                    UpstreamFault, match=r"shows no X\.509-SVID that is valid: the certificate has 0 URI"
                ):
                    await ask(up, pool)
            assert up.received == []

    asyncio.run(main())


def test_a_connection_is_used_only_while_what_both_ends_showed_holds(tmp_path: Path) -> None:
    async def main() -> None:
        issuer, clock = issuer_of_now(), SetClock(SystemClock().unix_s())
        source = Given(material(issuer))
        async with upstream(tls=server_context(issuer)) as up:
            security = BackendSecurity(settings(up, identity="spiffe", spiffe_id=ENGINE), source, clock)
            async with pool_to(up, security) as pool:
                assert [await ask(up, pool), await ask(up, pool)] == [200, 200]
                assert len({one.connection for one in up.received}) == 1
                source.now = material(issuer)  # ours was renewed
                assert await ask(up, pool) == 200
                assert len({one.connection for one in up.received}) == 2
                assert pool.num_idle == 1
                kept = pool._idle[0]
                assert 3500 < kept.admitted_until_s - asyncio.get_running_loop().time() <= 3600
                kept.admitted_until_s = 0  # what the other end showed is over
                assert await ask(up, pool) == 200
                assert len({one.connection for one in up.received}) == 3
                source.now = None
                with pytest.raises(UpstreamFault, match="cannot be asked: there is no SVID"):
                    await ask(up, pool)

    asyncio.run(main())


def test_a_backend_with_authorities_of_its_own_is_shown_a_certificate_from_files(tmp_path: Path) -> None:
    async def main() -> None:
        server, client, other = (make_pair(tmp_path, name) for name in ("server", "client", "other"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.certificate, server.key)
        context.load_verify_locations(cafile=str(client.certificate))
        context.verify_mode = ssl.CERT_REQUIRED

        def of(pair: Pair, authority: Pair = server) -> dict[str, Any]:
            files = {"client_certificate": pair.certificate, "client_key": pair.key}
            return {"ca_file": authority.certificate, **files}

        async with upstream(tls=context) as up:
            for more, is_right in ((of(client), True), (of(other), False), (of(client, other), False)):
                security = BackendSecurity(settings(up, **more), NoSource(), SystemClock())
                async with pool_to(up, security) as pool:
                    if is_right:
                        assert await ask(up, pool) == 200
                    else:
                        with pytest.raises(UpstreamFault):
                            await ask(up, pool)
            assert len(up.received) == 1

    asyncio.run(main())


def test_a_token_is_shown_anew_with_every_request_and_every_check(tmp_path: Path) -> None:
    async def main() -> None:
        async with upstream() as up:
            tokens = iter(["first", "second"])
            remote = open_remote(settings(up, audience="engine"), bearer=lambda: next(tokens))
            await remote.check()
            await remote.check()
            assert [one.header("authorization") for one in up.received] == ["Bearer first", "Bearer second"]

            def none() -> str:
                raise Unavailable("this server has no JWT-SVID")

            silent = open_remote(settings(up, audience="engine"), bearer=none)
            with pytest.raises(UpstreamFault, match="cannot be asked: this server has no JWT-SVID"):
                await silent.check()
            assert len(up.received) == 2
            for one in (remote, silent):
                await one.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"ca_file": Path("/nowhere")}, "ca_file"),
        ({"client_certificate": Path("/nowhere"), "client_key": Path("/nowhere")}, "client_certificate"),
    ],
)
def test_files_that_are_not_there_are_told_by_their_setting(more: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        BackendSecurity(BackendSettings(name="b", kind="k", url="https://x", **more), NoSource(), SystemClock())


def test_a_pattern_says_what_it_was_written_as() -> None:
    assert str(ENGINE) == f"spiffe://{TD}/engine/*"
    assert isinstance(ENGINE, IdPattern)
