"""Which target has read which beginnings lately: a bounded index of hashed blocks, the least recently used forgotten.

A guess: what a backend has forgotten since is not known here. Blocks that go to the engine are one tenant's own, as its
pages are. Knows no loads and no policies.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from headrace.core.shape import Shape
from headrace.gateway.settings import ENGINE, Target

MAX_BLOCKS: Final = 65_536
"""About 20 MB of index at most."""

MAX_TARGETS_PER_BLOCK: Final = 8
"""A beginning that more targets have read is warm everywhere that matters; the oldest is forgotten."""


class PrefixIndex:
    """Blocks of beginnings and who read them; a block's hash stands for all before it too."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._blocks: OrderedDict[int, tuple[Target, ...]] = OrderedDict()
        self._max_blocks = max_blocks
        self._last: tuple[Shape, tuple[int, ...]] | None = None

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, target: Target, shape: Shape) -> float:
        """The target reads the input. What share of it is news there."""
        blocks, salt = self._blocks, _salt(target, shape)
        prefix = self._prefix(shape)
        num_known = place = len(prefix)
        # The first block is touched last: what is forgotten first are the ends of conversations, not what they share.
        for block in reversed(prefix):
            place -= 1
            key = block ^ salt
            known = blocks.get(key)
            if known is None:
                num_known = place
                blocks[key] = (target,)
                continue
            if known[-1] != target:
                if target not in known:
                    num_known = place
                blocks[key] = (*(one for one in known if one != target), target)[-MAX_TARGETS_PER_BLOCK:]
            blocks.move_to_end(key)
        while len(blocks) > self._max_blocks:
            blocks.popitem(last=False)
        return 1.0 - num_known / len(prefix) if prefix else 1.0

    def warm(self, shape: Shape, *, has_engine: bool) -> tuple[Mapping[Target, int], int]:
        """How many leading blocks of the input each target has read, and how many there are. Targets that know none
        are not named. `has_engine`: the engine is to be asked for, too."""
        prefix = self._prefix(shape)
        found = self._walk(prefix, 0)
        if has_engine:
            found = {target: depth for target, depth in found.items() if target.backend != ENGINE}
            found |= self._walk(prefix, _tenant_salt(shape))
        return found, len(prefix)

    def _prefix(self, shape: Shape) -> tuple[int, ...]:
        # Hashed for the plan and again when the request goes out, which is mostly the next thing that happens.
        if self._last is None or self._last[0] is not shape:
            self._last = (shape, shape.prefix())
        return self._last[1]

    def _walk(self, prefix: tuple[int, ...], salt: int) -> dict[Target, int]:
        found: dict[Target, int] = {}
        for depth, block in enumerate(prefix):
            known = self._blocks.get(block ^ salt)
            if known is None:
                break
            was_extended = False
            for target in known:
                if found.get(target, 0) == depth:
                    found[target] = depth + 1
                    was_extended = True
            if not was_extended:
                break
        return found


def _salt(target: Target, shape: Shape) -> int:
    return _tenant_salt(shape) if target.backend == ENGINE else 0


def _tenant_salt(shape: Shape) -> int:
    return hash(("tenant", shape.principal.tenant))
