"""A model that does not do what is asked is refused by name, with what does it."""

import json
import re
from dataclasses import replace

import pytest
from tests.doubles_inputs import CARDS

from headrace.api.openai_models import check_task, encode_model, encode_models
from headrace.core.backend import ModelCard
from headrace.core.errors import InvalidRequest
from headrace.core.request import Input, Request, Task

MINI, JUDGE, TINY = CARDS
RED = replace(TINY, id="tiny:red", aliases=(), parent="tiny")
EMBED = Request(id="r", model="tiny", task=Task.EMBED, inputs=(Input("a"),))
DOES = "generates text and scores pairs of texts and cannot embed texts"


@pytest.mark.parametrize(
    ("cards", "request_", "says"),
    [
        (CARDS, EMBED, f"'tiny' {DOES}; models here that embed texts: mini."),
        (CARDS, replace(EMBED, model="tiny-alias"), f"'tiny-alias' {DOES}"),
        ((TINY, RED), replace(EMBED, model="tiny:red"), f"'tiny:red' {DOES}; no model here can embed texts."),
        ((MINI, TINY, RED), Request(id="r", model="mini", prompt="a"), "models here that generate text: tiny."),
        ((JUDGE, *(replace(MINI, id=f"m{n}") for n in range(9))), replace(EMBED, model="judge"), "m6, m7, ..."),
    ],
)
def test_the_refusal_says_what_the_model_does_and_who_does_what_is_wanted(
    cards: tuple[ModelCard, ...], request_: Request, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(says)) as caught:
        check_task(cards, request_)
    assert (caught.value.code, caught.value.param) == ("unsupported_task", "model")


def test_what_the_model_does_and_what_nobody_knows_are_let_pass() -> None:
    check_task(CARDS, replace(EMBED, model="mini"))
    check_task(CARDS, replace(EMBED, model="mini-alias"))
    check_task(CARDS, replace(EMBED, model="nobody"))
    check_task(CARDS, Request(id="r", model="tiny", prompt="a"))


def test_what_a_model_does_is_listed() -> None:
    listed = json.loads(encode_models(CARDS))["data"]
    assert [entry["tasks"] for entry in listed] == [
        ["count", "embed"],
        ["count", "score"],
        ["count", "generate", "score"],
    ]
    assert json.loads(encode_model(CARDS, "mini-alias")) == listed[0]
