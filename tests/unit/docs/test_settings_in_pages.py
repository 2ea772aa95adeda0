"""Every settings file in the documents passes the check that `headrace config check` makes of it.

A block that begins with `# headrace.toml` is a whole file; those behind it on the page go on with it.
"""

import re
from pathlib import Path

import pytest

from headrace.cli.config import compose
from headrace.cli.secret_text import secret_places

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def files_of(page: Path) -> list[str]:
    """What stands on a page, each with everything that goes on with it. Plain settings come before tables."""
    found: list[str] = []
    plain, tables, has_begun = "", "", False
    for block in re.findall(r"^```toml\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL):
        if block.startswith("# headrace.toml"):
            plain, tables, has_begun = "", "", True
        if not has_begun:
            continue  # another program's file
        head, bracket, rest = block.partition("\n[") if not block.startswith("[") else ("", "\n[", block[1:])
        plain += head + "\n"
        tables += bracket + rest
        found.append(plain + tables)
    return found


FILES = [(page, number, text) for page in PAGES for number, text in enumerate(files_of(page), 1)]


@pytest.mark.parametrize(
    ("page", "number", "text"), FILES, ids=[f"{page.relative_to(ROOT)}-{number}" for page, number, _ in FILES]
)
def test_a_settings_file_on_a_page_is_right(tmp_path: Path, page: Path, number: int, text: str) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(text, "utf-8")
    resolved = compose({}, {"HOME": "/h"}, file)
    assert resolved.report.problems == []
    assert all(secret.place in text for secret in secret_places(resolved.settings).values())


def test_there_are_such_files() -> None:
    assert any(page.name == "gateway.md" for page, _, _ in FILES)
