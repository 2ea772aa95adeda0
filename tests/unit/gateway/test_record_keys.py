"""Keys of records over days: each is replaced long before it ends, also when the node's key is away for hours."""

import asyncio
import json
import logging
from dataclasses import replace
from hashlib import sha256

import pytest
from tests.doubles_gateway import in_loop
from tests.doubles_records import Desk, desk

from headrace.core.errors import Unavailable
from headrace.core.provenance import LogItem
from headrace.gateway.oversight.record_keys import RETRY_S, RecordKeys
from headrace.gateway.oversight.signing import SigningNotary
from headrace.trust.records import dsse
from headrace.trust.records.commitment import read_entry
from headrace.trust.records.keys import MAX_LIFE_S, read_grant, verifier

HOUR_S = 3600.0


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


@in_loop
async def test_a_key_is_replaced_after_half_of_its_life_and_never_signs_beyond_it() -> None:
    at, waits, ended = desk(), list[float](), asyncio.Event()

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 4:
            ended.set()
            await asyncio.Event().wait()
        at.clock.now_s += delay_s

    keys = keys_with(at, sleep)
    await run_until(keys, ended)
    assert waits == [MAX_LIFE_S / 2] * 4
    delegations = [item for item in at.log.items if item.kind == "delegation"]
    grants = [read_grant(dsse.read(item.envelope).payload) for item in delegations]
    assert len({grant.key_id for grant in grants}) == len(grants) == 5
    assert all(grant.not_after_s - grant.not_before_s == MAX_LIFE_S for grant in grants)
    assert keys.delegation_id == delegations[-1].id


@in_loop
async def test_a_node_key_that_is_away_is_asked_again_and_what_is_vouched_for_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    at, waits, ended = desk(), list[float](), asyncio.Event()

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)
        at.clock.now_s += delay_s
        if len(waits) == 3:
            at.node.error = None
        elif len(waits) == 4:
            ended.set()
            await asyncio.Event().wait()

    keys = keys_with(at, sleep)
    first = keys.delegation_id
    at.node.error = Unavailable("the vault is sealed")
    with caplog.at_level(logging.WARNING):
        await run_until(keys, ended)
    assert waits == [MAX_LIFE_S / 2, RETRY_S, RETRY_S, MAX_LIFE_S / 2]
    assert "the vault is sealed" in caplog.text
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
