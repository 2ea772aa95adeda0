"""Sequences that wait for pages from disk: they queue up like all others, are passed over, and others go on meanwhile.

Two that lack the same page wait for one load. Whatever a load brings, whoever waited for it is scheduled afterwards
with what the tree has by then; a sequence that ends while it waits leaves nothing but a load that reads no further.
The engine's thread only, except for `Load.deliver`, which hands over through `post`.
"""

import math
from collections.abc import Callable
from functools import partial

from headrace.engine.cost import Load as StepLoad
from headrace.engine.kv.disk import Load
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence, State
from headrace.kernels.plan import PAGE_TOKENS

MOST_LOADS = 2
"""Loads that one sequence waits for: a second one where the first was another's and shorter."""

Post = Callable[[Callable[[], None]], None]


class Loading:
    """All loads of one model that are under way. `post` runs something on the engine's thread between two steps."""

    def __init__(self, scheduler: Scheduler, post: Post) -> None:
        self._scheduler = scheduler
        self._post = post
        self._waiting: dict[bytes, list[Sequence]] = {}  # by the first page that is lacking

    def is_idle(self) -> bool:
        """Whether no load is under way that would still hand something over."""
        return not self._waiting

    def begin(self, sequence: Sequence) -> None:
        """Before or while it waits to be scheduled: let it wait for the disk if that is worth it."""
        retention = self._scheduler.retention
        if retention.disk is None or sequence.num_loads >= MOST_LOADS:
            return
        pages = retention.find_on_disk(sequence)
        if not pages or not retention.disk.tier.is_faster(pages, self._compute_s(len(pages))):
            return
        name = pages[0].name
        if name in self._waiting:
            self._waiting[name].append(sequence)
        else:
            start = self._scheduler.tree.count(sequence.work.salt, sequence.reusable_keys())
            load = Load(
                pages,
                lambda piece, is_last: self._post(partial(self._take, sequence, name, piece, is_last)),
                lambda: sequence.state is not State.FINISHED,
            )
            if not retention.disk.tier.load(load):
                return
            sequence.disk_pages = range(start, start)
            self._waiting[name] = [sequence]
        sequence.num_loads += 1
        sequence.is_loading = True

    def _take(self, sequence: Sequence, name: bytes, piece: list[memoryview], is_last: bool) -> None:
        """Pages have arrived for whoever waits for `name`; the one that asked for them may have ended meanwhile."""
        pages = sequence.disk_pages
        if piece:
            keys = sequence.reusable_keys()
            retention = self._scheduler.retention
            count = retention.restore(sequence.work.salt, keys, pages.stop, piece, retention.now)
            sequence.disk_pages = range(pages.start, pages.stop + count)
        if not is_last:
            return
        for one in self._waiting.pop(name):
            one.is_loading = False
            one.disk_pages = sequence.disk_pages
            if one is not sequence and one.state is not State.FINISHED:
                self.begin(one)

    def _compute_s(self, num_pages: int) -> float:
        """What computing so many pages should take, by what steps have taken; infinite before that is known."""
        tokens = num_pages * PAGE_TOKENS
        expected = self._scheduler.cost.expect(StepLoad(tokens, tokens * tokens // 2))
        return expected or math.inf
