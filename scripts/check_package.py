"""Builds the sdist, installs it as a stranger would (a fresh environment, an isolated build, nothing of this tree),
serves, and asks for the console.

    python scripts/check_package.py

Needs package registries (PyPI, npm), a C++ compiler and some minutes; writes to a temporary folder alone.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = """\
port = 0
[backends.nobody]
kind = "openai-compatible"
url = "http://127.0.0.1:9/v1"
models = ["m"]
"""


def main() -> None:
    """Exit with a sentence at the first thing that is wrong."""
    with tempfile.TemporaryDirectory(prefix="headrace-package-") as name:
        folder = Path(name)
        sdist = build_sdist(folder)
        python = install(sdist, folder)
        serve(python, folder)
    print("the sdist builds, installs and serves the console")


def build_sdist(folder: Path) -> Path:
    """The sdist, which has the page's source and nothing built."""
    subprocess.run(
        [sys.executable, "-c", "import sys, scikit_build_core.build as b; b.build_sdist(sys.argv[1])", str(folder)],
        cwd=ROOT,
        check=True,
    )
    sdist = next(folder.glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    if not {"console/build.mjs", "console/package-lock.json", "console/src/main.tsx"} <= names:
        sys.exit("the sdist lacks the source of the console")
    if any("node_modules" in name or name.startswith("src/headrace/server/static") for name in names):
        sys.exit("the sdist has what is built")
    return sdist


def install(sdist: Path, folder: Path) -> Path:
    """The Python of a fresh environment that has it."""
    venv.create(folder / "fresh", with_pip=True)
    python = folder / "fresh" / "bin" / "python"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_REQUIRE", "VIRTUAL"))}
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", sdist]
    subprocess.run(command, cwd=folder, env=environ, check=True)
    return python


def serve(python: Path, folder: Path) -> None:
    """Ask for the page and for every file that it names."""
    (folder / "headrace.toml").write_text(SETTINGS)
    environ = os.environ | {"HEADRACE_HOME": str(folder / "home")}
    command = [python.with_name("headrace"), "serve", "--config", folder / "headrace.toml"]
    with subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            if found is None:
                sys.exit("the installed program does not serve")
            page = urlopen(f"{found[0]}/console/").read().decode()
            files = re.findall(r'"(/console/static/[^"]+)"', page)
            if not files:
                sys.exit(f"the page names no file: {page[:200]}")
            for file in files:
                if not urlopen(found[0] + file).read():
                    sys.exit(f"{file} is empty")
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
