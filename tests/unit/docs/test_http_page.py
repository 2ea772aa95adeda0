"""The page about HTTP names every field and every header that the server understands."""

import re
from pathlib import Path

import pytest
from tests.doubles_http import make_app
from tests.scripted import Scripted

from headrace.api import input_fields, openai_fields, responses_fields
from headrace.api.errors import OPENAI
from headrace.api.input_fields import EmbeddingBody, RerankBody, ScoreBody
from headrace.api.openai_fields import ChatBody, CompletionBody
from headrace.server import hints

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "http.md").read_text("utf-8")
INERT = {*openai_fields.INERT_CHAT, *openai_fields.INERT_COMPLETION}
INERT_INPUTS = {*input_fields.INERT_EMBEDDING, *input_fields.INERT_RERANK}


@pytest.mark.parametrize("name", sorted({*ChatBody.__struct_fields__, *CompletionBody.__struct_fields__} - INERT))
def test_every_field_that_does_something_is_described(name: str) -> None:
    assert re.search(rf"`{name}[`.:]", PAGE)


@pytest.mark.parametrize("body", [EmbeddingBody, RerankBody, ScoreBody])
def test_every_field_beside_many_texts_that_does_something_is_described(body: type) -> None:
    section = PAGE.split("## Fields of embeddings", 1)[1].split("\n## ", 1)[0]
    names = set(body.__struct_fields__) - INERT_INPUTS
    assert [name for name in sorted(names) if f"`{name}`" not in section] == []


def test_every_field_of_responses_is_described_or_refused_by_name() -> None:
    section = PAGE.split("## Fields of responses", 1)[1].split("\n## ", 1)[0]
    read_beside = {name for name, values in responses_fields.INERT_SETTINGS.items() if values is None}
    fields = set(responses_fields.CreateBody.__struct_fields__) - read_beside
    assert [name for name in sorted(fields) if not re.search(rf"`{name}[`.]", section)] == []


@pytest.mark.parametrize(
    "route",
    [
        route.name
        for route in make_app(Scripted([])).routes
        if (route.method, route.scope, route.errors) == ("POST", "generate", OPENAI)
    ],
)
def test_every_route_that_runs_a_model_is_listed(route: str) -> None:
    assert re.search(rf"^\|.*`{route}`.*\| POST \| generate \|", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "header", sorted(set(re.findall(r"x-headrace-[a-z-]*[a-z]", Path(hints.__file__).read_text("utf-8"))))
)
def test_every_header_of_ours_is_described(header: str) -> None:
    assert re.search(rf"`{header}[`:]", PAGE)
