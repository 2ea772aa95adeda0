"""Adapters in memory: only from the folder, within the bytes, the least recently used out first, never one in use."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.oracle.assembly import assemble
from tests.oracle.test_adapters import native_program
from tests.oracle.tiny_adapters import make, write_gguf_lora, write_peft
from tests.oracle.tiny_files import write_folder

from headrace.adapters.program import AdaptableProgram
from headrace.adapters.shelf import Lease, Shelf
from headrace.core.errors import InvalidRequest, ModelFileError, NotFound, Unavailable
from headrace.models.safetensors import SafetensorsFolder

NAMES = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> AdaptableProgram:
    return native_program(assemble(SafetensorsFolder(write_folder("llama", tmp_path_factory.mktemp("base")))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for name in NAMES[:3]:
        write_peft(make("llama", name), folder / name)
    write_gguf_lora(make("llama", "four"), folder / "four.gguf")
    return folder


def shelf_for(program: AdaptableProgram, folder: Path, most: int = 10) -> Shelf:
    """Room for so many adapters of the folder, which are all of one size."""
    large = Shelf(folder, program, "llama", 1 << 30)
    return Shelf(folder, program, "llama", most * large.load("one").adapter.num_bytes)


def test_the_folder_offers_what_it_holds_and_names_it_when_another_is_asked_for(
    program: AdaptableProgram, folder: Path
) -> None:
    shelf = shelf_for(program, folder)
    assert shelf.offered() == ("four", "one", "three", "two")
    assert shelf.take("one") is None
    lease = shelf.load("one")
    again = shelf.take("one")
    assert again is not None
    assert again.adapter is lease.adapter is shelf.loaded()["one"]
    with pytest.raises(NotFound, match="'five' is not in the folder of adapters; there are: four, one, three, two"):
        shelf.load("five")


def test_no_name_and_no_link_leads_out_of_the_folder(program: AdaptableProgram, tmp_path: Path) -> None:
    outside = write_peft(make("llama", "secret"), tmp_path / "secret")
    folder = tmp_path / "adapters"
    (folder / "part").mkdir(parents=True)
    (folder / "link").symlink_to(outside)
    (folder / "link.gguf").symlink_to(outside / "adapter_model.safetensors")
    (folder / "part" / "adapter_config.json").symlink_to(outside / "adapter_config.json")
    (folder / "part" / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    write_peft(make("llama", "inside"), folder / "real")
    (folder / "alias").symlink_to(folder / "real")
    shelf = Shelf(folder, program, "llama", 1 << 30)
    assert shelf.offered() == ("alias", "real")
    for name in ("../secret", "..", ".", "", "real/../../secret", str(outside), "link", "part", "real\x00", "a" * 101):
        with pytest.raises(NotFound):
            shelf.load(name)


def test_the_least_recently_used_makes_room_and_one_in_use_never_does(program: AdaptableProgram, folder: Path) -> None:
    shelf = shelf_for(program, folder, 2)
    one, two = shelf.load("one"), shelf.load("two")
    with pytest.raises(Unavailable, match="try again"):
        shelf.load("three")
    one.release()
    two.release()
    taken = shelf.take("one")
    assert taken is not None
    taken.release()
    shelf.load("three").release()
    assert shelf.loaded().keys() == {"one", "three"}
    assert shelf.used_bytes <= shelf.memory_bytes


def test_one_that_can_never_fit_is_refused_and_puts_nothing_away(program: AdaptableProgram, tmp_path: Path) -> None:
    write_peft(make("llama", "small"), tmp_path / "small")
    write_peft(make("llama", "large", 64), tmp_path / "large")
    shelf = Shelf(tmp_path, program, "llama", 1 << 30)
    small = shelf.load("small")
    small.release()
    shelf.memory_bytes = 2 * small.adapter.num_bytes
    with pytest.raises(InvalidRequest, match="raise adapter_memory or train a lower rank"):
        shelf.load("large")
    assert shelf.loaded().keys() == {"small"}


def test_one_taken_off_in_use_serves_its_user_to_the_end_and_is_read_anew_for_the_next(
    program: AdaptableProgram, tmp_path: Path
) -> None:
    write_peft(make("llama", "old"), tmp_path / "it")
    shelf = Shelf(tmp_path, program, "llama", 1 << 30)
    old = shelf.load("it")
    shelf.unload("it")
    assert shelf.loaded() == {}
    assert shelf.used_bytes == old.adapter.num_bytes
    write_peft(make("llama", "new"), tmp_path / "it")
    new = shelf.load("it")
    assert new.adapter.digest != old.adapter.digest
    old.release()
    old.release()
    assert shelf.used_bytes == new.adapter.num_bytes
    with pytest.raises(NotFound, match="'other' is not loaded; loaded: it"):
        shelf.unload("other")


def test_a_file_that_cannot_be_loaded_leaves_the_shelf_as_it_was(program: AdaptableProgram, tmp_path: Path) -> None:
    write_peft(make("llama", "good"), tmp_path / "good")
    bad = write_peft(make("llama", "bad"), tmp_path / "bad")
    (bad / "adapter_model.safetensors").write_bytes(b"x" * 100)
    shelf = Shelf(tmp_path, program, "llama", 1 << 30)
    shelf.load("good")
    used = shelf.used_bytes
    with pytest.raises(ModelFileError, match=r"adapter_model\.safetensors"):
        shelf.load("bad")
    assert shelf.loaded().keys() == {"good"}
    assert shelf.used_bytes == used


def test_many_threads_that_want_one_adapter_read_it_once(program: AdaptableProgram, folder: Path) -> None:
    shelf = shelf_for(program, folder)
    found: list[Lease] = []
    threads = [threading.Thread(target=lambda: found.append(shelf.load("two"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len({id(lease.adapter) for lease in found}) == 1


class Histories(RuleBasedStateMachine):
    """Beside it, plain lists: who is in memory in the order of use, and who holds what."""

    make_shelf: Callable[[], Shelf]

    def __init__(self) -> None:
        super().__init__()
        self.shelf = type(self).make_shelf()
        self.order: list[str] = []
        self.leases: list[tuple[str, Lease, bool]] = []

    def users(self, name: str) -> int:
        return sum(1 for held, lease, _ in self.leases if held == name and self.is_current(lease))

    def is_current(self, lease: Lease) -> bool:
        return lease.adapter in self.shelf.loaded().values()

    @rule(name=st.sampled_from(NAMES))
    def load(self, name: str) -> None:
        num_leaving = len({id(lease.adapter) for _, lease, _ in self.leases if not self.is_current(lease)})
        busy = [held for held in self.order if self.users(held)]
        if name not in self.order and len(busy) + num_leaving >= 2:
            with pytest.raises(Unavailable):
                self.shelf.load(name)
            return
        lease = self.shelf.load(name)
        self.leases.append((name, lease, True))
        if name in self.order:
            self.order.remove(name)
        self.order.append(name)
        while len(self.order) + num_leaving > 2:
            self.order.remove(next(held for held in self.order if not self.users(held)))

    @rule(index=st.integers(0, 7))
    def release(self, index: int) -> None:
        if index < len(self.leases):
            self.leases.pop(index)[1].release()

    @rule(name=st.sampled_from(NAMES))
    def unload(self, name: str) -> None:
        if name in self.order:
            self.shelf.unload(name)
            self.order.remove(name)
        else:
            with pytest.raises(NotFound):
                self.shelf.unload(name)

    @invariant()
    def agrees(self) -> None:
        assert set(self.shelf.loaded()) == set(self.order)
        assert self.shelf.used_bytes <= self.shelf.memory_bytes


def test_histories_of_use_keep_within_the_bytes(program: AdaptableProgram, folder: Path) -> None:
    Histories.make_shelf = staticmethod(lambda: shelf_for(program, folder, 2))
    case = Histories.TestCase
    case.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
    try:
        case("runTest").runTest()
    finally:
        del Histories.make_shelf  # which would keep the program until the interpreter ends
