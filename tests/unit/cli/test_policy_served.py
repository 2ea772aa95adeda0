"""Policies of a settings file before a real backend: what they deny, what a reload changes, and what it keeps."""

from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.test_gateway import backend, route, serving, with_backend
from tests.upstreams import Upstream
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.core.errors import InvalidRequest

NO = '@id("closed") @reason("closed today") forbid (principal, action == Action::"request", resource == Model::"chat");'
OPEN = '@id("own") permit (principal, action, resource);'


@with_backend
async def test_policies_hold_at_once_after_a_reload_and_broken_ones_change_nothing(
    up: Upstream, folder: Path, environ: Any
) -> None:
    policies = folder / "own.cedar"
    policies.write_text(NO)
    text = backend(up) + route() + f'[policy]\nmode = "enforce"\nfiles = "{policies}"\n'
    async with serving(folder, text, environ) as served:
        refused = await served.ask()
        assert refused.status == 403
        assert refused.error()["code"] == "policy_denied"
        assert refused.error()["message"] == "the model 'chat' is denied by closed: closed today."
        assert not up.received
        assert (await served.ask("near/small")).status == 200
        policies.write_text(OPEN)
        assert (await served.reload(text)).waiting == ()
        assert (await served.ask()).status == 200
        policies.write_text(OPEN + "forbid (principal, action resource);")
        with pytest.raises(InvalidRequest) as caught:
            await served.reload(text)
        assert f"{policies}:1: " in str(caught.value)
        assert (await served.ask()).status == 200


@with_backend
async def test_a_watched_policy_refuses_nothing_and_without_policies_nobody_can_ask_them(
    up: Upstream, folder: Path, environ: Any
) -> None:
    (folder / "own.cedar").write_text(NO)
    watched = backend(up) + route() + f'[policy]\nmode = "shadow"\nfiles = "{folder}/own.cedar"\n'
    async with serving(folder, watched, environ) as served:
        assert (await served.ask()).status == 200
        assert (await served.ask(method="POST", path="/v1/policy/decide")).status == 400
    async with serving(folder, backend(up) + route(), environ) as served:
        assert (await served.ask(method="POST", path="/v1/policy/decide")).status == 404
        assert (await served.reload(watched)).waiting == ("policy",)


@with_backend
async def test_policies_that_cannot_be_used_end_the_start(up: Upstream, folder: Path, environ: Any) -> None:
    (folder / "own.cedar").write_text("\npermit (principal, action, resource) when { context.hour > 3 };")
    text = backend(up) + route() + f'[policy]\nmode = "enforce"\nfiles = "{folder}/own.cedar"\n'
    with pytest.raises(InvalidRequest, match=r"own\.cedar:2: "):
        async with serving(folder, text, environ):
            pass
    (folder / "check.toml").write_text(text)
    checked = CliRunner().invoke(app, ["config", "check", str(folder / "check.toml")], env=environ)
    assert checked.exit_code == 1
    assert "policy.files" in checked.output and "own.cedar:2: " in checked.output


@with_backend
async def test_policies_that_are_switched_on_beside_the_guard_of_tools_hold_after_the_reload(
    up: Upstream, folder: Path, environ: Any
) -> None:
    (folder / "own.cedar").write_text(NO)
    guarded = backend(up) + route() + '[flow]\nmode = "enforce"\n'
    async with serving(folder, guarded, environ) as served:
        assert (await served.ask()).status == 200
        told = await served.reload(guarded + f'[policy]\nmode = "enforce"\nfiles = "{folder}/own.cedar"\n')
        assert told.waiting == ()
        assert (await served.ask()).status == 403
        await served.reload(guarded)
        assert (await served.ask()).status == 200
