"""Throwaway environments for other people's clients: a venv or an npm prefix in a temporary folder.

Knows registries only through `pip` and `npm` as the machine has them configured. Whoever makes one deletes its folder.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

INSTALL_LIMIT_S = 900


@dataclass(frozen=True, slots=True)
class Environment:
    """Installed packages: `bin` holds their programs, `run` is where a client runs and finds its packages."""

    folder: Path
    bin: Path
    run: Path
    versions: dict[str, str]


class NotInstalled(Exception):
    """A registry or an installer said no."""


def install(manager: str, packages: list[str], folder: Path) -> Environment:
    """Install pinned packages; the first is the client itself. Raises NotInstalled with the installer's last words."""
    return {"pip": _install_pip, "npm": _install_npm}[manager](packages, folder)


def _install_pip(packages: list[str], folder: Path) -> Environment:
    _quietly([sys.executable, "-m", "venv", str(folder / "venv")])
    programs = folder / "venv" / "bin"
    pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check"]
    _quietly([*pip, "install", "--quiet", *packages])
    listed = json.loads(_quietly([*pip, "list", "--format", "json"]))
    versions = {one["name"].lower().replace("_", "-"): one["version"] for one in listed}
    return Environment(folder, programs, _run_folder(folder), versions)


def _install_npm(packages: list[str], folder: Path) -> Environment:
    (folder / "package.json").write_text('{"private": true}')
    _quietly(["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--loglevel=error", *packages])
    listed = json.loads(_quietly(["npm", "ls", "--prefix", str(folder), "--json", "--depth=0"]))
    versions = {name: one["version"] for name, one in listed["dependencies"].items()}
    return Environment(folder, folder / "node_modules" / ".bin", _run_folder(folder), versions)


def _run_folder(folder: Path) -> Path:
    """Below the packages, because Node looks for them in the folders above a program."""
    run = folder / "run"
    run.mkdir()
    (run / "home").mkdir()
    return run


def client_environ(environment: Environment, url: str) -> dict[str, str]:
    """What a client sees of this machine: its own home, its own programs, no keys and no proxies of ours."""
    return {
        "PATH": f"{environment.bin}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        "HOME": str(environment.run / "home"),
        "LANG": "C.UTF-8",
        "NO_PROXY": "127.0.0.1,localhost",
        "HEADRACE_URL": url,
    }


def _quietly(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
    if done.returncode != 0:
        raise NotInstalled(f"{' '.join(command[:4])} ... failed: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout
