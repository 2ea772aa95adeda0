"""An audit says everything that is wrong, and where."""

import pytest
from tests.doubles_log import Files, Log

from headrace.trust.log.audit import audit
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.tiles import encode_bundle


@pytest.fixture
def log() -> Log:
    made = Log()
    made.grow(700)
    return made


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 65_536 + 300])
def test_a_log_that_is_whole_passes_at_every_edge_of_a_tile(size: int) -> None:
    log = Log()
    log.grow(size)
    report = audit(log.files, log.checkpoint)
    assert report.is_clean and report.num_entries == size


def test_an_older_checkpoint_of_the_same_log_passes(log: Log) -> None:
    before = log.checkpoint
    log.grow(600)
    assert audit(log.files, before).is_clean


def test_everything_that_is_wrong_is_told_with_its_place(log: Log) -> None:
    files = Files(log.files)
    entries = [b"entry %d" % index for index in range(256)]
    entries[7] = b"altered"
    files["tile/entries/000"] = encode_bundle(entries)
    files["tile/0/001"] = files["tile/0/001"][:-32] + bytes(32)
    del files["tile/entries/002.p/188"]
    files["tile/1/000.p/2"] += b"x"
    told = {str(one) for one in audit(files, log.checkpoint).findings}
    assert "tile/0/000: hash 7 is not that of entry 7." in told
    assert "tile/0/001: hash 255 is not that of entry 511." in told
    assert any(one.startswith("tile/entries/002.p/188: ") and "missing" in one for one in told)
    assert any(one.startswith("tile/1/000.p/2: ") for one in told)


def test_a_root_of_other_entries_is_told_though_every_file_fits_the_others(log: Log) -> None:
    report = audit(log.files, Checkpoint(log.checkpoint.origin, 700, bytes(32)))
    assert [one.where for one in report.findings] == ["checkpoint"]


def test_a_checkpoint_ahead_of_the_files_is_told(log: Log) -> None:
    report = audit(log.files, Checkpoint(log.checkpoint.origin, 701, log.checkpoint.root))
    assert not report.is_clean


def test_each_entry_is_shown_with_its_index(log: Log) -> None:
    seen: list[tuple[int, bytes]] = []
    done: list[int] = []

    def see(index: int, entry: bytes) -> str | None:
        seen.append((index, entry))
        return "it is odd." if index == 300 else None

    report = audit(log.files, log.checkpoint, see, done.append)
    assert seen == [(index, b"entry %d" % index) for index in range(700)]
    assert [str(one) for one in report.findings] == ["entry 300: it is odd."]
    assert done == [256, 512, 700]
