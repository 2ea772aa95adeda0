"""Which record belongs to which request: a tenant's own, the newest of a name, and no more than there is room for."""

from headrace.gateway.oversight.trail import Trace, Trail

ONE, OTHER = Trace("rec_1", b"\1" * 32), Trace("rec_2", b"\2" * 32)


def test_a_tenant_finds_its_own_and_nobody_elses() -> None:
    trail = Trail()
    trail.add("t", "r", ONE)
    assert trail.find("t", "r") == ONE
    assert trail.find("other", "r") is None
    trail.add("t", "r", OTHER)
    assert trail.find("t", "r") == OTHER


def test_what_a_service_asked_for_one_response_stands_for_the_response() -> None:
    trail = Trail()
    trail.add("t", "resp_1.1", ONE)
    trail.add("t", "resp_1.2", OTHER)
    assert trail.find("t", "resp_1.1") == ONE
    assert trail.find("t", "resp_1") == OTHER


def test_the_least_recently_used_leaves_when_there_is_no_room() -> None:
    trail = Trail(max_traces=2)
    trail.add("t", "a", ONE)
    trail.add("t", "b", ONE)
    assert trail.find("t", "a") == ONE
    trail.add("t", "c", ONE)
    assert trail.find("t", "b") is None
    assert trail.find("t", "a") == trail.find("t", "c") == ONE
