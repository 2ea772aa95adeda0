"""A lane and its prefix tree as values for whoever watches: made on the engine's thread, only when somebody asked.

Bounded whatever the lane holds: so many sequences, so many pages walked, so many runs shown. Changes nothing.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, islice
from typing import Final

from headrace.core.service import Residence
from headrace.core.watching import NO_TREE, LiveModel, LivePages, LiveSequence, LiveTree, Phase, TreeRun
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import Node, PrefixTree
from headrace.engine.lane import Lane
from headrace.engine.sequence import Sequence, State
from headrace.kernels.plan import PAGE_TOKENS

POOLED: Final = "/pooled"
MAX_SEQUENCES: Final = 200
MAX_RUNS: Final = 200
MAX_WALKED: Final = 4096
"""Pages of a tree that one picture looks at, which takes about a millisecond."""

_TURN: Final = 256  # pages of one run before others have their turn, so that one long prompt does not fill the picture


def picture(lane: Lane, now: float, max_running: int, *, is_whole: bool = True) -> LiveModel:
    """A lane as it is at `now`, between two steps. If not `is_whole` it is counted only: nothing of it is walked."""
    lane.record()
    scheduler, pool = lane.scheduler, lane.pool
    idle = scheduler.tree.num_idle
    members = islice(chain(scheduler.running, scheduler.waiting), MAX_SEQUENCES if is_whole else 0)
    return LiveModel(
        name=lane.model.name,
        taken_s=now,
        is_pooled=lane.model.pooled_width is not None,
        num_running=len(scheduler.running),
        num_waiting=scheduler.num_waiting,
        max_running=max_running,
        totals=lane.counts.totals(),
        pages=LivePages(
            page_tokens=PAGE_TOKENS,
            total=pool.num_pages,
            used=pool.num_pages - len(pool.free) - idle,
            cached=idle,
            pinned=scheduler.tree.num_pinned,
        ),
        tree=_tree_of(lane) if is_whole else NO_TREE,
        sequences=tuple(_sequence(one, now) for one in members),
        tenants=lane.counts.tenants() if is_whole else (),
    )


def with_residences(lanes: Iterable[LiveModel], residences: Iterable[Residence]) -> tuple[LiveModel, ...]:
    """Lanes and the models that have none now, each with its state: a model that comes and goes has a residence."""
    states = {one.name: one.state for one in residences}
    found = [replace(lane, state=states.get(lane.name.removesuffix(POOLED), lane.state)) for lane in lanes]
    there = {lane.name.removesuffix(POOLED) for lane in found}
    return (*found, *(LiveModel(name=name, state=state) for name, state in states.items() if name not in there))


def _sequence(one: Sequence, now: float) -> LiveSequence:
    computed = min(one.num_computed, one.num_prompt)
    reads = one.state is not State.WAITING and computed < one.num_prompt
    return LiveSequence(
        origin=getattr(one.owner, "origin", None),
        tenant=one.work.tenant,
        phase=Phase.QUEUED if one.state is State.WAITING else Phase.PREFILL if reads else Phase.DECODE,
        priority=one.work.priority,
        age_s=max(0.0, now - one.arrived),
        begun_s=_since(one.arrived, one.pace.scheduled_s),
        first_s=_since(one.arrived, one.pace.first_s),
        prompt_tokens=one.num_prompt,
        computed_tokens=computed,
        reused_tokens=one.num_reused,
        output_tokens=one.num_tokens - one.num_prompt,
    )


def _since(start: float, moment: float | None) -> float | None:
    return None if moment is None else max(0.0, moment - start)


def _tree_of(lane: Lane) -> LiveTree:
    """The tree's picture; the last one again if nothing has happened since, as in a lane that rests."""
    tree = lane.scheduler.tree
    state = (lane.counts.num_steps, tree.num_nodes, tree.num_idle, tree.num_pinned)
    if lane.drawn is None or lane.drawn[0] != state:
        lane.drawn = state, draw_tree(tree, lane.pool)
    return lane.drawn[1]


class _Run:
    """A run while it is walked: `last` is its last page so far, `coming` the page that it goes on with."""

    __slots__ = ("coming", "first", "last", "num_below", "num_pages", "num_users", "parent", "tenant")

    def __init__(self, parent: int, tenant: str, first: Node, refs: list[int]) -> None:
        self.parent = parent
        self.tenant = tenant
        self.first = self.last = first
        self.coming: Node | None = first
        self.num_users = refs[first.page] - 1
        self.num_pages = 0
        self.num_below = 0  # pages in it and below it

    def follow(self, refs: list[int], limit: int) -> int:
        """Walk on until it forks, its users change, it ends, or `limit` pages are walked; returns how many were."""
        node, count = self.coming, 0
        while node is not None and count < limit:
            count += 1
            self.last = node
            following = next(iter(node.children.values()), None) if len(node.children) == 1 else None
            node = following if following is not None and refs[following.page] - 1 == self.num_users else None
        self.coming = node
        self.num_pages += count
        return count


def draw_tree(tree: PrefixTree, pool: PagePool, *, max_runs: int = MAX_RUNS, max_walked: int = MAX_WALKED) -> LiveTree:
    """The picture of a tree: of the first `max_walked` pages, level by level, the runs with the most below them."""
    runs = _walk(tree, pool, max_walked)
    for run in reversed(runs):
        run.num_below += run.num_pages
        if run.parent >= 0:
            runs[run.parent].num_below += run.num_below
    # Nobody has more below it than its parent, and of equals parents come first: so a run never lacks its parent.
    walked = (index for index, run in enumerate(runs) if run.num_pages)
    chosen = sorted(sorted(walked, key=lambda index: -runs[index].num_below)[:max_runs])
    places = {index: place for place, index in enumerate(chosen)}
    shown = tuple(
        TreeRun(
            parent=places.get(run.parent, -1),
            tenant=run.tenant,
            num_tokens=run.num_pages * PAGE_TOKENS,
            num_users=run.num_users,
            num_uses=run.first.num_uses,
            used_s=run.first.used_s,
            is_pinned=run.first.pins > 0,
        )
        for run in (runs[index] for index in chosen)
    )
    return LiveTree(shown, tree.num_nodes * PAGE_TOKENS)


def _walk(tree: PrefixTree, pool: PagePool, max_walked: int) -> list[_Run]:
    """Runs, parents before their children. One that is longer than its turn goes on behind the others."""
    refs = pool.refs
    tops = ((root.salt.tenant, child) for root in tree.roots() for child in root.children.values())
    runs = [_Run(-1, tenant, child, refs) for tenant, child in islice(tops, max_walked)]
    queue = deque(range(len(runs)))
    while queue and max_walked > 0:
        index = queue.popleft()
        run = runs[index]
        max_walked -= run.follow(refs, min(max_walked, _TURN))
        if run.coming is not None:
            queue.append(index)
            continue
        for child in islice(run.last.children.values(), max_walked):
            queue.append(len(runs))
            runs.append(_Run(index, run.tenant, child, refs))
    return runs
