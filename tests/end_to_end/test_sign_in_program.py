"""Signing in at the console of the program with an issuer's long token, and out at one of two that share a state."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from tests.tokens import AUDIENCE, ISSUER, key, key_set, token
from tests.upstreams import upstream

from headrace.trust.strict import encode_base64url

PROGRAM = [sys.executable, "-c", "from headrace.cli.main import main; main()"]
SESSION = "/console/session"
PAGE = {"x-headrace-console": "1"}
SETTINGS = """
port = 0
[identity.issuers.corp]
issuer = "{issuer}"
audience = "{audience}"
jwks = "keys.json"
tenant = "acme"
scopes = ["generate", "observe"]
[backends.raw]
kind = "openai-compatible"
url = "{url}/v1"
models = ["small"]
[routes.small]
candidates = ["raw/small"]
"""


def long_token(num_chars: int, rsa: str = "RS256") -> str:
    """Of now, with groups that do not compress, signed as most issuers sign."""
    now_s = int(time.time())
    groups = [encode_base64url(hashlib.sha512(b"%d" % one).digest()) for one in range(num_chars * 3 // 4 // 89)]
    return token(key(rsa), rsa, iat=now_s, exp=now_s + 3600, groups=groups)


@contextlib.asynccontextmanager
async def program(folder: Path) -> AsyncIterator[str]:
    """A running program's address; its state is that of others in the folder."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    environ["HEADRACE_HOME"] = str(folder / "home")
    with (folder / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *PROGRAM, "serve", "--config", "headrace.toml", env=environ, cwd=folder, stdout=-1, stderr=log
        )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert line.strip(), (folder / "log").read_text()
        yield line.split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()


async def tenant(client: httpx.AsyncClient) -> str | None:
    """Of whoever is signed in."""
    found: str | None = (await client.get(SESSION)).json()["tenant"]
    return found


def test_a_long_token_signs_in_and_a_sign_out_reaches_the_other_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with upstream() as far:
            (tmp_path / "keys.json").write_bytes(key_set(key("RS256")))
            (tmp_path / "headrace.toml").write_text(SETTINGS.format(issuer=ISSUER, audience=AUDIENCE, url=far.url))
            async with (
                program(tmp_path) as here,
                program(tmp_path) as there,
                httpx.AsyncClient(base_url=here, headers=PAGE) as page,
            ):
                shown = long_token(12_000)
                assert len(shown) > 11_500
                reply = await page.post(SESSION, headers={"authorization": f"Bearer {shown}"})
                assert reply.status_code == 200, reply.text
                assert len(page.cookies) == 3
                assert (await page.get("/v1/models")).status_code == 200  # the cookies go with every route
                port, other = here.rpartition(":")[2], there.rpartition(":")[2]
                copied = {name.replace(port, other): value for name, value in page.cookies.items()}
                async with httpx.AsyncClient(base_url=there, headers=PAGE, cookies=copied) as copy:
                    assert await tenant(copy) == "acme"
                    assert (await page.delete(SESSION)).status_code == 204
                    assert not page.cookies
                    async with asyncio.timeout(60):  # it looks once a second
                        while await tenant(copy) is not None:
                            pass
                    assert (await copy.get("/v1/models")).json()["error"]["code"] == "session_ended"

    asyncio.run(main())
    assert len(json.loads((tmp_path / "home" / "keys" / "console.ended").read_bytes())) == 1
