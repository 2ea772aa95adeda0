"""Writes a model anew as Q4_0 and Q8_0 for llama.cpp, which runs those faster than the Q4_1 that we ship.

`python -m bench.peers.requantize MODEL`, the last step of `make bench-peers`. llama.cpp does it itself, in its own
environment; the files are `.peers/models/STEM-as-TYPE.gguf`, where `bench.engine` looks for them.
"""

import os
import sys
from pathlib import Path

from bench.peers.process import ENVIRONMENTS, PeerProcess
from headrace.models.store import default_home, resolve

TYPES = ("Q4_0", "Q8_0")
FOLDER = ENVIRONMENTS / "models"


def requantized(model: Path) -> dict[str, Path]:
    """Where the files of a model are, by type, whether or not they exist."""
    return {kind: FOLDER / f"{model.stem}-as-{kind}.gguf" for kind in TYPES}


def main() -> None:
    """Write what is missing; a file appears under its name only when it is complete."""
    model = resolve(sys.argv[1], default_home(os.environ))
    FOLDER.mkdir(exist_ok=True)
    for kind, path in requantized(model).items():
        if path.exists():
            continue
        partial = path.with_suffix(".partial")
        with PeerProcess("llama.cpp", "llama_cpp_worker.py") as peer:
            peer("quantize", source=str(model), target=str(partial), type=kind)
        partial.rename(path)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
