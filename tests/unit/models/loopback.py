"""A web server on loopback that a test fills with pages and breaks on purpose."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    body: bytes
    content_type: str = "application/octet-stream"
    etag: str | None = None
    takes_ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    status: int = 200
    location: str | None = None


@dataclass
class Site:
    url: str
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    """Answers from the pages of the site that its server belongs to."""

    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        site.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        page = site.pages.get(self.path)
        if page is None:
            self.send_error(404)
        elif page.status != 200:
            self.send_response(page.status)
            self.send_header("Location", page.location or "/")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(page)

    def _send(self, page: Page) -> None:
        start = self._start(page)
        if start and start >= len(page.body):
            self.send_error(416)
            return
        body = page.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(page.body) - 1}/{len(page.body)}")
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(body)))
        if page.etag:
            self.send_header("ETag", page.etag)
        self.end_headers()
        if page.cut_after:
            body = body[: page.cut_after.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def _start(self, page: Page) -> int:
        wanted = self.headers.get("Range")
        is_another_version = self.headers.get("If-Range", page.etag) != page.etag
        if wanted is None or not page.takes_ranges or is_another_version:
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Site]:
    site = Site("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.site = site  # type: ignore[attr-defined]
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
