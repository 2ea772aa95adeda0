"""Counting and erasing what is on disk, beside a server or without one, and touching nothing else."""

from pathlib import Path

from tests.doubles_disk import FILE_BYTES, LAYOUT, Rig, key

from headrace.engine.kv.cipher import PageCipher
from headrace.engine.kv.page_folder import model_folder, tenant_folder
from headrace.engine.kv.page_survey import erase, survey
from headrace.engine.kv.salt import Salt


def fill(root: Path) -> Rig:
    rig = Rig(root)
    rig.keep(Salt("one"), key(0), key(4))
    rig.clock.now += 10
    rig.keep(Salt("two"), key(0))
    return rig


def test_pages_are_counted_by_tenant_and_model(tmp_path: Path) -> None:
    rig = fill(tmp_path)
    (rig.files()[0].parent / "notes.txt").write_text("x")
    found = survey(tmp_path)
    assert {(one.tenant, one.num_pages, one.num_bytes) for one in found.folders} == {
        (tenant_folder("one"), 2, 2 * FILE_BYTES),
        (tenant_folder("two"), 1, FILE_BYTES),
    }
    assert {one.model for one in found.folders} == {model_folder(LAYOUT.model)}
    assert found.num_foreign == 1
    (two,) = survey(tmp_path, tenant="two").folders
    assert two.oldest_s == two.newest_s == rig.clock.now
    assert survey(tmp_path, model="another").folders == []
    assert survey(tmp_path / "nowhere").folders == []


def test_one_tenant_is_erased_and_a_running_server_computes(tmp_path: Path) -> None:
    rig = fill(tmp_path)
    assert erase(tmp_path, tenant="one") == (2, 2 * FILE_BYTES)
    assert not (tmp_path / tenant_folder("one")).exists()
    assert rig.read(Salt("one"), key(0)) == []
    assert len(rig.read(Salt("two"), key(0))) == 1
    rig.keep(Salt("one"), key(50))
    assert len(rig.restarted().read(Salt("one"), key(50))) == 1


def test_everything_that_is_ours_is_erased_whatever_its_state_and_nothing_else(tmp_path: Path) -> None:
    rig = fill(tmp_path)
    Rig(tmp_path, cipher=PageCipher(bytes(32))).keep(Salt("three"), key(0))
    assert [one.num_encrypted for one in survey(tmp_path, tenant="three").folders] == [1]
    first, second = rig.files()[:2]
    first.write_bytes(first.read_bytes()[:50])
    newer = bytearray(second.read_bytes())
    newer[8] = 99
    second.write_bytes(newer)
    foreign = first.parent / "notes.txt"
    foreign.write_text("x")
    (first.parent / f"{'ab' * 20}.page.{'0' * 12}.partial").write_bytes(b"half")
    assert erase(tmp_path)[0] == 4
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [foreign]
    assert erase(tmp_path) == (0, 0)


def test_one_model_is_erased(tmp_path: Path) -> None:
    fill(tmp_path)
    assert erase(tmp_path, model="another") == (0, 0)
    assert erase(tmp_path, tenant="two", model=LAYOUT.model)[0] == 1
    assert erase(tmp_path, model=LAYOUT.model)[0] == 2
