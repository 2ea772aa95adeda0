"""The WebSocket on the real model: turns find their pages, steering cuts speech, who leaves frees everything."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from tests.doubles_http import run
from tests.loopback import listening
from tests.scripted_services import scripted_services
from tests.socket_client import SocketClient, until
from websockets.asyncio.client import connect

from headrace.engine.config import EngineConfig
from headrace.engine.text import Setup, TextEngine
from headrace.models.catalog import system_turn
from headrace.models.load import LoadedModel, load_model
from headrace.server.app import build_app
from headrace.server.config import ServerConfig
from headrace.server.services import Services

MODEL = "smollm2-135m-instruct"
LIMIT_S = 180
# Long enough for whole pages to be found again.
STORY = "The mill stands by the river. " * 30
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 24}


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=tmp_path_factory.mktemp("packed"))


@contextlib.asynccontextmanager
async def serving(model: LoadedModel) -> AsyncIterator[tuple[TextEngine, int]]:
    config = EngineConfig(threads=2, kv_memory_bytes=128 * 1024 * 1024)
    engine = TextEngine([model], config, setups={MODEL: Setup(system=system_turn(model.digest))})
    engine.start()
    with tempfile.TemporaryDirectory() as folder:
        try:
            async with scripted_services(engine, Path(folder)) as services:  # type: ignore[arg-type]
                own = Services(responses=services.responses)
                app = build_app(engine, ServerConfig(port=0), metrics=engine.metrics, services=own)
                async with listening(app) as (_, port):
                    yield engine, port
        finally:
            await engine.close()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[SocketClient]:
    async with connect(f"ws://127.0.0.1:{port}/v1/responses", compression=None) as connection:
        yield SocketClient(connection)


def text(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def pinned(engine: TextEngine) -> float:
    lines = engine.metrics.expose()[0].decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("headrace:prefix_cache_pinned"))


def test_a_lane_says_what_http_says_finds_its_pages_and_frees_them_when_it_ends(model: LoadedModel) -> None:
    async def main() -> None:
        async with serving(model) as (engine, port):
            async with connected(port) as client:
                warm = await client.turn(STORY, **GREEDY, generate=False)
                assert warm["response"]["output"] == []
                first = (await client.turn("Where is it?", **GREEDY, previous_response_id=warm["response"]["id"]))[
                    "response"
                ]
                assert first["usage"]["input_tokens_details"]["cached_tokens"] > 150
                last = (await client.turn("Go on.", **GREEDY, previous_response_id=first["id"]))["response"]
                usage = last["usage"]
                assert usage["input_tokens"] - usage["input_tokens_details"]["cached_tokens"] < 64
                assert pinned(engine) > 0
                turns = [("user", STORY), ("user", "Where is it?"), ("assistant", text(first)), ("user", "Go on.")]
                async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as http:
                    given: Any = [{"role": role, "content": content} for role, content in turns]
                    again = await http.responses.create(**GREEDY, input=given, store=False)
                    assert again.output_text == text(last)
            await until(lambda: pinned(engine) == 0)

    run(main(), LIMIT_S)


def test_a_response_that_is_steered_stops_speaking_and_its_successor_knows_what_was_said(model: LoadedModel) -> None:
    async def main() -> None:
        async with serving(model) as (_, port), connected(port) as client:
            await client.create("Tell a very long story.", **GREEDY | {"max_output_tokens": 2000})
            created = await client.until("response.created")
            await client.until("response.output_text.delta")
            target = created["response"]["id"]
            await client.send({"type": "response.steer", "previous_response_id": target, "input": "Stop. Say goodbye."})
            steered = (await client.until("response.incomplete"))["response"]
            assert steered["incomplete_details"] == {"reason": "steered"}
            said = text(steered)
            assert 0 < len(said) < 4000
            successor = await client.until("response.created")
            assert successor["response"]["previous_response_id"] == target
            cancelled = {"type": "response.steer", "previous_response_id": target, "input": "x"}
            await client.send(cancelled)
            assert (await client.until("response.steer.failed"))["error"]["code"] == "response_not_active"

    run(main(), LIMIT_S)


def test_clients_that_vanish_amid_their_answers_leave_an_idle_engine(model: LoadedModel) -> None:
    async def main() -> None:
        async with serving(model) as (engine, port):
            for _ in range(3):
                async with connected(port) as client:
                    for lane in ("a", "b"):
                        await client.create(
                            "Tell a very long story.", **GREEDY | {"max_output_tokens": 2000}, stream_id=lane
                        )
                    await client.until("response.output_text.delta", stream_id="b")
                    client.connection.transport.abort()
            await until(lambda: pinned(engine) == 0 and running(engine) == 0)

    run(main(), LIMIT_S)


def running(engine: TextEngine) -> float:
    lines = engine.metrics.expose()[0].decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:num_requests_running"))
