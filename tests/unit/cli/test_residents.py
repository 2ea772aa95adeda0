"""What commands that ask a running server say of one that has not what they ask for."""

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from tests.unit.server.test_tls import make_pair

from headrace.cli.residents import Server
from headrace.core.errors import NotFound, Unavailable


class _WithoutRoutes(BaseHTTPRequestHandler):
    """As a server answers that has a part switched off."""

    authorizations: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.authorizations.append((self.path, self.headers.get("authorization")))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "/elsewhere")
            self.end_headers()
            return
        body = b"""{"error": {"message": "'/x' is no route of this server; see GET /v1/models for a start."}}"""
        self.send_response(404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing of it is of interest."""


@pytest.fixture
def server() -> Iterator[Server]:
    with HTTPServer(("127.0.0.1", 0), _WithoutRoutes) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield Server(f"http://127.0.0.1:{listening.server_port}", "sk-mine", None)
        finally:
            listening.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/models", "has no /models: its settings do not run models of their own (`model`), or it is no Headrace"),
        ("/v1/monitors", "has no /v1/monitors: its settings do not have [theft] or [hijack], or it is no Headrace"),
        ("/v1/endorsements/withheld", "has no /v1/endorsements/withheld: its settings do not have [flow], or it is no"),
        ("/v1/provenance/rec_1?wait_s=1", "has no /v1/provenance/rec_1: its settings do not have [records], or it"),
        ("/v1/live?once=true", "has no /v1/live: it is no Headrace server, or an older one."),
    ],
)
def test_a_route_that_is_not_there_is_told_with_what_would_switch_it_on(
    server: Server, path: str, sentence: str
) -> None:
    with pytest.raises(NotFound) as raised:
        server.ask(path)
    assert sentence in str(raised.value)


def test_a_key_is_not_carried_on_to_where_a_server_points(server: Server) -> None:
    _WithoutRoutes.authorizations.clear()
    with pytest.raises(NotFound):
        server.ask("/moved")
    assert _WithoutRoutes.authorizations == [("/moved", "Bearer sk-mine"), ("/elsewhere", None)]


def test_a_certificate_that_nobody_trusts_is_told_as_that(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with HTTPServer(("127.0.0.1", 0), _WithoutRoutes) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        listening.handle_error = lambda *_: None  # type: ignore[method-assign]  # the caller hangs up, as it should
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            with pytest.raises(Unavailable, match=r"shows a certificate that nobody trusts here \(.*SSL_CERT_FILE"):
                Server(f"https://127.0.0.1:{listening.server_port}", None, None).ask("/models")
        finally:
            listening.shutdown()
            thread.join()
