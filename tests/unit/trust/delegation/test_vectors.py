"""The samples of the Biscuit specification, every one: what the library that we go by makes of them."""

import json
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from biscuit_auth import AuthorizationError, AuthorizerBuilder, Biscuit, BiscuitValidationError, PublicKey
from tests.vectors import vectors

from headrace.trust.delegation.token import RootKeys, VoidToken, read_token
from headrace.trust.delegation.wire import count_blocks

FOLDER = vectors("biscuit")
SAMPLES = json.loads((FOLDER / "samples.json").read_text("utf-8"))
CASES = [
    pytest.param(case, validation, id=f"{case['filename'].removesuffix('.bc')}-{name or 'plain'}")
    for case in SAMPLES["testcases"]
    for name, validation in case["validations"].items()
]


def compare(left: Any, right: Any = None) -> Any:
    """What test035_ffi calls: a function of the host, which a verifier has to be given. Ours gives none, so that a
    token that calls one is refused."""
    if right is None:
        return left
    return "equal strings" if left == right else "different strings"


def test_every_sample_is_there() -> None:
    assert len(SAMPLES["testcases"]) == 38
    assert len(CASES) == 50


@pytest.mark.parametrize(("case", "validation"), CASES)
def test_a_sample_ends_as_the_specification_says(case: dict[str, Any], validation: dict[str, Any]) -> None:
    root = PublicKey("ed25519/" + SAMPLES["root_public_key"])
    result = validation["result"]
    token = (Path(FOLDER) / case["filename"]).read_bytes()
    if "Format" in result.get("Err", {}):
        with pytest.raises(BiscuitValidationError):
            Biscuit.from_bytes(token, root)
        return
    biscuit = Biscuit.from_bytes(token, root)
    assert biscuit.revocation_ids == validation["revocation_ids"]
    builder = AuthorizerBuilder(validation["authorizer_code"])
    if case["filename"] == "test035_ffi.bc":
        builder.register_extern_func("test", compare)  # type: ignore[attr-defined]
    if "Ok" in result:
        assert builder.build(biscuit).authorize() == result["Ok"]
    else:
        # A rule that makes facts out of nothing is found when the blocks are put together.
        with pytest.raises((AuthorizationError, BiscuitValidationError)):
            builder.build(biscuit).authorize()


def test_a_block_signed_with_ecdsa_is_refused_because_its_id_could_be_changed() -> None:
    token = (FOLDER / "test036_secp256r1.bc").read_bytes()
    keys = RootKeys.of(["ed25519/" + SAMPLES["root_public_key"]])
    with pytest.raises(VoidToken, match="another kind of key than Ed25519"):
        read_token(urlsafe_b64encode(token).decode(), keys)


SIGNED = [case for case in SAMPLES["testcases"] if "Format" not in str(case["validations"])]
"""Those whose blocks are what they were when they were signed."""


@pytest.mark.parametrize("case", SIGNED, ids=lambda case: case["filename"])
def test_what_is_counted_of_a_sample_is_what_it_has(case: dict[str, Any]) -> None:
    counts = count_blocks((FOLDER / case["filename"]).read_bytes())
    for count, told in zip(counts, case["token"], strict=True):
        assert list(count.symbols) == told["symbols"]
        statements = [one for one in told["code"].split(";\n") if one]
        checks = [one for one in statements if one.startswith(("check ", "reject "))]
        rules = [one for one in statements if " <- " in one]
        assert count.num_rules == len(rules)
        assert count.num_facts == len(statements) - len(checks) - len(rules)
        assert count.num_queries >= len(checks)
