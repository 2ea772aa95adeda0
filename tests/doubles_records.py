"""A recorder with everything that it works with: a log in memory, a node's key, chance and time by hand."""

import hashlib
import itertools
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.doubles_gateway import HandClock
from tests.log_in_memory import ORIGIN, MemoryLog

from headrace.gateway.oversight.record_keys import KeyMeans, RecordKeys, open_secrets
from headrace.gateway.oversight.recorder import Means, Recorder
from headrace.trust.records.bundle import Bundle, Exhibit
from headrace.trust.records.keys import SPKI_ED25519
from headrace.trust.records.node_key import NodeKey
from headrace.trust.records.settings import RecordMode, RecordsSettings
from headrace.trust.records.statement import Maker, Statement, read_statement
from headrace.trust.records.trusted import read_trusted
from headrace.trust.records.verification import Trusted


class NodeInMemory:
    """A node's key. `error` is what signing raises; `num_signed` counts."""

    def __init__(self, seed: bytes = b"\7" * 32) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.error: Exception | None = None
        self.num_signed = 0

    @property
    def spki(self) -> bytes:
        """As `NodeSigner`."""
        return SPKI_ED25519 + self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """As `NodeSigner`."""
        if self.error is not None:
            raise self.error
        self.num_signed += 1
        return self._private.sign(message)


@dataclass
class Desk:
    """A recorder and its surroundings."""

    log: MemoryLog
    node: NodeInMemory
    clock: HandClock
    keys: RecordKeys
    recorder: Recorder
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def statement(self, at: int = -1) -> Statement:
        """What the record of a place says, unverified."""
        import base64
        import json

        envelope = json.loads(self.records[at].envelope)
        return read_statement(base64.b64decode(envelope["payload"]))

    @property
    def records(self) -> list:  # type: ignore[type-arg]
        """Items of the kind record."""
        return [item for item in self.log.items if item.kind == "record"]

    def bundle(self, at: int = -1) -> Bundle:
        """The record of a place with what verifies it."""
        item = self.records[at]
        nonce, delegation_id = open_secrets(item.secrets)
        places = {one.id: index for index, one in enumerate(self.log.items)}
        return Bundle(
            record_id=item.id,
            log_origin=ORIGIN,
            record=self._exhibit(places[item.id]),
            delegation=self._exhibit(places[delegation_id]),
            nonce=nonce,
        )

    def _exhibit(self, index: int) -> Exhibit:
        item = self.log.items[index]
        return Exhibit(item.envelope, item.entry, self.log.proof(index) if index < self.log.size else b"")

    @property
    def node_line(self) -> str:
        """The node's line of a trust file."""
        return f"node test {NodeKey('test', self.node.spki).encode()}\n"

    def trusted(self, *, quorum: bool = False) -> Trusted:
        """What a trust file says of node and log."""
        return read_trusted((self.node_line + self.log.trust_lines(quorum=quorum)).encode())


def desk(log: MemoryLog | None = None, **settings: object) -> Desk:
    """A recorder that monitors, unless the settings say otherwise."""
    log = log or MemoryLog()
    node, clock, numbers = NodeInMemory(), HandClock(), itertools.count(1)

    def random(size: int) -> bytes:
        return hashlib.shake_256(b"%d" % next(numbers)).digest(size)

    def new_id() -> str:
        return f"{next(numbers):024x}"

    keys = RecordKeys(
        KeyMeans(
            signer=node,
            notary=log,
            node="test",
            instance="ins_1",
            log_origin=ORIGIN,
            clock=clock,
            random=random,
            new_id=new_id,
        )
    )
    keys.renew()
    recorder = Recorder(
        Means(
            settings=RecordsSettings(**{"mode": RecordMode.MONITOR, "node": "test", **settings}),  # type: ignore[arg-type]
            notary=log,
            keys=keys,
            maker=Maker(
                node="test", instance="ins_1", build={"headrace": "0.1.0"}, log_origin=ORIGIN, merge_delay_s=1.0
            ),
            secret=b"s" * 32,
            clock=clock,
            random=random,
            new_id=new_id,
        )
    )
    return Desk(log, node, clock, keys, recorder)
