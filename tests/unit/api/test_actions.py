"""What is remembered of a body: what its route knows, cut, and nothing that is secret."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.api.actions import HIDDEN, MAX_ASKED, cut_asked, read_asked
from headrace.api.openapi_accounts import KeyOrderBody

KEY = "hr_" + "Ab1" * 14
TOKEN = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm5hIn0.c2ln"


def asked(body: Any, **params: str) -> tuple[str, dict[str, Any]]:
    return read_asked(KeyOrderBody, params, json.dumps(body).encode())


def test_a_body_is_remembered_by_the_fields_that_its_route_knows_and_names_its_target() -> None:
    assert asked({"name": "laptop", "share": 2, "secret": KEY, "x": 1}) == (
        "laptop",
        {"name": "laptop", "share": 2, "...": "(2 unknown)"},
    )
    assert asked({"name": "laptop"}, name="of the path")[0] == "of the path"
    assert read_asked(None, {}, b'{"name": "laptop"}') == ("", {"...": "(1 unknown)"})
    assert read_asked(None, {}, b"") == ("", {})


@pytest.mark.parametrize("key", [KEY, TOKEN])
def test_a_key_that_was_pasted_into_the_wrong_field_is_hidden_wherever_it_is(key: str) -> None:
    target, told = asked({"name": key, "tags": [key, "fine"], "user": f"it is {key}"})
    assert target == HIDDEN and told == {"name": HIDDEN, "tags": [HIDDEN, "fine"], "user": HIDDEN}
    assert asked({}, name=key)[0] == HIDDEN
    assert cut_asked({"password": "p", "deep": {"api_key": "k", "n": 1}}) == {
        "password": HIDDEN,
        "deep": {"api_key": HIDDEN, "n": 1},
    }


@pytest.mark.parametrize("tokens", [5, None])
def test_a_number_of_tokens_is_no_secret(tokens: int | None) -> None:
    assert cut_asked({"tokens": tokens, "tokens_per_minute": 7}) == {"tokens": tokens, "tokens_per_minute": 7}


@given(
    st.dictionaries(
        st.text(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=500),
            lambda inner: st.lists(inner, max_size=80) | st.dictionaries(st.text(max_size=20), inner, max_size=20),
        ),
        max_size=60,
    )
)
def test_whatever_is_asked_what_is_remembered_is_short_and_can_be_written(fields: dict[str, Any]) -> None:
    told = json.dumps(cut_asked(fields), ensure_ascii=False).encode()
    assert len(told) <= 4 * MAX_ASKED
