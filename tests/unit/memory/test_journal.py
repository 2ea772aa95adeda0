"""The journal: what was appended is found again, whatever the end of the file looks like."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.errors import DiskFull, Unavailable
from headrace.memory.journal import Journal


def taken(folder: Path, **given: object) -> Journal:
    journal = Journal.take(folder, **given)  # type: ignore[arg-type]
    assert journal is not None
    return journal


def only_file(folder: Path) -> Path:
    (found,) = folder.glob("*.journal")
    return found


def test_what_was_appended_is_found_in_order(tmp_path: Path) -> None:
    journal = taken(tmp_path / "j")
    journal.begin([b"head"])
    for number in range(5):
        journal.append(b"x" * (number + 1))
    journal.close()
    found = taken(tmp_path / "j").found()
    assert found.payloads == (b"head", b"x", b"xx", b"xxx", b"xxxx", b"xxxxx")
    assert (found.num_torn_bytes, found.is_damaged) == (0, False)


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    journal = taken(tmp_path / "j")
    assert Journal.take(tmp_path / "j") is None
    journal.close()
    taken(tmp_path / "j").close()


@given(cut=st.integers(1, 60))
def test_a_tail_that_is_cut_short_costs_the_last_record_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("j")
    journal = taken(folder)
    journal.begin([b"first"])
    journal.append(b"second")
    size = journal.num_bytes
    journal.append(b"z" * 60)
    journal.close()
    with only_file(folder).open("r+b") as file:
        file.truncate(size + 68 - cut)
    again = taken(folder)
    found = again.found()
    assert (found.payloads, found.is_damaged) == ((b"first", b"second"), False)
    assert found.num_torn_bytes == 68 - cut
    again.close()


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    journal = taken(tmp_path)
    journal.begin([b"first"])
    journal.append(b"second")
    journal.append(b"third")
    journal.close()
    path = only_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.index(b"second")] ^= 1
    path.write_bytes(data)
    again = taken(tmp_path)
    assert again.found().payloads == (b"first",)
    assert again.found().is_damaged
    again.close()


def test_a_torn_generation_that_is_not_the_last_is_damage(tmp_path: Path) -> None:
    journal = taken(tmp_path)
    journal.begin([b"first"])
    path = only_file(tmp_path)
    journal.begin([b"second"])
    journal.close()
    path.write_bytes(path.read_bytes()[:-1])
    again = taken(tmp_path)
    assert (again.found().payloads, again.found().is_damaged) == ((b"second",), True)
    again.close()


def test_zeros_that_a_lost_power_leaves_are_no_records(tmp_path: Path) -> None:
    journal = taken(tmp_path)
    journal.begin([b"first"])
    journal.close()
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(4096))
    again = taken(tmp_path)
    assert again.found().payloads == (b"first",)
    again.close()


def test_generations_begin_end_and_are_numbered_on(tmp_path: Path) -> None:
    journal = taken(tmp_path)
    journal.begin([b"a"])
    second = journal.begin([b"b"])
    assert len(list(tmp_path.glob("*.journal"))) == 2
    journal.drop_before(second)
    journal.append(b"c")
    journal.close()
    again = taken(tmp_path)
    assert again.found().payloads == (b"b", b"c")
    assert again.begin([]) == second + 1
    again.remove()
    assert list(tmp_path.glob("*.journal")) == []


@pytest.mark.parametrize(
    ("kind", "error"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, Unavailable)]
)
def test_a_disk_that_takes_half_a_frame_leaves_none_of_it(tmp_path: Path, kind: int, error: type[Exception]) -> None:
    is_full = False

    def write(descriptor: int, data: bytes) -> int:
        if is_full and len(data) < 50:
            raise OSError(kind, "no more")
        return os.write(descriptor, data[: 60 if is_full else None])

    journal = taken(tmp_path, write=write)
    journal.begin([b"first"])
    is_full = True
    with pytest.raises(error):
        journal.append(b"x" * 100)
    with pytest.raises(error):
        journal.begin([b"y" * 10])
    is_full = False
    journal.append(b"second")
    journal.close()
    again = taken(tmp_path)
    assert again.found().payloads == (b"first", b"second")
    again.close()
