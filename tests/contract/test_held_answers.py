"""A whole server from one settings file whose answers wait for their records, over a log whose disk a test holds: in
whatever protocol, a client has nothing whole before its record is under a checkpoint.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.contract.test_recorded_answers import ASKS, CASES, CHAT, HI, body_of, digest_of, records, statement
from tests.doubles_http import Client, Reply
from tests.doubles_log import Disk
from tests.gateway_server import ServedGateway, backend, serving
from tests.loopback import listening
from tests.socket_client import SocketClient
from tests.upstreams import Upstream, hang_midstream, upstream
from websockets.asyncio.client import connect

from headrace.core.errors import InvalidRequest
from headrace.memory import provenance

WAITS = '[records]\nmode = "enforce"\nnode = "test"\nwaits = true\n'
ENDS = (b"[DONE]", b"message_stop", b"response.completed", b'"done":true')


@dataclass
class Held:
    """A server and its log's disk."""

    served: ServedGateway
    up: Upstream
    disk: Disk

    @property
    def recorder(self) -> Any:
        return self.served.gate.parts.overseers[-1]

    def client(self, path: str, **fields: Any) -> Client:
        body = json.dumps({"model": "up/small"} | ASKS[path] | fields).encode()
        return Client(self.served.app, "POST", path, body)

    async def ask(self, path: str, **fields: Any) -> Reply:
        return await self.client(path, **fields).run()

    async def is_logged(self, record_id: str) -> bool:
        """Whether a checkpoint covers it."""
        notary = self.recorder.means.notary
        kept = await notary._store.read(provenance.by_id, record_id)
        return kept is not None and kept.index < notary.latest.checkpoint.size

    async def writing(self) -> None:
        """Until the log tries to write."""
        assert await asyncio.to_thread(self.disk.reached.wait, 30)


@contextlib.asynccontextmanager
async def holding(folder: Path, kind: str = "openai", text: str = WAITS) -> AsyncIterator[Held]:
    async with upstream() as up, serving(folder, backend(up, "up", kind) + text) as served:
        held = Held(served, up, Disk())
        held.recorder.means.notary._open_writer._files._write = held.disk.write
        try:
            yield held
        finally:
            held.disk.go()


@pytest.mark.parametrize(("path", "kind", "is_stream"), CASES)
def test_nothing_whole_goes_out_before_the_record_is_under_a_checkpoint(
    tmp_path: Path, path: str, kind: str, *, is_stream: bool
) -> None:
    async def main() -> None:
        async with holding(tmp_path, kind) as held:
            held.disk.hold()
            client = held.client(path, stream=is_stream)
            task = client.start()
            await held.writing()
            if is_stream:
                await client.until(lambda reply: bool(reply.writes))
                assert not any(end in client.reply.body for end in ENDS)
            else:
                assert (client.reply.status, client.reply.writes) == (0, [])
            assert not client.reply.is_complete
            held.disk.go()
            reply = await task
            assert (reply.status, reply.is_complete) == (200, True)
            assert await held.is_logged(reply.headers["x-headrace-record"])
            (told,) = await records(held.served)
            assert body_of(told) == [digest_of(reply)]
            assert held.recorder.counts.num_lost == 0

    asyncio.run(main())


@pytest.mark.parametrize(("path", "kind", "is_stream"), CASES)
def test_where_the_disk_is_full_the_answer_is_an_error_and_the_loss_is_counted(
    tmp_path: Path, path: str, kind: str, *, is_stream: bool
) -> None:
    async def main() -> None:
        async with holding(tmp_path, kind) as held:
            held.disk.is_full = True
            reply = await held.ask(path, stream=is_stream)
            assert reply.is_complete
            assert not any(end in reply.body for end in ENDS)
            told = json.loads(reply.body.strip().split(b"\n")[-1].removeprefix(b"data: "))
            assert "error" in told
            if not is_stream or reply.status != 200:
                assert reply.status == (529 if path == "/v1/messages" else 507)
            metrics = (await Client(held.served.app, "GET", "/metrics").run()).body.decode()
            assert "headrace:trust_lost_records_total 1.0" in metrics
            refused = await held.ask(path, stream=is_stream)
            assert refused.status == (529 if path == "/v1/messages" else 507)
            assert len(held.up.received) == 1, "and nothing more runs"
            held.disk.is_full = False

    asyncio.run(main())


def test_a_request_whose_time_limit_passes_while_its_record_is_written_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with holding(tmp_path) as held:
            held.disk.hold()
            task = held.client(CHAT).start()
            await held.writing()  # what the record rests on may be written before, while the work still goes on
            async with asyncio.timeout(30):
                while not held.up.received or len(held.served.gate.parts.deadlines):  # noqa: ASYNC110
                    await asyncio.sleep(0)
            assert not task.done(), "the limit is one of the work, which is done"
            held.disk.go()
            assert (await task).status == 200

    asyncio.run(main())


def test_a_background_response_is_completed_when_its_record_is_in_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with holding(tmp_path) as held:
            held.up.script.append(hang_midstream())
            client = held.client("/v1/responses", background=True, stream=True)
            task = client.start()
            await client.until(lambda reply: bool(reply.writes))
            begun = json.loads(client.reply.body.partition(b"data: ")[2].partition(b"\n")[0])["response"]
            client.leave()
            await task
            held.disk.hold()
            held.up.go.set()
            await held.writing()
            path = f"/v1/responses/{begun['id']}"
            assert (await Client(held.served.app, "GET", path).run()).json()["status"] in ("queued", "in_progress")
            held.disk.go()
            followed = await Client(held.served.app, "GET", f"{path}?stream=true").run()
            assert b"response.completed" in followed.body
            (told,) = await records(held.served)
            assert body_of(told) == []

    asyncio.run(main())


def test_over_a_websocket_the_last_event_comes_when_the_record_is_in_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            holding(tmp_path) as held,
            listening(held.served.app) as (_, port),
            connect(f"ws://127.0.0.1:{port}/v1/responses") as connection,
        ):
            held.disk.hold()
            client = SocketClient(connection)
            await client.send(
                {"type": "response.create", "model": "up/small", "store": False, "input": HI[0]["content"]}
            )
            await held.writing()
            assert await client.until("response.output_text.delta")
            last = asyncio.create_task(client.until("response.completed", "response.failed", "error"))
            assert not any(one["type"] == "response.completed" for one in client.frames)
            held.disk.go()
            assert (await last)["type"] == "response.completed"
            assert len(await records(held.served)) == 1

    asyncio.run(main())


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_stored_chat_completion_is_found_when_its_record_is_in_the_log(tmp_path: Path, *, is_stream: bool) -> None:
    async def main() -> None:
        async with holding(tmp_path) as held:

            async def num_stored() -> int:
                return len((await Client(held.served.app, "GET", CHAT).run()).json()["data"])

            held.disk.hold()
            task = held.client(CHAT, store=True, stream=is_stream).start()
            await held.writing()
            assert await num_stored() == 0
            held.disk.go()
            assert (await task).is_complete
            assert await num_stored() == 1
            held.disk.is_full = True
            assert b"error" in (await held.ask(CHAT, store=True, stream=is_stream)).body
            assert await num_stored() == 1
            held.disk.is_full = False

    asyncio.run(main())


def test_a_client_that_has_an_answer_can_prove_it_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with holding(tmp_path) as held:
            reply = await held.ask(CHAT)
            found = await Client(held.served.app, "GET", f"/v1/provenance/{reply.headers['x-headrace-record']}").run()
            bundle = json.loads(found.body)
            assert statement(bundle["record"]["envelope"])
            assert bundle["record"]["proof"]

    asyncio.run(main())


def test_answers_wait_only_where_records_are_enforced(tmp_path: Path) -> None:
    async def main() -> None:
        async with holding(tmp_path, text=WAITS.replace("enforce", "monitor")):
            pytest.fail("it began")

    with pytest.raises(InvalidRequest, match=r'records\.waits: true needs mode = "enforce"'):
        asyncio.run(main())
