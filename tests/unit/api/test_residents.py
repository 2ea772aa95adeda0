"""Bodies of the routes for models that come and go: llama.cpp's shape, and refusals that name the field."""

import json

import pytest

from headrace.api.residents import Change, decode_change, encode_changed, encode_residences
from headrace.core.errors import InvalidRequest
from headrace.core.service import Residence

READY = Residence(name="a", state="ready", bytes_held=100, num_requests=2)


def test_a_body_names_a_model_and_whether_to_wait() -> None:
    assert decode_change(b'{"model": "a"}', may_wait=True) == Change("a", waits=True)
    assert decode_change(b'{"model": "a", "wait": false}', may_wait=True) == Change("a", waits=False)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'"\xed\xa0\x80"', None),
        (b"[" * 5000, None),
        (b'{"model": ' + b"9" * 5000 + b"}", None),
        (b"{}", "model"),
        (b'{"model": 1}', "model"),
        (b'{"model": ""}', "model"),
        (b'{"model": "' + b"a" * 401 + b'"}', "model"),
        (b'{"model": "a", "wait": 1}', "wait"),
        (b'{"model": "a", "force": true}', "force"),
    ],
)
def test_what_is_wrong_is_named(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_change(body, may_wait=True)
    assert caught.value.param == param


def test_a_load_cannot_be_asked_not_to_wait() -> None:
    with pytest.raises(InvalidRequest, match="wait: not supported here; possible are model"):
        decode_change(b'{"model": "a", "wait": false}', may_wait=False)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("absent", "unloaded"),
        ("waiting", "loading"),
        ("loading", "loading"),
        ("ready", "loaded"),
        ("leaving", "loaded"),
    ],
)
def test_a_state_is_told_in_llama_cpps_words_too(state: str, status: str) -> None:
    said = json.loads(encode_changed(Residence(name="a", state=state)))
    assert said["success"] is True
    assert (said["model"]["state"], said["model"]["status"]) == (state, {"value": status})


def test_the_list_says_what_all_hold_and_may_hold() -> None:
    said = json.loads(encode_residences([READY, Residence(name="b", state="absent")], 250))
    assert [one["id"] for one in said["data"]] == ["a", "b"]
    assert (said["bytes_held"], said["memory_bytes"]) == (100, 250)
    assert said["data"][0] == {
        "id": "a",
        "object": "model",
        "status": {"value": "loaded"},
        "state": "ready",
        "bytes_held": 100,
        "num_requests": 2,
        "idle_s": None,
        "unloads_in_s": None,
    }
