"""The Workload API over its socket, asked by the stock `spiffe` client from real processes of other programs."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import JwtSource, SpiffeId, WorkloadApiClient, X509Source
from spiffe._proto import workload_pb2, workload_pb2_grpc
from spiffe.errors import PySpiffeError
from tests.spiffe_world import TD, SetClock, make_issuer

from headrace.core.clock import SystemClock
from headrace.core.errors import Unavailable
from headrace.server.attestation import Digests, NotAttested, Peer
from headrace.server.workload_api import WorkloadApi
from headrace.trust.spiffe.authority import rotate
from headrace.trust.spiffe.bundle import Bundle
from headrace.trust.spiffe.ids import parse_id
from headrace.trust.spiffe.issuer import Issuer, Terms
from headrace.trust.spiffe.rhythm import Rhythm
from headrace.trust.spiffe.settings import EntrySettings
from headrace.trust.spiffe.x509_svid import End, verify_x509_svid

MAIL = parse_id(f"spiffe://{TD}/agent/mail")
CHAT = parse_id(f"spiffe://{TD}/agent/chat")
HEADER = (("workload.spiffe.io", "true"),)
PROGRAM = Path(sys.executable).resolve()

# The stock client compares lifetimes with the machine's clock, so issuers here issue for now.
Ask = Callable[[str], Any]


def issuer_for(*entries: EntrySettings, federated: tuple[Bundle, ...] = ()) -> Issuer:
    clock = SetClock(SystemClock().unix_s())
    issuer = make_issuer(clock)
    issuer.configure(entries, federated)
    return issuer


def mine(**more: Any) -> EntrySettings:
    return EntrySettings(**{"id": MAIL, "uid": os.getuid(), **more})


@contextlib.asynccontextmanager
async def speaking(folder: Path, issuer: Issuer, **more: Any) -> AsyncIterator[tuple[WorkloadApi, str]]:
    """The API and its address."""
    path = folder / "agent.sock"
    api = WorkloadApi(path, issuer, SystemClock(), **more)
    async with api.open():
        yield api, f"unix://{path}"
    assert not path.exists()
    assert api.num_connections == 0


def run(folder: Path, issuer: Issuer, ask: Ask) -> Any:
    """What a caller in another thread is answered."""

    async def main() -> Any:
        async with speaking(folder, issuer) as (_, address):
            return await asyncio.to_thread(ask, address)

    return asyncio.run(main())


def test_the_stock_client_fetches_certificates_that_are_valid(tmp_path: Path) -> None:
    issuer = issuer_for(mine(hint="internal"), EntrySettings(id=CHAT, uid=os.getuid()))

    def ask(address: str) -> Any:
        with WorkloadApiClient(address) as client:
            return client.fetch_x509_context(timeout=20), client.fetch_x509_svids(timeout=20)

    context, svids = run(tmp_path, issuer, ask)
    assert [str(one.spiffe_id) for one in svids] == [str(MAIL), str(CHAT)]
    assert str(context.default_svid.spiffe_id) == str(MAIL)
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svids[0].spiffe_id.trust_domain)
    assert len(bundle.x509_authorities) == 1
    der = [one.public_bytes(Encoding.DER) for one in svids[0].cert_chain]
    now_s = SystemClock().unix_s()
    for end in End:
        assert verify_x509_svid(der, issuer.bundles, now_s=now_s, end=end).spiffe_id == MAIL


def test_the_stock_client_fetches_tokens_and_has_them_validated(tmp_path: Path) -> None:
    def ask(address: str) -> Any:
        with WorkloadApiClient(address) as client:
            token = client.fetch_jwt_svid({"gateway"}, timeout=20)
            one = client.fetch_jwt_svid({"gateway"}, subject=SpiffeId(str(CHAT)), timeout=20)
            valid = client.validate_jwt_svid(token.token, "gateway", timeout=20)
            with pytest.raises(PySpiffeError, match="another audience"):
                client.validate_jwt_svid(token.token, "other", timeout=20)
            with pytest.raises(PySpiffeError, match="no identity issued"):
                client.fetch_jwt_svid({"gateway"}, subject=SpiffeId(f"spiffe://{TD}/root"), timeout=20)
            return token, one, valid, client.fetch_jwt_bundles(timeout=20), client.fetch_x509_bundles(timeout=20)

    other = make_issuer(trust_domain="other.org").bundle
    issuer = issuer_for(mine(), EntrySettings(id=CHAT, uid=os.getuid()), federated=(other,))
    token, one, valid, jwt_bundles, x509_bundles = run(tmp_path, issuer, ask)
    assert (str(token.spiffe_id), token.audience, str(one.spiffe_id)) == (str(MAIL), {"gateway"}, str(CHAT))
    assert str(valid.spiffe_id) == str(MAIL)
    for bundles in (jwt_bundles, x509_bundles):
        assert {str(one.trust_domain) for one in bundles.bundles} == {TD, "other.org"}


def test_the_stock_sources_follow_a_change_of_keys(tmp_path: Path) -> None:
    clock, rhythm = SetClock(SystemClock().unix_s()), Rhythm(life_s=10_000, settle_s=0)
    issuer = make_issuer(clock, terms=Terms(rhythm=rhythm))
    issuer.configure([mine()])

    async def main() -> None:
        async with speaking(tmp_path, issuer) as (api, address):
            source = await asyncio.to_thread(lambda: X509Source(socket_path=address))
            tokens = await asyncio.to_thread(lambda: JwtSource(socket_path=address))
            try:
                before = source.get_x509_context().default_svid
                updated = asyncio.Event()
                loop = asyncio.get_running_loop()
                source.subscribe_for_updates(lambda: loop.call_soon_threadsafe(updated.set))
                issuer.adopt(rotate(issuer._authorities, rhythm, now_s=clock.unix + 5000, random=issuer._random))
                api.news.tell()
                await updated.wait()
                after = source.get_x509_context()
                assert after.default_svid.leaf.serial_number != before.leaf.serial_number
                bundle = after.x509_bundle_set.get_bundle_for_trust_domain(before.spiffe_id.trust_domain)
                assert len(bundle.x509_authorities) == 2
                token = await asyncio.to_thread(tokens.fetch_svid, {"a"})
                assert str(token.spiffe_id) == str(MAIL)
            finally:
                await asyncio.to_thread(source.close)
                await asyncio.to_thread(tokens.close)

    asyncio.run(main())


def test_a_stream_says_all_anew_when_a_document_is_half_over_and_ends_with_its_entry(tmp_path: Path) -> None:
    issuer, waits = issuer_for(mine()), list[float]()

    async def wait(_: asyncio.Event, delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 2:
            issuer.configure([])

    async def main() -> None:
        async with speaking(tmp_path, issuer, wait=wait) as (_, address), grpc.aio.insecure_channel(address) as channel:
            stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
            serials = set()
            with pytest.raises(grpc.aio.AioRpcError, match="no identity issued"):
                async for answer in stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER):
                    serials.add(answer.svids[0].x509_svid)
            assert len(serials) == len(waits) == 2
            assert 1700 < waits[0] <= 1800

    asyncio.run(main())


@pytest.mark.parametrize("metadata", [(), (("workload.spiffe.io", "True"),), (("workload-spiffe-io", "true"),)])
def test_every_call_needs_the_security_header(tmp_path: Path, metadata: tuple[tuple[str, str], ...]) -> None:
    async def main() -> None:
        async with (
            speaking(tmp_path, issuer_for(mine())) as (_, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
            calls: list[Awaitable[Any]] = [
                stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=metadata).read(),
                stub.FetchX509Bundles(workload_pb2.X509BundlesRequest(), metadata=metadata).read(),
                stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=["a"]), metadata=metadata),
                stub.FetchJWTBundles(workload_pb2.JWTBundlesRequest(), metadata=metadata).read(),
                stub.ValidateJWTSVID(workload_pb2.ValidateJWTSVIDRequest(audience="a", svid="b"), metadata=metadata),
            ]
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError, match="security header missing") as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(main())


def test_a_process_without_an_entry_gets_nothing_at_all(tmp_path: Path) -> None:
    async def main() -> None:
        issuer = issuer_for(EntrySettings(id=MAIL, uid=os.getuid() + 1))
        async with speaking(tmp_path, issuer) as (_, address), grpc.aio.insecure_channel(address) as channel:
            stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
            for call in (
                stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER).read(),
                stub.FetchX509Bundles(workload_pb2.X509BundlesRequest(), metadata=HEADER).read(),
                stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=["a"]), metadata=HEADER),
                stub.FetchJWTBundles(workload_pb2.JWTBundlesRequest(), metadata=HEADER).read(),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(main())


def test_fields_that_are_needed_are_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            speaking(tmp_path, issuer_for(mine())) as (_, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
            for call in (
                stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(), metadata=HEADER),
                stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=["a", ""]), metadata=HEADER),
                stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=["a"] * 17), metadata=HEADER),
                stub.ValidateJWTSVID(workload_pb2.ValidateJWTSVIDRequest(audience="a"), metadata=HEADER),
                stub.ValidateJWTSVID(workload_pb2.ValidateJWTSVIDRequest(svid="a"), metadata=HEADER),
                stub.ValidateJWTSVID(workload_pb2.ValidateJWTSVIDRequest(audience="a", svid="a.b.c"), metadata=HEADER),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(main())


_ASK = """
import sys
from spiffe import WorkloadApiClient
with WorkloadApiClient(sys.argv[1]) as client:
    try:
        print(client.fetch_x509_svid(timeout=20).spiffe_id)
    except Exception as error:
        print("refused:", error)
"""


async def ask_as(program: Path, address: str) -> str:
    """What a process of this program is told."""
    environ = {"PYTHONPATH": ":".join(sys.path), "PYTHONHOME": sys.base_prefix, "GRPC_VERBOSITY": "NONE"}
    process = await asyncio.create_subprocess_exec(
        str(program), "-c", _ASK, address, stdout=asyncio.subprocess.PIPE, env=environ
    )
    out, _ = await process.communicate()
    return out.decode().strip()


def test_programs_are_told_apart_by_path_and_by_their_bytes(tmp_path: Path) -> None:
    """Three real processes of one user: this Python, a copy of it, and a copy with one byte more."""
    same, changed = tmp_path / "same", tmp_path / "changed"
    shutil.copy2(PROGRAM, same)
    shutil.copy2(PROGRAM, changed)
    with changed.open("ab") as file:
        file.write(b"\0")
    digest = hashlib.sha256(PROGRAM.read_bytes()).hexdigest()
    by_bytes, by_path = mine(id=MAIL, sha256=digest, uid=None), mine(id=CHAT, exe=str(changed), uid=None)

    async def main() -> list[str]:
        async with speaking(tmp_path, issuer_for(by_bytes, by_path)) as (_, address):
            return await asyncio.gather(*(ask_as(program, address) for program in (PROGRAM, same, changed)))

    assert asyncio.run(main()) == [str(MAIL), str(MAIL), str(CHAT)]

    async def alone() -> str:
        async with speaking(tmp_path, issuer_for(by_bytes)) as (_, address):
            return await ask_as(changed, address)

    assert asyncio.run(alone()).startswith("refused:")


def mode_of(folder: str) -> int:
    return stat.S_IMODE(Path(folder).stat().st_mode)


def names_in(folder: str) -> list[str]:
    return sorted(one.name for one in Path(folder).iterdir())


def test_whoever_finds_the_inner_socket_is_nobody_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with speaking(tmp_path, issuer_for(mine())) as (api, _):
            inner = f"unix:{api._folder}/grpc"
            assert mode_of(api._folder) == 0o700
            async with grpc.aio.insecure_channel(inner) as channel:
                stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER).read()
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(main())


def test_a_process_that_has_ended_is_nobody_even_if_its_connection_lives(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        async def main() -> None:
            # A child that hands its connection to a grandchild, which outlives it.
            script = (
                "import os, socket, sys, time\n"
                f"one = socket.socket(socket.AF_UNIX); one.connect({str(path)!r})\n"
                "print(os.getpid(), flush=True)\n"
                "if os.fork():\n    sys.stdin.read(1); os._exit(0)\n"
                "os.close(1); one.recv(1)\n"
            )
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                assert child.stdout is not None
                pid = int(await child.stdout.readline())
                peer = Peer.of(connection, Digests())
                try:
                    attested = await peer.attest()
                    assert (attested.pid, attested.uid, attested.gid) == (pid, os.getuid(), os.getgid())
                    assert attested.exe == str(PROGRAM)
                    assert attested.sha256 == hashlib.sha256(PROGRAM.read_bytes()).hexdigest()
                    await child.communicate(b"x")
                    with pytest.raises(NotAttested):
                        await peer.attest()
                    connection.sendall(b"x")
                finally:
                    peer.close()

        asyncio.run(main())


def test_a_program_that_changes_on_disk_is_told_by_the_bytes_that_run(tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_bytes(b"one")
    digests = Digests()

    def digest() -> str:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            return digests.of(descriptor)
        finally:
            os.close(descriptor)

    assert digest() == digest() == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"other")
    assert digest() == hashlib.sha256(b"other").hexdigest()


def test_of_a_program_that_may_not_be_read_only_the_ids_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer.of_pid(os.getpid(), Digests())

    def forbid(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    try:
        whole = peer._attest()
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", forbid)
            found = peer._attest()
        assert (found.pid, found.uid, found.gid) == (whole.pid, whole.uid, whole.gid)
        assert (found.exe, found.sha256) == ("", "")
        for entry, fits in ((mine(), True), (mine(exe=whole.exe), False), (mine(sha256=whole.sha256), False)):
            assert (entry.fits(whole), entry.fits(found)) == (True, fits)
        with monkeypatch.context() as patch:
            patch.setattr("headrace.server.attestation.MAX_PROGRAM_BYTES", 10)
            peer._digests = Digests()
            with pytest.raises(NotAttested, match="too large"):
                peer._attest()
    finally:
        peer.close()


def test_a_socket_that_is_spoken_at_is_not_taken_and_one_that_was_left_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with speaking(tmp_path, issuer_for(mine())):
            with pytest.raises(Unavailable, match="another server speaks there"):
                async with WorkloadApi(tmp_path / "agent.sock", issuer_for(mine()), SystemClock()).open():
                    pass
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "agent.sock"))
        async with speaking(tmp_path, issuer_for(mine())):
            pass
        with pytest.raises(Unavailable, match="cannot be listened on"):
            async with WorkloadApi(tmp_path / ("x" * 120), issuer_for(mine()), SystemClock()).open():
                pass

    asyncio.run(main())


def test_connections_that_end_leave_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with speaking(tmp_path, issuer_for(mine())) as (api, address):
            before = len(names_in("/proc/self/fd"))
            for _ in range(5):
                async with grpc.aio.insecure_channel(address) as channel:
                    stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
                    await stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=["a"]), metadata=HEADER)
                    assert api.num_connections == 1
                await api.settle()
            assert names_in(api._folder) == ["grpc"]
            assert len(names_in("/proc/self/fd")) <= before + 2

    asyncio.run(main())
