"""A model's bill of materials: CycloneDX 1.7 in JSON, of what its files say and of nothing that nobody knows.

https://cyclonedx.org/docs/1.7/json: component type `machine-learning-model` with a `modelCard`. Facts are given; knows
no files.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://headrace.dev/bom")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a model. Digests are `sha256:...`; `digest` is what records call it. `files` are by name;
    `adapters` by name. `licence` is an SPDX identifier or a name; empty: unknown. `signer` and `signed_root`: of its
    signature, empty without one. `made_at` is RFC 3339."""

    name: str
    digest: str
    architecture: str
    files: Mapping[str, str]
    version: str
    made_at: str
    context_length: int = 0
    weight_types: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    licence: str = ""
    source: str = ""
    template: str = ""
    signer: str = ""
    signed_root: str = ""
    adapters: Mapping[str, str] = field(default_factory=dict)


def make_bom(facts: ModelFacts) -> dict[str, Any]:
    """The document. The same facts make the same serial number."""
    model_ref = f"model:{facts.name}@{facts.digest}"
    files = [_file(facts, name, digest) for name, digest in sorted(facts.files.items())]
    adapters = [_adapter(name, digest) for name, digest in sorted(facts.adapters.items())]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, model_ref)}",
        "version": 1,
        "metadata": {
            "timestamp": facts.made_at,
            "tools": {"components": [{"type": "application", "name": "headrace", "version": facts.version}]},
            "component": _model(facts, model_ref),
        },
        "components": [*files, *adapters],
        "dependencies": [
            {"ref": model_ref, "dependsOn": [one["bom-ref"] for one in files]},
            *({"ref": one["bom-ref"], "dependsOn": [model_ref]} for one in adapters),
        ],
    }


def _model(facts: ModelFacts, ref: str) -> dict[str, Any]:
    said = {
        "headrace:context_length": facts.context_length or "",
        "headrace:weight_types": ", ".join(facts.weight_types),
        "headrace:template": facts.template,
        "headrace:signed_by": facts.signer,
        "headrace:signed_root": facts.signed_root,
    }
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": facts.name,
        "hashes": [_hash(facts.digest)],
        "modelCard": {
            "modelParameters": {
                "architectureFamily": "transformer",
                "modelArchitecture": facts.architecture,
                **({"task": ", ".join(facts.tasks)} if facts.tasks else {}),
                "inputs": [{"format": "text"}],
                "outputs": [{"format": "text"}],
            }
        },
        "properties": [{"name": name, "value": str(value)} for name, value in said.items() if value],
    }
    if facts.licence:
        component["licenses"] = [{"license": {"name": facts.licence}}]
    if facts.source:
        component["externalReferences"] = [{"type": "distribution", "url": facts.source}]
    return component


def _file(facts: ModelFacts, name: str, digest: str) -> dict[str, Any]:
    shown = facts.name if name == "." else name
    return {"type": "file", "bom-ref": f"file:{shown}@{digest}", "name": shown, "hashes": [_hash(digest)]}


def _adapter(name: str, digest: str) -> dict[str, Any]:
    ref = f"adapter:{name}@{digest}"
    return {"type": "machine-learning-model", "bom-ref": ref, "name": name, "hashes": [_hash(digest)]}


def _hash(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest.removeprefix("sha256:")}
