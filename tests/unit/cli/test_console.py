"""The files behind the console's sessions: made at the first sign-in, private, and told of in words when damaged: to
the log, since anybody may send a cookie."""

import logging
from pathlib import Path

import pytest

from headrace.cli.console import KeptSeal
from headrace.core.errors import Unavailable


def test_the_key_is_made_at_the_first_sign_in_and_opens_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "console.key"
    seal = KeptSeal(path)
    assert not path.exists()
    text = seal.seal(b"who")
    assert path.stat().st_mode & 0o777 == 0o600
    assert KeptSeal(path).open(text) == b"who"
    path.unlink()
    assert KeptSeal(path).open(text) is None


def test_a_cookie_before_anybody_signed_in_makes_no_file(tmp_path: Path) -> None:
    seal = KeptSeal(tmp_path / "keys" / "console.key")
    assert seal.open("AAAA" * 20) is None
    assert seal.look_ended() is None
    assert list(tmp_path.iterdir()) == []
    text = seal.seal(b"who")
    assert seal.open(text) == b"who"


def test_what_was_signed_out_is_known_after_a_restart_and_to_others(tmp_path: Path) -> None:
    seal, other = KeptSeal(tmp_path / "console.key"), KeptSeal(tmp_path / "console.key")
    assert seal.look_ended() is None and other.look_ended() is None
    seal.add_ended({"0001": 17.5}, 10.0)
    assert other.look_ended() == {"0001": 17.5}
    assert KeptSeal(tmp_path / "console.key").look_ended() == {"0001": 17.5}
    assert (tmp_path / "console.ended").stat().st_mode & 0o777 == 0o600


def test_a_damaged_list_lets_nobody_in_and_the_log_says_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "console.ended").write_bytes(b"{")
    seal = KeptSeal(tmp_path / "console.key")
    for _ in range(3):
        with pytest.raises(Unavailable, match="cannot be judged") as caught:
            seal.look_ended()
        assert str(tmp_path) not in str(caught.value)
    (told,) = caplog.messages  # not once a request
    assert f"{tmp_path}/console.ended is damaged" in told and "delete" in told and "console.key" in told


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [(b"short", 0o600, "has 5 bytes and not 32"), (b"", 0o600, "has 0 bytes"), (b"x" * 32, 0o644, "others may read")],
)
def test_what_is_wrong_with_the_key_is_told_to_the_log_and_to_nobody_who_calls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, mode: int, said: str
) -> None:
    path = tmp_path / "console.key"
    path.write_bytes(content)
    path.chmod(mode)
    for ask in (lambda: KeptSeal(path).seal(b"x"), lambda: KeptSeal(path).open("AAAA" * 20)):
        caplog.clear()
        with pytest.raises(Unavailable, match="log says why") as caught, caplog.at_level(logging.ERROR):
            ask()
        assert str(tmp_path) not in caught.value.message
        assert said in caplog.text and str(path) in caplog.text
