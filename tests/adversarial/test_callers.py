"""What callers show of themselves, through a real socket: headers that two servers could read in two ways."""

import asyncio
import ssl
import time
from pathlib import Path

import pytest
from tests.doubles_http import ScriptedBackend, answer, chat, make_app
from tests.loopback import exchange, listening
from tests.signed import ENOUGH, digest, pem, sign
from tests.tokens import AUDIENCE, ISSUER, key, key_set, proof, public, token
from tests.unit.gateway.upstreams.test_tls import certificate
from tests.unit.trust.identity.test_users import Sets

from headrace.core.clock import SystemClock
from headrace.server.app import App
from headrace.server.config import ServerConfig
from headrace.server.serve import Server, listen
from headrace.trust.identity.dpop import Proofs
from headrace.trust.identity.jwk import read_key, read_key_set
from headrace.trust.identity.settings import IssuerSettings, SignerSettings
from headrace.trust.identity.signatures import Signatures, read_signer
from headrace.trust.identity.users import Users

CHAT = "/v1/chat/completions"
CLIENT = key("ES256", "client")


def app() -> tuple[App, ScriptedBackend]:
    issuer = IssuerSettings(name="corp", issuer=ISSUER, audience=frozenset({AUDIENCE}), jwks="x", tenant="acme")
    signer = read_signer(SignerSettings(name="desk", key=__file__, tenant="acme"), pem())  # type: ignore[arg-type]
    users = Users([issuer], Sets(read_key_set(key_set(key()))), Proofs(60, 100, b"s" * 32))
    backend = ScriptedBackend(answer("ok"))
    clock = SystemClock()
    made = make_app(
        backend,
        ServerConfig(port=0),
        authenticators=[users, Signatures([signer], 100)],
        clock=clock,  # type: ignore[arg-type]
    )
    return made, backend


def send(make: "Make", path: str = CHAT) -> tuple[bytes, int]:
    """The status line of the answer, and how many requests reached the backend."""

    async def main() -> tuple[bytes, int]:
        made, backend = app()
        async with asyncio.timeout(20), listening(made) as (_, port):
            body = chat()
            lines = make(port, body)
            head = [f"POST {path} HTTP/1.1", *lines, f"content-length: {len(body)}", "connection: close", "", ""]
            said = await exchange(port, "\r\n".join(head).encode("latin-1") + body)
            return said.split(b"\r\n", 1)[0], len(backend.requests)

    return asyncio.run(main())


class Make:
    """Headers for a port and a body."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, port: int, body: bytes) -> list[str]:
        now_s = int(time.time())
        host, url = f"127.0.0.1:{port}", f"http://127.0.0.1:{port}{CHAT}"
        bound = token(iat=now_s, exp=now_s + 300, cnf={"jkt": read_key(public(CLIENT)).thumbprint})
        free = token(iat=now_s, exp=now_s + 300)
        headers = {"content-digest": digest(body), "content-length": str(len(body))}
        signed = sign("POST", url, headers, ENOUGH, created=now_s, keyid="desk", nonce="1")
        signature = [f"{name}: {value}" for name, value in signed.items() if name != "content-length"]
        good = f"dpop: {proof(CLIENT, bound, url=url, iat=now_s)}"
        dpop = [f"authorization: DPoP {bound}", good]
        foreign = proof(CLIENT, bound, url=f"http://llm.example.com{CHAT}", iat=now_s)
        folded = [one.replace('" "', '"\r\n "', 1) for one in signature]
        return {
            "token": [f"host: {host}", f"authorization: Bearer {free}"],
            "proof": [f"host: {host}", *dpop],
            "signature": [f"host: {host}", *signature],
            "a signature in lines": [f"host: {host}", *signature[:-1], signature[-1]],
            "two authorizations": [f"host: {host}", f"authorization: Bearer {free}", "authorization: Bearer x"],
            "two proofs": [f"host: {host}", *dpop, good],
            "a key beside a token": [f"host: {host}", f"authorization: Bearer {free}", "x-api-key: hr_x"],
            "a proof for another server, said to be ours": ["host: llm.example.com", dpop[0], f"dpop: {foreign}"],
            "a folded signature": [f"host: {host}", *folded],
            "the signature's lines twice": [f"host: {host}", *signature, signature[0], signature[1], signature[2]],
            "a token in the query": [f"host: {host}"],
            "a megabyte": [f"host: {host}", "authorization: Bearer " + "ey" + "A" * 1_000_000],
            "a header just within": [f"host: {host}", "authorization: Bearer ey" + "A" * 60_000 + ".e.e"],
            "a proxy's word from nobody": [
                f"host: {host}",
                "x-forwarded-client-cert: Subject=x",
                "client-cert: :AAAA:",
            ],
            "control characters": [f"host: {host}", "authorization: Bearer \x01\x7f"],
            "not ASCII": [f"host: {host}", "authorization: Bearer \xe9\xff.\xe9.\xe9"],
            "an empty token": [f"host: {host}", "authorization: Bearer"],
            "a scheme alone": [f"host: {host}", "authorization: DPoP"],
        }[self.kind]


def test_over_tls_a_proof_is_for_https(tmp_path: Path) -> None:
    async def main() -> None:
        path = certificate(tmp_path, "localhost")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(path)
        made, backend = app()
        listener = listen(made.config)
        port = listener.getsockname()[1]
        ready = asyncio.Event()
        server = Server(made, lambda _: ready.set(), tls)
        task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
        await ready.wait()
        now_s = int(time.time())
        bound = token(iat=now_s, exp=now_s + 300, cnf={"jkt": read_key(public(CLIENT)).thumbprint})
        body = chat()
        statuses = []
        for number, scheme in enumerate(("http", "https")):
            url = f"{scheme}://localhost:{port}{CHAT}"
            head = (
                f"POST {CHAT} HTTP/1.1\r\nhost: localhost:{port}\r\nauthorization: DPoP {bound}\r\n"
                f"dpop: {proof(CLIENT, bound, url=url, iat=now_s, jti=str(number))}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            trust = ssl.create_default_context(cafile=str(path))
            reader, writer = await asyncio.open_connection("localhost", port, ssl=trust)
            writer.write(head.encode() + body)
            statuses.append((await reader.read())[:12])
            writer.close()
        server.handle_exit(0, None)
        await task
        assert statuses == [b"HTTP/1.1 401", b"HTTP/1.1 200"] and len(backend.requests) == 1

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["token", "proof", "signature", "a signature in lines"])
def test_what_is_right_is_taken(kind: str) -> None:
    assert send(Make(kind)) == (b"HTTP/1.1 200 OK", 1)


@pytest.mark.parametrize(
    "kind",
    [
        "two authorizations",
        "two proofs",
        "a key beside a token",
        "a proof for another server, said to be ours",
        "a folded signature",
        "the signature's lines twice",
        "a token in the query",
        "a megabyte",
        "a header just within",
        "a proxy's word from nobody",
        "control characters",
        "not ASCII",
        "an empty token",
        "a scheme alone",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_and_asks_nobody(kind: str) -> None:
    path = CHAT + f"?access_token={token()}" if kind == "a token in the query" else CHAT
    status, num_asked = send(Make(kind), path)
    # Who sends on and on may lose the answer with the connection.
    assert status.split()[1:2] in ([b"400"], [b"401"], [b"431"]) or (kind, status) == ("a megabyte", b""), status
    assert num_asked == 0
