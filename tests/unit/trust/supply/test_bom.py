"""A model's bill of materials, held against CycloneDX's own strict schema."""

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from headrace.trust.supply.bom import ModelFacts, make_bom

FACTS = ModelFacts(
    name="small",
    digest="sha256:" + "ab" * 32,
    architecture="llama",
    files={"model.safetensors": "cd" * 32, "config.json": "ef" * 32},
    version="0.1.0",
    made_at="2026-11-26T12:00:00Z",
    context_length=2048,
    tasks=("generate",),
    licence="Apache-2.0",
    source="pypi:small==1/model.safetensors",
    signer="key 0123",
    signed_root="sha256:" + "01" * 32,
    adapters={"french": "sha256:" + "23" * 32},
)
BARE = ModelFacts(
    name="m",
    digest="sha256:" + "00" * 32,
    architecture="x",
    files={".": "11" * 32},
    version="0",
    made_at="2026-11-26T12:00:00Z",
)


@pytest.mark.parametrize("facts", [FACTS, BARE], ids=["everything known", "little known"])
def test_the_document_is_valid(facts: ModelFacts) -> None:
    fault = JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(make_bom(facts)))
    assert fault is None, fault


def test_the_schema_would_notice_a_field_of_our_own() -> None:
    made = make_bom(FACTS)
    made["metadata"]["component"]["modelCard"]["invented"] = 1
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(made)) is not None


def test_the_same_model_has_the_same_number_and_another_another() -> None:
    assert make_bom(FACTS)["serialNumber"] == make_bom(FACTS)["serialNumber"] != make_bom(BARE)["serialNumber"]


def test_an_adapter_depends_on_its_model() -> None:
    made = make_bom(FACTS)
    model = made["metadata"]["component"]["bom-ref"]
    assert {"ref": "adapter:french@" + FACTS.adapters["french"], "dependsOn": [model]} in made["dependencies"]
