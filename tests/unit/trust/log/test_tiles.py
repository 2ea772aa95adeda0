"""Where tiles lie and what is in them: the specification's own examples, every odd path, bundles to the byte."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles_log import Files, Log

from headrace.trust.log.fault import LogFault
from headrace.trust.log.merkle import hash_perfect
from headrace.trust.log.reading import Reader
from headrace.trust.log.tiles import (
    Tile,
    decode_bundle,
    decode_hashes,
    encode_bundle,
    encode_index,
    parse_path,
    tiles_of,
)
from headrace.trust.log.tree import Tree


def test_the_example_of_a_path_is_that_of_the_specification() -> None:
    assert encode_index(1234067) == "x001/x234/067"
    assert Tile(0, 1234067).path == "tile/0/x001/x234/067"
    assert Tile(None, 5, 3).path == "tile/entries/005.p/3"


def test_a_tree_of_70000_has_the_tiles_that_the_specification_counts() -> None:
    """tlog-tiles, Partial Tiles."""
    tiles = [tile for tile in tiles_of(70_000) if tile.level is not None]
    assert sum(tile.level == 0 and tile.is_full for tile in tiles) == 273
    assert [tile.width for tile in tiles if tile.level == 0 and not tile.is_full] == [112]
    assert [(tile.width, tile.is_full) for tile in tiles if tile.level == 1] == [(256, True), (17, False)]
    assert [tile.width for tile in tiles if tile.level == 2] == [1]
    assert [tile for tile in tiles_of(256) if tile.level is not None] == [Tile(0, 0), Tile(1, 0, 1)]


@given(
    level=st.none() | st.integers(0, 63), index=st.integers(0, 10**12) | st.integers(0, 2000), width=st.integers(1, 256)
)
def test_a_path_comes_back_as_the_tile_it_is_of(level: int | None, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert parse_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/x001",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x001/x002",
        "tile/0/X001/002",
        "tile/00/001",
        "tile/01/001",
        "tile/64/001",
        "tile/-1/001",
        "tile/+1/001",
        "tile/0/001.p/0",
        "tile/0/001.p/00",
        "tile/0/001.p/01",
        "tile/0/001.p/256",
        "tile/0/001.p/",
        "tile/0/001.p",
        "tile/0/001.p/1/",
        "tile/0/001/",
        "tile/0/001 ",
        "tile/0/001\n",
        "tile/0/001\0",
        "tile//001",
        "/tile/0/001",
        "tile/0/../../checkpoint",
        "tile/0/..",
        "tile/entries/../0/001",
        "tile/entry/001",
        "tile/ENTRIES/001",
        "tile/0/٠٠١",
        "tile/٠/001",
        "checkpoint",
        "../provenance.db",
        "tile/0/%30%30%31",
    ],
)
def test_a_path_in_any_other_form_is_of_no_tile(path: str) -> None:
    assert parse_path(path) is None


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="tile/enrsx0123456789.p ", max_size=30))
def test_no_two_paths_are_of_one_tile(path: str) -> None:
    tile = parse_path(path)
    assert tile is None or tile.path == path


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(0, 700), min_size=2, max_size=2))
def test_what_a_writer_writes_from_one_size_to_another_is_what_tiles_of_lists(sizes: list[int]) -> None:
    start, stop = sorted(sizes)
    tree = Tree()
    tree.append([b"e"] * start)
    written = {tile for tile, _ in tree.append([b"e"] * (stop - start))}
    assert written == set(tiles_of(stop, start=start))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_a_bundle_comes_back_as_its_entries(entries: list[bytes]) -> None:
    tile = Tile(None, 0, len(entries))
    assert decode_bundle(encode_bundle(entries), tile) == entries


def test_a_bundle_is_lengths_and_entries_big_endian() -> None:
    assert encode_bundle([b"", b"abc"]) == b"\0\0\0\3abc"
    assert encode_bundle([b"x" * 65_535])[:3] == b"\xff\xffx"
    with pytest.raises(LogFault, match="65536"):
        encode_bundle([b"x" * 65_536])


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\1", b"\0\2a", b"\0\1a\0", b"\0\1a\0\0\0\0", b"\0\1a"])
def test_a_bundle_that_is_cut_or_has_more_or_less_entries_is_refused(data: bytes) -> None:
    decode_bundle(b"\0\1a\0\0", Tile(None, 0, 2))
    with pytest.raises(LogFault):
        decode_bundle(data, Tile(None, 0, 2))


@pytest.mark.parametrize("length", [0, 31, 32, 63, 65, 96])
def test_a_tile_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(LogFault):
        decode_hashes(bytes(length), Tile(0, 0, 2))


def test_a_partial_tile_that_is_gone_is_read_from_the_full_one() -> None:
    log = Log()
    log.grow(300)
    reader = Reader(log.files, 300)
    root = reader.root()
    log.grow(300)
    for path in [path for path in log.files if ".p/" in path]:
        if path.split(".p/")[0] in log.files:
            del log.files[path]
    old = Reader(log.files, 300)
    assert old.root() == root
    assert old.entry(299) == b"entry 299"
    assert [old.inclusion(index) for index in (0, 255, 299)] == [reader.inclusion(index) for index in (0, 255, 299)]


def test_a_tree_never_shows_what_lies_behind_its_size() -> None:
    log = Log()
    log.grow(600)
    reader = Reader(log.files, 300)
    with pytest.raises(LogFault):
        reader.entry(300)
    with pytest.raises(LogFault):
        reader.node(0, 300)
    with pytest.raises(LogFault):
        reader.node(8, 1)


def test_a_tile_is_the_subtree_of_eight_levels_that_the_specification_says() -> None:
    log = Log()
    log.grow(256 * 3)
    below = [log.files[f"tile/0/00{index}"] for index in range(3)]
    assert log.files["tile/1/000.p/3"] == b"".join(hash_perfect(list(pieces(one))) for one in below)


def pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 32):
        yield data[at : at + 32]


def test_missing_files_are_named() -> None:
    with pytest.raises(LogFault, match=r"tile/0/000\.p/7"):
        Reader(Files(), 7).root()
