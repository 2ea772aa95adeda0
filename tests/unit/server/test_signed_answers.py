"""Whole answers signed for whoever asked, as another's library checks them."""

import asyncio
import hashlib
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from http_message_signatures import HTTPMessageVerifier, InvalidSignature, MappingKeyResolver
from http_message_signatures.algorithms import ED25519
from tests.doubles_http import Client, Reply, ScriptedBackend, answer, chat, make_app

from headrace.trust.identity.answers import AnswerSigner, read_answer_key

CHAT = "/v1/chat/completions"
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"a" * 32)
SIGNED = {"signature": "sig1=:AAAA:", "signature-input": "sig1=();created=1", "content-digest": "sha-256=:AA==:"}
COVERED = ("@status", "content-digest", '"@method";req', '"@target-uri";req')


@dataclass
class Asked:
    method: str = "POST"
    url: str = f"http://localhost:8000{CHAT}?a=1"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Response:
    """What a client holds in its hands."""

    status_code: int
    headers: dict[str, str]
    request: Asked


def ask(headers: dict[str, str] | None = None, *, path: str = CHAT + "?a=1", **fields: Any) -> Reply:
    async def main() -> Reply:
        app = make_app(ScriptedBackend(answer("Hello")), answer_signer=AnswerSigner(KEY, "llm-1"))
        return await Client(app, "POST", path, chat(**fields), headers).run()

    return asyncio.run(main())


def check(reply: Reply, asked: Asked, covered: tuple[str, ...] = COVERED, body: bytes | None = None) -> None:
    """Raises InvalidSignature."""
    resolver = MappingKeyResolver(public_keys={"llm-1": KEY.public_key()}, private_keys={})
    verifier = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=resolver)
    verifier.verify(
        Response(reply.status, reply.headers, asked),
        max_age=None,
        expect_tag="llm-resp",
        require_components=covered,
        body=reply.body if body is None else body,
    )


@pytest.mark.parametrize("fields", [{}, {"model": "nobody"}])
def test_a_whole_answer_is_signed_for_its_request_refusals_too(fields: dict[str, Any]) -> None:
    reply = ask(**fields)
    digest = b64encode(hashlib.sha256(reply.body).digest()).decode()
    assert reply.headers["content-digest"] == f"sha-256=:{digest}:"
    assert reply.status == (404 if fields else 200)
    check(reply, Asked())


def test_no_other_answer_and_no_other_request_has_that_signature() -> None:
    reply = ask()
    for asked in (Asked(method="PUT"), Asked(url=f"http://localhost:8000{CHAT}?a=2")):
        with pytest.raises(InvalidSignature):
            check(reply, asked)
    with pytest.raises(InvalidSignature):
        check(reply, Asked(), body=reply.body + b" ")
    reply.status = 201
    with pytest.raises(InvalidSignature):
        check(reply, Asked())


def test_what_the_request_was_signed_with_is_covered() -> None:
    reply = ask(SIGNED)
    covered = (*COVERED, '"content-digest";req', '"signature";req')
    check(reply, Asked(headers=SIGNED), covered)
    with pytest.raises(InvalidSignature):
        check(reply, Asked(headers=SIGNED | {"signature": "sig1=:BBBB:"}), covered)


def test_a_stream_is_not_signed_nor_anything_without_the_setting() -> None:
    assert "signature" not in ask(stream=True).headers

    async def main() -> Reply:
        return await Client(make_app(ScriptedBackend(answer("Hello"))), "POST", CHAT, chat()).run()

    assert {"signature", "content-digest"}.isdisjoint(asyncio.run(main()).headers)


@pytest.mark.parametrize("headers", [{"signature": "\xff"}, {"signature": "a\x00b"}, {"host": "localhost:8000\xff"}])
def test_what_cannot_be_signed_is_answered_without_a_signature(headers: dict[str, str]) -> None:
    reply = ask(headers)
    assert reply.status in (200, 403) and "signature" not in reply.headers


def test_a_key_that_cannot_sign_answers_is_told() -> None:
    def pem(key: Any, how: Any = None) -> bytes:
        data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how or NoEncryption())
        return data

    assert read_answer_key(pem(KEY)).public_key() == KEY.public_key()
    for wrong, why in (
        (b"", "no private key"),
        (pem(KEY, BestAvailableEncryption(b"secret")), "unencrypted"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "Ed25519"),
    ):
        with pytest.raises(ValueError, match=why):
            read_answer_key(wrong)
