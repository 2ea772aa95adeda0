"""Counts what is in a serialized Biscuit before any of its Datalog is run: the library's own limits on facts, rounds
and time are looked at between two rules only, and one rule that joins five predicates can take minutes.

Reads as much of Biscuit's schema (eclipse-biscuit/biscuit, schema.proto, version 2) as that takes, and nothing of what
is said in it. Knows no keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# Fields of schema.proto, by message.
_BISCUIT_AUTHORITY, _BISCUIT_BLOCKS = 2, 3
_SIGNED_BLOCK = 1
_BLOCK_SYMBOLS, _BLOCK_FACTS, _BLOCK_RULES, _BLOCK_CHECKS = 1, 4, 5, 6
_CHECK_QUERIES = 1
_RULE_BODY, _RULE_EXPRESSIONS = 2, 3
_EXPRESSION_OPS = 1
_OP_CLOSURE = 4

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_MAX_VARINT_BYTES: Final = 10


@dataclass(frozen=True, slots=True)
class BlockCount:
    """What one block has. `widest` is the largest number of predicates that one query joins; `num_operations` are those
    of the longest expression. `symbols` are its texts."""

    symbols: tuple[str, ...]
    num_facts: int
    num_rules: int
    num_queries: int
    widest: int
    num_operations: int
    has_closures: bool


def count_blocks(token: bytes) -> tuple[BlockCount, ...]:
    """The authority block and those that follow. Raises ValueError for what is no Biscuit."""
    signed = [body for number, body in _fields(token) if number in (_BISCUIT_AUTHORITY, _BISCUIT_BLOCKS)]
    blocks = [body for one in signed for number, body in _fields(one) if number == _SIGNED_BLOCK]
    if not signed or len(blocks) != len(signed):
        raise ValueError("it has no blocks that can be read")
    return tuple(map(_count, blocks))


def _count(block: bytes) -> BlockCount:
    symbols: list[str] = []
    num_facts = num_rules = 0
    queries: list[bytes] = []
    for number, body in _fields(block):
        if number == _BLOCK_SYMBOLS:
            symbols.append(body.decode("utf-8"))
        elif number == _BLOCK_FACTS:
            num_facts += 1
        elif number == _BLOCK_RULES:
            num_rules += 1
        elif number == _BLOCK_CHECKS:
            queries += [inner for field, inner in _fields(body) if field == _CHECK_QUERIES]
    widths = [sum(field == _RULE_BODY for field, _ in _fields(one)) for one in queries]
    expressions = [inner for one in queries for field, inner in _fields(one) if field == _RULE_EXPRESSIONS]
    operations = [[op for field, op in _fields(one) if field == _EXPRESSION_OPS] for one in expressions]
    return BlockCount(
        symbols=tuple(symbols),
        num_facts=num_facts,
        num_rules=num_rules,
        num_queries=len(queries),
        widest=max(widths, default=0),
        num_operations=max(map(len, operations), default=0),
        has_closures=any(field == _OP_CLOSURE for ops in operations for op in ops for field, _ in _fields(op)),
    )


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields of a Protocol Buffers message in order; the body of a number is empty. Raises ValueError."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind, body = tag & 7, b""
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            length, at = _varint(message, at)
            body = message[at : at + length]
            if len(body) != length:
                raise ValueError("a field of it is cut off")
            at += length
        elif kind in (_FIXED_64, _FIXED_32):
            at += 8 if kind == _FIXED_64 else 4
        else:
            raise ValueError(f"it has a field of the unknown kind {kind}")
        if at > end:
            raise ValueError("a field of it is cut off")
        yield tag >> 3, body


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if at + index >= len(message):
            break
        byte = message[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number of it is cut off")
