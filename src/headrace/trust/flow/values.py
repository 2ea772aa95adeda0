"""Values and texts in one form, and whether one stands in the other: what provenance of an argument is decided by.

Everything is linear in the text. Knows no tools and no trust: who may vouch for a value is `arguments.py`'s.
"""

import re
import unicodedata
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

MAX_TEXT: Final = 1_000_000
"""Characters of one text that are looked at; what stands behind vouches for nothing."""
_SAME: Final = {
    ord(one): to
    for to, ones in {
        "'": "\u2018\u2019\u201a\u201b`\u00b4",
        '"': "\u201c\u201d\u201e\u00ab\u00bb",
        "-": "\u2010\u2011\u2012\u2013\u2014\u2212",
    }.items()
    for one in ones
}
# Characters that go on with an address, a path or a number, so that a value that ends beside one is only a part.
_JOINS: Final = "_@/\\-+%&=#~:"
_NUMBER: Final = re.compile(r"(?<![^\W_])\d+(?:[.,']\d+)*(?![^\W_])")
# Unicode's category Cf (15.1), in one pass of C.
_FORMATS: Final = re.compile(
    "[\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)
_DIGITS: Final = frozenset("0123456789")
_WORD: Final = re.compile(r"[^\W_]{3,}")
# Texts are cut by these and each piece is looked at once: a pattern for whole addresses takes quadratic time.
_TOKEN: Final = re.compile(r"[^\s<>\"'()\[\]{},;|]+")
_SCHEME: Final = re.compile(r"(?=https?://)")
_HOST_AND_PATH: Final = re.compile(r"[^/@]*[a-z0-9]\.[a-z]{2,24}(?::\d{1,5})?/")
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_WORD: Final = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DAY: Final = r"(\d{1,2})(?:st|nd|rd|th)?"
_YEAR: Final = r"(?:,? (\d{4}))?(?!\d)"
_ISO_DAY: Final = re.compile(r"(?<!\d)(\d{4})-(\d{1,2})-(\d{1,2})(?!\d)")
_MONTH_FIRST: Final = re.compile(rf"\b{_MONTH_WORD} {_DAY}(?!\d){_YEAR}")
_DAY_FIRST: Final = re.compile(rf"(?<!\d){_DAY}(?: of)? {_MONTH_WORD}{_YEAR}")
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def normal(text: str) -> str:
    """One form for what reads alike: NFKC, no case, no invisible characters, plain quotes and dashes, single spaces.
    Letters of other scripts stay what they are: a name in Cyrillic is another name."""
    text = unicodedata.normalize("NFKC", text[:MAX_TEXT]).casefold().translate(_SAME)
    if not text.isascii():
        text = _FORMATS.sub("", text)
    return " ".join(text.split())


def occurs(value: str, text: str) -> bool:
    """Whether a value stands in a text, both in normal form, as a whole: not as part of a longer word, number, address
    or path."""
    if not value:
        return False
    start = text.find(value)
    while start >= 0:
        end = start + len(value)
        if not _goes_on(text, start - 1, value[0], -1) and not _goes_on(text, end, value[-1], 1):
            return True
        start = text.find(value, start + 1)
    return False


def _goes_on(text: str, index: int, edge: str, step: int) -> bool:
    """Whether the character beside a value's end belongs to what the end belongs to."""
    if not 0 <= index < len(text):
        return False
    one = text[index]
    if one.isalnum() or one in _JOINS:
        # A colon before and a dash around words are how people write; inside addresses they join.
        beyond = index + step
        is_lone = not (0 <= beyond < len(text)) or text[beyond].isspace()
        return one.isalnum() or not is_lone
    if one in ".,'":  # ends a sentence or a quotation, unless something follows at once
        beyond = index + step
        return one != "'" and 0 <= beyond < len(text) and text[beyond].isalnum() and edge.isalnum()
    return False


def url_forms(value: str) -> tuple[str, ...]:
    """A URL in normal form, with and without what people leave out."""
    bare = value.removeprefix("https://").removeprefix("http://")
    forms = {value, bare, bare.removesuffix("/"), f"https://{bare}", f"http://{bare}"}
    return tuple(sorted(one for one in forms if one))


def urls(text: str) -> Iterator[str]:
    """Addresses of the web that stand in a text in normal form: with a scheme, with `www.`, or a host with a path. A
    host alone is none: most that look like one are names of files."""
    for found in _TOKEN.finditer(text):
        for piece in _SCHEME.split(found[0]):
            start = 0 if piece.startswith(("http://", "https://")) else piece.find("www.")
            if start < 0:
                start = 0 if "." in piece[:256] and _HOST_AND_PATH.match(piece[:256]) else -1
            if start >= 0 and (url := piece[start:].rstrip(".,;:!?*_`")):
                yield url


def numbers(text: str) -> Iterator[Decimal]:
    """Numbers in a text in normal form. Of `1,050` and `1.050` both readings."""
    for found in _NUMBER.finditer(text):
        yield from readings(found[0])


def readings(number: str) -> Iterator[Decimal]:
    """What a number can mean, with dots and commas as either; groups have three digits."""
    for group, point in ((",'", "."), (".'", ",")):
        whole, _, part = number.partition(point)
        first, *rest = re.split(f"[{re.escape(group)}]", whole)
        if all(len(digits) == 3 for digits in rest) and (not rest or len(first) <= 3) and not set(part) - _DIGITS:
            yield Decimal(f"{first}{''.join(rest)}.{part or '0'}").normalize()


def words(text: str) -> frozenset[str]:
    """Words of three letters and more."""
    return frozenset(_WORD.findall(text))


def days(text: str, today: date | None = None) -> Iterator[tuple[int | None, int, int]]:
    """Days that a text in normal form names, as (year or None, month, day). `today` gives a meaning to words for days
    near it."""
    for found in _ISO_DAY.finditer(text):
        yield int(found[1]), int(found[2]), int(found[3])
    for found in _MONTH_FIRST.finditer(text):
        yield _year(found[3]), _month(found[1]), int(found[2])
    for found in _DAY_FIRST.finditer(text):
        yield _year(found[3]), _month(found[2]), int(found[1])
    if today is None:
        return
    near = {"today": 0, "tonight": 0, "tomorrow": 1, "yesterday": -1}
    near |= {name: (index - today.weekday() - 1) % 7 + 1 for index, name in enumerate(_WEEKDAYS)}
    for name, offset in near.items():
        if occurs(name, text):
            day = today + timedelta(days=offset)
            yield day.year, day.month, day.day


def day_of(value: str) -> date | None:
    """The day of a time in ISO 8601 form."""
    found = _ISO_DAY.match(value)
    try:
        return None if found is None else date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return None


def _month(word: str) -> int:
    return _MONTHS.index(word[:3]) + 1


def _year(digits: str | None) -> int | None:
    return None if digits is None else int(digits)
