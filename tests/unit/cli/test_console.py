"""The files behind the console's sessions: made at the first sign-in, private, told of in words when damaged."""

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


def test_what_was_signed_out_is_known_after_a_restart(tmp_path: Path) -> None:
    seal = KeptSeal(tmp_path / "console.key")
    assert seal.load_ended() == {}
    seal.save_ended({"0001": 17.5})
    assert KeptSeal(tmp_path / "console.key").load_ended() == {"0001": 17.5}
    assert (tmp_path / "console.ended").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"a": "x"}', b'{"a": null}', b"\xff"])
def test_a_damaged_list_lets_nobody_in_and_says_what_to_do(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "console.ended").write_bytes(data)
    with pytest.raises(Unavailable, match=r"console\.ended is damaged.*console\.key"):
        KeptSeal(tmp_path / "console.key").load_ended()


def test_a_key_that_is_cut_short_is_told(tmp_path: Path) -> None:
    path = tmp_path / "console.key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(Unavailable, match="5 bytes"):
        KeptSeal(path).seal(b"x")
    path.chmod(0o644)
    with pytest.raises(Unavailable, match="others may read"):
        KeptSeal(path).seal(b"x")
