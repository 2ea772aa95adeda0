"""The programs in the guide on callers run as they are printed, against a server that is set up as the guide says."""

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.loopback import listening
from tests.served import near, serving
from tests.signed import pem
from tests.tokens import key, key_set, public, token
from tests.upstreams import upstream

from headrace.trust.identity.jwk import read_key

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "identity.md").read_text("utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
ISSUERS, SIGNERS, _ = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
URL = "https://llm.example.com/"


def settings(folder: Path) -> str:
    text = ISSUERS.replace('jwks = "https://login.example.com/keys"', f'jwks = "{folder / "keys.json"}"')
    return text + 'nonce = "required"\n' + SIGNERS.replace("desk.pem", str(folder / "desk.pem"))


def prepare(folder: Path) -> None:
    """The files that the guide speaks of."""
    now_s, client = int(time.time()), key("ES256", "client")
    (folder / "keys.json").write_bytes(key_set(key()))
    (folder / "client.pem").write_bytes(client.as_pem(private=True))
    said: dict[str, Any] = {
        "iss": "https://login.example.com",
        "aud": "https://llm.example.com",
        "scope": "llm:use",
        "iat": now_s,
        "exp": now_s + 300,
        "cnf": {"jkt": read_key(public(client)).thumbprint},
    }
    (folder / "token").write_text(token(**said) + "\n")
    signer = ed25519.Ed25519PrivateKey.generate()
    (folder / "desk.pem").write_bytes(pem(signer))
    private = signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "desk-private.pem").write_bytes(private)


def test_the_programs_of_the_guide_run_as_they_are_printed(tmp_path: Path) -> None:
    assert len(PROGRAMS) == 2
    prepare(tmp_path)

    async def body() -> None:
        async with asyncio.timeout(60), upstream() as up:
            # Plain settings stand before the tables.
            text = settings(tmp_path).replace("allowed_hosts", "port = 0\nallowed_hosts")
            async with serving(tmp_path, near(up, text)) as server, listening(server.app) as (_, port):
                for program in PROGRAMS:
                    code = program.replace(URL, f"http://127.0.0.1:{port}/")
                    running = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-c", code), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                    )
                    out, err = await running.communicate()
                    assert running.returncode == 0, err.decode()
                    assert "Hello there." in out.decode(), out.decode()
                assert len(up.received) == 2
                assert all(json.loads(one.body)["model"] == "small" for one in up.received)

    asyncio.run(body())
