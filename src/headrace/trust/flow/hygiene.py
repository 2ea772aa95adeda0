"""Characters that nobody sees and models read: found, counted, and taken out of untrusted text if an operator wishes.

What counts as invisible, and where it is rightly there (and neither counted nor taken out):

    tags        U+E0000..E007F        a flag's: U+1F3F4, lower-case tag letters and digits, U+E007F (UTS 51, ED-14a)
    selectors   FE00..FE0F, E0100..   one, after a symbol, a digit, # or *; E0100.. after an ideograph
    bidi        202A..202E, 2066..    2066..2069 and the marks 200E, 200F, 061C in a text with right-to-left letters
    zero-width  200B..200D, 2060..    200D between emoji; 200C and 200D after letters of Arabic and Indic scripts; 200B
                                      after Thai, Lao, Khmer and Burmese; a byte order mark at the start; soft hyphens

Everything is one pass over the text. Text of a user or an operator is theirs to write: callers pass untrusted text.
Also decodes, once and bounded, what hides in a text: for monitors, never for models. Knows no requests.
"""

import base64
import binascii
import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

MAX_DECODED: Final = 65_536
"""Characters of decoded text, all of one text's together."""
MAX_RUNS: Final = 64
_SUSPECT: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\U000e0000-\U000e01ef]"
)
_RIGHT_TO_LEFT: Final = re.compile(
    "[\u05be-\u07ff\u0800-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_FLAG: Final = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,6}\U000e007f")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2}){12,}")
_JOINING: Final = ((0x0600, 0x08FF), (0x0900, 0x0DFF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC), (0x1800, 0x18AF))
_UNSPACED: Final = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF))
_IDEOGRAPHS: Final = ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A text without what nobody sees; `counts` say how much of what was taken out: tags, selectors, bidi, zero-width.
    `hidden` is what the tags read as."""

    text: str
    counts: Mapping[str, int]
    hidden: str = ""


def clean(text: str) -> Cleaned:
    """Look through one text."""
    if text.isascii() or _SUSPECT.search(text) is None:
        return Cleaned(text, {})
    kept: list[str] = []
    hidden: list[str] = []
    counts: Counter[str] = Counter()
    is_rtl: bool | None = None
    flags = {index for found in _FLAG.finditer(text) for index in range(found.start(), found.end())}
    done = 0
    for found in _SUSPECT.finditer(text):  # between them nothing is looked at one by one: texts can be long
        index, one = found.start(), found[0]
        kind = _kind(one)
        if kind == "bidi" and is_rtl is None:
            is_rtl = _RIGHT_TO_LEFT.search(text) is not None
        if index in flags or _is_right(kind, text, index, is_rtl=is_rtl is True):
            continue
        kept.append(text[done:index])
        done = index + 1
        if kind != "hyphen" and not (one == "\ufeff" and index == 0):
            counts[kind] += 1
        if kind == "tags":
            hidden.append(chr(ord(one) - 0xE0000) if 0xE0020 <= ord(one) <= 0xE007E else " ")
    return Cleaned("".join(kept) + text[done:], dict(counts), "".join(hidden).strip())


def decoded(text: str) -> Iterator[str]:
    """What runs of base64 and of hexadecimal digits in a text read as, where that is text; then the text with its
    letters turned by 13. Once: what is decoded is not looked into again."""
    left = MAX_DECODED
    num_runs = 0
    for pattern in (_BASE64, _HEX):
        for found in pattern.finditer(text):
            num_runs += 1
            if num_runs > MAX_RUNS or left <= 0:
                break
            read = _as_text(found[0][: 2 * left], is_hex=pattern is _HEX)
            if read:
                left -= len(read)
                yield read
    yield codecs.encode(text[:MAX_DECODED], "rot13")


def _kind(one: str) -> str:
    code = ord(one)
    if code < 0x80:
        return ""
    if 0xE0000 <= code <= 0xE007F:
        return "tags"
    if 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF or code in (0x180B, 0x180C, 0x180D, 0x180F):
        return "selectors"
    if 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or code in (0x200E, 0x200F, 0x061C):
        return "bidi"
    if code == 0xAD:
        return "hyphen"
    return "zero-width" if _SUSPECT.match(one) is not None else ""


def _is_right(kind: str, text: str, index: int, *, is_rtl: bool) -> bool:
    """Whether an invisible character is where people put it."""
    code = ord(text[index])
    before = text[index - 1] if index else ""
    after = text[index + 1] if index + 1 < len(text) else ""
    if kind == "selectors":
        if code >= 0xE0100:
            return _lies_in(before, _IDEOGRAPHS)
        if code < 0xFE00:
            return _lies_in(before, _JOINING)
        return before != "" and _kind(before) == "" and (_is_symbol(before) or before in "0123456789#*")
    if kind == "bidi":
        return is_rtl and not 0x202A <= code <= 0x202E
    if code == 0x200D and _is_emoji_end(before) and _is_symbol(after):
        return True
    if code in (0x200C, 0x200D):
        return _lies_in(before, _JOINING)
    return code == 0x200B and _lies_in(before, _UNSPACED)


def _is_symbol(one: str) -> bool:
    return one != "" and (unicodedata.category(one) in ("So", "Sk", "Sm") or one in "\u203c\u2049\u3030\u303d")


def _is_emoji_end(one: str) -> bool:
    return one == "\ufe0f" or _is_symbol(one)


def _lies_in(one: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return one != "" and any(low <= ord(one) <= high for low, high in ranges)


def _as_text(run: str, *, is_hex: bool) -> str:
    try:
        if is_hex:
            data = bytes.fromhex(run[: len(run) // 2 * 2])
        else:
            plain = run.rstrip("=").replace("-", "+").replace("_", "/")
            plain = plain[: len(plain) - (len(plain) % 4 == 1)]
            data = base64.b64decode(plain + "=" * (-len(plain) % 4))
        text = data.decode("utf-8")
    except (ValueError, binascii.Error):
        return ""
    return text if sum(one.isprintable() or one.isspace() for one in text) >= 0.9 * len(text) else ""
