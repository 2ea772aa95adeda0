"""The monitor of theft in a settings file: off without its table, in shadow mode with it, and every mistake told."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headrace.cli.config import Resolved, compose
from headrace.cli.kinds import WrongSettings
from headrace.cli.theft import KEY_FILE, STATE_FILE, open_theft, prepare_theft
from headrace.core.monitors import Flag
from headrace.core.request import Principal, Request, Sampling
from headrace.gateway.contract import Case
from headrace.gateway.oversight.theft import TheftOverseer
from headrace.trust.monitors.theft.settings import Mode, TheftSettings
from headrace.trust.monitors.theft.steering import steering_of

SECRET = b"the same in both"


def read(folder: Path, text: str) -> Resolved:
    path = folder / "headrace.toml"
    path.write_text(text)
    return compose({}, {}, path)


def test_without_the_table_nobody_watches_and_with_it_somebody_only_watches(tmp_path: Path) -> None:
    async def watching(text: str) -> TheftOverseer | None:
        async with open_theft(read(tmp_path, text).settings.trust.theft, None) as overseer:
            return overseer

    assert asyncio.run(watching("")) is None
    assert asyncio.run(watching("[theft]\nmode = 'off'\n")) is None
    overseer = asyncio.run(watching("[theft]\n"))
    assert overseer is not None
    assert overseer.mode == "shadow"
    assert not overseer.reads_answers


def test_what_was_counted_and_flagged_is_still_so_in_the_next_process(tmp_path: Path) -> None:
    settings = TheftSettings(mode=Mode.ENFORCE, bias_vectors=2)
    who = Principal(tenant="t", key="k", subject="key:k")

    async def probe(first: int, count: int) -> list[bool]:
        async with open_theft(settings, None, folder=tmp_path) as overseer:
            assert overseer is not None
            steering = [
                steering_of(Request(id="r", model="m", prompt="x", sampling=Sampling(logit_bias=((one, 1.0),))), SECRET)
                for one in range(first, first + count)
            ]
            found = [overseer.monitor.judge(who, one, 1_700_000_000.0).refusal is not None for one in steering]
            assert overseer.monitor.secret == (tmp_path / KEY_FILE).read_bytes()
            assert bool(overseer.flags()) == any(found) or not found
            return found

    assert asyncio.run(probe(0, 2)) == [False, False]
    assert asyncio.run(probe(0, 4)) == [False, False, True, True]
    assert asyncio.run(probe(2, 1)) == [True]
    for name in (KEY_FILE, STATE_FILE):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


def test_a_reload_puts_other_limits_in_force_over_what_was_counted_and_can_switch_it_off(tmp_path: Path) -> None:
    who = Principal(tenant="t", key="k", subject="key:k")

    async def run() -> None:
        async with open_theft(TheftSettings(mode=Mode.SHADOW, bias_vectors=3), None) as overseer:
            assert overseer is not None

            def judge(first: int, count: int) -> list[bool]:
                requests = [
                    Request(id="r", model="m", prompt="x", sampling=Sampling(logit_bias=((one, 1.0),)))
                    for one in range(first, first + count)
                ]
                steering = [steering_of(one, overseer.monitor.secret) for one in requests]
                found = [overseer.monitor.judge(who, one, 1_700_000_000.0) for one in steering]
                return [one.refusal is not None for one in found]

            assert judge(0, 4) == [False] * 4, "it only watches"
            prepare_theft(overseer, TheftSettings(mode=Mode.ENFORCE, bias_vectors=6))()
            assert overseer.reads_answers
            assert judge(4, 2) == [False, False]
            assert judge(6, 1) == [True], "four of six were counted before"
            watch = overseer.watch_by(None)
            overseer.watch_by(watch)
            prepare_theft(overseer, TheftSettings(mode=Mode.ENFORCE, bias_vectors=6, window_size=0))()
            assert overseer.watch_by(None) is None is not watch
            prepare_theft(overseer, None)()
            assert overseer.mode == "off"
            assert overseer.begin(Case(**_of_nobody())) is None

    asyncio.run(run())


def _of_nobody() -> dict[str, Any]:
    return {"ask": None, "decode": None, "taken": None, "started_unix_s": 0.0}


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"version": 2}', b"\xff\xfe", b'{"version": 1, "ages": {}}'])
def test_a_state_that_cannot_be_used_is_told_and_counting_begins_anew(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / STATE_FILE).write_bytes(damage)

    async def run() -> tuple[Flag, ...]:
        async with open_theft(TheftSettings(), None, folder=tmp_path) as overseer:
            assert overseer is not None
            return overseer.flags()

    assert asyncio.run(run()) == ()
    assert "counting begins anew" in caplog.text
    assert (tmp_path / STATE_FILE).read_bytes().startswith(b'{"version": 1')


def test_what_is_set_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    text = "[theft]\nmode = 'enforce'\nbias_vectors = 12\nramp_days = 3\nwindow_action = 'throttle'\n"
    resolved = read(tmp_path, text)
    expected = TheftSettings(mode=Mode.ENFORCE, bias_vectors=12, ramp_days=3.0, window_action="throttle")
    assert resolved.settings.trust.theft == expected
    assert read(tmp_path, resolved.toml()).settings.trust.theft == expected


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("mode = 'on'", "theft.mode: "),
        ("bias_vectors = 0", "theft.bias_vectors: 0 is not a whole number from 1"),
        ("window_size = 5", "window_size: 5 is below 20; write more, or 0 for no windows"),
        ("window_action = 'ban'", "theft.window_action: 'ban' is not one of note, label, throttle, refuse"),
        ("bias_vektors = 3", "theft.bias_vektors: is no setting; did you mean bias_vectors?"),
    ],
)
def test_mistakes_are_told_with_file_line_key_and_remedy(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(WrongSettings) as caught:
        read(tmp_path, f"[theft]\n{line}\n")
    assert told in str(caught.value)
    assert "headrace.toml:" in str(caught.value)
