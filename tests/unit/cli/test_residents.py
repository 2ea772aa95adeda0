"""What commands that ask a running server say of one that has not what they ask for."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from headrace.cli.residents import Server
from headrace.core.errors import NotFound


class _WithoutRoutes(BaseHTTPRequestHandler):
    """As a server answers that has a part switched off."""

    def do_GET(self) -> None:
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
        yield Server(f"http://127.0.0.1:{listening.server_port}", None, None)
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
