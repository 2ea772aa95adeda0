"""Who opens a WebSocket, and for how long it is theirs: tokens, proofs, signatures and keys beside certificates."""

from typing import Any

import pytest
from tests.adversarial.test_socket_handshake import entry, ring
from tests.doubles_http import Client, run
from tests.doubles_sessions import SealInMemory
from tests.scripted import Turn
from tests.signed import sign
from tests.socket_client import Place, serving
from tests.tokens import NOW_S, key, proof, public, token
from tests.unit.server.test_credentials import AGENT, ANNA, Scripted
from tests.unit.trust.identity.test_signatures import signatures
from tests.unit.trust.identity.test_users import users
from websockets.exceptions import InvalidStatus

from headrace.core.identity import Identity
from headrace.server.config import ConsoleSettings, ServerConfig
from headrace.trust.identity.jwk import read_key

OK = [Turn(text="OK")]
CLIENT = key("ES256", "client")
BOUND = token(cnf={"jkt": read_key(public(CLIENT)).thumbprint})


def test_a_token_opens_a_socket_until_it_expires() -> None:
    async def main() -> None:
        async with serving(OK, authenticators=[users()]) as (place, _):
            async with place.client(authorization=f"Bearer {token(scope='llm:use')}") as client:
                assert (await client.turn())["type"] == "response.completed"
                place.clock.now_s += 400
                refused = await client.turn()
                assert (refused["type"], refused["error"]["code"]) == ("error", "invalid_api_key")
            for headers in ({}, {"authorization": "Bearer hr_x"}, {"authorization": f"Bearer {token(aud='x')}"}):
                with pytest.raises(InvalidStatus, match="401"):
                    async with place.client(**headers):
                        pass

    run(main())


def test_a_proof_and_a_signature_are_of_the_handshake_which_is_a_get_over_http() -> None:
    async def main() -> None:
        async with serving(OK, authenticators=[users(), signatures()]) as (place, _):
            url = f"http://127.0.0.1:{place.port}/v1/responses"
            shown = {"authorization": f"DPoP {BOUND}", "dpop": proof(CLIENT, BOUND, "GET", url)}
            for status in ("403", "401"):  # the scope is not this token's; the proof was taken
                with pytest.raises(InvalidStatus, match=status):
                    async with place.client(**shown):
                        pass
            parameters: dict[str, Any] = {"created": NOW_S, "keyid": "desk", "nonce": "1"}
            signed = sign("GET", url, {}, ("@method", "@target-uri"), **parameters)
            async with place.client(**signed) as client:
                assert (await client.turn())["type"] == "response.completed"
                place.clock.now_s += 400  # it was the handshake that had to be fresh
                assert (await client.turn())["type"] == "response.completed"

    run(main())


def test_a_key_beside_a_certificate_that_is_taken_back_ends_what_it_could() -> None:
    async def main() -> None:
        entries = [entry("hr_a"), entry("hr_b")]
        keys = ring(*entries)
        certificate = Scripted({"hr_a": Identity(AGENT, "cert")})
        async with (
            serving(OK, keys=keys, authenticators=[certificate]) as (place, _),
            place.client(authorization="Bearer hr_a") as client,
        ):
            assert (await client.turn())["type"] == "response.completed"
            keys._load = lambda: entries[1:]
            keys.reload()
            assert (await client.turn())["type"] == "error"

    run(main())


def test_a_socket_of_a_certificate_alone_needs_no_key() -> None:
    async def main() -> None:
        certificate = Scripted({None: Identity(ANNA, "cert")})
        async with serving(OK, keys=ring(entry("hr_a")), authenticators=[certificate]) as (place, backend):
            async with place.client() as client:
                assert (await client.turn())["type"] == "response.completed"
            assert backend.requests[0].principal.subject == ANNA.subject

    run(main())


def test_a_session_of_the_console_opens_a_socket_for_its_own_page_until_its_key_is_taken_back() -> None:
    async def main() -> None:
        entries = [entry("hr_a"), entry("hr_b")]
        keys = ring(*entries)
        config = ServerConfig(port=0, console=ConsoleSettings(session_hours=1))
        seal = SealInMemory()
        async with serving(OK, config, keys=keys, session_seal=seal) as (place, _):
            own = f"http://127.0.0.1:{place.port}"
            cookie = await sign_in(place)
            for origin in ({}, {"origin": "https://evil.example"}, {"origin": "http://127.0.0.1:1"}):
                with pytest.raises(InvalidStatus, match="403"):
                    async with place.client(cookie=cookie, **origin):
                        pass
            async with (
                place.client(cookie=cookie, origin=own) as first,
                place.client(cookie=cookie, origin=own) as late,
            ):
                assert (await first.turn())["type"] == "response.completed"
                keys._load = lambda: entries[1:]
                keys.reload()
                assert (await first.turn())["error"]["code"] == "invalid_api_key"
                keys._load = lambda: entries
                keys.reload()
                place.clock.now_s += 3600
                assert (await late.turn())["error"]["code"] == "session_ended"

    run(main())


@pytest.mark.parametrize("secret", ["hr_a", token(scope="llm:use")], ids=["key", "token"])
def test_signing_out_ends_what_the_session_had_opened(secret: str) -> None:
    async def main() -> None:
        seal = SealInMemory()
        config = ServerConfig(port=0, console=ConsoleSettings(session_hours=1))
        known = {"keys": ring(entry("hr_a")), "authenticators": [users()], "session_seal": seal}
        async with serving(OK, config, **known) as (place, _):
            own = f"http://127.0.0.1:{place.port}"
            cookie = await sign_in(place, secret)
            async with place.client(cookie=cookie, origin=own) as client:
                assert (await client.turn())["type"] == "response.completed"
                headers = {"host": f"127.0.0.1:{place.port}", "cookie": cookie, "x-headrace-console": "1"}
                assert (await Client(place.app, "DELETE", "/console/session", b"", headers).run()).status == 204
                assert (await client.turn())["error"]["code"] == "session_ended"

    run(main())


async def sign_in(place: Place, secret: str = "hr_a") -> str:
    headers = {"host": f"127.0.0.1:{place.port}", "x-headrace-console": "1", "authorization": f"Bearer {secret}"}
    reply = await Client(place.app, "POST", "/console/session", b"", headers).run()
    return reply.headers["set-cookie"].partition(";")[0]
