"""A batch outlives the key that ordered it, and its lines do not run when that key was taken back meanwhile."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from tests.served import CHAT, HI, Served, near, serving
from tests.upstreams import Upstream, hang_before, upstream

OLD, NEW = "hr_" + "a" * 20, "hr_" + "b" * 20


def key(name: str, secret: str, tenant: str = "team", scopes: str = '["generate"]') -> str:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return f'[[keys]]\nname = "{name}"\ntenant = "{tenant}"\nsha256 = "{digest}"\nscopes = {scopes}\n'


async def order(served: Served) -> str:
    """A batch of two lines, ordered with the old key."""
    body = {"model": "chat", "messages": HI, "max_tokens": 5}
    lines = [{"custom_id": str(at), "method": "POST", "url": CHAT, "body": body} for at in range(2)]
    parts = (
        '--B\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--B\r\ncontent-disposition: form-data; '
        'name="file"; filename="f.jsonl"\r\n\r\n' + "\n".join(map(json.dumps, lines)) + "\r\n--B--\r\n"
    )
    kind = "multipart/form-data; boundary=B"
    file = json.loads((await served.ask("POST", "/v1/files", parts.encode(), OLD, content_type=kind)).body)
    wanted = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    reply = await served.ask("POST", "/v1/batches", wanted, OLD)
    assert reply.status == 200, reply.body
    return str(json.loads(reply.body)["id"])


async def outcome(served: Served, batch_id: str, shown: str) -> dict[str, int]:
    """How many lines ended which way, once all did."""
    while True:
        batch = json.loads((await served.ask("GET", f"/v1/batches/{batch_id}", None, shown)).body)
        if batch["status"] in ("completed", "failed"):
            counts: dict[str, int] = batch["request_counts"]
            return counts
        await asyncio.sleep(0)


@pytest.mark.parametrize("scopes", [None, '["metrics"]', '["generate"]'])
def test_a_batch_runs_only_while_its_key_may_ask(tmp_path: Path, scopes: str | None) -> None:
    may = scopes == '["generate"]'

    async def main() -> None:
        async with upstream() as up:
            up.script += [hang_before(), hang_before()]
            async with serving(tmp_path, near(up, key("old", OLD) + key("new", NEW))) as served:
                batch_id = await order(served)
            up.script.clear()
            num_before = num(up)
            left = "" if scopes is None else key("old", OLD, scopes=scopes)
            async with serving(tmp_path, near(up, left + key("new", NEW))) as served:
                counts = await outcome(served, batch_id, NEW)
            assert (counts["completed"], counts["failed"]) == ((2, 0) if may else (0, 2))
            assert (num(up) - num_before > 0) is may

    asyncio.run(asyncio.wait_for(main(), 60))


def num(up: Upstream) -> int:
    return len([one for one in up.received if one.path.endswith("/chat/completions")])
