"""The catalog's entries are complete and its aliases lead somewhere."""

import re

from headrace.models.catalog import ALIASES, CATALOG, DEFAULT_MODEL, canonical_name
from headrace.models.pull import _NAME


def test_every_entry_promises_a_hash_a_size_and_a_licence() -> None:
    for name, entry in CATALOG.items():
        assert entry.name == name and _NAME.fullmatch(name)
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert entry.size > 0 and entry.licence and entry.about
        assert all(entry.file in source for source in ([part.source for part in entry.parts] or [entry.source]))


def test_parts_are_as_long_as_their_file() -> None:
    in_parts = [entry for entry in CATALOG.values() if entry.parts]
    assert in_parts
    for entry in in_parts:
        assert sum(part.size for part in entry.parts) == entry.size
        assert all(re.fullmatch(r"[0-9a-f]{64}", part.sha256) for part in entry.parts)
        assert len({part.source for part in entry.parts}) == len(entry.parts)


def test_aliases_lead_to_entries_and_hide_none() -> None:
    assert set(ALIASES.values()) <= set(CATALOG)
    assert set(ALIASES).isdisjoint(CATALOG)
    assert DEFAULT_MODEL in CATALOG


def test_a_name_that_the_catalog_does_not_know_is_left_as_it_is() -> None:
    assert canonical_name("SmolLM2") == DEFAULT_MODEL
    assert canonical_name("My/Model.GGUF") == "My/Model.GGUF"
