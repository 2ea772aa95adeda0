"""What must hold between a scheduler's sequences, its tree and its pool, counted again from nothing.

For tests and for engines that check themselves when they are idle; repairs nothing.
"""

from typing import TYPE_CHECKING

from headrace.engine.draft.speculator import Speculator
from headrace.engine.sequence import State

if TYPE_CHECKING:
    from headrace.engine.scheduler import Scheduler


def check_scheduler(scheduler: "Scheduler", max_sequences: int, speculator: Speculator | None) -> None:
    """Assert that sequences, tree and pool agree on every page, slot and share."""
    scheduler.pool.check()
    scheduler.tree.check()
    if speculator is not None:
        speculator.check()
    scheduler.retention.check()
    held = [0] * scheduler.pool.num_pages
    tenants: dict[str, int] = {}
    num_held = 0
    for sequence in [*scheduler.running, *scheduler.waiting]:
        for one in (sequence, *sequence.siblings):
            tenants[one.work.tenant] = tenants.get(one.work.tenant, 0) + 1
        for sibling in sequence.siblings:
            assert sibling.state is State.HELD and not sibling.pages, "a later choice went its own way too early"
        num_held += len(sequence.siblings)
    for sequence in scheduler.running:
        assert sequence.state is State.RUNNING, "a sequence that does not run is among the running"
        for page in sequence.pages:
            held[page] += 1
    for sequence in scheduler.waiting:
        assert sequence.state is State.WAITING and not sequence.pages, "a waiting sequence holds pages"
    assert num_held == scheduler.num_held, "the number of later choices is wrong"
    scheduler.shares.check(tenants)
    lost = sum(scheduler.pool.refs) - sum(held) - scheduler.tree.num_nodes - scheduler.tree.num_pinned
    assert lost == 0, f"{lost} page references are lost"
    slots = {sequence.slot for sequence in scheduler.running}
    assert len(slots) == len(scheduler.running), "two sequences share a slot"
    assert slots.isdisjoint(scheduler.free_slots) and len(slots) + len(scheduler.free_slots) == max_sequences
