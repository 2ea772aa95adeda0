"""Damage to valid bodies: in the structure of their JSON, in their bytes, and by cutting them short.

Deterministic: the same seeds and the same random numbers give the same inputs. Knows no codec.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

# What a field may be given instead of what it wants. Sizes are what a careless client sends, not what fills a disk.
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 0.5, -0.0, 1e308, "", "a", "auto", "none", "text",
    "é\U0001f600", "\x00", "\ud800", "a" * 3000, "1", "null", "{}", "[]", [], {}, [[]], [None], [{}], {"": None},
    {"type": "text"}, {"type": "text", "text": ""}, {"type": 1}, ["a", 1, None], {"a": {"b": {"c": []}}},
    [0] * 300, ["x"] * 2100,
]  # fmt: skip
# Pieces that are put between bytes.
SPLICES = [
    b"null", b"{}", b"[]", b'""', b"-1", b"1e999", b"NaN", b"9" * 400, b"true", b'"\\ud800"', b"\xff", b"\xed\xa0\x80",
    b"[" * 2000, b'{"a":' * 300, b'":', b"\x00", b",", b'"type":', b"\r\n", b"\\u", b"\xf0\x9f",
]  # fmt: skip
_VALUE_TEXTS = [json.dumps(value) for value in VALUES]
_MAX_DEPTH = 12


class Mutator:
    """Inputs made from seeds, one after the other."""

    def __init__(self, seeds: Sequence[bytes], random_: random.Random) -> None:
        self._seeds = list(seeds)
        self._random = random_
        self._trees = [tree for tree in (_parsed(seed) for seed in self._seeds) if tree is not None]
        self._keys = sorted({key for tree in self._trees for key in _keys(tree)}) or ["a"]

    def next(self) -> bytes:
        """One input: damaged structure, damaged bytes, both, or a seed cut anywhere."""
        choice = self._random.randrange(10)
        if choice < 5 and self._trees:
            data = self._damaged_tree()
            return data if choice else self._damaged_bytes(data)
        data = self._random.choice(self._seeds)
        return data[: self._random.randrange(len(data) + 1)] if choice == 9 else self._damaged_bytes(data)

    def _damaged_tree(self) -> bytes:
        tree = _parsed(self._random.choice(self._seeds))
        for _ in range(self._random.randint(1, 4)):
            tree = self._change(tree, 0)
        try:
            return json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")
        except RecursionError:
            return b"[" * 5000

    def _change(self, tree: Any, depth: int) -> Any:
        """One change somewhere in a tree; the deeper, the likelier that it is here."""
        random_ = self._random
        inner = isinstance(tree, dict | list) and len(tree) > 0
        if depth >= _MAX_DEPTH or not inner or random_.random() < 0.15:
            return self._value(tree)
        if isinstance(tree, dict):
            key = random_.choice(list(tree))
            action = random_.randrange(8)
            if action == 0:
                del tree[key]
            elif action == 1:
                tree[random_.choice(self._keys)] = self._value(None)
            elif action == 2:
                tree[random_.choice(self._keys)] = tree.pop(key)
            else:
                tree[key] = self._change(tree[key], depth + 1)
            return tree
        index = random_.randrange(len(tree))
        action = random_.randrange(6)
        if action == 0:
            del tree[index]
        elif action == 1:
            tree.insert(index, json.loads(json.dumps(tree[index])))
        elif action == 2:
            tree.append(self._value(None))
        else:
            tree[index] = self._change(tree[index], depth + 1)
        return tree

    def _value(self, old: Any) -> Any:
        """Another value: one of VALUES, a piece of a seed, or the old one wrapped or shifted a little."""
        random_ = self._random
        choice = random_.randrange(8)
        if choice == 0 and self._trees:
            return _piece(random_.choice(self._trees), random_)
        if choice == 1:
            return [old]
        if choice == 2:
            return {random_.choice(self._keys): old}
        if choice == 3 and isinstance(old, int | float) and not isinstance(old, bool):
            return old + random_.choice([-1, 1, 0.5, 1e9])
        return json.loads(random_.choice(_VALUE_TEXTS))  # a value of its own: trees are changed in place

    def _damaged_bytes(self, data: bytes) -> bytes:
        """One to eight small damages."""
        random_ = self._random
        out = bytearray(data)
        for _ in range(random_.randint(1, 8)):
            start = random_.randrange(len(out) + 1)
            end = min(len(out), start + random_.randrange(12))
            choice = random_.randrange(4)
            if choice == 0:
                out[start:end] = b""
            elif choice == 1:
                out[start:start] = out[start:end]
            elif choice == 2:
                out[start:end] = random_.choice(SPLICES)
            else:
                out[start:end] = random_.randbytes(end - start)
        return bytes(out)


def cuts(data: bytes, random_: random.Random) -> list[bytes]:
    """The same bytes in pieces: all at once, byte by byte, or cut at random places."""
    choice = random_.randrange(3)
    if choice == 0 or len(data) < 2:
        return [data]
    if choice == 1 and len(data) <= 600:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted({random_.randrange(1, len(data)) for _ in range(random_.randint(1, 6))})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _keys(tree: Any) -> set[str]:
    if isinstance(tree, dict):
        return set(tree).union(*(_keys(value) for value in tree.values()))
    return set().union(*(_keys(value) for value in tree)) if isinstance(tree, list) else set()


def _piece(tree: Any, random_: random.Random) -> Any:
    """Some subtree, copied."""
    while isinstance(tree, dict | list) and tree and random_.random() < 0.7:
        tree = random_.choice(list(tree.values()) if isinstance(tree, dict) else tree)
    return json.loads(json.dumps(tree))
