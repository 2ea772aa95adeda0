"""What keeps two questions apart that a model of meanings takes for one.

Such models place "raise it by 5" beside "lower it by 6": what a sentence is about weighs more than what it says of it.
So two questions share an answer only if everything that turns a meaning is the same in both: numbers, quotations, names
and identifiers, words that deny, and words that have an opposite. A table of words knows no language well; what it
misses the threshold has to catch, and what it catches wrongly costs a hit and never a wrong answer.
"""

import re
from collections import Counter
from typing import Final

_NUMBER: Final = re.compile(r"\d+(?:[.,:/]\d+)*")
_QUOTED: Final = re.compile(r"\"[^\"]*\"|“[^”]*”|„[^“]*“|«[^»]*»|`[^`]*`|(?<!\w)'[^']+'(?!\w)")
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_POSSESSIVE: Final = re.compile(r"['’]s$")
_SENTENCE: Final = re.compile(r"(?:^|[.!?:;]\s+|\n\s*)[\"“„«'(\[]*")
# What programs and files are called: inner capitals, digits, underscores, dots, slashes.
_IDENTIFIER: Final = re.compile(r"\b\w+(?:[_./\\@#-]\w+)+\b|\b\w*[a-z][A-Z]\w*\b|\b(?=\w*\d)(?=\w*[^\W\d])\w+\b")

_DENIALS: Final = (
    "no not never none nobody nothing nowhere neither nor without cannot except unless hardly n't "
    "nicht nie niemals nichts niemand ohne außer weder "
    "pas jamais rien personne sans aucun aucune sauf ni "
    "nunca nada nadie sin ningún ninguna excepto "
    "non mai senza nessuno"
)
_NUMBERS: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand "
    "million billion half third quarter once twice double triple first second last"
)
# One of each pair is enough: where one question has it and the other does not, they differ.
_OPPOSITES: Final = (
    "less least fewer smaller lower shorter slower worse worst after below under down left off stop end close decrease "
    "reduce remove delete destroy disable deny reject exclude export decode decrypt decompress pull sell lose receive "
    "write descending minimum min false old late latest south east west tomorrow yesterday always"
)
_TURNS: Final = frozenset(f"{_DENIALS} {_NUMBERS} {_OPPOSITES}".split())
_DENYING_PARTS: Final = ("n't", "n’t")
_DENYING_STEMS: Final = ("kein",)


def may_share(one: str, other: str) -> bool:
    """Whether nothing that turns a meaning differs between two questions."""
    return one == other or _turns(one) == _turns(other)


def _turns(text: str) -> tuple[list[str], list[str], Counter[str], Counter[str]]:
    quoted = _QUOTED.findall(text)
    starts = {match.end() for match in _SENTENCE.finditer(text)}
    names: Counter[str] = Counter(_IDENTIFIER.findall(text))
    words: Counter[str] = Counter()
    for match in _WORD.finditer(text):
        word = _POSSESSIVE.sub("", match.group())
        if word[0].isupper() and match.start() not in starts and word != "I":
            names[word] += 1
        lowered = word.lower()
        if lowered in _TURNS or lowered.startswith(_DENYING_STEMS):
            words[lowered] += 1
        elif lowered.endswith(_DENYING_PARTS):
            words["not"] += 1
    return _NUMBER.findall(text), quoted, names, words
