"""Where this program's own SVIDs come from: another's Workload API, well and badly behaved, and the issuer within."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest
from spiffe._proto import workload_pb2, workload_pb2_grpc
from tests.spiffe_world import NOW_S, TD, SetClock, make_ca, make_issuer, turn

from headrace.core.certificates import peer_chain
from headrace.core.clock import SystemClock
from headrace.core.errors import Unavailable
from headrace.gateway.workloads.api_source import ApiSource
from headrace.gateway.workloads.contexts import ServerContext, show, trust
from headrace.gateway.workloads.issued_source import IssuedSource
from headrace.gateway.workloads.source import Material, NoSource
from headrace.server.workload_api import WorkloadApi
from headrace.trust.spiffe.ids import parse_id
from headrace.trust.spiffe.issuer import Issuer
from headrace.trust.spiffe.rhythm import Rhythm
from headrace.trust.spiffe.settings import EntrySettings
from headrace.trust.spiffe.x509_svid import verify_x509_svid

MAIL, CHAT = parse_id(f"spiffe://{TD}/agent/mail"), parse_id(f"spiffe://{TD}/agent/chat")


@dataclass
class Odd(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """A Workload API that says what a test has it say, a message a turn, and then ends its stream."""

    svids: list[Any] = field(default_factory=list)
    keys: list[Any] = field(default_factory=list)
    token: str = ""
    num_streams: int = 0

    async def FetchX509SVID(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.num_streams += 1
        for one in self.svids.pop(0) if self.svids else []:
            yield one
        if self.svids:
            return  # the stream ends, and is opened again
        await asyncio.Event().wait()

    async def FetchJWTBundles(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for one in self.keys:
            yield one
        await asyncio.Event().wait()

    async def FetchJWTSVID(self, request: Any, context: Any) -> Any:
        return workload_pb2.JWTSVIDResponse(svids=[workload_pb2.JWTSVID(spiffe_id=str(MAIL), svid=self.token)])


@contextlib.asynccontextmanager
async def odd(folder: Path, servicer: Odd) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add: Any = workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server
    add(servicer, server)
    address = f"unix://{folder}/odd.sock"
    server.add_insecure_port(address)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


def message(issuer: Issuer, path: str = "/agent/mail", **changes: Any) -> Any:
    svid = issuer.mint_x509(parse_id(f"spiffe://{issuer.trust_domain}{path}"))
    given: dict[str, Any] = {
        "spiffe_id": svid.spiffe_id,
        "x509_svid": b"".join(svid.certificates),
        "x509_svid_key": svid.private_key,
        "bundle": b"".join(issuer.bundle.x509_authorities),
    }
    federated = changes.pop("federated", {})
    return workload_pb2.X509SVIDResponse(
        svids=[workload_pb2.X509SVID(**{**given, **changes})], federated_bundles=federated
    )


def keys_of(*issuers: Issuer) -> Any:
    return workload_pb2.JWTBundlesResponse(bundles={k: v for one in issuers for k, v in one.jwt_bundles().items()})


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds."""
    loop = asyncio.get_running_loop()
    while not condition():
        turned = asyncio.Event()
        loop.call_soon(turned.set)
        await turned.wait()


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


def source_at(address: str, clock: Any = None, **more: Any) -> ApiSource:
    return ApiSource(address, clock or SetClock(), random=Random(1), sleep=no_pause, **more)


def test_names_come_from_our_own_api_with_bundles_of_both_kinds_and_tokens(tmp_path: Path) -> None:
    clock = SetClock(SystemClock().unix_s())
    other = make_issuer(clock, trust_domain="other.org")
    issuer = make_issuer(clock)
    entries = [EntrySettings(id=one, uid=os.getuid()) for one in (MAIL, CHAT)]
    issuer.configure(entries, [other.bundle])

    async def main() -> None:
        api = WorkloadApi(tmp_path / "a.sock", issuer, clock)
        async with api.open():
            source = source_at(f"unix://{tmp_path}/a.sock", clock, spiffe_id=str(CHAT))
            async with source.open():
                material = source.material()
                assert material.svid.spiffe_id == str(CHAT)
                assert set(material.bundles) == {TD, "other.org"}
                assert material.bundles["other.org"].jwt_authorities == other.bundle.jwt_authorities
                assert source.material() is material
                assert source.bundles() is material.bundles
                await source.want("gateway")
                assert issuer.validate(source.token("gateway"), "gateway")[0] == str(CHAT)
                assert source.token("gateway") == source.token("gateway")

    asyncio.run(main())


def test_a_stream_that_ends_is_opened_again_and_what_was_fetched_stays(tmp_path: Path) -> None:
    issuer = make_issuer()
    first, second = message(issuer), message(issuer)
    servicer = Odd(svids=[[first], [], [], [second]], keys=[keys_of(issuer)])

    async def main() -> None:
        async with odd(tmp_path, servicer) as address:
            source = source_at(address)
            async with source.open():
                await until(lambda: source.material().svid.certificates == (second.svids[0].x509_svid,))
                assert servicer.num_streams >= 4

    asyncio.run(main())


def test_what_was_fetched_ends_with_its_time(tmp_path: Path) -> None:
    clock, issuer = SetClock(), make_issuer()

    async def main() -> None:
        async with odd(tmp_path, Odd(svids=[[message(issuer)]], keys=[keys_of(issuer)])) as address:
            source = source_at(address, clock)
            async with source.open():
                clock.unix += 3599
                assert source.material()
                clock.unix += 1
                with pytest.raises(Unavailable, match="it has expired"):
                    source.material()

    asyncio.run(main())


ISSUER = make_issuer()
OTHER = make_issuer(seed=7)
BROKEN: dict[str, Callable[[], Any]] = {
    "nobody": workload_pb2.X509SVIDResponse,
    "another name on it": lambda: message(ISSUER, spiffe_id=str(CHAT)),
    "no certificate": lambda: message(ISSUER, x509_svid=b"rubbish"),
    "an empty chain": lambda: message(ISSUER, x509_svid=b""),
    "another's authority": lambda: message(ISSUER, bundle=b"".join(OTHER.bundle.x509_authorities)),
    "another's key": lambda: message(ISSUER, x509_svid_key=OTHER.mint_x509(MAIL).private_key),
    "no key": lambda: message(ISSUER, x509_svid_key=b""),
    "no bundle": lambda: message(ISSUER, bundle=b""),
    "a broken bundle": lambda: message(ISSUER, bundle=make_ca("x").der[:-3]),
    "a broken bundle of others": lambda: message(ISSUER, federated={"spiffe://other.org": b"\x30\x05"}),
    "a bundle of no trust domain": lambda: message(ISSUER, federated={"spiffe://Other.org/x": b""}),
    "no SPIFFE ID": lambda: message(ISSUER, spiffe_id="https://example.org/agent/mail"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_message_that_is_broken_is_refused_whole_and_the_one_before_stays(tmp_path: Path, name: str) -> None:
    good, last = message(ISSUER), message(ISSUER)

    async def main() -> None:
        servicer = Odd(svids=[[good, BROKEN[name]()], [last]], keys=[keys_of(ISSUER)])
        async with odd(tmp_path, servicer) as address:
            source = source_at(address)
            seen, end = set[bytes](), (last.svids[0].x509_svid,)
            async with source.open():
                await until(lambda: seen.update(now := source.material().svid.certificates) or now == end)
            assert seen <= {good.svids[0].x509_svid, *end}

    asyncio.run(main())


def test_a_start_without_an_identity_ends_with_the_reason(tmp_path: Path) -> None:
    issuer = make_issuer(SetClock(SystemClock().unix_s()))
    issuer.configure([EntrySettings(id=MAIL, uid=os.getuid() + 1)])

    async def main() -> None:
        async with WorkloadApi(tmp_path / "a.sock", issuer, SystemClock()).open():
            with pytest.raises(Unavailable, match="PERMISSION_DENIED: no identity issued"):
                async with source_at(f"unix://{tmp_path}/a.sock").open(wait_s=0.2):
                    pass
        with pytest.raises(Unavailable, match="gave no identity"):
            async with source_at(f"unix://{tmp_path}/nowhere.sock").open(wait_s=0.2):
                pass
        async with odd(tmp_path, Odd(svids=[[message(issuer, "/agent/chat")]], keys=[keys_of(issuer)])) as address:
            with pytest.raises(Unavailable, match="and not"):
                async with source_at(address, spiffe_id=str(MAIL)).open(wait_s=0.2):
                    pass

    asyncio.run(main())


@pytest.mark.parametrize("token", ["", "x.y.z", "a.e30.b", "a.eyJleHAiOjF9.b", "é.é.é"])
def test_a_token_that_is_none_is_not_shown_to_anybody(tmp_path: Path, token: str) -> None:
    issuer = make_issuer()

    async def main() -> None:
        servicer = Odd(svids=[[message(issuer)]], keys=[keys_of(issuer)], token=token)
        async with odd(tmp_path, servicer) as address:
            source = source_at(address)
            async with source.open():
                with pytest.raises(Unavailable, match="no JWT-SVID"):
                    await source.want("engine")

    asyncio.run(main())


def test_the_issuer_within_renews_at_half_time_and_when_keys_change() -> None:
    clock, rhythm = SetClock(), Rhythm()
    issuer = make_issuer(clock)
    source = IssuedSource(issuer, MAIL, clock)
    first, token = source.material(), source.token("a")
    assert source.material() is first
    assert source.token("a") == token
    assert source.token("b") != token
    clock.unix += 151
    assert source.token("a") != token
    assert source.material() is first
    clock.unix = NOW_S + 1801
    second = source.material()
    assert second.svid.certificates != first.svid.certificates
    turn(issuer, rhythm, NOW_S + rhythm.life_s / 2)
    assert source.material() is not second
    assert verify_x509_svid(source.material().svid.certificates, issuer.bundles, now_s=clock.unix)
    clock.unix = NOW_S - 1000  # a clock that is set back to before there were keys: the issuer's keeper makes others
    for ask in (source.material, lambda: source.token("a")):
        with pytest.raises(Unavailable, match="no key that is valid now"):
            ask()
    turn(issuer, rhythm, clock.unix)
    assert source.material().svid.issued_s == NOW_S - 1000


def test_without_an_identity_nothing_is_shown_and_nobody_believed() -> None:
    for ask in (lambda: NoSource().material(), lambda: NoSource().token("a")):
        with pytest.raises(Unavailable, match="no workload identity of its own"):
            ask()
    assert NoSource().bundles() == {}


@dataclass
class Given:
    """A source that a test changes."""

    now: Material | None

    def material(self) -> Material:
        if self.now is None:
            raise Unavailable("none")
        return self.now

    def bundles(self) -> Any:
        return {} if self.now is None else self.now.bundles

    def token(self, audience: str) -> str:
        raise Unavailable("none")


def test_a_server_shows_the_newest_and_believes_whom_the_newest_bundle_says() -> None:
    """Handshakes in memory, without a socket: the context that listens stays the same object."""
    clock = SetClock(SystemClock().unix_s())
    first, second = make_issuer(clock, seed=1), make_issuer(clock, seed=2)
    source = Given(Material(first.mint_x509(MAIL), first.bundles))
    served = ServerContext(source, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.CERT_OPTIONAL)
    caller = first.mint_x509(CHAT)

    def handshake(issuer: Issuer, svid: Any = None) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        trust(client, issuer.bundles)
        if svid is not None:
            show(client, svid)
        return _handshake(served.context, client)

    shown, asked = handshake(first, caller)
    assert shown[0] == source.material().svid.certificates[0]  # OpenSSL sends authorities that it knows behind it
    assert asked[0] == caller.certificates[0]
    assert handshake(first)[1] == ()
    assert served.newest() is served.newest()
    source.now = Material(second.mint_x509(MAIL), second.bundles)
    assert handshake(second)[0][0] == source.now.svid.certificates[0]
    for issuer, svid in ((first, None), (second, caller)):  # the old authority is believed by neither end
        with pytest.raises(ssl.SSLError):
            handshake(issuer, svid)
    kept = source.now.svid.certificates[0]
    source.now = None  # nothing newer: what was there is shown
    assert handshake(second)[0][0] == kept


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """What the server showed, and what the client did."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname="x"), server.wrap_bio(up, down, server_side=True)]
    waiting = list(ends)
    for _ in range(20):
        for end in tuple(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                waiting.remove(end)
        if not waiting:
            break
    with contextlib.suppress(ssl.SSLWantReadError):
        ends[0].read()  # a refusal of the client's certificate comes after its handshake (TLS 1.3)
    return peer_chain(ends[0]), peer_chain(ends[1])
