"""The real models held to forms: every answer valid at any temperature, and masks over their own vocabularies."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.small_vocabulary import allowed_tokens

from headrace.core.events import ChoiceFinished, FinishReason, TextDelta
from headrace.core.request import FormatKind, Limits, Message, Request, ResponseFormat, Role, Sampling, TextPart
from headrace.engine.config import EngineConfig
from headrace.engine.grammar.compiler import GrammarCompiler
from headrace.engine.text import TextEngine
from headrace.models.gguf import GgufFile
from headrace.models.load import LoadedModel, load_model
from headrace.models.tokenizer import Tokenizer

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["calm", "quick", "très chic"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
FORMS = [
    ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=PERSON),
    ResponseFormat(kind=FormatKind.REGEX, source=r"[A-Z][a-z]{1,8} is (\d{1,2}|unknown)\."),
    ResponseFormat(kind=FormatKind.CHOICE, choices=("a mill", "a river", "a millpond", "Ωμέγα ☃")),
    ResponseFormat(kind=FormatKind.LARK, source='start: sum\nsum: N (("+" | "-") N){1,3}\nN: /[0-9]{1,3}/'),
    ResponseFormat(kind=FormatKind.GBNF, source='root ::= item{2,3}\nitem ::= "- " [a-z]{2,9} "\\n"\n'),
]


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, cache_dir=tmp_path_factory.mktemp("packed"))


def ask(model: LoadedModel, form: ResponseFormat, seed: int, num_choices: int = 1) -> Request:
    words = (TextPart("Describe a person by name, age and tags."),)
    return Request(
        id=f"r{seed}",
        model=model.name,
        messages=(Message(Role.USER, words),),
        sampling=Sampling(temperature=1.5, seed=seed, num_choices=num_choices),
        limits=Limits(max_tokens=120),
        response_format=form,
    )


async def texts_of(engine: TextEngine, request: Request) -> list[tuple[str, FinishReason]]:
    texts, reasons = [""] * request.sampling.num_choices, {}
    async for event in engine.run(request):
        if isinstance(event, TextDelta):
            texts[event.choice] += event.text
        if isinstance(event, ChoiceFinished):
            reasons[event.choice] = event.reason
    return [(text, reasons[choice]) for choice, text in enumerate(texts)]


def test_answers_at_temperature_1_5_keep_to_their_form_side_by_side_and_are_reproducible(model: LoadedModel) -> None:
    engine = TextEngine([model], EngineConfig(threads=2, kv_type="fp16", checks=True))
    compiler = GrammarCompiler(model.tokenizer, model.plan.vocab_size)

    async def main() -> None:
        engine.start()
        requests = [ask(model, form, seed, 2) for seed in range(2) for form in FORMS]
        answers = await asyncio.gather(*[texts_of(engine, request) for request in requests])
        for request, choices in zip(requests, answers, strict=True):
            for text, reason in choices:
                assert reason is FinishReason.STOP
                if request.response_format is FORMS[0]:
                    jsonschema.validate(json.loads(text), PERSON)
                matcher = compiler.compile(request.response_format).start()
                for token in model.tokenizer.encode_inside(text):
                    matcher.accept(token)
                assert matcher.is_accepting
        assert await texts_of(engine, requests[0]) == answers[0]
        await engine.close()

    asyncio.run(main())
    compiler.close()


@pytest.fixture(params=["smollm2_path", "gemma3_path"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.from_gguf(GgufFile(request.getfixturevalue(request.param)).metadata)


def test_a_mask_over_a_whole_vocabulary_is_what_every_single_token_would_do(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size + 3, is_forcing=False)
    texts = ["a mill", "a millpond", " a river", "Ωμέγα ☃", "100\n"]
    grammar = compiler.compile(ResponseFormat(kind=FormatKind.CHOICE, choices=tuple(texts)))
    prefixes = {text.encode()[:end] for text in texts for end in range(len(text.encode()) + 1)}
    for written in (b"", b"a mi", b"a mill", "Ωμ".encode(), "Ω".encode()[:1]):
        matcher = grammar.start()
        for token in tokenizer.encode_inside(written.decode()) if written != b"\xce" else []:
            matcher.accept(token)
        if written == b"\xce":
            single = [token for token, piece in enumerate(tokenizer.byte_table) if piece == written]
            matcher.accept(single[0])
        expected = {i for i, piece in enumerate(tokenizer.byte_table) if piece and written + piece in prefixes}
        if written.decode("utf-8", "ignore") in texts:
            expected |= tokenizer.eos_ids
        assert set(allowed_tokens(matcher, grammar).tolist()) == expected
    compiler.close()


def test_forced_tokens_are_the_tokenizers_own(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    schema = {**PERSON, "x-guidance": {"whitespace_flexible": False}}
    matcher = compiler.compile(ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=schema)).start()
    forced = matcher.forced()
    text = b"".join(tokenizer.byte_table[token] for token in forced).decode()
    assert '{"name":"'.startswith(text) and len(text) >= 6
    assert tokenizer.encode_inside(text) == forced
    compiler.close()
