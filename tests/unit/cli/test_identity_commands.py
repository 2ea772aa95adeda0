"""`headrace identity`: what it prints, that it never prints a private key, and what it says when it cannot."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.main import app
from headrace.cli.spiffe import open_spiffe
from headrace.core.clock import SystemClock
from headrace.trust.spiffe.ids import parse_id
from headrace.trust.spiffe.settings import EntrySettings, SpiffeSettings

TD = "example.org"
MAIL = parse_id(f"spiffe://{TD}/agent/mail")


def run(folder: Path, *words: str) -> Result:
    file = folder / "headrace.toml"
    if not file.exists():
        file.write_text(
            f'[spiffe]\ntrust_domain = "{TD}"\nserve = "{folder}/agent.sock"\n[[spiffe.entries]]\nid = "{MAIL}"\n'
            f'uid = {os.getuid()}\nhint = "internal"\n'
            f'[[spiffe.entries]]\nid = "spiffe://{TD}/root"\nuid = 4000000000\n',
            "utf-8",
        )
    environ = {"HEADRACE_CONFIG": str(file), "HEADRACE_HOME": str(folder / "home"), "SPIFFE_ENDPOINT_SOCKET": ""}
    result = CliRunner().invoke(app, ["identity", *words], env=environ)
    assert "PRIVATE" not in result.output
    assert '"d"' not in result.output
    return result


@contextmanager
def issuing(folder: Path) -> Iterator[None]:
    """An issuer in a thread of its own."""
    settings = SpiffeSettings(
        trust_domain=TD, serve=folder / "agent.sock", entries=(EntrySettings(id=MAIL, uid=os.getuid()),)
    )
    ready, loop, over = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def main() -> None:
        async with open_spiffe(settings, folder / "home" / "identity", SystemClock()):
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("mint", str(MAIL), "--out", "own"), "there are no keys yet"),
        (("bundle",), "there are no keys yet"),
        (("entries", "--pid", "99999999"), "no process of this number"),
        (("show", "--socket", "/run/agent.sock"), "'/run/agent.sock' is no address of a socket; write for example"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_remedy(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    result = run(tmp_path, *words)
    assert (result.exit_code, sentence in result.output) == (1, True), result.output


def test_entries_are_listed_and_those_of_a_process_alone(tmp_path: Path) -> None:
    assert run(tmp_path, "entries").output.splitlines() == [
        f"{MAIL}  uid={os.getuid()} hint=internal",
        f"spiffe://{TD}/root  uid=4000000000",
    ]
    told = json.loads(run(tmp_path, "entries", "--json", "--pid", str(os.getpid())).output)
    assert (told["process"]["pid"], told["process"]["uid"]) == (os.getpid(), os.getuid())
    assert [one["id"] for one in told["entries"]] == [str(MAIL)]


def test_identities_are_shown_minted_and_told_to_others(tmp_path: Path) -> None:
    with issuing(tmp_path):
        shown = json.loads(run(tmp_path, "show", "--json", "--audience", "a").output)
        assert (shown["spiffe_id"], shown["trusts"], shown["jwt_svid"].count(".")) == (str(MAIL), [TD], 2)
        assert {one["use"] for one in json.loads(run(tmp_path, "bundle").output)["keys"]} == {"x509-svid", "jwt-svid"}
        assert run(tmp_path, "mint", str(MAIL), "--audience", "a").output.count(".") == 2
        assert "valid until" in run(tmp_path, "mint", str(MAIL), "--out", str(tmp_path / "own")).output
        files = {one.name: one.stat().st_mode & 0o777 for one in (tmp_path / "own").iterdir()}
        assert files["svid.key"] == 0o600
        assert set(files) == {"svid.pem", "svid.key", "bundle.pem"}
        for wrong, sentence in (
            ("spiffe://other.org/a", "no workload of the trust domain"),
            (f"spiffe://{TD}", "needs a path"),
            ("agent", "no SPIFFE ID"),
        ):
            assert sentence in run(tmp_path, "mint", wrong, "--audience", "a").output
        assert "name a folder" in run(tmp_path, "mint", str(MAIL)).output
        assert "another process issues" in run(tmp_path, "serve").output
