"""Where the test vectors of others lie: a folder beside the repository, which tests skip without, visibly.

Knows no formats.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def vectors(name: str) -> Path:
    """The folder of one set: merkle, tessera, wycheproof, biscuit. Skips the test, or the module, without it."""
    for beside in (ROOT.parent, ROOT.parent.parent):
        if (folder := beside / "shared" / "vectors" / name).is_dir():
            return folder
    pytest.skip(f"there is no ../shared/vectors/{name} beside the repository", allow_module_level=True)
