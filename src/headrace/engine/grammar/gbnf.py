"""llama.cpp's grammars (GBNF) in llguidance's Lark, with the texts that they describe and no fewer.

Lark knows terminals, which llguidance's lexer reads greedily, and rules, which it does not, but which cost more. GBNF
knows no such thing, so a piece becomes a terminal only where greed does no harm: where no character that may follow it
could also continue it (positions and what follows them: Glushkov 1961). All else is left to rules of single
characters. The parser of GBNF is llguidance's own. Knows nothing of tokens.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from llguidance.gbnf_to_lark import (
    AlternativeNode,
    ASTNode,
    GbnfToLarkError,
    GrammarParser,
    LiteralNode,
    RegexNode,
    RepetitionNode,
    RuleRefNode,
    SequenceNode,
)

_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))|(.)", re.DOTALL)
_UNICODE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|.)", re.DOTALL)
_CONTROL = {"n": "\n", "r": "\r", "t": "\t"}
_MAX_STEPS = 200_000  # about as many microseconds
_MAX_POSITIONS = 2000  # of one rule with all that it refers to; a larger one is no terminal

Chars = frozenset[str]


def translate(source: str) -> str:
    """The same language in Lark. Raises ValueError with what is wrong and where."""
    # The parser takes zeros off the front of such an escape, and knows none for most characters.
    source = _UNICODE.sub(lambda found: found[0] if found[1] is None else _escaped(int(found[1], 16)), source)
    try:
        rules = {rule.name: rule.alternatives for rule in GrammarParser().parse(source).values()}
    except (GbnfToLarkError, RecursionError) as error:
        raise ValueError(str(error) or "it is nested too deeply") from error
    for node in rules.values():
        for part in _parts(node):
            if isinstance(part, RuleRefNode) and part.name not in rules:
                raise ValueError(f"rule {part.name!r} is used and not defined")
    if "root" not in rules:
        raise ValueError("there is no rule 'root'")
    return _Translation(rules, source).write()


@dataclass(slots=True)
class _Shape:
    """What a regular piece looks like from outside, as sets of positions."""

    is_nullable: bool
    first: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Class:
    """A set of characters as ranges, ends included."""

    is_negated: bool
    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def read(cls, text: str) -> "_Class":
        """From `[...]`, or from the dot, which stands for line ends too."""
        if text == ".":
            return cls(is_negated=True, ranges=())
        items = list(_read(text[1:-1]))
        is_negated = items[:1] == [("^", False)]
        del items[:is_negated]
        ranges: list[tuple[int, int]] = []
        while items:
            low = high = ord(items.pop(0)[0])
            if len(items) > 1 and items[0] == ("-", False):
                high = ord(items[1][0])
                del items[:2]
            ranges.append((low, high))
        return cls(is_negated, tuple(ranges))

    def has(self, char: str) -> bool:
        """Whether a character is in it."""
        return self.is_negated != any(low <= ord(char) <= high for low, high in self.ranges)

    def __str__(self) -> str:
        """As a regular expression that has no characters with a meaning of their own."""
        if not self.ranges:
            return "(?s:.)" if self.is_negated else "[a&&b]"
        body = "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in self.ranges)
        return f"[{'^' * self.is_negated}{body}]"


class _Positions:
    """The positions of one regular piece: which characters stand there, and which positions may come next."""

    def __init__(self) -> None:
        self.chars: list[Chars] = []
        self.next: list[set[int]] = []

    def add(self, chars: Chars) -> _Shape:
        """One more character."""
        if len(self.chars) >= _MAX_POSITIONS:
            raise OverflowError
        self.chars.append(chars)
        self.next.append(set())
        here = {len(self.chars) - 1}
        return _Shape(is_nullable=False, first=here, last=set(here))

    def chain(self, left: _Shape, right: _Shape) -> _Shape:
        """One after the other."""
        for place in left.last:
            self.next[place] |= right.first
        return _Shape(
            left.is_nullable and right.is_nullable,
            left.first | right.first if left.is_nullable else left.first,
            right.last | left.last if right.is_nullable else right.last,
        )

    def union(self, places: set[int]) -> Chars:
        """All characters at some positions."""
        return frozenset().union(*(self.chars[place] for place in places))


class _Translation:
    """Rules by name, and for each whether it can be a terminal."""

    def __init__(self, rules: dict[str, ASTNode], source: str) -> None:
        self._budget = _MAX_STEPS
        self._alphabet = _alphabet(source)
        self._sets: dict[str, Chars] = {}
        self._rules: dict[str, ASTNode] = {}
        for name, node in rules.items():
            self._rules[name] = self._cut_out(name, node)
        self._first: dict[str, tuple[bool, Chars]] = dict.fromkeys(self._rules, (False, frozenset()))
        self._follow: dict[str, Chars] = dict.fromkeys(self._rules, frozenset())
        self._settle()
        self._terminals = {name for name in self._rules if self._is_safe(name)}

    def write(self) -> str:
        """All rules in Lark: those in capitals are terminals."""
        # What a terminal refers to is a terminal too, whatever it is elsewhere.
        inner: set[str] = set()
        waiting = list(self._terminals)
        while waiting:
            name = waiting.pop()
            if name not in inner:
                inner.add(name)
                waiting.extend(part.name for part in _parts(self._rules[name]) if isinstance(part, RuleRefNode))
        names = {name: f"r{index}" for index, name in enumerate(self._rules)}
        lines = [f"start: {self._reference('root', names)}"]
        for name, node in self._rules.items():
            if name not in self._terminals:
                lines.append(f"{names[name]}: {self._print(node, names, is_terminal=False)}")
            if name in inner:
                lines.append(f"{names[name].upper()}: {self._print(node, names, is_terminal=True)}")
        return "\n".join(lines) + "\n"

    def _reference(self, name: str, names: dict[str, str]) -> str:
        if name not in self._terminals:
            return names[name]
        # Not every lexer likes a terminal that may be empty; an optional one says the same.
        return names[name].upper() + ("?" if self._first[name][0] else "")

    def _print(self, node: ASTNode, names: dict[str, str], *, is_terminal: bool) -> str:
        match node:
            case LiteralNode():
                chars = _decode(node.value)
                return _quoted(chars) if is_terminal or not chars else " ".join(map(_quoted, chars))
            case RegexNode():
                return "/" + str(_Class.read(node.rx)) + "/"
            case RuleRefNode():
                return names[node.name].upper() if is_terminal else self._reference(node.name, names)
            case RepetitionNode():
                most = "" if node.max_times is None else node.max_times
                return f"({self._print(node.node, names, is_terminal=is_terminal)}){{{node.min_times},{most}}}"
            case SequenceNode():
                return " ".join(self._print(part, names, is_terminal=is_terminal) for part in node.nodes) or '""'
            case AlternativeNode():
                parts = (self._print(part, names, is_terminal=is_terminal) for part in node.alternatives)
                return "(" + " | ".join(parts) + ")"
        raise AssertionError(node)

    def _cut_out(self, name: str, node: ASTNode) -> ASTNode:
        """Give every repetition in a rule a rule of its own, so that each may be a terminal by itself."""
        match node:
            case RepetitionNode():
                node.node = self._cut_out(name, node.node)
                own = f"{name} {len(self._rules)}"  # a name that no grammar can have
                self._rules[own] = node
                return RuleRefNode(own)
            case SequenceNode():
                node.nodes = [self._cut_out(name, part) for part in node.nodes]
            case AlternativeNode():
                node.alternatives = [self._cut_out(name, part) for part in node.alternatives]
        return node

    def _settle(self) -> None:
        """Which characters rules begin with, and which may follow them, to the fixed point."""
        changes = True
        while changes:
            before = dict(self._first)
            # Backwards, because most rules stand before those that they refer to.
            for name, node in reversed(self._rules.items()):
                self._first[name] = self._begin(node)
            changes = before != self._first
        changes = True
        while changes:
            known = dict(self._follow)
            for name, node in self._rules.items():
                self._flow(node, self._follow[name])
            changes = known != self._follow

    def _spend(self, steps: int = 1) -> None:
        self._budget -= steps
        if self._budget < 0:
            raise ValueError("it has too many rules and repetitions to be translated")

    def _begin(self, node: ASTNode) -> tuple[bool, Chars]:
        self._spend()
        match node:
            case LiteralNode():
                chars = _decode(node.value)
                return (False, frozenset(chars[0])) if chars else (True, frozenset())
            case RegexNode():
                return False, self._set(node.rx)
            case RuleRefNode():
                return self._first[node.name]
            case RepetitionNode():
                nullable, first = self._begin(node.node)
                return nullable or node.min_times == 0, first
            case AlternativeNode():
                parts = [self._begin(part) for part in node.alternatives]
                return any(nullable for nullable, _ in parts), frozenset().union(*(first for _, first in parts))
            case SequenceNode():
                found: Chars = frozenset()
                for part in node.nodes:
                    nullable, first = self._begin(part)
                    found |= first
                    if not nullable:
                        return False, found
                return True, found
        raise AssertionError(node)

    def _flow(self, node: ASTNode, follow: Chars) -> None:
        self._spend()
        match node:
            case RuleRefNode():
                self._follow[node.name] |= follow
            case RepetitionNode():
                again = self._begin(node.node)[1] if node.max_times is None or node.max_times > 1 else frozenset()
                self._flow(node.node, follow | again)
            case AlternativeNode():
                for part in node.alternatives:
                    self._flow(part, follow)
            case SequenceNode():
                for part in reversed(node.nodes):
                    self._flow(part, follow)
                    nullable, first = self._begin(part)
                    follow = follow | first if nullable else first

    def _is_safe(self, name: str) -> bool:
        """Whether a rule is regular, and nothing that may follow it could continue it."""
        positions = _Positions()
        try:
            shape = self._lay_out(self._rules[name], positions, (name,))
        except (OverflowError, RecursionError):
            return False
        if not positions.chars:
            return False
        going_on = set().union(*(positions.next[place] for place in shape.last))
        if shape.is_nullable:
            going_on |= shape.first
        return positions.union(going_on).isdisjoint(self._follow[name])

    def _lay_out(self, node: ASTNode, positions: _Positions, path: tuple[str, ...]) -> _Shape:
        """Raises OverflowError for a piece that is not regular, or too large."""
        self._spend()
        match node:
            case LiteralNode():
                return self._lay_chain([positions.add(frozenset(char)) for char in _decode(node.value)], positions)
            case RegexNode():
                return positions.add(self._set(node.rx))
            case RuleRefNode():
                if node.name in path:
                    raise OverflowError
                return self._lay_out(self._rules[node.name], positions, (*path, node.name))
            case RepetitionNode():
                shape = self._lay_out(node.node, positions, path)
                self._spend(len(shape.last) * len(shape.first) // 16)
                if node.max_times is None or node.max_times > 1:  # as if without an end, which is never less careful
                    positions.chain(shape, shape)
                return _Shape(shape.is_nullable or node.min_times == 0, shape.first, shape.last)
            case AlternativeNode():
                shapes = [self._lay_out(part, positions, path) for part in node.alternatives]
                return _Shape(
                    any(shape.is_nullable for shape in shapes),
                    set().union(*(shape.first for shape in shapes)),
                    set().union(*(shape.last for shape in shapes)),
                )
            case SequenceNode():
                return self._lay_chain([self._lay_out(part, positions, path) for part in node.nodes], positions)
        raise AssertionError(node)

    def _lay_chain(self, shapes: list[_Shape], positions: _Positions) -> _Shape:
        whole = _Shape(is_nullable=True)
        for shape in shapes:
            self._spend(len(whole.last) * len(shape.first) // 16)
            whole = positions.chain(whole, shape)
        return whole

    def _set(self, regex: str) -> Chars:
        """Which characters of the alphabet a class has."""
        if regex not in self._sets:
            self._sets[regex] = frozenset(filter(_Class.read(regex).has, self._alphabet))
        return self._sets[regex]


def _parts(node: ASTNode) -> Iterator[ASTNode]:
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield one
        waiting.extend(one.children())


def _alphabet(source: str) -> Chars:
    """Every character that the source names, its neighbours, and one that it does not: no class tells more apart."""
    named = {ord(char) for char in _decode(source)} | {ord(char) for char in source}
    near = {code + step for code in named | {0x10FFFE} for step in (-1, 0, 1)}
    return frozenset(chr(code) for code in near if 0 <= code <= 0x10FFFF and not 0xD800 <= code < 0xE000)


def _read(text: str) -> Iterator[tuple[str, bool]]:
    """The characters that a text with escapes means, and whether each was escaped."""
    for one in _ESCAPE.finditer(text):
        if code := one[1] or one[2] or one[3]:
            yield chr(int(code, 16)), True
        elif one[4]:
            yield _CONTROL.get(one[4], one[4]), True
        else:
            yield one[5], False


def _decode(text: str) -> str:
    return "".join(char for char, _ in _read(text))


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x80 else chr(code)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in escaped) + '"'
