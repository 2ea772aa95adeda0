"""A server that is made of a settings file: who is asked, with which secret, and what a reload changes and keeps."""

import asyncio
import contextlib
import functools
import json
import logging
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_http import Client, Reply, chat
from tests.unit.docs.test_settings_in_pages import ROOT, files_of
from tests.upstreams import SSE, Step, Upstream, chunk, failed, frame, head, upstream

from headrace.cli.config import compose
from headrace.cli.keys import KeyRights, add_key
from headrace.cli.kinds import WrongSettings
from headrace.cli.reload import Reloader
from headrace.cli.serve import Start, open_app
from headrace.cli.surroundings import look_around
from headrace.core.errors import InvalidRequest
from headrace.server.app import App

SECRET = "sk-quite-secret-4711"
CHAT = "/v1/chat/completions"


@dataclass
class Served:
    """A server of this test's file."""

    app: App
    reloader: Reloader
    file: Path

    async def ask(self, model: str = "chat", *, method: str = "POST", path: str = CHAT, **headers: str) -> Reply:
        body = chat(model=model) if path == CHAT else b""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await Client(self.app, method, path, body, given).run()

    async def reload(self, text: str) -> Any:
        self.file.write_text(text, "utf-8")
        return await self.reloader.reload()


@contextlib.asynccontextmanager
async def serving(folder: Path, text: str, environ: dict[str, str]) -> AsyncIterator[Served]:
    file = folder / "headrace.toml"
    file.write_text(text, "utf-8")
    settings = {"HEADRACE_HOME": str(folder / "home")}
    compose_again = functools.partial(compose, {}, settings, file)
    resolved = compose_again()
    around = look_around(resolved, environ)
    async with open_app(Start(compose_again, resolved.settings, environ, around)) as (app, reloader):
        app.lifecycle.mark_ready()
        yield Served(app, reloader, file)


def backend(up: Upstream, name: str = "near", secret: str = "env:NEAR_KEY", more: str = "") -> str:
    return (
        f'[backends.{name}]\nkind = "openai-compatible"\nurl = "{up.url}/v1"\nsecret = "{secret}"\n{more}'
        f"[backends.{name}.models.small]\nmax_output_tokens = 50\nprices = {{input = 1, output = 2}}\n"
    )


def route(name: str = "near", more: str = "") -> str:
    return f'[routes.chat]\ncandidates = ["{name}/small"]\n{more}'


def with_backend(run: Callable[..., Awaitable[None]]) -> Callable[[Path], None]:
    """A test with a running backend, a folder and an environment with one secret."""

    def inner(tmp_path: Path) -> None:
        async def main() -> None:
            async with upstream() as up:
                await run(up, tmp_path, {"NEAR_KEY": SECRET})

        asyncio.run(main())

    inner.__name__ = run.__name__
    return inner


@with_backend
async def test_a_file_leads_a_request_to_its_backend_with_its_secret(up: Upstream, folder: Path, environ: Any) -> None:
    async with serving(folder, backend(up) + route(), environ) as served:
        reply = await served.ask()
        assert reply.status == 200 and reply.json()["choices"][0]["message"]["content"] == up.text
        assert reply.headers["x-headrace-backend"] == "near"
        (received,) = up.received
        assert received.header("authorization") == f"Bearer {SECRET}"
        assert received.fields["model"] == "small"
        names = {card["id"] for card in (await served.ask(method="GET", path="/v1/models")).json()["data"]}
        assert names == {"chat", "small"}


def half_answers() -> list[Any]:
    """A stream that waits for the test in its middle."""
    start = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "small"}

    def delta(value: dict[str, Any], reason: str | None = None) -> bytes:
        return chunk(frame({**start, "choices": [{"index": 0, "delta": value, "finish_reason": reason}]}))

    opening = head(200, SSE, ("transfer-encoding", "chunked")) + b"\r\n"
    usage = chunk(frame({**start, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}))
    parts = [delta({"content": "over "}), Step.HANG, delta({"content": "there"}), delta({}, "stop"), usage]
    return [opening, *parts, chunk(frame("[DONE]")), b"0\r\n\r\n"]


@with_backend
async def test_a_stream_runs_across_a_reload_and_then_its_backend_is_let_go(
    up: Upstream, folder: Path, environ: Any
) -> None:
    async with upstream() as other, serving(folder, backend(up) + route(), environ) as served:
        up.script.append(half_answers())
        streaming = Client(served.app, "POST", CHAT, chat(model="chat", stream=True))
        running = asyncio.create_task(streaming.run())
        while not streaming.reply.writes:
            await streaming.changed.wait()
            streaming.changed.clear()
        await served.reload(backend(other, "next") + route("next"))
        assert (await served.ask()).headers["x-headrace-backend"] == "next"
        assert up.num_open == 1 and len(other.received) == 1
        assert (await served.ask("near/small")).status == 404
        up.go.set()
        reply = await running
        assert reply.is_complete and b"over " in reply.body and b"there" in reply.body and b"[DONE]" in reply.body
        del running, streaming
        await up.wait_open(0)


@with_backend
async def test_a_wrong_file_changes_nothing_and_is_told_with_its_line(up: Upstream, folder: Path, environ: Any) -> None:
    good = backend(up) + route()
    async with serving(folder, good, environ) as served:
        for wrong, line, sentence in [
            (good.replace("openai-compatible", "opnai"), 2, "did you mean openai?"),
            (good.replace("NEAR_KEY", "NO_KEY"), 4, "env:NO_KEY is not set"),
            (good + 'fallbacks = ["chat"]\n', 10, "circle: chat -> chat"),
            ("[routes", 1, "is not valid TOML"),
        ]:
            with pytest.raises(WrongSettings) as caught:
                await served.reload(wrong)
            assert str(caught.value).startswith(f"{served.file}:{line}: ") and sentence in str(caught.value)
            assert (await served.ask()).status == 200
        served.file.unlink()
        with pytest.raises(InvalidRequest, match="there is no file"):
            await served.reloader.reload()
        assert (await served.ask()).status == 200


@with_backend
async def test_what_is_spent_and_the_connections_of_the_same_backend_stay_over_a_reload(
    up: Upstream, folder: Path, environ: Any
) -> None:
    budget = '[[budgets]]\nname = "few"\nsubject = "all"\nwindow = "total"\ntokens = {}\n'
    text = backend(up) + route()
    async with serving(folder, text + budget.format(1000), environ) as served:
        assert (await served.ask()).status == 200
        await served.reload(text + budget.format(1001))
        assert (await served.ask()).status == 200
        assert {received.connection for received in up.received} == {up.received[0].connection}
        # Two answers took 10 tokens each.
        await served.reload(text + budget.format(25))
        refused = await served.ask()
        assert (refused.status, refused.error()["code"]) == (429, "budget_exceeded")
        await served.reload(text)
        assert (await served.ask()).status == 200


@with_backend
async def test_another_secret_holds_from_the_next_request_on(up: Upstream, folder: Path, environ: Any) -> None:
    text = backend(up) + route()
    async with serving(folder, text, environ) as served:
        await served.ask()
        environ["NEAR_KEY"] = "sk-other"
        await served.reload(text)
        await served.ask()
        assert [one.header("authorization") for one in up.received] == [f"Bearer {SECRET}", "Bearer sk-other"]


KEYS = """
[[keys]]
name = "boss"
scopes = ["generate", "admin"]
secret = "env:BOSS_KEY"
[[keys]]
name = "user"
secret = "env:USER_KEY"
"""


@with_backend
async def test_keys_of_the_file_hold_and_only_an_admin_may_have_it_read_again(
    up: Upstream, folder: Path, environ: Any
) -> None:
    environ |= {"BOSS_KEY": "boss-4711-0123456789", "USER_KEY": "user-4711-0123456789"}
    text = backend(up) + route()
    async with serving(folder, text + KEYS, environ) as served:
        assert (await served.ask()).status == 401
        assert (await served.ask(authorization="Bearer user-4711-0123456789")).status == 200
        path = "/v1/gateway/reload"
        assert (await served.ask(path=path, authorization="Bearer user-4711-0123456789")).status == 403
        served.file.write_text(text + KEYS.partition('[[keys]]\nname = "user"')[0], "utf-8")
        told = await served.ask(path=path, authorization="Bearer boss-4711-0123456789")
        assert told.json() == {"object": "gateway.reload", "warnings": [], "waiting": []}
        assert (await served.ask(authorization="Bearer user-4711-0123456789")).status == 401
        served.file.write_text(text, "utf-8")
        told = await served.ask(path=path, authorization="Bearer boss-4711-0123456789")
        assert told.status == 400 and "there is no key, so nobody could call" in told.error()["message"]
        assert (await served.ask(authorization="Bearer boss-4711-0123456789")).status == 200


@with_backend
async def test_what_waits_for_a_restart_is_named_and_the_rest_holds(up: Upstream, folder: Path, environ: Any) -> None:
    text = backend(up) + route()
    async with serving(folder, "port = 1\n" + text, environ) as served:
        environ |= {"BOSS_KEY": "boss-4711-0123456789", "USER_KEY": "user-4711-0123456789"}
        told = await served.reload("port = 2\nqueue = 7\nmax_in_flight = 9\n" + text + KEYS)
        assert told.waiting == ("port", "queue", "keys")
        assert served.app.config.port == 1
        assert (await served.ask()).status == 200


@with_backend
async def test_a_reload_reads_nothing_of_its_request(up: Upstream, folder: Path, environ: Any) -> None:
    async with serving(folder, backend(up) + route(), environ) as served:
        body = json.dumps({"backends": {"evil": {"url": "http://169.254.169.254/"}}, "config": "/etc/passwd"}).encode()
        reply = await Client(served.app, "POST", "/v1/gateway/reload?config=/etc/passwd", body).run()
        assert reply.status == 200
        assert (await served.ask("evil/x")).status == 404


class Hidden(dict[str, str]):
    """An environment, which has secrets and is not what is looked at."""

    __repr__ = object.__repr__


def test_a_secret_is_shown_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    async def main() -> None:
        async with upstream() as up:
            file = tmp_path / "key.txt"
            file.write_text(SECRET + "\n", "utf-8")
            text = backend(up, secret=f"file:{file}") + route() + KEYS.replace("BOSS_KEY", "NEAR_KEY")
            text = text.replace('name = "user"\n', 'name = "user"\nscopes = ["generate", "metrics", "admin"]\n')
            environ = Hidden({"NEAR_KEY": SECRET, "USER_KEY": SECRET + "-user"})
            async with serving(tmp_path, text, environ) as served:
                shown.append(compose({}, {}, served.file).toml())
                shown.append(repr([vars(one) for one in (served.reloader, served.app, served.app.keys)]))
                up.script.append([head(401) + b"content-length: 0\r\n\r\n"])
                for path in (CHAT, "/version", "/metrics", "/openapi.json", "/v1/models", "/health", "/nowhere"):
                    method = "POST" if path == CHAT else "GET"
                    reply = await served.ask(method=method, path=path, authorization=f"Bearer {SECRET}-user")
                    shown.append(repr(reply.headers) + reply.body.decode())
                for wrong in (
                    text.replace(f"file:{file}", SECRET),
                    text.replace(f'secret = "file:{file}"', f'api_key = "{SECRET}"'),
                    text.replace("secret =", f'headers = {{authorization = "{SECRET}"}}\nsecret =', 1),
                    text.replace(up.url, f"http://user:{SECRET}@h"),
                    text.replace('user"\n', f'boss"\nsecret = "{SECRET}"\n'),
                ):
                    assert wrong != text
                    with pytest.raises(InvalidRequest) as caught:
                        await served.reload(wrong)
                    shown.append(str(caught.value) + repr(caught.value))
                file.write_text(f"{SECRET} {SECRET}", "utf-8")
                with pytest.raises(InvalidRequest) as caught:
                    await served.reload(text)
                shown.append(str(caught.value))
                served.reloader.on_signal()
                await served.reloader.settle()

    asyncio.run(main())
    shown.append(caplog.text)
    assert all(shown) and not [one for one in shown if SECRET in one]


def test_without_an_engine_nothing_of_it_is_imported(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        '[backends.a]\nkind = "openai-compatible"\nurl = "http://127.0.0.1:9/v1"\nmodels = ["m"]\n', "utf-8"
    )
    code = f"""
import asyncio, functools, sys
from pathlib import Path
from headrace.cli.config import compose
from headrace.cli.serve import Start, open_app
from headrace.cli.surroundings import look_around
folder = Path({str(tmp_path)!r})
again = functools.partial(compose, {{}}, {{"HEADRACE_HOME": str(folder / "home")}}, folder / "a.toml")
async def main():
    resolved = again()
    async with open_app(Start(again, resolved.settings, {{}}, look_around(resolved, {{}}))) as (app, _):
        print("|".join(sorted(sys.modules)))
asyncio.run(main())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(result.stdout.splitlines()[-1].split("|"))
    assert "headrace.server.app" in modules
    assert modules & {"numpy", "tokenizers", "llguidance", "jinja2", "safetensors"} == set()
    own = {"headrace.engine.engine", "headrace.engine.text", "headrace.kernels.native", "headrace.models.load"}
    assert modules & own == set()


@with_backend
async def test_the_file_in_the_readme_does_what_it_says(up: Upstream, folder: Path, environ: Any) -> None:
    (text,) = files_of(ROOT / "README.md")
    async with upstream() as other:
        text = text.replace("http://10.0.0.5:8000/v1", f"{up.url}/v1")
        text = text.replace('kind = "openai"\n', f'kind = "openai"\nurl = "{other.url}/v1"\n')
        assert up.url in text and other.url in text
        async with serving(folder, text, environ | {"OPENAI_API_KEY": SECRET}) as served:
            assert (await served.ask("qwen3-32b")).status == 200 and len(up.received) == 1
            assert (await served.ask("openai/gpt-4.1-mini")).status == 200
            assert other.received[0].header("authorization") == f"Bearer {SECRET}"
            for _ in range(20):
                assert (await served.ask("chat")).status == 200
            assert len(up.received) > 1 and len(other.received) > 1
            # A budget of two million tokens a day holds back what could take more.
            up.usage = other.usage = (1_999_990, 5)
            await served.ask("qwen3-32b")
            assert (await served.ask("chat")).error()["code"] == "budget_exceeded"


@with_backend
async def test_reloads_amid_many_requests_fail_none_of_them(up: Upstream, folder: Path, environ: Any) -> None:
    async with upstream() as other:
        texts = [backend(up, "one") + route("one"), backend(other, "two") + route("two")]
        async with serving(folder, texts[0], environ) as served:
            chance = random.Random(7)
            tasks: list[asyncio.Task[Reply]] = []
            for number in range(200):
                client = Client(served.app, "POST", CHAT, chat(model="chat", stream=chance.random() < 0.5))
                tasks.append(asyncio.create_task(client.run()))
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                if number % 10 == 5:
                    await served.reload(texts[number // 10 % 2])
            replies = await asyncio.gather(*tasks)
            assert {reply.status for reply in replies} == {200} and all(reply.is_complete for reply in replies)
            assert not [reply for reply in replies if b"error" in reply.body]
            assert len(up.received) + len(other.received) == 200 and up.received and other.received
            await served.reload(texts[1])
            del replies, tasks, client
            await up.wait_open(0)
            assert (await served.ask()).headers["x-headrace-backend"] == "two"


@with_backend
async def test_keys_of_both_files_hold_together_and_none_may_be_two_things(
    up: Upstream, folder: Path, environ: Any
) -> None:
    environ |= {"BOSS_KEY": "boss-4711-0123456789", "USER_KEY": "user-4711-0123456789"}
    (folder / "home").mkdir()
    kept = add_key(folder / "home" / "keys.toml", "laptop", KeyRights(), datetime.now(UTC))
    text = backend(up) + route()
    async with serving(folder, text + KEYS, environ) as served:
        for key in (kept, "user-4711-0123456789"):
            assert (await served.ask(authorization=f"Bearer {key}")).status == 200
        with pytest.raises(InvalidRequest, match="user of the settings file has a sha256 that another key has"):
            environ["USER_KEY"] = kept
            await served.reload(text + KEYS)
        with pytest.raises(InvalidRequest, match="laptop of the settings file has a name that another key has"):
            environ["USER_KEY"] = "user-4711-0123456789"
            await served.reload(text + KEYS.replace('"user"', '"laptop"'))
        assert (await served.ask(authorization=f"Bearer {kept}")).status == 200


@with_backend
async def test_a_key_that_may_be_guessed_is_a_warning(up: Upstream, folder: Path, environ: Any) -> None:
    environ |= {"BOSS_KEY": "sk-1234", "USER_KEY": "user-4711-0123456789"}
    async with serving(folder, backend(up) + route() + KEYS, environ) as served:
        told = await served.reloader.reload()
        assert len(told.warnings) == 1 and "the key at env:BOSS_KEY is shorter than 20" in told.warnings[0]
        assert "sk-1234" not in told.warnings[0]


@with_backend
async def test_a_rule_that_holds_for_nobody_by_one_wrong_letter_is_a_warning(
    up: Upstream, folder: Path, environ: Any
) -> None:
    environ |= {"BOSS_KEY": "boss-4711-0123456789", "USER_KEY": "user-4711-0123456789"}
    text = backend(up) + route() + KEYS.replace('name = "user"', 'name = "user"\ntenant = "clinic"')
    async with serving(folder, text, environ) as served:
        for rule, is_told in (
            ('[tenants.clinc]\nlabels = ["restricted"]\n', True),
            ('[[budgets]]\nsubject = "key:usr"\nwindow = "day"\ntokens = 5\n', True),
            ('[[limits]]\nsubject = "tenant:cliniq"\nconcurrency = 5\n', True),
            ('[tenants.clinic]\nlabels = ["restricted"]\n', False),
            ('[tenants.research]\nlabels = ["restricted"]\n', False),  # whose keys may come later
            ('[[budgets]]\nsubject = "key:*"\nwindow = "day"\ntokens = 5\n', False),
        ):
            (folder / "headrace.toml").write_text(text + rule)
            told = (await served.reloader.reload()).warnings
            assert ["holds for nobody; did you mean" in one for one in told] == [True] * is_told, rule


@with_backend
async def test_an_open_breaker_stays_open_over_a_reload_unless_its_backend_changed(
    up: Upstream, folder: Path, environ: Any
) -> None:
    breaker = 'breaker = {window = 2, min_attempts = 1, failure_share = 0.1, open = "1h", max_open = "1h"}\n'
    text = backend(up, more=breaker) + route(more="retry.max_attempts = 1\n")
    async with serving(folder, text, environ) as served:
        up.script.append(failed(500))
        assert (await served.ask()).status == 502
        for _ in range(2):
            assert (await served.ask()).status == 503
            assert len(up.received) == 1
            await served.reload(text + "[[limits]]\nsubject = 'all'\nconcurrency = 9\n")
        await served.reload(text.replace("window = 2", "window = 3"))
        assert (await served.ask()).status == 200
