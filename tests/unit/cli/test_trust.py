"""How trust is joined: in which order, what a reload changes and what it leaves, and that nothing is paid for what is
off."""

import asyncio
import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.served import CHAT, HI, Served, near, serving
from tests.upstreams import CHUNKED, LAST_CHUNK, SSE, Step, chunk, head, upstream

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "trust.toml"
NO_MODEL = '@id("closed") forbid(principal, action == Action::"request", resource);'
LAST = b"data: [DONE]\n\n"
FRAME = b'data: {"id":"x","object":"chat.completion.chunk","choices":[]}\n\n'


def overseers(served: Served) -> list[str]:
    gate: Any = served.app._backend
    return [type(one).__name__ for one in gate.parts.overseers]


def test_what_is_said_of_tools_comes_before_policies_and_the_recorder_sees_what_all_others_said(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, EXAMPLE.read_text("utf-8")) as served:
            assert overseers(served) == [
                "CountingOverseer",
                "DelegationOverseer",
                "HijackOverseer",
                "ToolOverseer",
                "PolicyOverseer",
                "TheftOverseer",
                "Recorder",
            ]

    asyncio.run(main())


def test_the_one_file_that_has_all_of_it_on_answers_who_is_known_and_records_it(tmp_path: Path) -> None:
    key = "hr_" + "k" * 43
    digest = hashlib.sha256(key.encode()).hexdigest()

    async def main() -> None:
        async with upstream() as up:
            text = re.sub('sha256 = ".*"', f'sha256 = "{digest}"', EXAMPLE.read_text("utf-8"))
            text = text.replace("http://127.0.0.1:9000", up.url)
            async with serving(tmp_path, text) as served:
                assert (await served.chat()).status == 401
                assert not up.received
                for stream in (False, True):
                    reply = await served.chat(key, stream=stream)
                    assert reply.status == 200
                    link = reply.headers["link"].partition("<")[2].partition(">")[0]
                    assert (await served.ask("GET", f"{link}?wait_s=5")).status == 401
                    assert (await served.ask("GET", f"{link}?wait_s=5", key=key)).json()["id"] in link

    asyncio.run(main())


def test_what_is_off_is_not_even_imported(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from pathlib import Path
from tests.served import serving
async def main():
    async with serving(Path({str(tmp_path)!r}), 'model = "none"') as served:
        assert served.app._backend.parts.overseers == ()
        assert served.app.config.seals_answers is False
        heavy = set("cedarpy joserfc biscuit_auth grpc spiffe securesystemslib http_message_signatures".split())
        print(sorted(heavy & set(name.partition('.')[0] for name in sys.modules)))
        print(sorted(name for name in sys.modules if "gateway.notary" in name or "oversight.recorder" in name))
asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("[]\n[]\n", "")


def test_a_reload_changes_what_is_judged_and_drops_no_stream(tmp_path: Path) -> None:
    rules = tmp_path / "rules.cedar"

    def write(served: Served | None, trust: str, up: Any) -> None:
        (tmp_path / "headrace.toml").write_text(near(up) + trust, "utf-8")

    async def main() -> None:
        policy = f'[policy]\nmode = "{{mode}}"\nfiles = ["{rules}"]\n'
        rules.write_text("")
        async with upstream() as up:
            first = policy.format(mode="enforce") + '[flow]\nmode = "enforce"\n[records]\nmode = "monitor"\n'
            async with serving(tmp_path, near(up) + first) as served:
                answer = [head(200, SSE, CHUNKED) + b"\r\n", chunk(FRAME), Step.HANG, chunk(LAST), LAST_CHUNK]
                up.script.append(answer)
                client = served.client("POST", CHAT, {"model": "chat", "messages": HI, "stream": True})
                streaming = client.start()
                await client.until(lambda reply: bool(reply.writes))

                rules.write_text(NO_MODEL)
                assert (await served.reloader.reload()).waiting == ()
                assert (await served.chat()).error()["code"] == "policy_denied"

                write(served, policy.format(mode="off") + '[records]\nmode = "monitor"\n', up)
                assert (await served.reloader.reload()).waiting == ()
                assert (await served.chat()).status == 200
                assert not served.app._backend.parts.overseers[1].reads_answers, "nobody guards tools"  # type: ignore[attr-defined]

                write(served, policy.format(mode="off") + "[theft]\n", up)
                assert set((await served.reloader.reload()).waiting) == {"theft", "records"}, "it was off"
                assert "x-headrace-record" in (await served.chat()).headers, "until a restart"

                assert not streaming.done()
                up.go.set()
                reply = await streaming
                assert reply.is_complete
                assert reply.body.endswith(FRAME + LAST)

    asyncio.run(main())
