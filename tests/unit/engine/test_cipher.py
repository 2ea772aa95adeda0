"""Encrypted pages: nothing of the prompt is in the file or its name, and another key opens and removes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.doubles_disk import LAYOUT, Rig, key

from headrace.core.errors import InvalidRequest
from headrace.engine.kv.cipher import PageCipher, open_cipher
from headrace.engine.kv.page_file import Flaw, Unusable, root_name
from headrace.engine.kv.salt import Salt

ONE, TWO = Salt("one"), Salt("two")
KEYS = [key(0), key(4)]


def write_key(path: Path, data: bytes = bytes(range(32)), mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.fixture
def cipher(tmp_path: Path) -> PageCipher:
    return open_cipher(write_key(tmp_path / "key"))


@pytest.fixture
def rig(tmp_path: Path, cipher: PageCipher) -> Rig:
    return Rig(tmp_path / "kv", cipher=cipher)


def test_what_was_encrypted_is_read_after_a_restart_with_the_same_key(rig: Rig, tmp_path: Path) -> None:
    pages = rig.keep(ONE, *KEYS)
    assert rig.restarted(cipher=open_cipher(tmp_path / "key")).read(ONE, *KEYS) == pages


def test_neither_tokens_nor_keys_and_values_are_in_the_file(rig: Rig) -> None:
    pages = rig.keep(ONE, *KEYS)
    for path in rig.files():
        data = path.read_bytes()
        assert all(secret not in data for secret in (*KEYS, *pages, *(page[:16] for page in pages)))


def test_names_cannot_be_guessed_without_the_key(cipher: PageCipher) -> None:
    other = PageCipher(bytes(32))
    names = {root_name(ONE, LAYOUT, which) for which in (None, cipher, other)}
    assert len(names) == 3


def test_a_wrong_key_finds_nothing_reports_the_files_and_leaves_them(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    pages = rig.keep(ONE, *KEYS)
    wrong = rig.restarted(cipher=PageCipher(bytes(32)))
    assert wrong.read(ONE, *KEYS) == []
    assert wrong.tier.counts == {"other_key": 2}
    assert "2 other_key" in caplog.text
    assert rig.restarted().read(ONE, *KEYS) == pages


def test_a_key_does_not_take_plain_pages_and_no_key_no_encrypted_ones(tmp_path: Path, cipher: PageCipher) -> None:
    plain = Rig(tmp_path / "plain")
    plain.keep(ONE, *KEYS)
    assert plain.restarted(cipher=cipher).tier.counts == {"other_key": 2}
    sealed = Rig(tmp_path / "sealed", cipher=cipher)
    sealed.keep(ONE, *KEYS)
    assert sealed.restarted(cipher=None).read(ONE, *KEYS) == []


@pytest.mark.parametrize("place", [10, 30, 60, 80, 95, 120, 150, -1])
def test_a_changed_byte_is_noticed_wherever_it_is(rig: Rig, place: int) -> None:
    rig.keep(ONE, key(0))
    path = rig.files()[0]
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert rig.read(ONE, key(0)) == []


def test_one_tenants_key_opens_nothing_of_anothers(cipher: PageCipher) -> None:
    sealed = cipher.seal("one", bytes(12), b"secret", b"header")
    assert cipher.open("one", bytes(12), sealed, b"header") == b"secret"
    for tenant, header in (("two", b"header"), ("one", b"HEADER")):
        with pytest.raises(Unusable) as caught:
            cipher.open(tenant, bytes(12), sealed, header)
        assert caught.value.flaw is Flaw.DAMAGED


def test_two_files_of_the_same_page_share_no_nonce(rig: Rig, tmp_path: Path, cipher: PageCipher) -> None:
    other = Rig(tmp_path / "other", cipher=cipher)
    rig.keep(ONE, key(0))
    other.keep(ONE, key(0))
    assert rig.files()[0].name == other.files()[0].name
    assert rig.files()[0].read_bytes() != other.files()[0].read_bytes()


@pytest.mark.parametrize(
    ("data", "mode", "said"),
    [(bytes(31), 0o600, "31 bytes"), (bytes(5000), 0o600, "4097 bytes"), (bytes(32), 0o640, "chmod 600")],
)
def test_a_bad_key_file_is_refused_with_a_remedy(tmp_path: Path, data: bytes, mode: int, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        open_cipher(write_key(tmp_path / "bad", data, mode))
    assert caught.value.param == "disk_cache_key"


def test_a_missing_key_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        open_cipher(tmp_path / "none")


def test_without_a_key_the_library_is_not_loaded() -> None:
    code = "import sys, headrace.cli.serve, headrace.engine.text, headrace.engine.kv.disk, headrace.engine.kv.cipher\n"
    code += "assert not any(name.startswith('cryptography') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
