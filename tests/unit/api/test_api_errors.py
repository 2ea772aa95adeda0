"""Every error of the tree has one OpenAI shape."""

import json

import pytest

from headrace.api.errors import MAX_MESSAGE_CHARS, encode_error, error_headers, error_type
from headrace.core import errors
from headrace.core.errors import Forbidden, HeadraceError, NotFound, Overloaded, Unauthenticated

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, HeadraceError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_becomes_openais_four_fields(cls: type[HeadraceError]) -> None:
    body = json.loads(encode_error(cls("what, which, what to do.", param="field")))
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["error"]["message"], body["error"]["param"]) == ("what, which, what to do.", "field")


@pytest.mark.parametrize("cls", CLASSES)
def test_a_status_below_500_is_the_callers_and_above_is_ours(cls: type[HeadraceError]) -> None:
    if cls is HeadraceError:
        return
    assert (error_type(cls("x")) == "server_error") == (cls.status >= 500)


def test_an_unknown_model_has_openais_code() -> None:
    assert json.loads(encode_error(NotFound("x", param="model")))["error"]["code"] == "model_not_found"
    assert json.loads(encode_error(NotFound("x")))["error"]["code"] == "not_found"


def test_a_long_message_is_cut_and_half_a_character_does_not_hide_the_error() -> None:
    message = json.loads(encode_error(HeadraceError("x" * 10_000)))["error"]["message"]
    assert len(message) == MAX_MESSAGE_CHARS
    assert json.loads(encode_error(HeadraceError("a\ud800b")))["error"]["message"] == "a?b"


def test_headers_say_whether_and_when_to_try_again_and_how_to_show_a_key() -> None:
    assert dict(error_headers(Overloaded("x", retry_after_s=0.2))) == {b"x-should-retry": b"true", b"retry-after": b"1"}
    assert dict(error_headers(NotFound("x"))) == {b"x-should-retry": b"false"}
    assert b"www-authenticate" in dict(error_headers(Unauthenticated("x")))
    assert b"insufficient_scope" in dict(error_headers(Forbidden("x")))[b"www-authenticate"]
