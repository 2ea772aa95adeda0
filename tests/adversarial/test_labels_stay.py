"""What came under a label reaches no backend without clearance later, whichever service kept it meanwhile."""

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.loopback import listening
from tests.served import HI, Served, near, serving
from tests.socket_client import SocketClient
from tests.upstreams import upstream
from websockets.asyncio.client import connect

FORM = "multipart/form-data; boundary=b"
RESTRICTED = {"x_headrace_labels": "restricted"}


async def post(served: Served, path: str, body: Any, **headers: str) -> Any:
    return (await served.ask("POST", path, body, **headers)).json()


def form(line: dict[str, Any]) -> bytes:
    head = '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
    head += 'content-disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n'
    return (head + json.dumps(line) + "\r\n--b--\r\n").encode()


def test_a_batchs_labels_hold_for_its_lines(tmp_path: Path) -> None:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}

    async def main() -> None:
        async with upstream() as up, serving(tmp_path, near(up)) as served:
            sent = await post(served, "/v1/files", form(line | {"body": {"model": "chat", "messages": HI}}),
                              content_type=FORM)  # fmt: skip
            order = {"input_file_id": sent["id"], "endpoint": line["url"], "completion_window": "24h"}
            batch = await post(served, "/v1/batches", order, **RESTRICTED)
            while batch["status"] not in {"completed", "failed"}:
                await asyncio.sleep(0)
                batch = (await served.ask("GET", f"/v1/batches/{batch['id']}")).json()
            assert batch["request_counts"]["failed"] == 1
            told = await served.ask("GET", f"/v1/files/{batch['error_file_id']}/content")
            assert b"not_cleared" in told.body
            assert not up.received

    asyncio.run(main())


def test_a_conversations_labels_hold_for_responses_in_it(tmp_path: Path) -> None:
    said = {"items": [{"type": "message", "role": "user", "content": "a secret"}]}
    ask = {"model": "chat", "input": "and?"}

    async def main() -> None:
        async with upstream() as up, serving(tmp_path, near(up)) as served:
            made = await post(served, "/v1/conversations", said, **RESTRICTED)
            empty = await post(served, "/v1/conversations", {})
            await post(served, f"/v1/conversations/{empty['id']}/items", said, **RESTRICTED)
            for conversation in (made, empty):
                told = await post(served, "/v1/responses", ask | {"conversation": conversation["id"]})
                assert told["error"]["code"] == "not_cleared", told
            assert not up.received

    asyncio.run(main())


def test_a_sockets_labels_hold_for_its_turns(tmp_path: Path) -> None:
    headers = {"x-headrace-labels": "restricted", "x-headrace-tags": "thesis"}

    async def main() -> None:
        async with upstream() as up, serving(tmp_path, near(up)) as served, listening(served.app) as (_, port):
            async with connect(f"ws://127.0.0.1:{port}/v1/responses", additional_headers=headers) as connection:
                last = await SocketClient(connection).turn("a secret", model="chat")
                assert last["error"]["code"] == "not_cleared", last
            assert not up.received

    asyncio.run(main())
