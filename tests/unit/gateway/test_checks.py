"""Active checks: asked at each backend's pace, told to the standings, ended with their backend."""

import asyncio

from tests.doubles_gateway import HandClock, HandSleep, ScriptedUpstream, backend, in_loop

from headrace.core.errors import UpstreamFault
from headrace.gateway.checks import HealthChecks
from headrace.gateway.settings import Health, Target
from headrace.gateway.standing import StandingBook

HEALTH = Health(path="/health", every_s=7.0, fall=2, rise=1)


@in_loop
async def test_a_backend_is_asked_again_and_again_and_what_it_says_counts() -> None:
    backends = {"a": backend("a", health=HEALTH), "unchecked": backend("unchecked")}
    standings, sleep, changed = StandingBook(backends, HandClock()), HandSleep(), []
    a, unchecked = ScriptedUpstream(), ScriptedUpstream()
    checks = HealthChecks(standings, sleep=sleep, on_change=changed.append)
    a.check_error = UpstreamFault("down")
    await checks.replace(backends, {"a": a, "unchecked": unchecked})
    for _ in range(2):
        await sleep.end_next()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert standings.standing(Target("a", "m")).share == 0.0
    a.check_error = None
    await sleep.end_next()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert standings.standing(Target("a", "m")).share == 1.0
    assert changed == ["a", "a"]
    assert set(sleep.asked) == {7.0}
    assert unchecked.num_checks == 0
    await checks.close()
    assert len(asyncio.all_tasks()) == 1


@in_loop
async def test_a_reload_goes_on_with_what_stayed_and_ends_what_did_not() -> None:
    backends = {name: backend(name, health=HEALTH) for name in "ab"}
    sleep = HandSleep()
    checks = HealthChecks(StandingBook(backends, HandClock()), sleep=sleep)
    upstreams = {name: ScriptedUpstream() for name in "ab"}
    await checks.replace(backends, upstreams)
    await asyncio.sleep(0)
    assert [upstream.num_checks for upstream in upstreams.values()] == [1, 1]
    await checks.replace({"a": backends["a"]}, upstreams)
    await asyncio.sleep(0)
    assert [upstream.num_checks for upstream in upstreams.values()] == [1, 1]
    assert len(asyncio.all_tasks()) == 2
    await checks.replace({"a": backend("a", health=Health(path="/other"))}, upstreams)
    await asyncio.sleep(0)
    assert upstreams["a"].num_checks == 2
    await checks.close()
    assert len(asyncio.all_tasks()) == 1
