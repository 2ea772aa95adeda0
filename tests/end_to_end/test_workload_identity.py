"""Workload identity between real servers on sockets: an issuer, and a gateway and an engine that get their names from
it, mTLS between them; who is let in, who is refused, and what happens to requests while keys change."""

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import JwtSource, X509Source
from tests.spiffe_world import NOW_S, TD, Holder, Made, SetClock, made_ca, make
from tests.upstreams import Upstream, upstream
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from headrace.cli.config import compose
from headrace.cli.reload import Reloader
from headrace.cli.serve import Start, open_app
from headrace.cli.spiffe import Keeper, open_spiffe
from headrace.cli.surroundings import look_around
from headrace.core.certificates import peer_chain
from headrace.core.clock import SystemClock
from headrace.core.workload import X509Svid
from headrace.gateway.workloads.contexts import show, trust
from headrace.server.app import App
from headrace.server.serve import Server, listen
from headrace.trust.spiffe.authority import Authorities, in_force, load_key, rotate
from headrace.trust.spiffe.ids import parse_id
from headrace.trust.spiffe.issuer import Issuer, Terms
from headrace.trust.spiffe.rhythm import Rhythm
from headrace.trust.spiffe.settings import EntrySettings, SpiffeSettings

NAMES = ("/gateway", "/engine/one", "/agent/mail")
GATEWAY = f"spiffe://{TD}/gateway"
BODY = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Running:
    """A server on a port."""

    app: App
    reloader: Reloader
    port: int


@dataclass
class World:
    """An issuer with its socket, an engine behind a gateway, and what stands behind the engine."""

    keeper: Keeper
    clock: SetClock
    socket: str
    gateway: "Running"
    engine: "Running"
    up: Upstream

    @property
    def issuer(self) -> Issuer:
        return self.keeper.issuer

    def svid(self, path: str, **more: Any) -> X509Svid:
        return self.issuer.mint_x509(parse_id(f"spiffe://{TD}{path}"), **more)

    def token(self, path: str, audience: str = GATEWAY) -> str:
        return self.issuer.mint_jwt(parse_id(f"spiffe://{TD}{path}"), (audience,)).token


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "headrace.toml"
    file.write_text(text, "utf-8")
    return file


@contextlib.asynccontextmanager
async def running(folder: Path, text: str) -> AsyncIterator[Running]:
    """The server of a settings file, with its own TLS, for as long as the block runs."""
    file = write(folder, text)
    compose_again = functools.partial(compose, {"port": 0}, {"HEADRACE_HOME": str(folder / "home")}, file)
    resolved = compose_again()
    around = look_around(resolved, {})
    async with open_app(Start(compose_again, resolved.settings, {}, around)) as (app, reloader):
        listener = listen(app.config)
        ready = asyncio.Event()
        server = Server(app, lambda _: ready.set(), reloader.tls)
        task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
        try:
            await ready.wait()
            yield Running(app, reloader, listener.getsockname()[1])
        finally:
            server.handle_exit(0, None)
            await task


def engine_file(up: Upstream, socket: str, **more: str) -> str:
    """A server that stands for an engine: it gets its name from the socket, and lets in the gateway only."""
    given = {"clients": "required", "engine_id": "/engine/one", "caller": "/gateway", **more}
    return f"""
[tls]
identity = "spiffe"
clients = "{given["clients"]}"
[spiffe]
socket = "{socket}"
id = "spiffe://{TD}{given["engine_id"]}"
[spiffe.workloads."spiffe://{TD}{given["caller"]}"]
tenant = "gateway"
[backends.raw]
kind = "openai-compatible"
url = "{up.url}/v1"
models = ["small"]
[routes.small]
candidates = ["raw/small"]
"""


def gateway_file(socket: str, engine_port: int, **more: str) -> str:
    """A server that agents call, and that asks the engine under its own name."""
    how = more.get("how", f'identity = "spiffe"\nspiffe_id = "spiffe://{TD}/engine/*"')
    return f"""{more.get("head", "")}
[tls]
identity = "spiffe"
[spiffe]
socket = "{socket}"
id = "{GATEWAY}"
{more.get("spiffe", "")}
[spiffe.workloads."spiffe://{TD}/agent/*"]
tenant = "agents"
agent = "*"
[backends.engine]
kind = "headrace"
url = "https://localhost:{engine_port}/v1"
models = ["small"]
{how}
[routes.small]
candidates = ["engine/small"]
retry = {{max_attempts = 1}}
{more.get("more", "")}
"""


@contextlib.asynccontextmanager
async def world(folder: Path, settings: SpiffeSettings | None = None, **more: str) -> AsyncIterator[World]:
    """All of it. The issuer's clock is the machine's until a test sets it."""
    clock = SetClock(SystemClock().unix_s())
    path = folder / "agent.sock"
    entries = tuple(EntrySettings(id=parse_id(f"spiffe://{TD}{name}"), uid=os.getuid()) for name in NAMES)
    settings = replace(settings or SpiffeSettings(trust_domain=TD), serve=path, entries=entries)
    async with (
        upstream() as up,
        open_spiffe(settings, folder / "issuer", clock) as spiffe,
        running(folder / "engine", engine_file(up, f"unix://{path}", **more)) as engine,
        running(folder / "gateway", gateway_file(f"unix://{path}", engine.port, **more)) as gateway,
    ):
        assert spiffe.keeper is not None
        yield World(spiffe.keeper, clock, f"unix://{path}", gateway, engine, up)


def context_of(world: World, svid: X509Svid | None) -> ssl.SSLContext:
    """A client that believes the trust domain, and shows an SVID."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    trust(context, world.issuer.bundles)
    if svid is not None:
        show(context, svid)
    return context


async def ask(
    world: World, svid: X509Svid | None, bearer: str | None = None, port: int | None = None
) -> httpx.Response:
    headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
    async with httpx.AsyncClient(verify=context_of(world, svid), headers=headers, timeout=30) as client:
        return await client.post(url_of(port or world.gateway.port), json=BODY)


def url_of(port: int) -> str:
    return f"https://localhost:{port}/v1/chat/completions"


def test_a_gateway_asks_an_engine_over_mtls_and_knows_its_callers_by_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as found:
            by_certificate = await ask(found, found.svid("/agent/mail"))
            assert by_certificate.status_code == 200, by_certificate.text
            assert by_certificate.json()["choices"][0]["message"]["content"] == found.up.text
            by_token = await ask(found, None, found.token("/agent/mail"))
            assert by_token.status_code == 200, by_token.text
            assert len(found.up.received) == 2

    asyncio.run(main())


def test_the_stock_sources_call_the_gateway_with_what_they_fetch(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as found:
            found.issuer.configure(
                [EntrySettings(id=parse_id(f"spiffe://{TD}/agent/mail"), uid=os.getuid())]
            )  # from now on this user's programs are mail agents; the servers keep what they have

            def fetch() -> tuple[X509Svid, str]:
                with X509Source(socket_path=found.socket) as source, JwtSource(socket_path=found.socket) as tokens:
                    context = source.get_x509_context()
                    svid = context.default_svid
                    token = tokens.fetch_svid({GATEWAY}).token
                return (
                    X509Svid(
                        spiffe_id=str(svid.spiffe_id),
                        certificates=tuple(one.public_bytes(Encoding.DER) for one in svid.cert_chain),
                        private_key=svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
                        issued_s=0,
                        expires_s=0,
                    ),
                    token,
                )

            svid, token = await asyncio.to_thread(fetch)
            assert svid.spiffe_id == f"spiffe://{TD}/agent/mail"
            assert (await ask(found, svid)).status_code == 200
            assert (await ask(found, None, token)).status_code == 200
            # the same agent shows both
            assert (await ask(found, svid, token)).status_code == 200

    asyncio.run(main())


def test_callers_that_are_not_known_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as found:
            # nobody; a name that no pattern fits; a token for another server, of a name that no pattern fits, and none
            assert (await ask(found, None)).status_code == 401
            assert (await ask(found, found.svid("/engine/one"))).json()["error"]["code"] == "unknown_workload"
            assert (await ask(found, found.svid("/agent/a/b"))).status_code == 401
            for wrong in (found.token("/agent/mail", "other"), found.token("/engine/one"), "x.y.z", "ey.ey.ey"):
                assert (await ask(found, None, wrong)).status_code == 401
            # two names at once
            both = await ask(found, found.svid("/agent/mail"), found.token("/agent/chat"))
            assert both.status_code == 401
            # agents may not call the engine themselves, and without a certificate nobody may even open a connection
            assert (await ask(found, found.svid("/agent/mail"), port=found.engine.port)).status_code == 401
            with pytest.raises(httpx.TransportError):
                await ask(found, None, port=found.engine.port)
            assert found.up.received == []
            assert (await ask(found, found.svid("/gateway"), port=found.engine.port)).status_code == 200

    asyncio.run(main())


def test_certificates_of_strangers_do_not_pass_the_handshake(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as found:
            root = make(made_ca("root"))
            now_s = SystemClock().unix_s()
            fields = {"starts_s": int(now_s - NOW_S) - 60, "ends_s": int(now_s - NOW_S) + 600}
            wrong = [make(Made(**fields), root)]
            own = found.keeper.issuer.authorities.x509_keys[0]
            signer = Holder(x509.load_der_x509_certificate(own.certificate), load_key(own.private_key))
            # signed by the right authority, for yesterday
            wrong.append(make(Made(starts_s=fields["starts_s"] - 900, ends_s=int(now_s - NOW_S) - 1), signer))
            for holder in wrong:
                with pytest.raises(httpx.TransportError):
                    await ask(found, held(holder))
            # what OpenSSL takes and an SVID may not be: the handshake passes, the caller does not
            for made in (
                Made(uris=(f"spiffe://{TD}/agent/mail", f"spiffe://{TD}/agent/x"), **fields),
                Made(uris=("spiffe://other.org/agent/mail",), **fields),
                Made(uris=(f"spiffe://{TD}/agent/../gateway",), **fields),
                Made(uris=(), dns=("localhost",), **fields),
            ):
                refused = await ask(found, held(make(made, signer)))
                assert refused.status_code == 401, made
                assert "is no SVID" in refused.json()["error"]["message"]
            assert found.up.received == []

    asyncio.run(main())


def held(holder: Holder) -> X509Svid:
    """A certificate made by hand, to be shown."""
    key = holder.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return X509Svid(spiffe_id="", certificates=(holder.der,), private_key=key, issued_s=0, expires_s=0)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        # the gateway wants another engine than the one that answers there
        ({"how": f'identity = "spiffe"\nspiffe_id = "spiffe://{TD}/engine/two"'}, "nothing was sent to it"),
        ({"how": f'identity = "spiffe"\nspiffe_id = "spiffe://{TD}/gateway"'}, "nothing was sent to it"),
        # it is somebody else who listens there
        ({"engine_id": "/agent/mail"}, "nothing was sent to it"),
        # the engine is not of the system's authorities, and nothing else says who it is
        ({"how": 'identity = "spiffe"'}, "certificate was not accepted"),
        # the gateway shows nothing of itself
        ({"how": f'spiffe_id = "spiffe://{TD}/engine/*"'}, "closed the connection before it answered"),
        # the engine knows other gateways
        ({"caller": "/other"}, "does not let this gateway in"),
    ],
)
def test_a_gateway_and_an_engine_that_are_not_each_others_do_not_talk(
    tmp_path: Path, more: dict[str, str], why: str
) -> None:
    async def main() -> None:
        async with world(tmp_path, **more) as found:
            refused = await ask(found, found.svid("/agent/mail"))
            assert refused.status_code == 502, refused.text
            assert why in refused.json()["error"]["message"]
            assert found.up.received == []

    asyncio.run(main())


def test_a_gateway_shows_a_token_where_that_is_what_the_engine_asks(tmp_path: Path) -> None:
    how = f'audience = "spiffe://{TD}/engine/one"\nspiffe_id = "spiffe://{TD}/engine/*"'

    async def main() -> None:
        async with world(tmp_path, how=how, clients="wanted") as found:
            answered = await ask(found, found.svid("/agent/mail"))
            assert answered.status_code == 200, answered.text
            assert len(found.up.received) == 1

    asyncio.run(main())


def test_a_connection_outlives_no_svid_on_either_side(tmp_path: Path) -> None:
    """Both ends keep the connection; when the certificate that it was opened with ends, its requests are refused."""

    async def main() -> None:
        async with world(tmp_path) as found:
            clock = found.gateway.app.credentials._clock = SetClock(SystemClock().unix_s())
            async with httpx.AsyncClient(verify=context_of(found, found.svid("/agent/mail", ttl_s=600))) as client:
                url = url_of(found.gateway.port)
                assert (await client.post(url, json=BODY)).status_code == 200
                clock.unix += 590
                assert (await client.post(url, json=BODY)).status_code == 200
                clock.unix += 11
                refused = await client.post(url, json=BODY)
                assert refused.status_code == 401
                assert "was valid until" in refused.json()["error"]["message"]

    asyncio.run(main())


def test_keys_and_certificates_change_under_load_and_nothing_is_dropped(tmp_path: Path) -> None:
    """Four callers ask without pause while every key of the issuer is followed by three others, and goes."""

    async def main() -> None:
        async with world(tmp_path) as found:
            statuses: list[int] = []
            num_renewed = [0] * 4
            renewed = asyncio.Event()
            is_over = False

            async def call(caller: int) -> None:
                while not is_over:
                    num_renewed[caller] += 1
                    renewed.set()
                    async with httpx.AsyncClient(verify=context_of(found, found.svid("/agent/mail"))) as client:
                        for _ in range(5):
                            answered = await client.post(url_of(found.gateway.port), json=BODY, timeout=30)
                            statuses.append(answered.status_code)

            callers = [asyncio.create_task(call(caller)) for caller in range(4)]
            first = found.issuer.authorities.x509_keys[0]
            for seed in range(3):
                await _follow(found, Random(seed))
                wanted = [number + 2 for number in num_renewed]  # nobody shows any more what the key before signed
                while any(number < least for number, least in zip(num_renewed, wanted, strict=True)):
                    renewed.clear()
                    await renewed.wait()
            assert first not in found.issuer.authorities.x509_keys
            served = ssl.DER_cert_to_PEM_cert(await _shown(found))
            is_over = True
            await asyncio.gather(*callers)
            assert set(statuses) == {200}
            assert len(found.up.received) >= len(statuses) > 40
            signer = found.issuer.authorities.x509_keys[-1].certificate
            issued = x509.load_pem_x509_certificate(served.encode())
            issued.verify_directly_issued_by(x509.load_der_x509_certificate(signer))

    asyncio.run(main())


async def _follow(found: World, random: Random) -> None:
    """The next key: known first, signing when both servers know it; then the one before the last goes."""
    now_s, rhythm = found.clock.unix, Rhythm()
    keys = found.issuer.authorities
    made = rotate(Authorities(trust_domain=TD), rhythm, now_s=now_s, random=random).x509_keys[0]
    _adopt(found, replace(keys, x509_keys=(*keys.x509_keys, made), sequence=keys.sequence + 1))
    assert in_force(found.issuer.authorities.x509_keys, rhythm, now_s=now_s) is keys.x509_keys[-1]
    only = Issuer(replace(keys, x509_keys=(made,)), Terms(), found.clock, random)
    for port, path, good in ((found.gateway.port, "/agent/mail", 200), (found.engine.port, "/gateway", 200)):
        probe = only.mint_x509(parse_id(f"spiffe://{TD}{path}"))
        while not await _is_taken(found, probe, port, good):
            pass
    settled = replace(made, made_s=now_s - rhythm.settle_s)
    _adopt(found, replace(found.issuer.authorities, x509_keys=(keys.x509_keys[-1], settled)))


def _adopt(found: World, keys: Authorities) -> None:
    found.issuer.adopt(keys)
    assert found.keeper.api is not None
    found.keeper.api.news.tell()


async def _is_taken(found: World, svid: X509Svid, port: int, good: int) -> bool:
    try:
        return (await ask(found, svid, port=port)).status_code == good
    except httpx.TransportError:
        return False


async def _shown(found: World) -> bytes:
    """The certificate that the gateway shows when it has a new one by the newest key."""
    newest = x509.load_der_x509_certificate(found.issuer.authorities.x509_keys[-1].certificate)
    while True:
        context = context_of(found, found.svid("/agent/mail"))
        _, writer = await asyncio.open_connection("localhost", found.gateway.port, ssl=context)
        leaf = peer_chain(writer.get_extra_info("ssl_object"))[0]
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        if x509.load_der_x509_certificate(leaf).issuer == newest.subject:
            return leaf


def test_a_websocket_is_its_callers_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as found:
            url = f"wss://localhost:{found.gateway.port}/v1/responses"
            context = context_of(found, found.svid("/agent/mail"))
            async with connect(url, ssl=context) as socket:
                await socket.send(json.dumps({"type": "response.create", "model": "small", "input": "hi"}))
                types = set()
                while "response.completed" not in types:
                    types.add(json.loads(await socket.recv())["type"])
            for svid in (None, found.svid("/engine/one")):
                with pytest.raises(InvalidStatus, match="401"):
                    async with connect(url, ssl=context_of(found, svid)):
                        pass

    asyncio.run(main())


def test_where_svids_are_required_a_key_alone_opens_nothing(tmp_path: Path) -> None:
    key = "hr_" + "k" * 40
    more = f'[[keys]]\nname = "laptop"\ntenant = "agents"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'

    async def main() -> None:
        async with world(tmp_path, more=more, head='host = "0.0.0.0"', spiffe="required = true") as found:
            for bearer in (key, None, "x"):
                refused = await ask(found, None, bearer)
                assert (refused.status_code, refused.json()["error"]["code"]) == (401, "svid_required")
            assert (await ask(found, found.svid("/agent/mail"))).status_code == 200
            assert (await ask(found, None, found.token("/agent/mail"))).status_code == 200
            assert (await ask(found, found.svid("/agent/mail"), key)).status_code == 200
            assert (await ask(found, found.svid("/agent/mail"), "x")).status_code == 401
        async with world(tmp_path, more=more) as found:  # where they are not, keys go on as ever
            assert (await ask(found, None, key)).status_code == 200

    asyncio.run(main())


def test_a_reload_leaves_names_and_connections_as_they_are(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as found:
            async with httpx.AsyncClient(verify=context_of(found, found.svid("/agent/mail"))) as client:
                assert (await client.post(url_of(found.gateway.port), json=BODY)).status_code == 200
                told = await found.gateway.reloader.reload()
                assert told.waiting == ()
                assert (await client.post(url_of(found.gateway.port), json=BODY)).status_code == 200
            assert len({one.connection for one in found.up.received}) == 1

    asyncio.run(main())
