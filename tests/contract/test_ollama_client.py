"""The official Ollama client, over a real socket: its typed parsing accepts what comes, streams included."""

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any

import ollama
import pytest
from tests.doubles_http import make_app, run
from tests.loopback import listening
from tests.scripted import CARD, Call, Scripted, Turn, last_says, tool_results

from headrace.core.backend import ModelCard
from headrace.core.errors import ContextTooLong, EngineFault, HeadraceError, InvalidRequest, ModelFileError
from headrace.core.model_library import ModelDetails, PullStep
from headrace.core.request import Effort, FormatKind, Role, Task
from headrace.core.service import Residence
from headrace.server.config import ServerConfig

DETAILS = ModelDetails(
    num_bytes=98_362_432,
    modified_s=1_700_000_000.5,
    format="gguf",
    family="llama",
    num_parameters=134_515_008,
    quantization="Q4_1",
    context_length=8192,
    embedding_length=576,
    template="{{ messages }} {{ tools }} <think>",
    licence="apache-2.0",
    metadata={"general.architecture": "llama", "llama.block_count": 30},
)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where."}},
            "required": ["city"],
        },
    },
}


class Shelf:
    """A library whose one model fetches in two steps, or fails."""

    def __init__(self, error: HeadraceError | None = None) -> None:
        self.error = error

    async def describe(self, model: str) -> ModelDetails:
        if model != CARD.id:
            raise ModelFileError("it is damaged.")
        return DETAILS

    async def pull(self, name: str) -> AsyncGenerator[PullStep, None]:
        if name != "smollm2":
            raise InvalidRequest(f"model: {name!r} is not in the catalog; it has smollm2.", param="model")
        yield PullStep("downloading a.gguf", 0, 10)
        yield PullStep("downloading a.gguf", 10, 10)
        if self.error is not None:
            raise self.error


class Rooms:
    """Residents that write down what they were asked."""

    memory_bytes: int | None = None

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def load_model(self, name: str) -> Residence:
        self.asked.append(("load", name))
        return Residence(name=name, state="ready")

    async def unload_model(self, name: str, *, waits: bool = True) -> Residence:
        self.asked.append(("unload" if waits else "unload at once", name))
        return Residence(name=name, state="absent")

    def residences(self) -> tuple[Residence, ...]:
        return (Residence(name=CARD.id, state="ready", bytes_held=123, unloads_in_s=60.0),)


@contextlib.asynccontextmanager
async def connected(backend: Scripted, **services: Any) -> AsyncIterator[ollama.AsyncClient]:
    app = make_app(backend, ServerConfig(port=0), **{"model_library": Shelf()} | services)
    async with listening(app) as (_, port):
        client = ollama.AsyncClient(host=f"http://127.0.0.1:{port}", timeout=4, trust_env=False)
        try:
            yield client
        finally:
            await client._client.aclose()


def play(backend: Scripted, main: Callable[[ollama.AsyncClient], Coroutine[Any, Any, None]], **services: Any) -> None:
    async def whole() -> None:
        async with connected(backend, **services) as client:
            await main(client)
        assert backend.num_open == 0

    run(whole())


HI: Any = [{"role": "user", "content": "Hi"}]


def test_a_chat_is_answered_whole_with_counts_and_durations() -> None:
    backend = Scripted([Turn(text="Hello there, friend.")])

    async def main(client: ollama.AsyncClient) -> None:
        options = {"temperature": 0, "seed": 7, "num_predict": 9, "top_k": 5, "stop": ["END"], "num_ctx": 4096}
        reply = await client.chat("scripted:latest", HI, options=options, keep_alive="5m")
        assert reply.message.role == "assistant"
        assert reply.message.content == "Hello there, friend."
        assert (reply.model, reply.done, reply.done_reason) == ("scripted:latest", True, "stop")
        assert reply.eval_count == 3
        assert reply.prompt_eval_count
        assert reply.created_at is not None
        assert reply.created_at.endswith("Z")
        for name in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
            assert isinstance(reply[name], int)

    play(backend, main)
    (request,) = backend.requests
    assert request.model == "scripted"
    assert (request.sampling.temperature, request.sampling.seed, request.sampling.top_k) == (0, 7, 5)
    assert (request.sampling.top_p, request.sampling.repetition_penalty) == (0.9, 1.0)
    assert (request.limits.max_tokens, request.limits.stop) == (9, ("END",))


def test_a_stream_comes_piece_by_piece_with_its_reasoning_apart() -> None:
    backend = Scripted([Turn(reasoning="Let me see.", text="It is so.")])

    async def main(client: ollama.AsyncClient) -> None:
        parts = [part async for part in await client.chat("scripted", HI, stream=True, think=True)]
        assert "".join(part.message.thinking or "" for part in parts) == "Let me see."
        assert "".join(part.message.content or "" for part in parts) == "It is so."
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
        assert parts[-1].eval_count == 6
        thought = await client.generate("scripted", "Hi", think="low")
        assert (thought.thinking, thought.response) == ("Let me see.", "It is so.")

    play(backend, main)
    assert [request.reasoning.effort for request in backend.requests] == [Effort.MEDIUM, Effort.LOW]


def test_tools_are_called_with_objects_and_their_results_find_their_calls() -> None:
    calls = (Call("get_weather", {"city": "Paris"}), Call("get_weather", {"city": "Oslo"}))
    turns = [
        Turn(calls=calls, when=tool_results(0), sizes=(3,)),
        Turn(text="Cold in both.", when=tool_results(2)),
    ]
    backend = Scripted(turns)

    async def main(client: ollama.AsyncClient) -> None:
        for streams in (False, True):
            messages: list[Any] = list(HI)
            if streams:
                parts = [part async for part in await client.chat("scripted", messages, tools=[WEATHER], stream=True)]
                (message,) = [part.message for part in parts if part.message.tool_calls]
            else:
                reply = await client.chat("scripted", messages, tools=[WEATHER])
                message = reply.message
            assert message.tool_calls is not None
            assert [call.function.arguments for call in message.tool_calls] == [{"city": "Paris"}, {"city": "Oslo"}]
            messages.append(message)
            names = [call.function.name for call in message.tool_calls]
            messages += [{"role": "tool", "content": "3 C", "tool_name": name} for name in names]
            answer = await client.chat("scripted", messages, tools=[WEATHER])
            assert answer.message.content == "Cold in both."

    play(backend, main)
    last = backend.requests[-1]
    assert last.tools[0].name == "get_weather"
    assert last.messages is not None
    assert [message.role for message in last.messages] == [Role.USER, Role.ASSISTANT, Role.TOOL, Role.TOOL]
    ids = [call.id for call in last.messages[1].tool_calls]
    assert len(set(ids)) == 2
    assert [message.tool_call_id for message in last.messages[2:]] == ids
    assert json.loads(last.messages[1].tool_calls[0].arguments) == {"city": "Paris"}


def test_a_python_function_is_a_tool() -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: One.
            b: The other.
        """
        return a + b

    backend = Scripted([Turn(calls=(Call("add", {"a": 1, "b": 2}),))])

    async def main(client: ollama.AsyncClient) -> None:
        reply = await client.chat("scripted", HI, tools=[add])
        assert reply.message.tool_calls is not None
        assert reply.message.tool_calls[0].function.arguments == {"a": 1, "b": 2}

    play(backend, main)
    assert backend.requests[0].tools[0].parameters["required"] == ["a", "b"]


def test_generate_speaks_through_the_template_raw_and_around_a_gap() -> None:
    backend = Scripted([Turn(text="Once upon.")])

    async def main(client: ollama.AsyncClient) -> None:
        reply = await client.generate("scripted", "Tell.", system="Be brief.")
        assert (reply.response, reply.done_reason) == ("Once upon.", "stop")
        parts = [part async for part in await client.generate("scripted", "Raw", raw=True, stream=True)]
        assert "".join(part.response or "" for part in parts) == "Once upon."
        await client.generate("scripted", "def f(", suffix="return 1")

    play(backend, main)
    chat, raw, gap = backend.requests
    assert chat.messages is not None
    assert [(message.role, message.text) for message in chat.messages] == [
        (Role.SYSTEM, "Be brief."),
        (Role.USER, "Tell."),
    ]
    assert (raw.prompt, raw.messages) == ("Raw", None)
    assert (gap.prompt, gap.suffix) == ("def f(", "return 1")


def test_forms_of_answers_are_json_or_a_schema() -> None:
    backend = Scripted([Turn(text='{"a":1}')])
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}

    async def main(client: ollama.AsyncClient) -> None:
        await client.chat("scripted", HI, format="json")
        await client.chat("scripted", HI, format=schema)
        await client.chat("scripted", HI, format="")

    play(backend, main)
    formats = [request.response_format for request in backend.requests]
    assert [one.kind for one in formats] == [FormatKind.JSON_OBJECT, FormatKind.JSON_SCHEMA, FormatKind.TEXT]
    assert formats[1].schema == schema


def test_log_probabilities_are_told_with_their_alternatives() -> None:
    async def main(client: ollama.AsyncClient) -> None:
        reply = await client.chat("scripted", HI, logprobs=True, top_logprobs=2)
        assert reply.logprobs is not None
        assert len(reply.logprobs) == 3
        assert reply.logprobs[0].top_logprobs is not None
        assert len(reply.logprobs[0].top_logprobs) == 2
        assert reply.logprobs[0].logprob <= 0

    play(Scripted([Turn(text="one two three")]), main)


def test_texts_become_vectors_on_both_routes() -> None:
    async def main(client: ollama.AsyncClient) -> None:
        reply = await client.embed("scripted", ["a", "b"])
        assert [len(vector) for vector in reply.embeddings] == [16, 16]
        assert reply.prompt_eval_count
        (one,) = (await client.embed("scripted", "a")).embeddings
        assert one == reply.embeddings[0]
        assert (await client.embeddings("scripted", "a")).embedding == one
        assert (await client.embed("scripted", [])).embeddings == []

    play(Scripted([]), main)


def test_models_are_listed_shown_and_running() -> None:
    encoder = ModelCard(
        id="encoder",
        created=1_600_000_000,
        owned_by="tests",
        context_length=512,
        digest="",
        tasks=frozenset({Task.EMBED}),
        is_loaded=False,
    )

    async def main(client: ollama.AsyncClient) -> None:
        first, second = (await client.list()).models
        assert (first.model, first.size, first.digest) == ("scripted:latest", 98_362_432, CARD.digest[7:])
        assert first.details is not None
        assert (first.details.parameter_size, first.details.quantization_level) == ("134.5M", "Q4_1")
        assert first.details.families == ["llama"]
        assert first.modified_at is not None
        assert first.modified_at.year == 2023
        assert second.model == "encoder:latest"
        shown = await client.show("scripted:latest")
        assert shown.template == DETAILS.template
        assert shown.capabilities == ["completion", "embedding", "tools", "thinking"]
        assert shown.modelinfo is not None
        assert shown.modelinfo["llama.context_length"] == CARD.context_length
        assert shown.license == "apache-2.0"
        assert (await client.show("encoder")).capabilities == ["embedding"]
        (running,) = (await client.ps()).models
        assert (running.model, running.size, running.context_length) == ("scripted:latest", 123, CARD.context_length)
        assert running.expires_at is not None
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            await client.show("nonsense")
        assert caught.value.status_code == 404

    play(Scripted([], cards=(CARD, encoder)), main, residents=Rooms())


def test_nothing_said_loads_a_model_and_keep_alive_0_lets_it_go() -> None:
    rooms = Rooms()

    async def main(client: ollama.AsyncClient) -> None:
        assert (await client.generate("scripted")).done_reason == "load"
        assert (await client.chat("scripted", [])).done_reason == "load"
        assert (await client.generate("scripted", keep_alive=0)).done_reason == "unload"
        assert (await client.chat("scripted", HI, keep_alive="0s")).message.content == "Hi."
        await client.chat("scripted", HI, keep_alive=-1)
        await client.chat("scripted", HI, keep_alive="1h30m")
        with pytest.raises(ollama.ResponseError, match="keep_alive"):
            await client.chat("scripted", HI, keep_alive="soon")

    play(Scripted([Turn(text="Hi.")]), main, residents=rooms)
    assert rooms.asked == [
        ("load", "scripted"),
        ("load", "scripted"),
        ("unload", "scripted"),
        ("unload at once", "scripted"),
    ]


def test_a_model_of_the_catalog_is_pulled_and_no_other() -> None:
    async def main(client: ollama.AsyncClient) -> None:
        parts = [part async for part in await client.pull("smollm2", stream=True)]
        assert [(part.status, part.completed) for part in parts] == [
            ("downloading a.gguf", 0),
            ("downloading a.gguf", 10),
            ("success", None),
        ]
        assert (await client.pull("smollm2")).status == "success"
        with pytest.raises(ollama.ResponseError, match="catalog") as caught:
            await client.pull("llama3.2")
        assert caught.value.status_code == 400

    play(Scripted([]), main)

    async def broken(client: ollama.AsyncClient) -> None:
        with pytest.raises(ollama.ResponseError, match="wrong bytes"):
            async for _ in await client.pull("smollm2", stream=True):
                pass

    play(Scripted([]), broken, model_library=Shelf(ModelFileError("wrong bytes.")))


def test_refusals_are_errors_of_the_client_before_and_in_a_stream() -> None:
    turns = [
        Turn(error=ContextTooLong("too long."), error_after=0, when=last_says("long")),
        Turn(text="one two three", error=EngineFault("it broke."), error_after=2, when=last_says("break")),
    ]

    async def main(client: ollama.AsyncClient) -> None:
        with pytest.raises(ollama.ResponseError, match="too long") as caught:
            await client.chat("scripted", [{"role": "user", "content": "long"}])
        assert caught.value.status_code == 400
        said = ""
        with pytest.raises(ollama.ResponseError, match="it broke"):
            async for part in await client.chat("scripted", [{"role": "user", "content": "break"}], stream=True):
                said += part.message.content or ""
        assert said
        with pytest.raises(ollama.ResponseError) as caught:
            await client.chat("nonsense", HI)
        assert caught.value.status_code == 404

    play(Scripted(turns), main)
