"""Joins records: the node's key, the key of this process, the recorder and the book of records.

Knows every constructor and decides nothing.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from headrace import __version__
from headrace.cli.node_signer import open_node_signer
from headrace.core.clock import SystemClock
from headrace.core.provenance import Log, Notary
from headrace.gateway.oversight.record_keys import KeyMeans, RecordKeys
from headrace.gateway.oversight.recorder import Means, Recorder
from headrace.gateway.oversight.signing import SigningNotary
from headrace.gateway.provenance import RecordService
from headrace.memory.key_files import read_or_make
from headrace.memory.store import Store
from headrace.models.store import Layout
from headrace.trust.log.trust_file import Node, TrustFile
from headrace.trust.records.node_key import NodeKey
from headrace.trust.records.settings import RecordsSettings
from headrace.trust.records.statement import Maker

MERGE_DELAY_S = 1.0


@dataclass(frozen=True, slots=True)
class Records:
    """The recorder, the book of what it recorded, and who signs and logs what others have found."""

    recorder: Recorder
    book: RecordService
    notary: Notary


class _Chance:
    """Random bytes for one thread. The system is asked for many at once: each time other threads get the interpreter,
    and an answer waits for it."""

    def __init__(self) -> None:
        self._left = b""

    def __call__(self, num_bytes: int) -> bytes:
        """Some, each byte given once."""
        if len(self._left) < num_bytes:
            self._left = secrets.token_bytes(max(num_bytes, 4096))
        taken, self._left = self._left[:num_bytes], self._left[num_bytes:]
        return taken


@asynccontextmanager
async def open_records(
    settings: RecordsSettings,
    layout: Layout,
    log: Log,
    store: Store,
    trusted: Callable[[tuple[Node, ...]], TrustFile],
    timed: Callable[[float], None] = lambda _: None,
    build: dict[str, str] | None = None,
) -> AsyncIterator[Records]:
    """Both, as long as the block runs; `store` is the database of what was logged, `trusted` makes the trust file of
    some nodes, `timed` see `Means`, `build` says more of what this process runs. Raises HeadraceError if the node's key
    cannot be used."""
    clock, instance = SystemClock(), f"ins_{secrets.token_hex(8)}"
    signer = await asyncio.to_thread(open_node_signer, settings, layout)
    keys = RecordKeys(
        KeyMeans(
            signer=signer,
            notary=log,
            node=settings.node,
            instance=instance,
            log_origin=log.origin,
            clock=clock,
            random=secrets.token_bytes,
            new_id=partial(secrets.token_hex, 12),
        )
    )
    await asyncio.to_thread(keys.renew)
    maker = Maker(
        node=settings.node,
        instance=instance,
        build={"headrace": __version__, **(build or {})},
        log_origin=log.origin,
        merge_delay_s=MERGE_DELAY_S,
    )
    chance = _Chance()
    recorder = Recorder(
        Means(
            settings=settings,
            notary=log,
            keys=keys,
            maker=maker,
            secret=read_or_make(pseudonym_key(layout), partial(secrets.token_bytes, 32)),
            clock=clock,
            random=chance,
            new_id=lambda: chance(12).hex(),
            timed=timed,
        )
    )
    policy = trusted((_node(settings, signer.spki),)).encode().encode()
    book = RecordService(store, log, policy, keeps_envelopes=settings.keeps_envelopes)
    keeping = [asyncio.create_task(keys.keep()), asyncio.create_task(book.keep(clock, settings.content_days))]
    try:
        yield Records(recorder, book, SigningNotary(log, keys, clock))
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.wait(keeping)


def pseudonym_key(layout: Layout) -> Path:
    """What pseudonyms are made with."""
    return layout.signing_keys / "pseudonyms.key"


def node_of(settings: RecordsSettings, layout: Layout) -> Node:
    """The node as trust files name it; makes its key if there is none. Raises HeadraceError."""
    return _node(settings, open_node_signer(settings, layout).spki)


def _node(settings: RecordsSettings, spki: bytes) -> Node:
    return Node(settings.node, NodeKey(settings.node, spki).encode())
