"""Masks against oracles that know nothing of llguidance: finite languages, and regular expressions by derivatives."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.small_vocabulary import SmallVocabulary, allowed_tokens

from headrace.core.errors import EngineFault
from headrace.core.request import FormatKind, ResponseFormat
from headrace.engine.grammar.compiler import GrammarCompiler
from headrace.engine.grammar.matcher import Grammar, Matcher

VOCABULARY = SmallVocabulary()
TABLE, EOS = VOCABULARY.byte_table, VOCABULARY.eos_ids
PIECES = {token: piece for token, piece in enumerate(TABLE) if piece}


@pytest.fixture(scope="module")
def plain() -> Iterator[GrammarCompiler]:
    """Grammars that leave every tokenisation open."""
    compiler = GrammarCompiler(VOCABULARY, VOCABULARY.num_tokens, is_forcing=False)
    yield compiler
    compiler.close()


@pytest.fixture(scope="module")
def forcing() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(VOCABULARY, VOCABULARY.num_tokens)
    yield compiler
    compiler.close()


def choice(*texts: str) -> ResponseFormat:
    return ResponseFormat(kind=FormatKind.CHOICE, choices=texts)


def regex(source: str, after: str = "") -> ResponseFormat:
    return ResponseFormat(kind=FormatKind.REGEX, source=source, after=after)


def schema(value: dict[str, Any]) -> ResponseFormat:
    return ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=value)


def feed(matcher: Matcher, tokens: list[int]) -> Matcher:
    for token in tokens:
        matcher.accept(token)
    return matcher


def check_finite_language(grammar: Grammar, texts: set[bytes]) -> int:
    """Compare the mask in every state that some sequence of tokens reaches; returns how many states there are."""
    prefixes = {text[:end] for text in texts for end in range(len(text) + 1)}
    reached: list[tuple[bytes, Matcher]] = [(b"", grammar.start())]
    seen = {b""}
    while reached:
        text, matcher = reached.pop()
        expected = {token for token, piece in PIECES.items() if text + piece in prefixes}
        if text in texts:
            expected |= EOS
        assert set(allowed_tokens(matcher, grammar).tolist()) == expected, text
        assert matcher.is_accepting == (text in texts)
        assert matcher.is_finished == (expected == EOS)
        for token in expected - EOS:
            if text + TABLE[token] not in seen:
                seen.add(text + TABLE[token])
                reached.append((text + TABLE[token], feed(matcher.fork(), [token])))
    return len(seen)


def test_the_mask_of_a_choice_allows_what_continues_one_of_the_texts(plain: GrammarCompiler) -> None:
    texts = ("foo", "foobar", "foo bar", "name", '{"name":null}', "é", "Ünï", "12", "100", "null\n ")
    num_states = check_finite_language(plain.compile(choice(*texts)), {text.encode() for text in texts})
    assert num_states > 40


def test_the_mask_of_a_schema_allows_what_continues_a_valid_text(plain: GrammarCompiler) -> None:
    values = [[], [True], [True, "é"], [True, True], [True, None], ["é"], [None], ["é", "é"], ["é", True], ["é", None]]
    values += [[None, True], [None, "é"], [None, None]]
    objects = [{"foo": foo} | ({"bar": bar} if bar is not None else {})
               for foo, bar in itertools.product([12, "ab", {}], [None, *values])]  # fmt: skip
    texts = {json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() for value in objects}
    item = {"enum": [True, "é", None]}
    form = schema(
        {
            "x-guidance": {"whitespace_flexible": False},
            "type": "object",
            "properties": {"foo": {"enum": [12, "ab", {}]}, "bar": {"type": "array", "items": item, "maxItems": 2}},
            "required": ["foo"],
            "additionalProperties": False,
        }
    )
    assert len(texts) == 42
    assert check_finite_language(plain.compile(form), texts) > 100


# Regular expressions as (kind, parts) and their Brzozowski derivatives (1964), over bytes. NONE matches nothing.
Expression = tuple[Any, ...]
NONE: Expression = ("none",)
EMPTY: Expression = ("empty",)


def literal(text: str) -> Expression:
    expression = EMPTY
    for byte in reversed(text.encode()):
        expression = sequence(("byte", byte), expression)
    return expression


def sequence(left: Expression, right: Expression) -> Expression:
    if NONE in (left, right):
        return NONE
    return right if left == EMPTY else left if right == EMPTY else ("sequence", left, right)


def either(left: Expression, right: Expression) -> Expression:
    return right if left in (NONE, right) else left if right == NONE else ("either", left, right)


def can_end(e: Expression) -> bool:
    match e:
        case ("empty",) | ("star", _):
            return True
        case ("sequence", left, right):
            return can_end(left) and can_end(right)
        case ("either", left, right):
            return can_end(left) or can_end(right)
    return False


def derive(e: Expression, byte: int) -> Expression:
    match e:
        case ("byte", value):
            return EMPTY if value == byte else NONE
        case ("star", inner):
            return sequence(derive(inner, byte), e)
        case ("either", left, right):
            return either(derive(left, byte), derive(right, byte))
        case ("sequence", left, right):
            first = sequence(derive(left, byte), right)
            return either(first, derive(right, byte)) if can_end(left) else first
    return NONE


def derive_all(e: Expression, data: bytes) -> Expression:
    for byte in data:
        e = derive(e, byte)
    return e


leaves = st.sampled_from(["a", "b", "ab", "1", "12", "é", '"', "/", "foo"]).map(lambda text: (text, literal(text)))
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(lambda one: (f"(?:{one[0]})*", ("star", one[1]))),
        st.tuples(inner, inner).map(lambda two: (f"(?:{two[0][0]})(?:{two[1][0]})", sequence(two[0][1], two[1][1]))),
        st.tuples(inner, inner).map(lambda two: (f"(?:{two[0][0]}|{two[1][0]})", either(two[0][1], two[1][1]))),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(expressions, st.lists(st.integers(0, 2**20), max_size=6))
def test_the_mask_of_a_regex_allows_what_its_derivatives_allow(
    plain: GrammarCompiler, pair: tuple[str, Expression], picks: list[int]
) -> None:
    source, expression = pair
    grammar = plain.compile(regex(source))
    matcher = grammar.start()
    for pick in [*picks, 0]:
        expected = {token for token, piece in PIECES.items() if derive_all(expression, piece) != NONE}
        if can_end(expression):
            expected |= EOS
        assert set(allowed_tokens(matcher, grammar).tolist()) == expected
        if not (going_on := sorted(expected - EOS)):
            break
        token = going_on[pick % len(going_on)]
        matcher.accept(token)
        expression = derive_all(expression, TABLE[token])


@settings(max_examples=60, deadline=None)
@given(expressions, st.lists(st.integers(0, VOCABULARY.num_tokens - 1), max_size=5), st.integers(0, 2**30))
def test_masks_along_a_draft_are_those_of_single_steps_and_change_nothing(
    forcing: GrammarCompiler, pair: tuple[str, Expression], draft: list[int], seed: int
) -> None:
    grammar = forcing.compile(regex(pair[0]))
    rng = np.random.default_rng(seed)
    walker, likely = grammar.start(), []
    while len(likely) < 3 and not walker.is_finished:  # a draft that begins well, and goes on with anything
        likely.append(int(rng.choice(allowed_tokens(walker, grammar))))
        walker.accept(likely[-1])
    draft = likely + draft
    matcher, single = grammar.start(), grammar.start()
    before = allowed_tokens(matcher, grammar).tolist()
    rows = np.zeros((len(draft) + 1, grammar.num_words), np.uint32)
    count = matcher.masks(draft, rows)
    for index in range(count):
        row = np.zeros(grammar.num_words, np.uint32)
        single.mask(row)
        assert (row == rows[index]).all()
        if index + 1 < count:
            single.accept(draft[index])
    assert count == len(draft) + 1 or draft[count - 1] not in allowed_tokens(single, grammar) or single.is_finished
    assert allowed_tokens(matcher, grammar).tolist() == before


def test_an_accepted_prefix_is_counted_and_nothing_is_taken(forcing: GrammarCompiler) -> None:
    grammar = forcing.compile(choice("foobar", "food"))
    matcher = grammar.start()
    foo, bar = VOCABULARY.encode_inside("foobar")
    assert matcher.allowed_prefix([foo, bar]) == 2
    assert matcher.allowed_prefix([foo, foo]) == 1
    assert matcher.allowed_prefix([bar]) == 0
    assert foo in allowed_tokens(matcher, grammar)


def test_a_fork_goes_its_own_way(forcing: GrammarCompiler) -> None:
    grammar = forcing.compile(choice("ab", "a1"))
    matcher = feed(grammar.start(), VOCABULARY.encode_inside("a"))
    fork = matcher.fork()
    feed(fork, VOCABULARY.encode_inside("1"))
    assert fork.is_finished and not matcher.is_finished
    feed(matcher, VOCABULARY.encode_inside("b"))
    assert matcher.is_finished


def test_forced_tokens_are_those_of_the_tokenizer_and_lead_to_the_same_texts(forcing: GrammarCompiler) -> None:
    texts = ('{"name":"foo","bar":true}', '{"name":"foo","bar":null}', '{"name":"bar","foo":12}')
    grammar = forcing.compile(choice(*texts))
    for text in texts:
        matcher, written, drawn = grammar.start(), b"", 0
        while not matcher.is_finished:
            if forced := matcher.forced():
                assert VOCABULARY.encode_inside(b"".join(TABLE[token] for token in forced).decode()) == forced
            else:
                rest = text.encode()[len(written) :]
                fitting = [t for t in allowed_tokens(matcher, grammar) if t not in EOS and rest.startswith(TABLE[t])]
                forced = [max(fitting, key=lambda token: len(TABLE[token]))]
                drawn += 1
            feed(matcher, forced)
            written += b"".join(TABLE[token] for token in forced)
        assert written == text.encode()
        assert drawn < len(VOCABULARY.encode_inside(text)) / 2


def test_after_a_marker_the_answer_keeps_to_its_form_and_before_it_nothing_ends(forcing: GrammarCompiler) -> None:
    grammar = forcing.compile(regex(r"[ab]{2}", after="</think>"))
    matcher = grammar.start()
    assert not EOS & set(allowed_tokens(matcher, grammar).tolist())
    assert len(allowed_tokens(matcher, grammar)) > 100
    feed(matcher, VOCABULARY.encode_inside("any 12 </th </think>"))
    assert {TABLE[token] for token in allowed_tokens(matcher, grammar)} == {b"a", b"b", b"ab"}
    feed(matcher, VOCABULARY.encode_inside("ab"))
    assert matcher.is_finished


def test_a_marker_may_be_a_control_token(forcing: GrammarCompiler) -> None:
    grammar = forcing.compile(regex("a", after="<start>"))
    start = VOCABULARY.special_tokens["<start>"]
    matcher = feed(grammar.start(), VOCABULARY.encode_inside("a<start>"))
    assert start in allowed_tokens(matcher, grammar)
    feed(matcher, [start])
    assert [TABLE[token] for token in allowed_tokens(matcher, grammar)] == [b"a"]


def test_blanks_may_stand_between_a_marker_and_json(forcing: GrammarCompiler) -> None:
    grammar = forcing.compile(ResponseFormat(kind=FormatKind.JSON_OBJECT, after="</think>"))
    feed(grammar.start(), VOCABULARY.encode_inside("x</think>\n\n{}"))


def test_a_token_that_is_not_allowed_is_a_fault_and_the_grammar_is_compiled_anew(forcing: GrammarCompiler) -> None:
    grammar = forcing.compile(choice("foo"))
    assert forcing.compile(choice("foo")) is grammar
    with pytest.raises(EngineFault, match="grammar cannot be followed"):
        feed(grammar.start(), VOCABULARY.encode_inside("bar"))
    assert forcing.compile(choice("foo")) is not grammar
    feed(grammar.start(), VOCABULARY.encode_inside("foo"))
