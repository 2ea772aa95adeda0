"""The programs: `headrace serve` that issues and listens by its own SVID, and `headrace identity serve` beside it; each
a process of its own, on the event loop that users get."""

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from spiffe import WorkloadApiClient
from tests.upstreams import upstream

PROGRAM = [sys.executable, "-c", "from headrace.cli.main import main; main()"]
TD = "example.org"
BODY = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}


def environ(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "SPIFFE_"))}
    return {**kept, "HEADRACE_HOME": str(folder / "home"), "GRPC_VERBOSITY": "NONE"}


@contextlib.asynccontextmanager
async def program(folder: Path, *words: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A running program, and the line by which it says that it is ready."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *words, env=environ(folder), cwd=folder, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    try:
        assert process.stdout is not None
        said = ""
        while "Serving" not in (line := (await process.stdout.readline()).decode()) and "Issuing" not in line:
            said += line
            assert line, said
        yield process, line
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.communicate()


async def command(folder: Path, *words: str) -> tuple[int, str]:
    """What a command prints."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *words, env=environ(folder), cwd=folder, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


def settings(url: str, more: str = "") -> str:
    return f"""
port = 0
[tls]
identity = "spiffe"
[spiffe]
trust_domain = "{TD}"
id = "spiffe://{TD}/gateway"
serve = "agent.sock"
[[spiffe.entries]]
id = "spiffe://{TD}/agent/mail"
uid = {os.getuid()}
[spiffe.workloads."spiffe://{TD}/agent/*"]
tenant = "agents"
[backends.raw]
kind = "openai-compatible"
url = "{url}/v1"
models = ["small"]
[routes.small]
candidates = ["raw/small"]
{more}
"""


def write(folder: Path, text: str) -> None:
    (folder / "headrace.toml").write_text(text, "utf-8")


def context_of(folder: Path) -> ssl.SSLContext:
    """A client with what `headrace identity mint --out` wrote."""
    context = ssl.create_default_context(cafile=str(folder / "bundle.pem"))
    context.check_hostname = False
    context.load_cert_chain(folder / "svid.pem", folder / "svid.key")
    return context


async def ask(url: str, context: ssl.SSLContext, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(verify=context, timeout=30, headers=headers) as client:
        return await client.post(f"{url}/v1/chat/completions", json=BODY)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_server_issues_and_is_called_by_what_it_issued_also_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with upstream() as up:
            write(tmp_path, settings(up.url))
            bundles = set()
            for _ in range(2):
                async with program(tmp_path, "serve") as (_, line):
                    url = re.search(r"https://\S+", line)
                    assert url is not None
                    code, said = await command(
                        tmp_path, "identity", "mint", f"spiffe://{TD}/agent/mail", "--out", "own"
                    )
                    assert code == 0, said
                    assert mode_of(tmp_path / "own" / "svid.key") == 0o600
                    answered = await ask(url[0], context_of(tmp_path / "own"))
                    assert answered.status_code == 200, answered.text
                    socket = f"unix://{tmp_path}/agent.sock"
                    fetched = await asyncio.to_thread(
                        lambda at: WorkloadApiClient(at).fetch_x509_svid(timeout=20), socket
                    )
                    assert str(fetched.spiffe_id) == f"spiffe://{TD}/agent/mail"
                    code, bundle = await command(tmp_path, "identity", "bundle")
                    assert {one["use"] for one in json.loads(bundle)["keys"]} == {"x509-svid", "jwt-svid"}
                    bundles.add(bundle)
            assert len(bundles) == 1  # the keys are still those of the first start
            assert mode_of(tmp_path / "home" / "identity" / "authorities.json") == 0o600

    asyncio.run(main())


def test_an_issuer_of_its_own_gives_a_server_its_identity(tmp_path: Path) -> None:
    async def main() -> None:
        issuing, serving = tmp_path / "issuer", tmp_path / "server"
        for folder in (issuing, serving):
            folder.mkdir()
        socket = f"unix://{issuing}/agent.sock"
        async with upstream() as up:
            write(
                issuing,
                f'[spiffe]\ntrust_domain = "{TD}"\nserve = "{issuing}/agent.sock"\n[[spiffe.entries]]\n'
                f'id = "spiffe://{TD}/gateway"\nuid = {os.getuid()}\n',
            )
            text = re.sub(r"trust_domain.*", f'socket = "{socket}"', settings(up.url))
            write(serving, re.sub(r"serve = .*\n\[\[spiffe.entries\]\]\nid.*\nuid.*", "", text))
            async with program(issuing, "identity", "serve"), program(serving, "serve") as (_, line):
                url = re.search(r"https://\S+", line)
                assert url is not None
                code, token = await command(
                    issuing, "identity", "mint", f"spiffe://{TD}/agent/mail", "--audience", f"spiffe://{TD}/gateway"
                )
                assert code == 0, token
                await command(issuing, "identity", "mint", f"spiffe://{TD}/agent/mail", "--out", "own")
                plain = ssl.create_default_context(cafile=str(issuing / "own" / "bundle.pem"))
                plain.check_hostname = False
                answered = await ask(url[0], plain, authorization=f"Bearer {token.strip()}")
                assert answered.status_code == 200, answered.text
                assert (await ask(url[0], plain)).status_code == 401
                code, shown = await command(serving, "identity", "show", "--socket", socket, "--json")
                assert json.loads(shown)["spiffe_id"] == f"spiffe://{TD}/gateway"

    asyncio.run(main())
