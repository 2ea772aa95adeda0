"""What a connection remembers: the latest of each lane, within its own bytes and its tenant's."""

from headrace.api.lane_memory import LaneMemory, TenantBytes
from headrace.api.responses_service import History

ITEM_BYTES = len('[{"text":""}]')


def history(response_id: str, num_bytes: int) -> History:
    return History(response_id, response_id, ({"text": "x" * (num_bytes - ITEM_BYTES)},))


def kept(memory: LaneMemory, *ids: str) -> list[str]:
    return [one for one in ids if memory.find(one) is not None]


def test_a_lane_keeps_its_latest_response_and_every_lane_can_continue_it() -> None:
    memory = LaneMemory(1000, TenantBytes(1000))
    memory.of(0).keep(history("a", 100))
    memory.of(1).keep(history("b", 100))
    memory.of(0).keep(history("c", 100))
    assert kept(memory, "a", "b", "c") == ["b", "c"]
    assert memory.of(1).find("c") is memory.of(0).find("c")
    assert memory.num_bytes == 200


def test_what_was_kept_longest_goes_first_and_what_can_never_fit_is_not_kept() -> None:
    tenant = TenantBytes(10_000)
    memory = LaneMemory(300, tenant)
    for lane, name in enumerate("abc"):
        memory.keep(lane, history(name, 100))
    memory.keep(3, history("d", 150))
    assert kept(memory, *"abcd") == ["c", "d"]
    memory.keep(2, history("e", 301))
    assert kept(memory, *"abcde") == ["d"]  # the lane's last response is no longer its latest
    assert tenant.used == memory.num_bytes == 150


def test_a_tenants_connections_share_its_bytes_and_none_takes_anothers() -> None:
    tenant = TenantBytes(300)
    first, second = LaneMemory(1000, tenant), LaneMemory(1000, tenant)
    first.keep(0, history("a", 200))
    second.keep(0, history("b", 100))
    second.keep(1, history("c", 150))  # not even without b
    assert kept(second, "b", "c") == ["b"]
    second.keep(1, history("d", 90))
    assert kept(second, "b", "d") == ["d"]
    assert kept(first, "a") == ["a"]
    first.clear()
    second.keep(2, history("e", 200))
    assert kept(second, "d", "e") == ["d", "e"]
    second.clear()
    assert tenant.used == 0


def test_forgetting_a_response_frees_its_bytes_once() -> None:
    tenant = TenantBytes(300)
    memory = LaneMemory(300, tenant)
    memory.keep(0, history("a", 100))
    memory.of(1).evict("a")
    memory.evict("a")
    memory.evict("never")
    assert kept(memory, "a") == []
    assert tenant.used == 0
