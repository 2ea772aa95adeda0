"""The table of providers holds together."""

from pathlib import Path

import pytest

from headrace.api.outbound.registry import CODECS
from headrace.gateway.settings import BackendSettings, Dialect
from headrace.gateway.upstreams.address import check_path, read_url
from headrace.gateway.upstreams.catalog import CATALOG, open_remote


@pytest.mark.parametrize("kind", CATALOG)
def test_a_row_is_usable_as_it_stands(kind: str) -> None:
    row = CATALOG[kind]
    for url in filter(None, row.urls.values()):
        address = read_url(url)
        assert address.is_tls != (address.host == "127.0.0.1"), "keys are never sent in the clear"
        assert row.has_secret == address.is_tls
    if row.health_path is not None:
        check_path(row.health_path)
    for dialect in row.urls:
        if dialect in CODECS:
            url = row.url_of(dialect) or "http://127.0.0.1:1"
            open_remote(BackendSettings(name="b", kind=kind, dialect=dialect, url=url), secret="k")


def test_a_dialect_that_the_settings_name_goes_to_its_own_address() -> None:
    assert CATALOG["vllm"].url_of(Dialect.MESSAGES) == "http://127.0.0.1:8000"
    assert CATALOG["vllm"].url == "http://127.0.0.1:8000/v1"
    assert CATALOG["groq"].url_of(Dialect.GEMINI) == ""


@pytest.mark.parametrize("kind", CATALOG)
def test_the_guide_has_the_row(kind: str) -> None:
    row = CATALOG[kind]
    guide = (Path(__file__).parents[4] / "docs" / "guides" / "backends.md").read_text("utf-8")
    dialects = ", ".join(f"`{dialect}`" for dialect in row.urls)
    url = f"`{row.url}`" if row.url else "yours"
    key = f"`{row.key_variable}`" if row.has_secret else ""
    assert f"| `{kind}` | {row.title} | {dialects} | {url} | {key} |" in guide
