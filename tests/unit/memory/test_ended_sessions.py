"""The list of sessions that were signed out, as several processes share it."""

import json
import logging
import threading
from pathlib import Path

import pytest

from headrace.core.errors import Unavailable
from headrace.core.sessions import MAX_ENDED
from headrace.memory.ended_sessions import MAX_BYTES, EndedSessions

OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "console.ended"


def test_what_one_adds_another_finds_and_is_told_once(path: Path) -> None:
    one, other = EndedSessions(path), EndedSessions(path)
    assert other.look() is None
    one.add({"a": 20.0}, 10.0)
    assert other.look() == {"a": 20.0}
    assert other.look() is None
    other.add({"b": 30.0}, 10.0)
    assert one.look() == {"a": 20.0, "b": 30.0}
    assert path.stat().st_mode & 0o777 == 0o600


def test_nobody_loses_what_others_add_at_the_same_time(path: Path) -> None:
    def sign_out(worker: int) -> None:
        mine = EndedSessions(path)  # a lock of its own, as a process has
        for number in range(20):
            mine.add({f"{worker}-{number}": 20.0}, 10.0)

    workers = [threading.Thread(target=sign_out, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert EndedSessions(path).look() == {f"{worker}-{number}": 20.0 for worker in range(4) for number in range(20)}


def test_what_is_over_is_forgotten_and_there_is_never_much(path: Path) -> None:
    sessions = EndedSessions(path)
    sessions.add({"over": 10.0, "going": 11.0}, 9.0)
    sessions.add({}, 10.0)
    assert sessions.look() == {"going": 11.0}
    sessions.add({f"{one:032x}": 20.0 + one for one in range(MAX_ENDED + 5)}, 10.0)
    found = sessions.look()
    assert found is not None and len(found) == MAX_ENDED
    assert "going" not in found and f"{MAX_ENDED + 4:032x}" in found  # those that would go on longest are kept
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"a": "x"}',
        b'{"a": null}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": true}',
        b'{"a": 1' + b"0" * 400 + b"}",
        b"\xff",
        b"[" * 100_000,
        b" " * (MAX_BYTES + 1),
    ],
)
def test_a_damaged_list_is_told_at_every_look_and_never_written_over(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    sessions = EndedSessions(path)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"console\.ended is damaged"):
            sessions.look()
    with pytest.raises(Unavailable, match="is damaged"):
        sessions.add({"a": 20.0}, 10.0)
    assert path.read_bytes() == data
    path.write_text(json.dumps({"mended": 20}))
    assert sessions.look() == {"mended": 20.0}


def test_a_list_that_has_gone_is_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sessions = EndedSessions(path)
    sessions.add({"a": 20.0}, 10.0)
    assert sessions.look() == {"a": 20.0}
    path.unlink()
    with caplog.at_level(logging.WARNING):
        assert sessions.look() is None
        assert sessions.look() is None
    (told,) = caplog.messages
    assert "console.ended is gone" in told
    sessions.add({"a": 20.0}, 10.0)
    assert sessions.look() == {"a": 20.0}


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    sessions = EndedSessions(tmp_path / "nowhere" / "console.ended")
    assert sessions.look() is None
    with pytest.raises(Unavailable, match="cannot be locked"):
        sessions.add({"a": 20.0}, 10.0)
    in_the_way = tmp_path / "console.ended"
    in_the_way.mkdir()
    with pytest.raises(Unavailable, match="cannot be read"):
        EndedSessions(in_the_way).look()


def test_no_lock_is_left_open(path: Path) -> None:
    sessions = EndedSessions(path)
    for number in range(5):
        sessions.add({f"{number}": 20.0}, 10.0)
        sessions.look()
    # Of this folder alone: what other tests left open may go while this one runs.
    opened = [one.readlink() for one in OPEN_FILES.iterdir() if one.is_symlink()]
    assert not [one for one in opened if path.parent in one.parents]
