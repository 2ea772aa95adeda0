"""A server made of a settings file that knows its callers by tokens: the whole way, and what is wrong with a file."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.served import CHAT, HI, near, serving
from tests.signed import ENOUGH, KEY, digest, pem, sign
from tests.tokens import AUDIENCE, ISSUER, key, key_set, proof, public, token
from tests.upstreams import Upstream, upstream, whole

from headrace.cli.config import compose
from headrace.cli.kinds import WrongSettings
from headrace.cli.surroundings import look_around
from headrace.core.errors import InvalidRequest
from headrace.trust.identity.jwk import read_key

CLIENT = key("ES256", "client")
CORP = f"""
[identity.issuers.corp]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
jwks = "keys.json"
tenant = "acme"
scope_claim = "scope"
scope_map = {{"llm:use" = ["generate"]}}
scopes = []
"""


def fresh(**changed: Any) -> str:
    """A token of now."""
    now_s = int(time.time())
    return token(**({"iat": now_s, "exp": now_s + 300, "scope": "llm:use"} | changed))


def run(test: Callable[[Upstream], Awaitable[None]]) -> None:
    async def body() -> None:
        async with asyncio.timeout(20), upstream() as up:
            await test(up)

    asyncio.run(body())


def settings(folder: Path, up: Upstream, more: str = CORP) -> str:
    (folder / "keys.json").write_bytes(key_set(key()))
    return near(up, more.replace("keys.json", str(folder / "keys.json")))


def test_a_users_token_is_good_for_what_its_issuer_may_say_and_reaches_no_backend(tmp_path: Path) -> None:
    async def body(up: Upstream) -> None:
        async with serving(tmp_path, settings(tmp_path, up)) as server:
            text = fresh()
            assert (await server.chat(text)).status == 200
            assert text.encode() not in up.received[-1].raw
            assert (await server.chat(fresh(scope="other"))).status == 403
            assert (await server.ask("GET", "/metrics", key=text)).status == 403
            for wrong in (None, "hr_abc", fresh(exp=int(time.time()) - 3600), fresh(by=CLIENT), fresh(aud="x")):
                reply = await server.chat(wrong)
                assert reply.status == 401 and "www-authenticate" in reply.headers
            assert (await server.ask("GET", "/health")).status == 200
            assert len(up.received) == 1

    run(body)


def test_a_token_that_is_bound_to_a_key_needs_a_proof_for_each_request(tmp_path: Path) -> None:
    async def body(up: Upstream) -> None:
        async with serving(tmp_path, settings(tmp_path, up, CORP + 'nonce = "required"\n')) as server:
            text = fresh(cnf={"jkt": read_key(public(CLIENT)).thumbprint})

            async def ask(dpop: str) -> Any:
                body = {"model": "chat", "messages": HI}
                return await server.ask("POST", CHAT, body, authorization=f"DPoP {text}", dpop=dpop)

            now_s = int(time.time())
            reply = await ask(proof(CLIENT, text, iat=now_s))
            assert (reply.status, reply.error()["code"]) == (401, "use_dpop_nonce")
            nonce = reply.headers["dpop-nonce"]
            good = proof(CLIENT, text, iat=now_s, nonce=nonce)
            assert (await ask(good)).status == 200
            assert good.encode() not in up.received[-1].raw and text.encode() not in up.received[-1].raw
            assert (await ask(good)).error()["code"] == "invalid_dpop_proof"
            assert (await ask(proof(CLIENT, text, iat=now_s, nonce=nonce, jti="2"))).status == 200
            assert (await server.chat(text)).status == 401

    run(body)


def test_keys_are_fetched_from_where_the_issuer_says(tmp_path: Path) -> None:
    async def body(up: Upstream) -> None:
        up.respond = lambda request: whole(
            {"issuer": up.url, "jwks_uri": f"{up.url}/keys"} if "well-known" in request.path else key_set(key())
        )
        text = f'[identity.issuers.corp]\nissuer = "{up.url}"\naudience = "a"\ntenant = "acme"\nprivate = true\n'
        async with serving(tmp_path, near(up, text)) as server:
            await up.wait_received(2)
            reply = await server.ask("GET", "/v1/models", key=fresh(iss=up.url, aud="a"))
            while reply.status == 503:  # the keys are on their way
                await asyncio.sleep(0)
                reply = await server.ask("GET", "/v1/models", key=fresh(iss=up.url, aud="a"))
            assert reply.status == 200

    run(body)


@pytest.mark.parametrize("jwks", ["missing.json", "http://id.example/keys", "https://10.0.0.1/keys"])
def test_keys_that_cannot_be_had_are_told_before_the_server_starts(tmp_path: Path, jwks: str) -> None:
    async def body(up: Upstream) -> None:
        text = settings(tmp_path, up).replace(str(tmp_path / "keys.json"), jwks)
        with pytest.raises(InvalidRequest, match=r"identity\.issuers\.corp\.jwks"):
            async with serving(tmp_path, text):
                pass

    run(body)


DESK = """
[identity.signers.desk]
key = "desk.pem"
tenant = "acme"
"""


def signed(body: bytes, now_s: int, nonce: str, **more: Any) -> dict[str, str]:
    """The headers of a chat request that the desk signs."""
    headers = {"content-digest": digest(body), "content-length": str(len(body))} | more
    components = (*ENOUGH, *more)
    return sign("POST", f"http://localhost:8000{CHAT}", headers, components, created=now_s, keyid="desk", nonce=nonce)


def test_a_signed_request_is_taken_once_as_it_was_signed_and_its_signature_goes_no_further(tmp_path: Path) -> None:
    async def body(up: Upstream) -> None:
        (tmp_path / "desk.pem").write_bytes(pem())
        text = near(up, DESK.replace("desk.pem", str(tmp_path / "desk.pem")))
        async with serving(tmp_path, text) as server:
            sent, now_s = json.dumps({"model": "chat", "messages": HI}).encode(), int(time.time())
            headers = signed(sent, now_s, "1")
            assert (await server.ask("POST", CHAT, sent, **headers)).status == 200
            assert b"signature" not in up.received[0].raw and b"content-digest" not in up.received[0].raw
            assert (await server.ask("POST", CHAT, sent, **headers)).error()["code"] == "invalid_signature"
            other = sent.replace(b"Hi", b"Ho")
            reply = await server.ask("POST", CHAT, other, **signed(sent, now_s, "2"))
            assert reply.status == 401 and "not the one that was signed" in reply.error()["message"]
            assert (await server.ask("POST", CHAT, sent)).status == 401
            assert len(up.received) == 1

    run(body)


def test_a_key_may_need_a_signature_beside_and_neither_is_good_alone(tmp_path: Path) -> None:
    async def body(up: Upstream) -> None:
        (tmp_path / "desk.pem").write_bytes(pem())
        text = near(up, DESK.replace("desk.pem", str(tmp_path / "desk.pem")) + 'with_key = "laptop"\n')
        text += '[[keys]]\nname = "laptop"\ntenant = "acme"\nsecret = "env:LAPTOP"\n'
        async with serving(tmp_path, text, {"LAPTOP": "hr_" + "x" * 40}) as server:
            bearer = "Bearer hr_" + "x" * 40
            sent, now_s = json.dumps({"model": "chat", "messages": HI}).encode(), int(time.time())
            assert (await server.ask("POST", CHAT, sent, authorization=bearer)).status == 401
            assert (await server.ask("POST", CHAT, sent, **signed(sent, now_s, "1"))).status == 401
            together = signed(sent, now_s, "2", authorization=bearer)
            assert (await server.ask("POST", CHAT, sent, **together)).status == 200
            apart = signed(sent, now_s, "3") | {"authorization": bearer}
            assert (await server.ask("POST", CHAT, sent, **apart)).status == 401

    run(body)


def test_a_reload_puts_other_callers_in_force_and_what_was_taken_stays_taken(tmp_path: Path) -> None:
    async def body(up: Upstream) -> None:
        (tmp_path / "desk.pem").write_bytes(pem())
        desk = DESK.replace("desk.pem", str(tmp_path / "desk.pem"))
        both = settings(tmp_path, up) + desk
        async with serving(tmp_path, both) as server:
            sent, now_s = json.dumps({"model": "chat", "messages": HI}).encode(), int(time.time())

            async def ask(nonce: str) -> int:
                return (await server.ask("POST", CHAT, sent, **signed(sent, now_s, nonce))).status

            async def reload(text: str) -> None:
                (tmp_path / "headrace.toml").write_text(text, "utf-8")
                told = await server.reloader.reload()
                assert told.waiting == ()

            user = fresh()
            assert ((await server.chat(user)).status, await ask("1")) == (200, 200)
            await reload(settings(tmp_path, up))
            assert ((await server.chat(user)).status, await ask("2")) == (200, 401)
            await reload(near(up, desk + 'max_age = "10m"\n'))
            assert ((await server.chat(user)).status, await ask("3"), await ask("1")) == (401, 200, 401)
            (tmp_path / "desk.pem").write_bytes(b"no key")
            with pytest.raises(InvalidRequest, match="no public key"):
                await reload(both)
            assert ((await server.chat(user)).status, await ask("4")) == (401, 200)

    run(body)


def test_answers_are_signed_where_the_file_says_with_what(tmp_path: Path) -> None:
    async def body(up: Upstream) -> None:
        path = tmp_path / "answers.pem"
        text = near(up, f'[answer_signatures]\nkey = "{path}"\nkeyid = "llm-1"\n')
        with pytest.raises(InvalidRequest, match=r"answer_signatures\.key: .*cannot be read"):
            async with serving(tmp_path, text):
                pass
        path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        async with serving(tmp_path, text) as server:
            reply = await server.chat()
            assert reply.status == 200 and 'keyid="llm-1";tag="llm-resp"' in reply.headers["signature-input"]

    run(body)


def test_a_signers_key_that_cannot_be_read_is_told_before_the_server_starts(tmp_path: Path) -> None:
    async def body(up: Upstream) -> None:
        for content, why in ((None, "cannot be read"), (b"x", "no public key")):
            if content is not None:
                (tmp_path / "desk.pem").write_bytes(content)
            text = near(up, DESK.replace("desk.pem", str(tmp_path / "desk.pem")))
            with pytest.raises(InvalidRequest, match=rf"identity\.signers\.desk\.key: .*{why}"):
                async with serving(tmp_path, text):
                    pass

    run(body)


WRONG = [
    ('issuer = "https://a"\ntenant = "a"', "audience is missing"),
    ('issuer = "https://a"\naudience = []\ntenant = "a"', "audience"),
    ('issuer = "https://a"\naudience = "b"', "tenant"),
    ('issuer = "https://a"\naudience = "b"\ntenant = "a"\nalgs = ["HS256"]', "HS256"),
    ('issuer = "https://a"\naudience = "b"\ntenant = "a"\nalgs = ["none"]', "none"),
    ('issuer = "https://a"\naudience = "b"\ntenant = "a"\nscopes = ["root"]', "root"),
    ('issuer = "https://a"\naudience = "b"\ntenant = "a"\ndpop = "always"', "always"),
    ('issuer = "https://a"\naudience = "b"\ntenant = "a"\nscope_map = {x = ["root"]}', "root"),
    ('issuer = "https://a"\naudience = "b"\ntenant_claim = "org"', "tenants"),
    ('issuer = "https://a"\naudience = "b"\ntenant = "a"\nskew = "1d"', "skew"),
    ('issuer = "https://a"\naudience = "b"\ntenant = "a"\nissuers = 1', "issuers"),
]


@pytest.mark.parametrize(("text", "why"), WRONG)
def test_what_is_wrong_with_a_file_is_told_with_its_line(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(f"[identity.issuers.corp]\n{text}\n", "utf-8")
    with pytest.raises(WrongSettings) as caught:
        compose({}, {"HEADRACE_HOME": str(tmp_path)}, file)
    assert f"{file}:" in str(caught.value) and why in str(caught.value) and "identity.issuers.corp" in str(caught.value)


def test_proofs_and_signatures_need_a_name_that_the_server_is_called_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys.json").write_bytes(key_set(key()))
    Path("desk.pem").write_bytes(pem())
    file = tmp_path / "headrace.toml"
    for table, more in ((CORP + 'dpop = "required"\n', "issuers"), (DESK, "signers")):
        for plain, is_wrong in (
            ("", False),
            ('host = "0.0.0.0"\n', True),
            ('trusted_proxies = ["10.0.0.0/8"]\n', True),
            ('host = "0.0.0.0"\nallowed_hosts = ["llm.example.com"]\n', False),
        ):
            file.write_text('model = "none"\n' + plain + table, "utf-8")
            resolved = compose({}, {"HEADRACE_HOME": str(tmp_path)}, file)
            if is_wrong:
                with pytest.raises(WrongSettings, match=rf"identity\.{more}\..*allowed_hosts"):
                    look_around(resolved, {})
            else:
                look_around(resolved, {})


def test_what_was_set_can_be_printed_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(CORP + 'dpop = "required"\nmax_age = "1h"\nca = "/etc/ca.pem"\nprivate = true\n', "utf-8")
    first = compose({}, {"HEADRACE_HOME": str(tmp_path)}, file)
    file.write_text(first.toml(), "utf-8")
    again = compose({}, {"HEADRACE_HOME": str(tmp_path)}, file)
    assert again.settings.trust == first.settings.trust
    assert first.settings.trust.names_callers


def test_without_identity_nothing_of_it_is_imported(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('[backends.b]\nkind = "openai-compatible"\nurl = "http://127.0.0.1:9/v1"\nmodels = ["m"]\n')
    code = (
        "import asyncio, functools, sys\nfrom pathlib import Path\nfrom tests.served import serving\n"
        "async def main():\n    here = Path(sys.argv[1])\n    text = (here / 'headrace.toml').read_text()\n"
        "    async with serving(here, text):\n"
        "        pass\nasyncio.run(main())\n"
        "assert not {'joserfc', 'http_message_signatures'} & set(sys.modules), 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[3])
