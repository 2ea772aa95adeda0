"""The catalog's entries are complete and its aliases lead somewhere."""

import re

from headrace.models.catalog import ALIASES, CATALOG, DEFAULT_MODEL, canonical_name
from headrace.models.pull import _NAME


def test_every_entry_promises_a_hash_a_size_and_a_licence() -> None:
    for name, entry in CATALOG.items():
        assert entry.name == name and _NAME.fullmatch(name)
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert entry.size > 0 and entry.licence and entry.about
        assert entry.source.endswith(entry.file)


def test_aliases_lead_to_entries_and_hide_none() -> None:
    assert set(ALIASES.values()) <= set(CATALOG)
    assert set(ALIASES).isdisjoint(CATALOG)
    assert DEFAULT_MODEL in CATALOG


def test_a_name_that_the_catalog_does_not_know_is_left_as_it_is() -> None:
    assert canonical_name("SmolLM2") == DEFAULT_MODEL
    assert canonical_name("My/Model.GGUF") == "My/Model.GGUF"
