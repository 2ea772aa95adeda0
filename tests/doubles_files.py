"""Files and batches around a test's backend: the real services over a database in a folder, with time by hand."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.doubles_http import HandClock

from headrace.api.batch_dialects import DIALECTS
from headrace.api.batch_lines import LINE_CODECS
from headrace.core.batch import Batch, BatchOrder
from headrace.core.file import FileNote, FileRecord
from headrace.core.ledger import PriceList, Prices
from headrace.core.request import Principal
from headrace.gateway.batch_responses import ENDPOINT as RESPONSES
from headrace.gateway.batch_responses import ResponseLines
from headrace.gateway.batch_runner import BatchRunner, Surroundings, Turn
from headrace.gateway.batches import BatchLimits, BatchService
from headrace.gateway.conversation import Responses
from headrace.gateway.foreground import Foreground
from headrace.memory.files import FileLimits, FileStore
from headrace.memory.store import Store
from headrace.observe.metrics import Metrics

CHAT = "/v1/chat/completions"
ACME = Principal(tenant="acme", user="u1", priority=2)


class HandTicks:
    """A tick that comes when the test says so."""

    def __init__(self) -> None:
        self.now = asyncio.Event()

    async def __call__(self) -> None:
        await self.now.wait()
        self.now.clear()


@dataclass
class Shelf:
    """The services of one process; `runner` is not started unless `opened` was told to."""

    store: Store
    files: FileStore
    batches: BatchService
    runner: BatchRunner
    foreground: Foreground
    clock: HandClock
    ticks: HandTicks = field(default_factory=HandTicks)
    metrics: Metrics = field(default_factory=Metrics)

    async def keep(self, data: bytes, principal: Principal = ACME, purpose: str = "batch", **note: Any) -> FileRecord:
        """A file with these bytes."""
        upload = await self.files.begin(principal.tenant)
        await upload.write(data)
        return await upload.commit(FileNote(filename="in.jsonl", purpose=purpose, **note))

    async def order(self, data: bytes, principal: Principal = ACME, **fields: Any) -> Batch:
        """A batch over chat with this input."""
        file = await self.keep(data, principal)
        standard: dict[str, Any] = {"dialect": "openai", "endpoint": CHAT, "window": "24h"}
        order = BatchOrder(input_file_id=file.id, **standard | {"window_s": 86_400} | fields)
        return await self.batches.create(principal, order)

    async def until(
        self, batch: Batch, condition: Callable[[Batch], bool] = lambda batch: batch.is_over, tenant: str = "acme"
    ) -> Batch:
        """The batch once the condition holds."""
        while not condition(batch):
            batch = await self.batches.get(tenant, batch.id)
        return batch

    async def lines_of(self, file_id: str | None, tenant: str = "acme") -> list[Any]:
        """The JSON lines of a file."""
        assert file_id is not None
        record = await self.files.get(tenant, file_id)
        data = b"".join([piece async for piece in self.files.read(record)])
        assert len(data) == record.num_bytes
        return [json.loads(line) for line in data.splitlines()]


@contextlib.asynccontextmanager
async def opened(
    home: Path,
    backend: Any,
    *,
    limits: BatchLimits | None = None,
    file_limits: FileLimits | None = None,
    clock: HandClock | None = None,
    starts: bool = True,
    store_type: type[Store] = Store,
) -> AsyncIterator[Shelf]:
    """The services over `home`; leaving closes them in the order of a server's end."""
    clock = clock or HandClock()
    ticks, metrics = HandTicks(), Metrics()
    store = store_type(home / "headrace.db")
    await store.open()
    files = FileStore(store, home / "files", clock, new_id, file_limits)
    await files.open()
    service = BatchService(store, files, clock, new_id, limits)
    foreground = Foreground(backend)
    around = Surroundings(
        backend=backend,
        foreground=foreground,
        clock=clock,
        new_id=new_id,
        dialects=DIALECTS,
        codecs=LINE_CODECS,
        services={RESPONSES: ResponseLines(Responses(backend, store, clock))},
        metrics=metrics,
        prices=PriceList({"tiny": Prices(input=1, output=2)}),
        tick=ticks,
    )
    runner = BatchRunner(service, store, files, around, Turn(home / "batches.lock"))
    if starts:
        runner.start()
    try:
        yield Shelf(store, files, service, runner, foreground, clock, ticks, metrics)
    finally:
        await runner.close()
        await files.close()
        await store.close()


def new_id() -> str:
    """An id that no other process of the same folder makes."""
    return secrets.token_hex(12)


def line(
    custom_id: str, text: str = "Hi", url: str = "/v1/chat/completions", model: str = "tiny", **body: Any
) -> bytes:
    """A line of a batch's input."""
    asked = {"model": model, "messages": [{"role": "user", "content": text}]} | body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": asked}).encode() + b"\n"
