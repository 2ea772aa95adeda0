"""Instructions in the middle of a conversation, for templates that know none there."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles import ToyTemplate, ToyTokenizer
from tests.unit.engine.test_text import ask, collect, run, text_of
from tests.unit.engine.test_text_tools import made

from headrace.core.request import Message, Role, TextPart
from headrace.engine.folding import fold_instructions, has_later_instructions
from headrace.models.template import ChatTemplate

VECTORS = Path(__file__).resolve().parents[2] / "oracle" / "vectors" / "template_transformers.json"
ROLES = st.sampled_from([Role.SYSTEM, Role.DEVELOPER, Role.USER, Role.ASSISTANT, Role.TOOL])


def said(role: Role, text: str) -> Message:
    return Message(role, (TextPart(text),))


def test_later_instructions_become_part_of_the_users_turn_beside_them() -> None:
    talk = [
        said(Role.SYSTEM, "a"),
        said(Role.DEVELOPER, "b"),
        said(Role.USER, "c"),
        said(Role.SYSTEM, "d"),
        said(Role.ASSISTANT, "e"),
        said(Role.SYSTEM, "f"),
        said(Role.USER, "g"),
    ]
    assert [(one.role, one.text) for one in fold_instructions(talk)] == [
        (Role.SYSTEM, "a\n\nb"),
        (Role.USER, "c\n\nd"),
        (Role.ASSISTANT, "e"),
        (Role.USER, "f\n\ng"),
    ]


@given(st.lists(st.tuples(ROLES, st.text(max_size=3))))
def test_no_word_is_lost_and_instructions_stand_at_the_beginning_alone(talk: list[tuple[Role, str]]) -> None:
    folded = fold_instructions([said(role, text) for role, text in talk])
    assert "\n\n".join(one.text for one in folded) == "\n\n".join(text for _, text in talk)
    assert all(one.role not in (Role.SYSTEM, Role.DEVELOPER) for one in folded[1:])
    pairs = itertools.pairwise(folded)
    assert all(one.role is not other.role or one.role in (Role.ASSISTANT, Role.TOOL) for one, other in pairs)
    assert fold_instructions(folded) == folded


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("smollm2", True),
        ("llama3-like", True),
        ("qwen3-like", True),
        ("mistral-like", False),  # refuses them
        ("mistral-tools-like", False),
        ("llama2-like", False),  # leaves them out
    ],
)
def test_templates_that_models_really_have_show_what_was_folded(name: str, takes: bool) -> None:
    source = json.loads(VECTORS.read_text("utf-8"))["templates"][name]
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    talk = [said(Role.USER, "first"), said(Role.SYSTEM, "then"), said(Role.ASSISTANT, "so"), said(Role.USER, "on")]
    assert template.takes_later_instructions is takes
    folded = fold_instructions(talk)
    rendered = template.render([{"role": one.role.value, "content": one.text} for one in folded])
    assert "first" in rendered
    assert "then" in rendered


class StrictTemplate(ToyTemplate):
    """The toy's, which takes an instruction at the beginning alone."""

    takes_later_instructions = False

    def encode_chat(self, tokenizer: ToyTokenizer, messages: Any, *rest: Any, **options: Any) -> list[int]:
        assert not has_later_instructions(messages)
        return super().encode_chat(tokenizer, messages, *rest, **options)


def test_a_template_that_takes_none_in_the_middle_gets_them_folded() -> None:
    strict, lenient = made(template=StrictTemplate()), made()
    talk = (said(Role.SYSTEM, "a"), said(Role.USER, "say it"), said(Role.SYSTEM, "now"))
    same = (said(Role.SYSTEM, "a"), said(Role.USER, "say it\n\nnow"))

    async def main() -> None:
        lenient.start()
        wanted = text_of(await collect(lenient.run(ask(messages=same, ignore_eos=True))))
        assert text_of(await collect(lenient.run(ask(messages=talk, ignore_eos=True)))) != wanted
        assert text_of(await collect(strict.run(ask(messages=talk, ignore_eos=True)))) == wanted
        await lenient.close()

    run(strict, main)


def test_instructions_at_the_beginning_are_no_later_ones() -> None:
    system, developer, user = said(Role.SYSTEM, "a"), said(Role.DEVELOPER, "b"), said(Role.USER, "c")
    assert not has_later_instructions([])
    assert not has_later_instructions([system, developer, user])
    assert has_later_instructions([system, user, developer])
    assert has_later_instructions([user, system])
