"""The disk tier, case by case: what was written is read after a restart; a fault costs a recomputation at most."""

import errno
import logging
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.doubles import ManualClock
from tests.doubles_disk import FILE_BYTES, LAYOUT, PAGE_BYTES, FaultyFolder, Rig, key

from headrace.core.watching import LiveDisk
from headrace.engine.kv.disk import DAY_S, DiskConfig, DiskTier, Load, Store
from headrace.engine.kv.salt import Salt

ONE, TWO = Salt("one"), Salt("two")
KEYS = [key(0), key(4), key(8)]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "kv")


def test_what_was_written_is_read_after_a_restart_from_any_page_on(rig: Rig) -> None:
    pages = rig.keep(ONE, *KEYS)
    again = rig.restarted()
    assert again.read(ONE, *KEYS, key(99)) == pages
    assert again.read(ONE, *KEYS, start=2) == pages[2:]
    assert again.read(ONE, key(0), key(99)) == pages[:1]
    assert rig.tier.counts == {"written": 3}
    assert again.tier.counts == {"read": 5}


def test_who_watches_sees_what_the_disk_holds(rig: Rig) -> None:
    rig.keep(ONE, *KEYS)
    assert rig.tier.live() == LiveDisk(3, 3 * FILE_BYTES, rig.tier.config.max_bytes)


def test_a_page_is_written_once_and_what_was_added_later_too(rig: Rig) -> None:
    rig.keep(ONE, *KEYS[:2])
    rig.keep(ONE, *KEYS[:2])
    rig.keep(ONE, *KEYS)
    assert rig.folder.calls["write"] == 3


@pytest.mark.parametrize(
    "salt",
    [TWO, *(ONE._replace(**{part: "x"}) for part in ("model", "adapter", "template", "caller")), Salt("", "one")],
)
def test_another_salt_finds_nothing(rig: Rig, salt: Salt) -> None:
    rig.keep(ONE, *KEYS)
    assert rig.tier.find(salt, LAYOUT, KEYS, 0) == []


@pytest.mark.parametrize(
    "change", [{"variant": "avx2"}, {"kv_type": "fp16"}, {"plan": "x"}, {"model": "x"}, {"shape": (1, 2, 40)}]
)
def test_pages_that_mean_something_else_are_not_found(rig: Rig, change: dict[str, Any]) -> None:
    rig.keep(ONE, *KEYS)
    assert rig.tier.find(ONE, replace(LAYOUT, **change), KEYS, 0) == []


def test_the_disk_does_as_much_for_a_tenant_whether_or_not_another_has_kept_the_same_prompt(tmp_path: Path) -> None:
    """So time tells them nothing: a tenant's request does the same operations either way."""
    calls = []
    for name, other in (("a", KEYS), ("b", [key(50), key(54), key(58)])):
        rig = Rig(tmp_path / name)
        rig.keep(TWO, *other)
        rig.folder.calls.clear()
        assert rig.read(ONE, *KEYS) == []
        rig.keep(ONE, *KEYS)
        calls.append(dict(rig.folder.calls))
    assert calls[0] == calls[1]


def test_only_the_owner_may_read_files_and_directories(rig: Rig) -> None:
    rig.keep(ONE, *KEYS)
    for path in (rig.root, *rig.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert not list(rig.root.rglob("*.partial"))


@pytest.mark.parametrize("place", [0, 9, 20, 40, 60, 70, 90, 110, 130, FILE_BYTES - 1])
def test_a_changed_byte_is_noticed_and_costs_that_page_and_what_follows(rig: Rig, place: int) -> None:
    pages = rig.keep(ONE, *KEYS)
    middle = rig.tier.find(ONE, LAYOUT, KEYS, 1)[0]
    path = rig.folder.path("one", LAYOUT.model, middle.name)
    data = bytearray(path.read_bytes())
    assert len(data) == FILE_BYTES
    data[place] ^= 0x10
    path.write_bytes(data)
    assert rig.read(ONE, *KEYS) == pages[:1]
    # Not again: it is forgotten at once, and gone if it is certainly ours.
    assert rig.tier.find(ONE, LAYOUT, KEYS, 1) == []
    assert path.exists() == (place in {0, 9, 60})  # magic, version, key
    assert rig.read(ONE, *KEYS) == pages[:1]


@pytest.mark.parametrize("length", [0, 5, 40, 107, 150, FILE_BYTES - 1])
def test_a_truncated_file_is_noticed_and_removed_and_written_again(rig: Rig, length: int) -> None:
    pages = rig.keep(ONE, *KEYS)
    path = rig.files()[0]
    path.write_bytes(path.read_bytes()[:length])
    again = rig.restarted()
    assert len(again.read(ONE, *KEYS)) == 2
    assert not path.exists()
    assert again.tier.counts["damaged"] == 1
    assert len(again.keep(ONE, *KEYS)) == 3
    assert len(rig.restarted().read(ONE, *KEYS)) == len(pages)


def test_a_file_longer_than_it_says_is_noticed(rig: Rig) -> None:
    rig.keep(ONE, *KEYS)
    with rig.files()[-1].open("ab") as file:
        file.write(b"x")
    assert rig.read(ONE, *KEYS) == []


def test_a_file_under_anothers_name_gives_no_page(rig: Rig) -> None:
    rig.keep(ONE, *KEYS)
    first, second, _ = (rig.folder.path("one", LAYOUT.model, page.name) for page in rig.tier.find(ONE, LAYOUT, KEYS, 0))
    first.write_bytes(second.read_bytes())
    assert rig.read(ONE, *KEYS) == []
    assert rig.tier.counts["damaged"] == 1


def test_another_tenants_file_put_in_the_place_of_ones_own_gives_no_page(rig: Rig) -> None:
    rig.keep(ONE, key(0))
    rig.keep(TWO, key(0))
    mine, theirs = (
        rig.folder.path(salt.tenant, LAYOUT.model, rig.tier.find(salt, LAYOUT, [key(0)], 0)[0].name)
        for salt in (ONE, TWO)
    )
    mine.write_bytes(theirs.read_bytes())
    assert rig.read(ONE, key(0)) == []


def test_files_of_others_are_counted_reported_and_left_alone(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.keep(ONE, *KEYS[:1])
    folder = rig.files()[0].parent
    foreign = [folder / ("ab" * 20 + ".page"), folder / "notes.txt", rig.root / "top.txt", rig.root / "elsewhere" / "x"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("not a page at all")
    (folder / ("cd" * 20 + ".page")).symlink_to(folder / "notes.txt")
    again = rig.restarted(config={"max_bytes": 1})
    assert again.tier.counts == {"foreign": 2, "evicted": 1}
    assert "2 foreign" in caplog.text
    assert all(path.read_text() == "not a page at all" for path in foreign)


def test_what_a_write_left_half_done_is_removed_when_it_is_old(rig: Rig) -> None:
    rig.keep(ONE, *KEYS[:1])
    folder = rig.files()[0].parent
    old, new = (folder / f"{'ab' * 20}.page.{mark * 12}.partial" for mark in "01")
    for path, used_s in ((old, rig.clock.now - 3601), (new, rig.clock.now)):
        path.write_bytes(b"half")
        os.utime(path, (used_s, used_s))
    rig.restarted()
    assert (old.exists(), new.exists()) == (False, True)


def test_an_unreadable_file_is_a_miss_that_is_counted(rig: Rig) -> None:
    rig.keep(ONE, *KEYS)
    rig.folder.faults["read"] = OSError(errno.EIO, "Input/output error")
    assert rig.read(ONE, *KEYS) == []
    rig.folder.faults.clear()
    assert rig.tier.counts["unreadable"] == 1
    assert rig.tier.find(ONE, LAYOUT, KEYS, 0) == []


def test_a_file_that_was_erased_by_others_is_a_miss_and_no_fault(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.keep(ONE, *KEYS)
    for path in rig.files():
        path.unlink()
    assert rig.read(ONE, *KEYS) == []
    assert rig.tier.counts["gone"] == 1
    assert caplog.text == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_cannot_be_written_pauses_writes_with_one_warning_and_not_reads(
    rig: Rig, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    pages = rig.keep(ONE, *KEYS)
    rig.folder.faults["write"] = OSError(number, os.strerror(number))
    with caplog.at_level(logging.WARNING):
        for turn in range(5):
            rig.keep(TWO, key(turn))
    assert rig.folder.calls["write"] == 3 + 1
    assert len(caplog.records) == 1
    assert rig.tier.counts["dropped"] == 5
    assert rig.read(ONE, *KEYS) == pages


def test_writing_is_tried_again_after_a_pause_that_doubles_and_goes_on_when_it_works(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.folder.faults["write"] = OSError(errno.ENOSPC, "No space left on device")
    rig.keep(ONE, key(0))
    for seconds, tries in ((29, 1), (1, 2), (59, 2), (1, 3)):
        rig.clock.now += seconds
        rig.keep(ONE, key(0))
        assert rig.folder.calls["write"] == tries
    rig.folder.faults.clear()
    rig.clock.now += 120
    rig.keep(ONE, key(0))
    assert len(rig.restarted().read(ONE, key(0))) == 1
    assert [record.message.split(" (")[0].rpartition(" ")[2] for record in caplog.records] == ["written", "again."]


def test_a_real_full_disk_leaves_no_half_file_and_no_index_entry(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(full, data))
    rig.keep(ONE, *KEYS)
    monkeypatch.undo()
    os.close(full)
    assert [path for path in rig.root.rglob("*") if path.is_file()] == []
    assert len(rig.tier.index) == 0


def test_on_a_directory_that_became_read_only_known_pages_are_still_served(rig: Rig) -> None:
    pages = rig.keep(ONE, *KEYS)
    rig.folder.faults = dict.fromkeys(("write", "touch", "remove"), OSError(errno.EROFS, "Read-only file system"))
    again = rig.restarted()
    again.folder.faults = rig.folder.faults
    assert again.read(ONE, *KEYS) == pages
    again.keep(ONE, key(20))
    assert again.read(ONE, *KEYS) == pages


def test_bytes_are_bounded_and_the_page_used_longest_ago_goes_first(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "kv", {"max_bytes": 3 * FILE_BYTES})
    first, second, third = (rig.keep(ONE, key(number))[0] for number in range(3))
    rig.clock.now += 1
    assert rig.read(ONE, key(0)) == [first]
    rig.clock.now += 1
    rig.keep(ONE, key(3))
    assert rig.read(ONE, key(1)) == []
    assert (rig.read(ONE, key(0)), rig.read(ONE, key(2))) == ([first], [third])
    assert rig.tier.index.num_bytes == 3 * FILE_BYTES == sum(path.stat().st_size for path in rig.files())
    assert rig.tier.counts["evicted"] == 1
    assert second != third


def test_of_one_prompt_the_end_is_evicted_before_the_beginning(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "kv", {"max_bytes": 3 * FILE_BYTES})
    pages = rig.keep(ONE, *KEYS)
    rig.keep(ONE, key(50))
    assert rig.read(ONE, *KEYS) == pages[:2]
    again = rig.restarted(config={"max_bytes": 2 * FILE_BYTES})
    assert len(again.tier.index) == 2


def test_a_page_that_nobody_used_for_too_long_is_removed_and_using_it_keeps_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "kv", {"max_age_s": 2 * DAY_S})
    rig.clock.now += 100 * DAY_S
    used = rig.keep(ONE, key(0))
    rig.keep(ONE, key(1))
    rig.clock.now += 1.5 * DAY_S
    assert rig.read(ONE, key(0)) == used
    rig.clock.now += 1 * DAY_S
    again = rig.restarted()
    assert again.read(ONE, key(0)) == used
    assert again.read(ONE, key(1)) == []
    assert len(rig.files()) == 1


def test_a_clock_that_jumps_back_makes_no_page_immortal(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "kv", {"max_age_s": 2 * DAY_S})
    rig.clock.now += 1000 * DAY_S
    rig.keep(ONE, key(0))
    rig.clock.now -= 500 * DAY_S
    again = rig.restarted()
    again.clock.now += 3 * DAY_S
    again.keep(ONE, key(1))
    assert again.tier.counts["evicted"] == 1


def test_a_full_queue_drops_and_counts_and_hands_over_later(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "kv", {"max_queued_bytes": 2 * PAGE_BYTES})
    assert rig.tier.store(rig.compute(ONE, *KEYS[:2]))
    assert not rig.tier.store(rig.compute(ONE, key(50)))
    assert rig.tier.counts["dropped"] == 1
    rig.tier.run_pending()
    assert rig.tier.store(rig.compute(TWO, key(50)))


def test_a_page_larger_than_the_whole_cache_is_not_written(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "kv", {"max_bytes": FILE_BYTES - 1})
    rig.keep(ONE, key(0))
    assert rig.files() == []


def test_a_page_that_is_evicted_before_its_turn_is_not_written(rig: Rig) -> None:
    store = rig.compute(ONE, *KEYS)
    rig.tree.evict(2)
    rig.tier.store(store)
    rig.tier.run_pending()
    assert len(rig.files()) == 1
    assert rig.tier.counts == {"written": 1, "dropped": 2}


def test_a_page_that_is_evicted_and_overwritten_while_it_is_copied_is_not_written(rig: Rig) -> None:
    class Racing:
        """Half a copy is made, then the page goes to somebody else."""

        def __getitem__(self, page: int) -> Any:
            data = rig.pool.array[page].copy()
            rig.tree.evict(1)
            data[1:] = 7
            return data

    store = replace(rig.compute(ONE, key(0)), array=Racing())  # type: ignore[arg-type]
    rig.tier.store(store)
    rig.tier.run_pending()
    assert rig.files() == []
    assert store.path[0].stored_s < 0


def test_a_load_that_nobody_wants_any_more_ends_without_reading(rig: Rig) -> None:
    rig.keep(ONE, *KEYS)
    delivered: list[Any] = []
    pages = rig.tier.find(ONE, LAYOUT, KEYS, 0)
    rig.tier.load(Load(pages, lambda *piece: delivered.append(piece), lambda: False))
    rig.tier.run_pending()
    assert delivered == [([], True)]
    assert rig.folder.calls["read"] == 0


def test_closing_writes_what_is_queued_answers_who_waits_and_refuses_the_rest(rig: Rig) -> None:
    rig.tier.start()
    rig.tier.store(rig.compute(ONE, *KEYS))
    rig.tier.close()
    rig.tier.close()
    assert not rig.tier.load(Load([], lambda *piece: None))
    assert not rig.tier.store(rig.compute(ONE, key(50)))
    assert len(rig.restarted().read(ONE, *KEYS)) == 3


def test_closing_without_time_drops_and_counts(rig: Rig) -> None:
    rig.tier.store(rig.compute(ONE, *KEYS))
    ended: list[Any] = []
    rig.tier.load(Load([], lambda *piece: ended.append(piece)))
    rig.tier.close(flush_s=0.0)
    assert rig.tier.counts["dropped"] == 3
    assert ended == [([], True)]


def test_a_load_goes_before_writes_that_were_queued_earlier(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "kv")
    rig.keep(ONE, key(0))
    order: list[str] = []

    class Watching(FaultyFolder):
        def meet(self, name: str, path: Path) -> None:
            order.append(name)
            if name == "write" and order.count("write") == 1:
                tier.load(Load(tier.find(ONE, LAYOUT, [key(0)], 0), lambda *piece: None))

    tier = DiskTier(DiskConfig(root=rig.root), rig.clock, folder=Watching(rig.root))
    tier.store(rig.compute(TWO, *KEYS))
    tier.run_pending()
    assert [name for name in order if name in {"read", "write"}] == ["write", "read", "write", "write"]


def test_the_thread_serves_loads_and_ends(rig: Rig) -> None:
    pages = rig.keep(ONE, *KEYS)
    again = Rig(rig.root)
    again.tier.scan()
    again.tier.start()
    done = threading.Event()
    found: list[bytes] = []

    def deliver(piece: list[memoryview], is_last: bool) -> None:
        found.extend(map(bytes, piece))
        if is_last:
            done.set()

    assert again.tier.load(Load(again.tier.find(ONE, LAYOUT, KEYS, 0), deliver))
    assert done.wait(10.0)
    again.tier.close()
    assert found == pages


def test_reading_is_given_up_where_computing_is_faster_and_tried_again_some_time(rig: Rig) -> None:
    rig.keep(ONE, *KEYS)
    pages = rig.tier.find(ONE, LAYOUT, KEYS, 0)
    assert rig.tier.is_faster(pages, 1e-9)
    rig.tier.read_bytes_per_s = 240.0
    assert rig.tier.is_faster(pages, 1.1)
    assert not rig.tier.is_faster(pages, 0.5)
    assert any(rig.tier.is_faster(pages, 0.5) for _ in range(50))


def test_the_rate_of_reading_is_measured(tmp_path: Path) -> None:
    class Slow(ManualClock):
        def monotonic_s(self) -> float:
            self.now += 0.5
            return self.now

    rig = Rig(tmp_path / "kv", clock=Slow())
    rig.keep(ONE, *KEYS)
    rig.read(ONE, *KEYS)
    assert rig.tier.read_bytes_per_s == 3 * PAGE_BYTES / 0.5


@pytest.mark.parametrize("name", ["max_bytes", "max_age_s", "max_queued_bytes"])
def test_a_bound_that_makes_no_sense_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 0 is below 1"):
        DiskConfig(root=tmp_path, **{name: 0})


def test_long_prompts_are_handed_over_in_pieces(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.engine.kv.disk._PIECE_BYTES", 2 * PAGE_BYTES)
    rig.keep(ONE, *KEYS)
    pieces: list[tuple[int, bool]] = []
    load = Load(rig.tier.find(ONE, LAYOUT, KEYS, 0), lambda piece, is_last: pieces.append((len(piece), is_last)))
    rig.tier.load(load)
    rig.tier.run_pending()
    assert pieces == [(2, False), (1, True)]


def test_a_store_says_how_much_it_may_write() -> None:
    assert Store(ONE, LAYOUT, np.zeros(1), [], frozenset({1, 2})).num_bytes == 2 * PAGE_BYTES
