"""Writes the lock files beside it from pyproject.toml: exact versions with hashes, no address of any package index.

Run by `make lock` in an environment that has pip-tools. Every file is constrained by the ones before it, so that all
of them can be installed together. Resolved for the Python and platform that runs it (Linux x86-64 with Python 3.11 in
the repository); the hashes cover every wheel of each version.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXTRAS = {"serve": None, "build": "build", "test": "test", "check": "check", "console": "console"}
HEADER = "# {name}: written by `make lock` (Linux x86-64, Python 3.11); do not edit.\n"


def compile_one(name: str, wanted: list[str], constraints: list[Path]) -> None:
    """Lock one list of requirements."""
    output = HERE / f"{name}.txt"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{name}.in"
        source.write_text("".join(f"{line}\n" for line in wanted), "utf-8")
        lock = Path(folder) / "lock.txt"
        command = [sys.executable, "-m", "piptools", "compile", "--quiet", "--generate-hashes", "--allow-unsafe"]
        command += ["--strip-extras", "--no-header", "--no-annotate", "--resolver=backtracking"]
        command += ["--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host", "--no-emit-options"]
        for constraint in constraints:
            command += ["--constraint", str(constraint)]
        command += ["--output-file", str(lock), str(source)]
        subprocess.run(command, check=True)  # noqa: S603 - a fixed command
        output.write_text(HEADER.format(name=name) + lock.read_text("utf-8"), "utf-8")


def main() -> None:
    """Write all lock files."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    done: list[Path] = []
    for name, extra in EXTRAS.items():
        wanted = project["optional-dependencies"][extra] if extra else project["dependencies"]
        compile_one(name, wanted, done)
        done.append(HERE / f"{name}.txt")


if __name__ == "__main__":
    main()
