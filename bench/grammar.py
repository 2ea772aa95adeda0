"""What a grammar costs: streams held to a JSON schema, beside the same streams free. A row of `engine.py`.

The schema asks for a list of small objects that does not end within the measure, with strings of any length in them;
few of its tokens are forced, and those that are count as generated, as they do for a user.
"""

from typing import Any

from bench.ours import Ours
from bench.report import Row, row
from headrace.core.request import FormatKind, Message, ResponseFormat, Role, TextPart
from headrace.engine.grammar.compiler import GrammarCompiler

STREAMS = 8
PEER = "ours without a grammar"
SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "city": {"type": "string"},
            "likes": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "age", "city", "likes"],
        "additionalProperties": False,
    },
}


def prompts(ours: Ours) -> list[list[int]]:
    """Questions whose answer would be such a list anyhow."""
    tokenizer, template = ours.model.tokenizer, ours.model.template
    texts = [f"List people from {place} as JSON: name, age, city, likes." for place in PLACES]
    if template is None:
        return [tokenizer.encode(text, bos=True) for text in texts]
    return [template.encode_chat(tokenizer, [Message(Role.USER, (TextPart(text),))]) for text in texts]


PLACES = ("Graz", "Lisbon", "Oslo", "Kyoto", "Quito", "Accra", "Hobart", "Boston")


def measure_grammar(ours: Ours, new: int, repeats: int, name: str) -> list[Row]:
    """New tokens per second of all streams, held and free in turn; samples hold the paired cost a token."""
    compiler = GrammarCompiler(ours.model.tokenizer, ours.model.plan.vocab_size)
    grammar = compiler.compile(ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=SCHEMA))
    sides = {True: grammar, False: None}
    rates: dict[bool, list[float]] = {True: [], False: []}
    outside: dict[bool, list[float]] = {True: [], False: []}
    try:
        ours.prepare(prompts(ours))
        for index in range(repeats + 1):
            for held in (True, False) if index % 2 else (False, True):
                ours.grammar = sides[held]
                rate = ours.decode(new)
                if index > 0:  # the first of each warms up
                    rates[held].append(rate)
                    outside[held].append(ours.program.seconds_outside())
    finally:
        ours.grammar = None
        compiler.close()
    made = row(name, "tokens/s", rates[True], {PEER: rates[False]})
    made.samples["cost"] = [free / held - 1.0 for held, free in zip(rates[True], rates[False], strict=True)]
    made.samples |= {"seconds between calls, held": outside[True], "seconds between calls, free": outside[False]}
    return [made]
