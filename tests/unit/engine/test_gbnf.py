"""llama.cpp's grammars, compared with derivatives of what they mean."""

import random
from collections.abc import Iterator

import pytest
from tests.small_vocabulary import SmallVocabulary, allowed_tokens
from tests.unit.engine.test_grammar_matcher import (
    EOS,
    NONE,
    PIECES,
    TABLE,
    Expression,
    can_end,
    derive_all,
    either,
    literal,
    sequence,
)

from headrace.core.request import FormatKind, ResponseFormat
from headrace.engine.grammar.compiler import GrammarCompiler
from headrace.engine.grammar.gbnf import translate

VOCABULARY = SmallVocabulary()


@pytest.fixture(scope="module")
def plain() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(VOCABULARY, VOCABULARY.num_tokens, is_forcing=False)
    yield compiler
    compiler.close()


def gbnf(source: str) -> ResponseFormat:
    return ResponseFormat(kind=FormatKind.GBNF, source=source)


def accepts(compiler: GrammarCompiler, source: str, text: str) -> bool:
    matcher = compiler.compile(gbnf(source)).start()
    tokens = [byte for byte in text.encode()]  # noqa: C416 - one token a byte
    if matcher.allowed_prefix(tokens) < len(tokens):
        return False
    for token in tokens:
        matcher.accept(token)
    return matcher.is_accepting


CLASSES = {"[a-c]": "abc", "[1-3/]": "123/", '["\\\\]': '"\\', "[\\u00e9b]": "éb", "[\\x2d\\]]": "-]", "[ \\n]": " \n"}


def repeat(e: Expression, low: int, high: int | None) -> Expression:
    tail: Expression = ("star", e) if high is None else ("empty",)
    for _ in range(0 if high is None else high - low):
        tail = either(("empty",), sequence(e, tail))
    for _ in range(low):
        tail = sequence(e, tail)
    return tail


class Writer:
    """Writes a random grammar, rule by rule, with what it means."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rules: list[str] = []

    def write(self) -> tuple[str, Expression]:
        """With an end that refers to itself, so that the whole is not one terminal."""
        (body, meaning), end = self.piece(3), self.rng.choice(["a", "b", "1", "é", "/"])
        rules = [f"root ::= {body} end", f'end ::= | "{end}" end', *self.rules]
        return "\n".join(rules) + "\n", sequence(meaning, ("star", literal(end)))

    def piece(self, depth: int) -> tuple[str, Expression]:
        kind = self.rng.choice(
            ["text", "class"] if depth == 0 else ["text", "class", "rule", "and", "or", "and", "many"]
        )
        if kind == "text":
            text = self.rng.choice(["a", "ab", "foo", "1", "12", "é", '\\"', "/", "\\n", "a\\x62"])
            return f'"{text}"', literal(text.replace('\\"', '"').replace("\\n", "\n").replace("\\x62", "b"))
        if kind == "class":
            source = self.rng.choice(sorted(CLASSES))
            meaning: Expression = NONE
            for char in CLASSES[source]:
                meaning = either(meaning, literal(char))
            return source, meaning
        left, left_meaning = self.piece(depth - 1)
        if kind == "rule":
            name = f"rule-{len(self.rules)}"
            self.rules.append(f"{name} ::= {left}")
            return name, left_meaning
        if kind == "many":
            sign, low, high = self.rng.choice(
                [("*", 0, None), ("+", 1, None), ("?", 0, 1), ("{2}", 2, 2), ("{1,3}", 1, 3)]
            )
            return f"({left}){sign}", repeat(left_meaning, low, high)
        right, right_meaning = self.piece(depth - 1)
        if kind == "and":
            return f"{left} {right}", sequence(left_meaning, right_meaning)
        return f"({left} | {right})", either(left_meaning, right_meaning)


def test_grammars_allow_nothing_but_what_they_mean_and_hardly_ever_less(plain: GrammarCompiler) -> None:
    """Where two pieces begin alike, llguidance's lexer goes with the longer one: that is rare, and never wrong."""
    num_narrower = 0
    for seed in range(400):
        source, meaning = Writer(seed).write()
        grammar = plain.compile(gbnf(source))
        matcher, rng = grammar.start(), random.Random(seed)
        for _ in range(8):
            expected = {token for token, piece in PIECES.items() if derive_all(meaning, piece) != NONE}
            if can_end(meaning):
                expected |= EOS
            found = set(allowed_tokens(matcher, grammar).tolist())
            assert found <= expected, source
            num_narrower += found != expected
            if found != expected or not (going_on := sorted(found - EOS)):
                break
            token = rng.choice(going_on)
            matcher.accept(token)
            meaning = derive_all(meaning, TABLE[token])
    assert num_narrower <= 4


ARITHMETIC = """
root  ::= (expr "=" ws term "\\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \\t\\n]*
"""
JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    ("source", "texts", "others"),
    [
        (ARITHMETIC, ["a+12*(b -3)=7\n", "x_1 = y\n", "1=\t\n2\n \n3=4\n"], ["a+=7\n", "a=7"]),
        (JSON, ['{"a": [1, -2.5e+1, {"b\\u00e9\\n": null}],\n\t"c":true }', "{}"], ["[1]", '{"a":\n\n1}', '{"a": 01}']),
        ('root ::= "ab" "cd" | "abce"', ["abcd", "abce"], ["abc"]),
        ('root ::= [a-z]+ "x"', ["abx", "xx"], ["x", "ab"]),
        ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["(x"]),
        ('root ::= . [^.]', ["\n☃"], ["a."]),
        ('root ::= [a^-] [+--]', ["^,", "--", "a+"], ["b+", "a."]),
        ("root ::= [+-]? \"1\"{2,}", ["-11", "1111"], ["1"]),
    ],
)  # fmt: skip
def test_grammars_in_llama_cpps_style(plain: GrammarCompiler, source: str, texts: list[str], others: list[str]) -> None:
    for text in texts:
        assert accepts(plain, source, text), text
    for text in others:
        assert not accepts(plain, source, text), text


def test_long_pieces_are_terminals_where_that_changes_nothing() -> None:
    lines = translate(JSON).splitlines()
    assert any(line.startswith("R") and "\\x{22}" in line and "{0,}" in line for line in lines)
    assert translate('root ::= [a-z]+ "x"').splitlines()[1].startswith("r")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ('root ::= "a" b', "rule 'b' is used and not defined"),
        ('start ::= "a"', "no rule 'root'"),
        ('root ::= "a', "Unexpected end"),
        ("root ::= " + "(" * 2000 + '"a"' + ")" * 2000, "recursion"),
        ("root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}*" for i in range(900)) + '\nr900 ::= "a"\n', "too many"),
    ],
)
def test_what_cannot_be_translated_is_refused(source: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        translate(source)
