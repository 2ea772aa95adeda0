"""Run other people's clients, as they come from their registries, against the scripted server.

    python -m tests.clients [NAME ...]        all of them, or those named; `make clients CLIENT=NAME`

Each folder here is one client: `client.toml` pins its packages and says how it starts, `client.py` or `client.mjs` uses
it, prints `did THING` after each thing that worked and ends with an error at the first that did not, and `check.py`,
where there is one, asserts on what the server got. What happened is written to `results/NAME.json`, from which
docs/clients.py writes the table in docs/reference/clients.md.
"""

import argparse
import datetime
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.environment import Environment, NotInstalled, client_environ, install
from tests.clients.serving import Serving, serving

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
RUN_LIMIT_S = 240


@dataclass(frozen=True, slots=True)
class Client:
    """One `client.toml`; files that its folder lacks are those of the client that it is `like`."""

    name: str
    folder: Path
    title: str
    manager: str
    packages: list[str]
    command: list[str]
    environ: dict[str, str] = field(default_factory=dict)
    script: str = "../script.json"
    like: str = ""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a client printed, what the server's backend was asked, and the folder that the client ran in."""

    printed: str
    requests: list[dict[str, Any]]
    folder: Path


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table."""

    title: str
    package: str
    version: str
    did: list[str]
    num_requests: int
    date: str
    failure: str = ""


def clients() -> dict[str, Client]:
    """Every client here, by the name of its folder."""
    paths = sorted(HERE.glob("*/client.toml"))
    return {
        path.parent.name: Client(path.parent.name, path.parent, **tomllib.loads(path.read_text())) for path in paths
    }


def run_client(client: Client) -> Result:
    """Install, run, check; a client that could not be installed raises NotInstalled."""
    with tempfile.TemporaryDirectory(prefix="headrace-client-") as name:
        environment = install(client.manager, client.packages, Path(name))
        for folder in (HERE / client.like, client.folder) if client.like else (client.folder,):
            shutil.copytree(folder, environment.run, dirs_exist_ok=True)
        with serving((client.folder / client.script).resolve(), Path(name)) as server:
            printed, failure = _run(client, environment, server)
            ran = Ran(printed, server.requests(), environment.run)
        if not failure:
            failure = _checked(client, ran)
        if failure:
            sys.stdout.write(f"{(Path(name) / 'server.log').read_text()[-3000:]}\n")
        package = _package(client.packages[0])
        did = [line.removeprefix("did ") for line in printed.splitlines() if line.startswith("did ")]
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        version = environment.versions[package]
        return Result(client.title, package, version, did, len(ran.requests), today, failure)


def _run(client: Client, environment: Environment, server: Serving) -> tuple[str, str]:
    environ = client_environ(environment, server.url)
    environ |= {name: value.replace("{url}", server.url) for name, value in client.environ.items()}
    command = [part.replace("{url}", server.url) for part in client.command]
    program = shutil.which(command[0], path=environ["PATH"]) or command[0]
    try:
        done = subprocess.run(
            [program, *command[1:]],
            cwd=environment.run,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return str(error.stdout or ""), f"still ran after {RUN_LIMIT_S} s: {str(error.stderr or '')[-1500:]}"
    failure = "" if done.returncode == 0 else f"ended with {done.returncode}: {(done.stderr or done.stdout)[-4000:]}"
    return done.stdout, failure


def _checked(client: Client, ran: Ran) -> str:
    path = client.folder / "check.py"
    check = check_tools if not path.exists() else _load(path)
    try:
        check(ran)
    except AssertionError as error:
        return f"the server got something else: {error!r}"
    return ""


def check_tools(ran: Ran) -> None:
    """The small exchange with a tool took place: it was offered, called, and its result came back."""
    offered = [request for request in ran.requests if any(tool["name"] == "get_weather" for tool in request["tools"])]
    assert offered, "no request offered the tool"
    said = [message for request in offered for message in request["messages"]]
    calls = [call for message in said for call in message["tool_calls"] if call["name"] == "get_weather"]
    assert any(json.loads(call["arguments"]) == {"city": "Paris"} for call in calls), "the call did not come back"
    results = [message for message in said if message["role"] == "tool"]
    assert any("21" in part["text"] for message in results for part in message["parts"]), "no result came back"
    assert {message["tool_call_id"] for message in results} <= {call["id"] for call in calls}, "a result of no call"


def _load(path: Path) -> Callable[[Ran], None]:
    spec = importlib.util.spec_from_file_location(f"tests.clients.{path.parent.name}.check", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    check: Callable[[Ran], None] = module.check
    return check


def _package(pinned: str) -> str:
    """The name in `name==1`, `name[extra]==1`, `name@1` and `@scope/name@1`."""
    name = pinned.split("==", 1)[0].split("[", 1)[0]
    return name if "@" not in name[1:] else name[: name.index("@", 1)]


def main() -> int:
    """Run, tell, and write down what happened."""
    known = clients()
    parser = argparse.ArgumentParser(description="Run other people's clients against the scripted server.")
    parser.add_argument("names", nargs="*", choices=[*known, []], help=", ".join(known))
    failed = 0
    for name in parser.parse_args().names or known:
        try:
            result = run_client(known[name])
        except NotInstalled as error:
            failed += 1
            sys.stdout.write(f"{name}: not installed: {error}\n")
            continue
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(asdict(result), indent=2) + "\n")
        failed += bool(result.failure)
        what = f"FAILED: {result.failure}" if result.failure else f"{', '.join(result.did)}"
        sys.stdout.write(f"{name} {result.version}: {what} ({result.num_requests} requests)\n")
        sys.stdout.flush()
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
