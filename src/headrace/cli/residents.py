"""`headrace models ps`, `load` and `unload`: asking a running server what is in memory, and for something else.

Speaks HTTP with the standard library; whatever goes wrong is a sentence with a remedy. Loads no model itself.
"""

import json as jsonlib
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import typer

from headrace.cli.config import compose
from headrace.core.errors import HeadraceError, InvalidRequest, NotFound, Unavailable

KEY_VARIABLE = "HEADRACE_API_KEY"
_SWITCHED_ON_BY: Final = {
    "/models": "run models of their own (`model`)",
    "/v1/monitors": "have [theft] or [hijack]",
    "/v1/endorsements": "have [flow]",
    "/v1/delegations": "have [delegation]",
    "/v1/provenance": "have [records]",
}
"""What a server's settings must do for the routes below a path to be there."""

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - an address that a server listens on, as a name


class Server:
    """A running server. `url` None: the one that the settings would start."""

    def __init__(self, url: str | None, key: str | None, config: Path | None, scope: str = "admin") -> None:
        if url is None:
            settings = compose({}, os.environ, config).settings
            scheme = "http" if settings.tls is None else "https"
            url = f"{scheme}://{_ANYWHERE.get(settings.host, settings.host)}:{settings.port}"
        if not url.startswith(("http://", "https://")):
            raise InvalidRequest(f"url: {url!r} is no address; write for example http://127.0.0.1:8000.", param="url")
        self.url = url.rstrip("/")
        self._key = key or os.environ.get(KEY_VARIABLE)
        self._scope = scope
        # A proxy is for the world outside, and would be asked for this machine's own address.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path: str, body: Mapping[str, Any] | None = None, method: str | None = None) -> Any:
        """What the server answers, as JSON. Raises HeadraceError with what it says, or with why it says nothing."""
        data = None if body is None else jsonlib.dumps(body).encode()
        headers = {"content-type": "application/json", "user-agent": "headrace-cli"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310
        with self._open(request) as reply:
            return jsonlib.load(reply)

    def events(self, path: str, silence_s: float = 30.0) -> Iterator[str]:
        """The data of a stream's events, until it ends. Raises HeadraceError as `ask` does, and if nothing comes for
        `silence_s`."""
        request = urllib.request.Request(self.url + path)  # noqa: S310
        with self._open(request, silence_s) as reply:
            for line in reply:
                if line.startswith(b"data: "):
                    yield line[6:].decode()

    @contextmanager
    def _open(self, request: urllib.request.Request, timeout_s: float | None = None) -> Iterator[Any]:
        if self._key:
            # Not carried on by a redirection: the key is for the server that was named, and for no other.
            request.add_unredirected_header("authorization", f"Bearer {self._key}")
        try:
            with self._opener.open(request, timeout=timeout_s) as reply:
                yield reply
        except urllib.error.HTTPError as error:
            raise self._refusal(error, request.selector) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise Unavailable(
                    f"{self.url} shows a certificate that nobody trusts here ({reason.verify_message}); name the file "
                    "of its authority in the variable SSL_CERT_FILE, and the server as its certificate does."
                ) from error
            raise Unavailable(
                f"No Headrace server answers at {self.url} ({reason}); start one with `headrace serve`, or name it "
                "with --url."
            ) from error

    def _refusal(self, error: urllib.error.HTTPError, selector: str) -> HeadraceError:
        try:
            said = str(jsonlib.load(error)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            said = f"status {error.code}"
        if error.code in {401, 403}:
            return InvalidRequest(f"{self.url}: {said} Give a key of scope {self._scope} with --key or {KEY_VARIABLE}.")
        if error.code == 404 and "is no route" in said:
            path = selector.partition("?")[0]
            needs = [need for beginning, need in _SWITCHED_ON_BY.items() if path.startswith(beginning)]
            off = f"its settings do not {needs[0]}, or " if needs else ""
            return NotFound(f"{self.url} has no {path}: {off}it is no Headrace server, or an older one.")
        return HeadraceError(f"{self.url}: {said}")


def run_ps(server: Server, *, json: bool) -> None:
    """List the served models and what they hold."""
    answer = server.ask("/models")
    if json:
        typer.echo(jsonlib.dumps(answer, indent=2))
        return
    typer.echo(f"{'MODEL':<32} {'STATE':<8} {'MEMORY':>10} {'REQUESTS':>8} {'IDLE':>8} {'LEAVES IN':>10}")
    for one in answer["data"]:
        held = f"{one['bytes_held'] / 1e6:.1f} MB" if one["bytes_held"] else "-"
        typer.echo(
            f"{one['id']:<32} {one['state']:<8} {held:>10} {one['num_requests']:>8} "
            f"{_seconds(one['idle_s']):>8} {_seconds(one['unloads_in_s']):>10}"
        )
    bound = answer["memory_bytes"]
    of = "no bound" if bound is None else f"of {bound / 1e6:.1f} MB"
    typer.echo(f"\nHeld together: {answer['bytes_held'] / 1e6:.1f} MB ({of})")


def run_load(server: Server, name: str, *, json: bool) -> None:
    """Have a model loaded."""
    _tell(server.ask("/models/load", {"model": name}), json=json)


def run_unload(server: Server, name: str, *, waits: bool, json: bool) -> None:
    """Have a model unloaded."""
    _tell(server.ask("/models/unload", {"model": name, "wait": waits}), json=json)


def _tell(answer: Any, *, json: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps(answer["model"]))
        return
    one = answer["model"]
    typer.echo(f"{one['id']} is {one['state']}, holds {one['bytes_held'] / 1e6:.1f} MB")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"
