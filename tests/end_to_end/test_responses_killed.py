"""A process is killed while it answers in the background: what was done stays, what was not has failed and says why."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.doubles_http import run
from tests.scripted import Scripted, Turn

from headrace.api.openai import Caller
from headrace.api.responses import decode_create
from headrace.api.responses_service import CreateCall
from headrace.cli.services import is_running
from headrace.core.clock import SystemClock
from headrace.core.request import Principal
from headrace.gateway.conversation import Responses
from headrace.memory.store import Store

# Answers one request, hangs in the background on a second one, and says so.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.end_to_end.test_responses_killed import answered, ask, serving
from tests.scripted import Gate, Scripted, Turn, last_says

async def main():
    gate = Gate()
    turns = [Turn(text="one two", gates={1: gate}, when=last_says("hang")), Turn(text="done")]
    async with serving(Path(sys.argv[1]), Scripted(turns)) as service:
        await answered(service, ask("resp_done", "go"))
        await service.begin(ask("resp_hung", "hang", background=True, stream=True))
        await gate.reached.wait()
        print("here", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def serving(folder: Path, backend: Scripted) -> AsyncIterator[Responses]:
    """The service over the state in a folder, as a server opens it."""
    store = Store(folder / "state.db")
    await store.open()
    service = Responses(backend, store, SystemClock())
    await service.open(is_running)
    try:
        yield service
    finally:
        await service.close()
        await store.close()


def ask(response_id: str, text: str, **fields: Any) -> CreateCall:
    body = msgspec.json.encode({"model": "scripted", "input": text} | fields)
    return decode_create(body, Caller(request_id=response_id, principal=Principal()))


async def answered(service: Responses, call: CreateCall) -> dict[str, Any]:
    async with aclosing(service.run(call)) as events:
        told = [event async for event in events]
    return dict(told[-1].response or {})


def test_what_a_killed_process_had_answered_goes_on_and_what_it_had_not_has_failed(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, cwd=root, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"

        async def beside() -> None:
            # Another server on the same state leaves the work of one that lives alone.
            async with serving(tmp_path, Scripted([])) as service:
                assert (await service.retrieve("local", "resp_hung"))["status"] in ("queued", "in_progress")

        try:
            run(beside())
        finally:
            process.kill()

    async def after() -> None:
        async with serving(tmp_path, Scripted([Turn(text="on")])) as service:
            hung = await service.retrieve("local", "resp_hung")
            assert (hung["status"], hung["error"]["code"]) == ("failed", "server_error")
            assert "send the request again" in hung["error"]["message"]
            again = await answered(service, ask("resp_on", "and?", previous_response_id="resp_done"))
            assert again["status"] == "completed"

    run(after())
