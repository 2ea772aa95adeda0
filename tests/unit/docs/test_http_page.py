"""The page about HTTP names every field and every header that the server understands."""

import re
from pathlib import Path

import pytest

from headrace.api import openai_fields as table
from headrace.api.openai_fields import ChatBody, CompletionBody
from headrace.server import hints

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "http.md").read_text("utf-8")
INERT = {*table.INERT_CHAT, *table.INERT_COMPLETION}


@pytest.mark.parametrize("name", sorted({*ChatBody.__struct_fields__, *CompletionBody.__struct_fields__} - INERT))
def test_every_field_that_does_something_is_described(name: str) -> None:
    assert re.search(rf"`{name}[`.]", PAGE)


@pytest.mark.parametrize(
    "header", sorted(set(re.findall(r"x-headrace-[a-z]+", Path(hints.__file__).read_text("utf-8"))))
)
def test_every_header_of_ours_is_described(header: str) -> None:
    assert re.search(rf"`{header}[`:]", PAGE)
