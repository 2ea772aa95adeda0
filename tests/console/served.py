"""The server that the console's tests look at: `headrace serve` as a process of its own, with the real model, a gateway
in front, records and their log, a key for each role, and a second backend that plays a script.

Knows no browser. The port stays the same over a restart, as it does for whoever keeps a page open.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from headrace.cli.keys import KeyRights, add_key
from headrace.models.store import open_home

ROLES: Final = {
    "admin": frozenset({"generate", "admin", "accounts", "metrics", "logprobs"}),
    "observer": frozenset({"observe"}),
    "user": frozenset({"generate"}),
}
MODEL: Final = "smollm2-135m-instruct"
SCRIPT: Final = Path(__file__).with_name("script.json")
_PROGRAM: Final = [sys.executable, "-c", "from headrace.cli.main import main; main()"]
_SETTINGS: Final = """\
port = {port}
model = "{model}"
max_sequences = 8

[backends.local]
kind = "engine"

[backends.far]
kind = "openai-compatible"
url = "{far}/v1"
[backends.far.models.scripted]
[backends.far.models.scripted.prices]
input = 10.0
output = 20.0

[routes.chat]
candidates = ["local/{model}"]

[routes.either]
candidates = ["local/{model}", "far/scripted"]

[routes.scripted]
candidates = ["far/scripted"]

[prices."{model}"]
input = 1.0
output = 2.0

[records]
node = "console.test"

[log]
origin = "console.test/log"

[policy]
mode = "{policy}"

[theft]
mode = "shadow"
bias_vectors = 1
{more}
"""


@dataclass
class ConsoleServer:
    """A running server. `keys` are by role: admin, observer, user."""

    url: str
    home: Path
    folder: Path
    keys: dict[str, str]
    file: Path
    process: subprocess.Popen[bytes] | None = None
    _log: Path = field(init=False)

    def __post_init__(self) -> None:
        self._log = self.folder / "server.log"

    def start(self) -> None:
        """Come up, and return when requests are answered."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        environ["HEADRACE_HOME"] = str(self.home)
        command = [*_PROGRAM, "serve", "--config", str(self.file)]
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environ)
        assert process.stdout is not None
        self.process = process
        if not process.stdout.readline():  # what it says when it answers
            raise AssertionError(f"the server ended with {process.wait()}:\n{self.log[-4000:]}")

    def stop(self) -> None:
        """Go down as at Ctrl-C, with nobody left who answers at the port."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate()
        self.process = None

    def restart(self) -> None:
        """Go down and come up."""
        self.stop()
        self.start()

    def call(self, method: str, path: str, body: Any = None, role: str | None = "admin", key: str | None = None) -> Any:
        """Ask as a client with a key does; what JSON it answers, or its text. Raises HTTPError."""
        shown = key or (self.keys[role] if role else None)
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {shown}"} if shown else {})
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.url + path, data, headers, method=method)) as answer:
            text = answer.read()
        try:
            return json.loads(text)
        except ValueError:
            return text.decode()

    def issue(self, name: str, *scopes: str, tenant: str = "acme") -> str:
        """A new key, which the running server knows when this returns."""
        body = {"name": name, "tenant": tenant, "scopes": list(scopes)}
        secret: str = self.call("POST", "/v1/accounts/keys", body)["secret"]
        return secret

    def wait_for_rest(self, model: str) -> None:
        """Until a backend that asked for a rest is asked again: the next test would be told of that rest."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        give_up_s = time.monotonic() + 60
        while True:
            try:
                self.call("POST", "/v1/chat/completions", body)
            except HTTPError as error:
                if error.code != 503 or time.monotonic() > give_up_s:
                    raise
            else:
                return

    @property
    def log(self) -> str:
        """What the server wrote."""
        return self._log.read_text("utf-8", "replace")


@contextmanager
def serving(
    folder: Path, model: Path, more: str = "", scheme: str = "http", policy: str = "shadow"
) -> Iterator[ConsoleServer]:
    """A server with `more` settings, and policies in the mode `policy`; the model's files are those of `model`,
    wherever they lie."""
    home = folder / "home"
    layout = open_home(home)
    (layout.models / MODEL).symlink_to(model.parent if model.is_file() else model)
    now = datetime.now(UTC)
    keys = {
        role: add_key(layout.keys, role, KeyRights(tenant="acme", scopes=scopes), now) for role, scopes in ROLES.items()
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with far_backend(folder) as far:
        file = folder / "headrace.toml"
        settings = _SETTINGS.format(port=port, model=MODEL, far=far, policy=policy, more=more)
        file.write_text(settings, "utf-8")
        server = ConsoleServer(f"{scheme}://127.0.0.1:{port}", home, folder, keys, file)
        server.start()
        try:
            yield server
        finally:
            if server.process is not None:
                server.stop()


@contextmanager
def far_backend(folder: Path) -> Iterator[str]:
    """A backend elsewhere: OpenAI's protocol, and a script in the place of a model."""
    command = [sys.executable, "-m", "tests.scripted", "--script", str(SCRIPT)]
    with (
        (folder / "far.log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=Path(__file__).parents[2]) as process,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().decode().removeprefix("Serving ").strip()
        assert url, (folder / "far.log").read_text()
        try:
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
