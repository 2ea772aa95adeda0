"""The slow twin of `engine/tools`: reads a whole text at once, by regular expressions and the library's JSON reader.

Says the same as the parser for pieces, in the same words, put together. Only for texts that have ended.
"""

import ast
import json
import re
from typing import Any

from headrace.engine.tools.json_strings import StringEscaper
from headrace.engine.tools.parser import Argued, Called, Piece, Said

STRING = r'"(?:[^"\\]|\\.)*"'
HEAD = re.compile(
    rf'\{{\s*((?:"(?:name|function|type|id)"\s*:\s*{STRING}\s*,\s*)+)"(?:arguments|parameters)"\s*:\s*', re.DOTALL
)
BARE = re.compile(
    rf'\{{\s*("(?:name|function|type|id)"\s*:\s*{STRING}\s*(?:,\s*"(?:name|function|type|id)"\s*:\s*{STRING}\s*)*)\}}',
    re.DOTALL,
)
LABEL = re.compile(rf'("(?:name|function|type|id)")\s*:\s*({STRING})', re.DOTALL)
DECODER = json.JSONDecoder(strict=False)


def joined(pieces: list[Piece]) -> list[Piece]:
    """The same with neighbours put together, and no empty arguments."""
    told: list[Piece] = []
    for piece in pieces:
        if told and type(piece) is type(told[-1]) and not isinstance(piece, Called):
            told[-1] = type(piece)(told[-1][0] + piece[0])
        elif piece[0]:
            told.append(piece)
    return told


class Unknown(Exception):
    """The twin knows whole calls only."""


def keywords(text: str) -> dict[str | None, Any] | None:
    """Keyword arguments by Python's own parser; None if they are not all literals."""
    try:
        call = ast.parse(f"f({text}\n)", mode="eval").body
        assert isinstance(call, ast.Call)
        return None if call.args else {one.arg: ast.literal_eval(one.value) for one in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        return None


def plain(text: str) -> str:
    """What stands in a tag as JSON: itself, a literal of Python, or else a text."""
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError):
            continue
        return text.strip() if read is json.loads else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False)


class Whole:
    """One text; `names` are the tools."""

    def __init__(self, family: str, text: str, names: Any) -> None:
        self.family, self.text, self.names = family, text, names
        self.told: list[Piece] = []
        self.num_whole = 0

    def read(self) -> list[Piece]:
        """What is said and called."""
        at, text = 0, self.text
        start = 0  # of text that is not told yet
        is_fresh = True
        while at <= len(text):
            end = self.call_at(at, start, is_fresh=is_fresh)
            if end is None:
                if not text[start:at].isspace() and text[start:at]:
                    is_fresh = False
                at += 1
                continue
            while text[end : end + 1].isspace():
                end += 1
            at = start = end
            is_fresh = True
        self.told.append(Said(text[start:]))
        return joined(self.told)

    def call_at(self, at: int, start: int, *, is_fresh: bool) -> int | None:
        """Tell a call, or several, that begin at a place, after the text before it; where they end."""
        begin = {
            "hermes": self.hermes,
            "mistral_lists": self.mistral,
            "granite": self.listed,
            "tagged": self.tagged,
        }.get(self.family, self.bare)
        if self.family in {"generic", "llama_json", "pythonic"}:
            line = self.text[start:at].rpartition("\n")
            if line[2].strip() or not (line[1] or (is_fresh and not line[0].strip())):
                return None
        before = len(self.told)
        end = (self.pythonic if self.family == "pythonic" else begin)(at)
        if end is not None:
            self.told.insert(before, Said(self.text[start:at].rstrip()))
        return end

    def skip(self, at: int) -> int:
        return at + len(self.text[at:]) - len(self.text[at:].lstrip())

    def hermes(self, at: int) -> int | None:
        if not self.text.startswith("<tool_call>", at):
            return None
        at = self.skip(at + len("<tool_call>"))
        end = self.object(at, None, is_marked=True)
        while end is not None and end >= 0:
            place = self.skip(end)
            if self.text.startswith("</tool_call>", place):
                return place + len("</tool_call>")
            following = self.object(place, None, is_marked=True) if self.text.startswith("{", place) else None
            if following is None:
                # What looked like one more is text, from where it begins.
                return end
            end = following
        return None if end is None else -end

    def bare(self, at: int) -> int | None:
        tag = "<|python_tag|>"
        if self.family == "llama_json" and self.text.startswith(tag, at):
            at = self.skip(at + len(tag))
        end = self.object(at, self.names, is_marked=False)
        if end is None or end < 0:
            return None if end is None else -end
        place = self.skip(end)
        return place + 1 if self.text.startswith(";", place) else end

    def mistral(self, at: int) -> int | None:
        name = r"\[TOOL_CALLS\]\s*([A-Za-z0-9_.-]+)(?:\[CALL_ID\][A-Za-z0-9_.-]+)?(?:\[ARGS\])?\s*(?=\{)"
        if named := re.compile(name).match(self.text, at):
            return abs(self.arguments(named[1], named.end(), 0))
        return self.listed(at, "[TOOL_CALLS]")

    def listed(self, at: int, mark: str = "<|tool_call|>") -> int | None:
        if not self.text.startswith(mark, at):
            return None
        at = self.skip(at + len(mark))
        is_list = self.text.startswith("[", at)
        end = self.object(self.skip(at + is_list), None, is_marked=True)
        while is_list and end is not None and end >= 0:
            place = self.skip(end)
            if self.text.startswith("]", place):
                return place + 1
            if not self.text.startswith(",", place):
                return end
            following = self.object(self.skip(place + 1), None, is_marked=True)
            if following is None:
                return place + 1
            end = following
        return None if end is None else abs(end)

    def tagged(self, at: int) -> int | None:
        has_tag = self.text.startswith("<tool_call>", at)
        if has_tag:
            at = self.skip(at + len("<tool_call>"))
            if self.text.startswith("{", at):
                end = self.object(at, None, is_marked=True)
                return self.after_tags(end) if end is not None and end >= 0 else None if end is None else -end
        end = self.function(at, is_known=not has_tag)
        while end is not None:
            place = self.skip(end)
            if self.text.startswith("</tool_call>", place) or not self.text.startswith("<function=", place):
                return self.after_tags(end)
            following = self.function(place)
            if following is None:
                return place
            end = following
        return None

    def after_tags(self, end: int) -> int:
        place = self.skip(end)
        if self.text.startswith("<function=", place):
            following = self.function(place)
            return place if following is None else self.after_tags(following)
        return place + len("</tool_call>") if self.text.startswith("</tool_call>", place) else end

    def function(self, at: int, *, is_known: bool = False) -> int | None:
        """Tell one function's call by regular expressions; whole ones only."""
        head = re.compile(r"<function=([^<>\s]+)>").match(self.text, at)
        if head is None or (is_known and head[1] not in self.names):
            return None
        body = re.compile(r"((?:\s*<parameter=[^<>\s]+>.*?</parameter>)*)\s*</function>", re.DOTALL)
        found = body.match(self.text, head.end())
        if found is None:
            raise Unknown
        schema = self.names.get(head[1], {}) if isinstance(self.names, dict) else {}
        texts = [key for key, one in schema.get("properties", {}).items() if one.get("type") == "string"]
        values = re.findall(r"\s*<parameter=([^<>\s]+)>\n?(.*?)\n?</parameter>", found[1], re.DOTALL)
        said = [(key, json.dumps(text, ensure_ascii=False) if key in texts else plain(text)) for key, text in values]
        arguments = ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in said)
        self.call(head[1], f"{{{arguments}}}")
        return found.end()

    def pythonic(self, at: int) -> int | None:
        tag = "<|python_tag|>"
        if self.text.startswith(tag, at):
            at = self.skip(at + len(tag))
        if not self.text.startswith("[", at):
            return None
        end = self.python_call(self.skip(at + 1))
        while end is not None and end >= 0:
            place = self.skip(end)
            if self.text.startswith("]", place):
                return place + 1
            if not self.text.startswith(",", place):
                return end
            following = self.python_call(self.skip(place + 1))
            if following is None:
                return place + 1
            end = following
        return None if end is None else -end

    def python_call(self, at: int) -> int | None:
        """Tell one call by Python's own parser: the shortest text from here that is one with literals in it."""
        head = re.compile(r"([A-Za-z_][\w.-]*)\((?=\s*(?:\)|[A-Za-z_]\w*\s*=))").match(self.text, at)
        if head is None or head[1] not in self.names:
            return None
        for end in range(head.end(), len(self.text)):
            if self.text[end] == ")" and (arguments := keywords(self.text[head.end() : end])) is not None:
                self.call(head[1], json.dumps(arguments, ensure_ascii=False))
                return end + 1
        raise Unknown

    def object(self, at: int, names: frozenset[str] | None, *, is_marked: bool) -> int | None:
        """Tell the call of an object; where it ends, negative if it was broken off there."""
        if (closed := BARE.match(self.text, at)) and (name := self.name(closed[1], names)):
            self.call(name, "{}")
            return closed.end()
        if (head := HEAD.match(self.text, at)) and (name := self.name(head[1], names)):
            if self.text.startswith("{", head.end()):
                return self.arguments(name, head.end(), 1)
            try:
                value, end = DECODER.raw_decode(self.text, head.end())
            except ValueError:
                value, end = ..., 0
            if value is not ...:
                self.call(name, self.written(value, self.text[head.end() : end]))
                return self.balanced(end, 1)
        if is_marked and self.text.startswith("{", at):
            try:
                value, end = DECODER.raw_decode(self.text, at)
            except ValueError:
                return None
            name = value.get("name", value.get("function"))
            if isinstance(name, str) and name:
                given = value.get("arguments", value.get("parameters", {}))
                self.call(name, self.written(given, json.dumps(given, ensure_ascii=False)))
                return end
        return None

    def name(self, labels: str, names: frozenset[str] | None) -> str | None:
        found = {json.loads(key): json.loads(value, strict=False) for key, value in LABEL.findall(labels)}
        if not all(found.values()):
            return None
        if names is not None and any(found[key] not in names for key in ("name", "function") if key in found):
            return None
        return found.get("name", found.get("function"))

    @staticmethod
    def written(value: Any, text: str) -> str:
        if value is None:
            return "{}"
        if isinstance(value, str):
            try:
                if isinstance(json.loads(value, strict=False), dict):
                    return value
            except ValueError:
                pass
        return text

    def call(self, name: str, arguments: str) -> None:
        self.told += [Called(name), Argued(StringEscaper().push(arguments))]
        self.num_whole += 1

    def arguments(self, name: str, at: int, depth: int) -> int:
        """Tell a call whose arguments begin at a place, with so many objects around them; where all of it ends."""
        end = self.balanced(at, 0)
        self.told += [Called(name), Argued(StringEscaper().push(self.text[at : abs(end)]))]
        if end < 0:
            return end
        self.num_whole += 1
        return self.balanced(end, depth) if depth else end

    def balanced(self, at: int, depth: int) -> int:
        """Where brackets close, negative where something stands that JSON has no use for, or the text ends."""
        in_string = is_escaped = False
        for place in range(at, len(self.text)):
            char = self.text[place]
            if in_string:
                in_string = is_escaped or char != '"'
                is_escaped = not is_escaped and char == "\\"
            elif char == '"':
                in_string = True
            elif char in "{[":
                depth += 1
            elif char in "}]":
                depth -= 1
                if depth == 0:
                    return place + 1
            elif not (char.isspace() or char in "_:,.+-" or (char.isascii() and char.isalnum())):
                return -place
        return -len(self.text)


def read_whole(family: str, text: str, names: Any) -> list[Piece]:
    """See the file's head."""
    return Whole(family, text, names).read()
