"""Keys of records over days: each is replaced long before it ends, also when the node's key is away for hours."""

import asyncio
import json
import logging
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

import pytest
from tests.doubles_gateway import in_loop
from tests.doubles_records import Desk, desk

from headrace.core.errors import Unavailable
from headrace.core.provenance import LogItem
from headrace.gateway.oversight.record_keys import LOOK_S, RETRY_S, RecordKeys
from headrace.gateway.oversight.signing import SigningNotary
from headrace.trust.records import dsse
from headrace.trust.records.commitment import read_entry
from headrace.trust.records.keys import MAX_LIFE_S, DelegationGrant, read_grant, verifier


def keys_with(at: Desk, sleep: object) -> RecordKeys:
    """The desk's keys, which wait by `sleep`."""
    keys = RecordKeys(replace(at.keys._means, sleep=sleep))
    keys.renew()
    return keys


async def run_until(keys: RecordKeys, ended: asyncio.Event) -> None:
    task = asyncio.create_task(keys.keep())
    await ended.wait()
    task.cancel()
    await asyncio.wait([task])


def grants_of(at: Desk) -> list[DelegationGrant]:
    return [read_grant(dsse.read(item.envelope).payload) for item in at.log.items if item.kind == "delegation"]


@in_loop
async def test_a_key_is_replaced_after_half_of_its_life_and_never_signs_beyond_it() -> None:
    at, ended = desk(), asyncio.Event()

    async def sleep(delay_s: float) -> None:
        if len(grants_of(at)) == 5:
            ended.set()
            await asyncio.Event().wait()
        at.clock.now_s += delay_s

    keys = keys_with(at, sleep)
    await run_until(keys, ended)
    grants = grants_of(at)
    assert len({grant.key_id for grant in grants}) == len(grants) == 5
    assert all(grant.not_after_s - grant.not_before_s == MAX_LIFE_S for grant in grants)
    ages = [after.not_before_s - before.not_before_s for before, after in pairwise(grants[1:])]  # ours is the second
    assert all(MAX_LIFE_S / 2 <= age <= MAX_LIFE_S / 2 + LOOK_S for age in ages)
    assert keys.delegation_id == [item for item in at.log.items if item.kind == "delegation"][-1].id


@in_loop
@pytest.mark.parametrize("by_s", [-3600.0, 2.0 * MAX_LIFE_S])
async def test_a_clock_that_is_set_and_a_machine_that_slept_get_another_key_at_once(by_s: float) -> None:
    at, ended, slept = desk(), asyncio.Event(), list[float]()

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)
        if len(slept) == 1:
            at.clock.now_s += by_s
        elif len(slept) == 2:
            ended.set()
            await asyncio.Event().wait()

    keys = keys_with(at, sleep)
    first = keys.delegation_id
    with pytest.raises(Unavailable):
        keys.check(at.clock.unix_s() + by_s)
    await run_until(keys, ended)
    keys.check(at.clock.unix_s())
    assert keys.delegation_id != first
    grant = grants_of(at)[-1]
    assert grant.not_before_s <= at.clock.unix_s() < grant.not_after_s
    assert max(slept) <= LOOK_S


@in_loop
async def test_a_node_key_that_is_away_is_asked_again_and_what_is_vouched_for_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    at, waits, ended = desk(), list[float](), asyncio.Event()

    async def sleep(delay_s: float) -> None:
        if waits and delay_s == LOOK_S:
            ended.set()
            await asyncio.Event().wait()
        at.clock.now_s += delay_s
        if delay_s == RETRY_S:
            waits.append(delay_s)
        if len(waits) == 2:
            at.node.error = None

    keys = keys_with(at, sleep)
    first = keys.delegation_id
    at.node.error = Unavailable("the vault is sealed")
    with caplog.at_level(logging.WARNING):
        await run_until(keys, ended)
    assert waits == [RETRY_S, RETRY_S]
    assert caplog.text.count("the vault is sealed") == 2
    assert keys.delegation_id != first


def test_nothing_is_signed_when_no_key_is_vouched_for_any_more() -> None:
    at = desk()
    at.keys.check(at.clock.unix_s())
    at.clock.now_s += MAX_LIFE_S + 1
    with pytest.raises(Unavailable, match="vouched for"):
        at.keys.sign(b"{}", at.clock.unix_s())


def test_a_delegation_that_nobody_logs_makes_no_key() -> None:
    at = desk()
    before = at.keys.delegation_id
    at.log.refusal = Unavailable("the disk is full")
    with pytest.raises(Unavailable, match="the disk is full"):
        at.keys.renew()
    assert at.keys.delegation_id == before


def test_what_a_monitor_found_is_signed_by_the_key_of_the_records() -> None:
    at = desk()
    found = b'{"monitor":"theft","score":0.5}'
    notary = SigningNotary(at.log, at.keys, at.clock)
    notary.check()
    notary.submit(LogItem(id="ev_1", kind="evidence", tenant="t", entry=b"", envelope=found))
    item = at.log.items[-1]
    envelope = dsse.read(item.envelope)
    grant = read_grant(dsse.read(at.log.items[0].envelope).payload)
    assert envelope.signers({grant.key_id: verifier(grant.public)}) == (grant.key_id,)
    statement = json.loads(envelope.payload)
    assert statement["predicate"] == json.loads(found)
    assert statement["subject"] == [{"name": "ev_1", "digest": {"sha256": sha256(found).hexdigest()}}]
    assert read_entry(item.entry).digest == sha256(item.envelope).digest()
    at.clock.now_s += 2 * MAX_LIFE_S
    with pytest.raises(Unavailable):
        notary.check()
