"""Anthropic's official client, run against the application over a real socket with a scripted backend.

Its types are the oracle: strict validation of what it parsed finds a field that is missing or of another type.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import beta_async_tool
from anthropic.types import Message
from tests.doubles_http import make_app, run
from tests.loopback import listening
from tests.scripted import Call, Gate, Scripted, Turn, last_says, tool_results

from headrace.core.errors import ContextTooLong, EngineFault, HeadraceError, Overloaded, RateLimited
from headrace.core.events import FinishReason
from headrace.core.request import Role, Task, ToolMode
from headrace.server.config import ServerConfig

MODEL = "scripted"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a place.",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}
LONG = "water and stone " * 20


@contextlib.asynccontextmanager
async def connected(backend: Scripted) -> AsyncIterator[anthropic.AsyncAnthropic]:
    app = make_app(backend, ServerConfig(port=0))
    async with listening(app) as (_, port):
        url = f"http://127.0.0.1:{port}"
        async with anthropic.AsyncAnthropic(base_url=url, api_key="unused", max_retries=0, timeout=4) as client:
            yield client


def play(backend: Scripted, main: Callable[[anthropic.AsyncAnthropic], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with connected(backend) as client:
            await main(client)
        assert backend.num_open == 0

    run(whole(), 15)


def strict(message: Message) -> Message:
    """The client builds its models without validation; this validates."""
    return Message.model_validate(message.model_dump(warnings="error"), strict=False)


async def whole_and_streamed(client: anthropic.AsyncAnthropic, **fields: Any) -> list[Message]:
    """The same request answered in one piece, and gathered from a stream by the client's own accumulator."""
    given: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": HELLO} | fields
    answers = [await client.messages.create(**given)]
    async with client.messages.stream(**given) as stream:
        answers.append(await stream.get_final_message())  # type: ignore[arg-type]
    return [strict(answer) for answer in answers]


def test_text_is_understood_whole_and_streamed() -> None:
    backend = Scripted([Turn(text="Hello, you two \u2764")])

    async def main(client: anthropic.AsyncAnthropic) -> None:
        for answer in await whole_and_streamed(
            client, system="Be brief.", extra_body={"temperature": 0, "top_p": 0.5, "top_k": 3}
        ):
            (block,) = answer.content
            assert block.type == "text"
            assert block.text == "Hello, you two \u2764"
            assert (answer.role, answer.model, answer.stop_reason) == ("assistant", MODEL, "end_turn")
            assert answer.id.startswith("msg_")
            assert (answer.usage.input_tokens, answer.usage.output_tokens) == (5, 4)
            assert answer.usage.service_tier == "standard"

    play(backend, main)
    request = backend.requests[0]
    assert request.messages is not None
    assert [(one.role, one.text) for one in request.messages] == [(Role.SYSTEM, "Be brief."), (Role.USER, "Hello")]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, request.limits.max_tokens) == (0, 0.5, 3, 100)


def test_a_stop_sequence_and_a_full_answer_say_why_they_ended() -> None:
    async def main(client: anthropic.AsyncAnthropic) -> None:
        for answer in await whole_and_streamed(client, stop_sequences=["three", "four"]):
            assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "three")
        for answer in await whole_and_streamed(client, max_tokens=2):
            assert (answer.stop_reason, answer.stop_sequence) == ("max_tokens", None)
        for answer in await whole_and_streamed(client, max_tokens=0):
            assert (answer.stop_reason, answer.content, answer.usage.output_tokens) == ("max_tokens", [], 0)

    play(Scripted([Turn(text="one two three four")]), main)


def test_thinking_comes_in_a_signed_block_and_goes_back() -> None:
    backend = Scripted([
        Turn(reasoning="Two and two.", text="Four.", when=last_says("sum")),
        Turn(text="Sure.", when=last_says("sure")),
    ])  # fmt: skip
    ask: list[Any] = [{"role": "user", "content": "sum?"}]

    async def main(client: anthropic.AsyncAnthropic) -> None:
        for display in ("summarized", "omitted"):
            thinking = {"type": "enabled", "budget_tokens": 1024, "display": display}
            for answer in await whole_and_streamed(client, max_tokens=2048, messages=ask, thinking=thinking):
                thought, text = answer.content
                assert thought.type == "thinking"
                assert thought.thinking == ("Two and two." if display == "summarized" else "")
                assert text.type == "text"
                assert (text.text, answer.stop_reason) == ("Four.", "end_turn")
                details = answer.usage.output_tokens_details
                assert details is not None
                assert (details.thinking_tokens, answer.usage.output_tokens) == (3, 4)
                back = [*ask, answer.to_param(), {"role": "user", "content": "sure?"}]
                await client.messages.create(model=MODEL, max_tokens=9, messages=back)
                messages = backend.requests[-1].messages
                assert messages is not None
                assert (messages[1].reasoning, messages[1].text) == ("Two and two.", "Four.")
        altered = thought.model_dump() | {"thinking": "Three."}
        with pytest.raises(anthropic.BadRequestError, match="signature"):
            back = [*ask, {"role": "assistant", "content": [altered]}, *ask]
            await client.messages.create(model=MODEL, max_tokens=9, messages=back)

    play(backend, main)
    first, plain = backend.requests[0], backend.requests[2]
    assert first.reasoning.max_tokens == 1024
    assert plain.reasoning.max_tokens is None


def test_tools_are_called_and_answered_by_the_clients_own_loop() -> None:
    backend = Scripted(
        [
            Turn(
                reasoning="Ask.",
                text="Let me see.",
                calls=(Call("get_weather", {"place": "Ulm \u2764"}), Call("get_weather", {"place": "Jena"})),
                when=tool_results(0),
                sizes=(3,),
            ),
            Turn(text="Rain in both.", when=tool_results(2)),
        ]
    )
    asked: list[str] = []

    @beta_async_tool
    async def get_weather(place: str) -> str:
        """The weather of a place."""
        asked.append(place)
        return f"rain in {place}"

    async def main(client: anthropic.AsyncAnthropic) -> None:
        for is_stream in (False, True):
            runner = client.beta.messages.tool_runner(
                model=MODEL,
                max_tokens=500,
                tools=[get_weather],
                messages=[{"role": "user", "content": "Weather?"}],
                thinking={"type": "adaptive"},
                stream=is_stream,  # type: ignore[call-overload]
            )
            final = await runner.until_done()
            assert final.content[0].text == "Rain in both."
        for answer in await whole_and_streamed(client, tools=[WEATHER], thinking={"type": "adaptive"}):
            assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
            call = answer.content[2]
            assert call.type == "tool_use"
            assert (call.name, call.input) == ("get_weather", {"place": "Ulm \u2764"})
            assert call.id.startswith("toolu_")
            assert answer.stop_reason == "tool_use"

    play(backend, main)
    assert asked == ["Ulm \u2764", "Jena"] * 2
    talk = backend.requests[1].messages
    assert talk is not None
    assert [one.role for one in talk] == [Role.USER, Role.ASSISTANT, Role.TOOL, Role.TOOL]
    assert [one.tool_call_id for one in talk[2:]] == [call.id for call in talk[1].tool_calls]
    assert [one.text for one in talk[2:]] == ["rain in Ulm \u2764", "rain in Jena"]


def test_a_tool_choice_is_passed_on() -> None:
    backend = Scripted([Turn(text="Well.", calls=(Call("get_weather", {"place": "Ulm"}),))])

    async def main(client: anthropic.AsyncAnthropic) -> None:
        ask: dict[str, Any] = {"model": MODEL, "max_tokens": 99, "messages": HELLO, "tools": [WEATHER]}
        for choice in (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"type": "any"},
            {"type": "tool", "name": "get_weather"},
            {"type": "none"},
        ):
            await client.messages.create(**ask, tool_choice=choice)
        with pytest.raises(anthropic.BadRequestError, match="get_wether"):
            await client.messages.create(**ask, tool_choice={"type": "tool", "name": "get_wether"})

    play(backend, main)
    choices = [request.tool_choice for request in backend.requests]
    assert [one.mode for one in choices] == [ToolMode.AUTO, ToolMode.REQUIRED, ToolMode.REQUIRED, ToolMode.NONE]
    assert (choices[0].max_calls, choices[2].names) == (1, ("get_weather",))


def test_tokens_are_counted_without_an_answer() -> None:
    backend = Scripted([Turn(text="unused")])

    async def main(client: anthropic.AsyncAnthropic) -> None:
        count = await client.messages.count_tokens(model=MODEL, messages=HELLO, system="Be brief.")
        assert count.input_tokens == 5
        more = await client.messages.count_tokens(model=MODEL, messages=HELLO, system="Be brief.", tools=[WEATHER])
        assert more.input_tokens > 5

    play(backend, main)
    assert {request.task for request in backend.requests} == {Task.COUNT}


def test_usage_tells_what_was_read_from_the_cache_and_written_to_it() -> None:
    marked = {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    system: list[Any] = [marked, {"type": "text", "text": "short"}]
    first: list[Any] = [{"role": "user", "content": "one two three"}]
    second: list[Any] = [*first, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "four"}]

    async def usages(client: anthropic.AsyncAnthropic, **fields: Any) -> list[tuple[Any, ...]]:
        told = []
        for answer in await whole_and_streamed(client, system=system, cache_control={"type": "ephemeral"}, **fields):
            usage = answer.usage
            assert usage.cache_creation is not None
            kept = usage.cache_creation.ephemeral_1h_input_tokens, usage.cache_creation.ephemeral_5m_input_tokens
            told.append((usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens, *kept))
        return told

    async def main(client: anthropic.AsyncAnthropic) -> None:
        # 62 words of system, of which all are kept for an hour, and 4 of the first message.
        miss, hit = await usages(client, messages=first)
        assert miss == (0, 0, 66, 62, 4)
        assert hit in ((1, 65, 0, 0, 0), (0, 65, 1, 0, 1))
        partial, again = await usages(client, messages=second)
        assert partial[1] == 66
        assert sum(partial[:3]) == 70
        assert again[1] == 69

    play(Scripted([Turn(text="Yes.")], remembers=True), main)


def test_a_fifth_mark_and_an_hour_behind_five_minutes_are_refused() -> None:
    def marked(ttl: str | None = None) -> dict[str, Any]:
        control = {"type": "ephemeral"} | ({} if ttl is None else {"ttl": ttl})
        return {"type": "text", "text": "x", "cache_control": control}

    async def main(client: anthropic.AsyncAnthropic) -> None:
        async def ask(system: list[Any], blocks: list[Any], **extra: Any) -> None:
            talk: Any = [{"role": "user", "content": blocks}]
            await client.messages.create(model=MODEL, max_tokens=9, messages=talk, system=system, **extra)

        await ask([marked(), marked()], [marked(), marked()])
        with pytest.raises(anthropic.BadRequestError, match="mark number 5"):
            await ask([marked(), marked()], [marked(), marked(), marked()])
        plain = {"type": "text", "text": "x"}
        with pytest.raises(anthropic.BadRequestError, match="cache_control: is mark number 5"):
            await ask([marked(), marked(), marked(), marked()], [plain], cache_control={"type": "ephemeral"})
        await ask([marked("1h")], [marked("5m")])
        with pytest.raises(anthropic.BadRequestError, match="longer times come first"):
            await ask([marked()], [marked("1h")])

    play(Scripted([Turn(text="Yes.")]), main)


def test_a_cache_miss_is_explained_by_what_changed_since_the_message_before() -> None:
    async def main(client: anthropic.AsyncAnthropic) -> None:
        async def ask(previous: str | None, **fields: Any) -> tuple[str, Any]:
            given: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "messages": HELLO, "system": LONG} | fields
            answer = strict(await client.messages.create(**given, diagnostics={"previous_message_id": previous}))
            reason = None if answer.diagnostics is None else answer.diagnostics.cache_miss_reason
            return answer.id, reason

        first, none = await ask(None)
        assert none is None
        longer: list[Any] = [*HELLO, {"role": "assistant", "content": "Yes."}, *HELLO]
        second, none = await ask(first, messages=longer)
        assert none is None
        _, system = await ask(second, messages=longer, system="other " + LONG)
        assert system.type == "system_changed"
        assert system.cache_missed_input_tokens > 60
        _, tools = await ask(second, messages=longer, tools=[WEATHER])
        assert tools.type == "tools_changed"
        _, messages = await ask(second, messages=[{"role": "user", "content": "Bye"}, *longer[1:]])
        assert messages.type == "messages_changed"
        _, thinking = await ask(second, messages=longer, thinking={"type": "adaptive"})
        assert thinking.type == "unavailable"
        _, unknown = await ask("msg_nobody_knows")
        assert unknown.type == "previous_message_not_found"

    play(Scripted([Turn(text="Yes.")], remembers=True), main)


@pytest.mark.parametrize(
    ("error", "raised", "status", "kind"),
    [
        (ContextTooLong("9000 tokens."), anthropic.BadRequestError, 400, "invalid_request_error"),
        (Overloaded("full.", retry_after_s=1), anthropic.InternalServerError, 529, "overloaded_error"),
        (RateLimited("slow.", retry_after_s=2), anthropic.RateLimitError, 429, "rate_limit_error"),
        (EngineFault("a defect."), anthropic.InternalServerError, 500, "api_error"),
    ],
)
def test_errors_of_the_backend_become_the_clients_own(
    error: HeadraceError, raised: type[Any], status: int, kind: str
) -> None:
    async def main(client: anthropic.AsyncAnthropic) -> None:
        for stream in (False, True):
            with pytest.raises(raised) as caught:
                await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO, stream=stream)
            assert (caught.value.status_code, caught.value.body["error"]["type"]) == (status, kind)
            assert caught.value.request_id == caught.value.body["request_id"]
            headers = caught.value.response.headers
            assert headers["x-should-retry"] == ("true" if error.retryable else "false")
            assert headers.get("retry-after") == (None if error.retry_after_s is None else str(error.retry_after_s))

    play(Scripted([Turn(text="x", error=error, error_after=0)]), main)


def test_an_unknown_model_is_not_found() -> None:
    async def main(client: anthropic.AsyncAnthropic) -> None:
        with pytest.raises(anthropic.NotFoundError, match="claude-0"):
            await client.messages.create(model="claude-0", max_tokens=9, messages=HELLO)

    play(Scripted([Turn(text="x")]), main)


def test_an_error_in_the_middle_of_a_stream_is_raised_and_not_taken_for_the_end() -> None:
    gate = Gate()
    backend = Scripted([Turn(text="half of it", gates={1: gate}, error=EngineFault("a defect."), error_after=1)])

    async def main(client: anthropic.AsyncAnthropic) -> None:
        heard = []
        with pytest.raises(anthropic.APIError, match="a defect"):
            async with client.messages.stream(model=MODEL, max_tokens=9, messages=HELLO) as stream:
                async for text in stream.text_stream:
                    heard.append(text)
                    gate.go.set()
        assert heard == ["half "]

    play(backend, main)


def test_leaving_a_stream_cancels_the_request() -> None:
    backend = Scripted([Turn(text="a b c", gates={1: Gate()})])

    async def main(client: anthropic.AsyncAnthropic) -> None:
        async with client.messages.stream(model=MODEL, max_tokens=9, messages=HELLO) as stream:
            async for _ in stream.text_stream:
                break

    play(backend, main)
    (stream,) = backend.streams
    assert (stream.is_closed, stream.is_finished) == (True, False)


def test_a_schema_holds_the_answer_to_its_form() -> None:
    backend = Scripted([Turn(text='{"a":1}')])
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

    async def main(client: anthropic.AsyncAnthropic) -> None:
        config: Any = {"format": {"type": "json_schema", "schema": schema}, "effort": "low"}
        await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO, output_config=config)

    play(backend, main)
    assert backend.requests[0].response_format.schema == schema


def test_fields_and_betas_that_nobody_knows_pass_when_they_come_together() -> None:
    backend = Scripted([Turn(text="Yes.", reason=FinishReason.STOP)])

    async def main(client: anthropic.AsyncAnthropic) -> None:
        extra = {"new_thing": {"on": True}, "context_management": {"edits": []}}
        answer = await client.beta.messages.create(
            model=MODEL, max_tokens=9, messages=HELLO, betas=["some-new-thing-2030-01-01"], extra_body=extra
        )
        assert (answer.model_extra or {})["headrace"] == {"left_out": ["new_thing"]}
        assert answer.context_management is not None
        assert answer.context_management.applied_edits == []
        with pytest.raises(anthropic.BadRequestError, match="new_thing: is not a field"):
            await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO, extra_body={"new_thing": 1})
        with pytest.raises(anthropic.BadRequestError, match="did you mean stop_sequences"):
            await client.beta.messages.create(
                model=MODEL, max_tokens=9, messages=HELLO, betas=["x"], extra_body={"stop_sequence": ["a"]}
            )

    play(backend, main)


def test_the_protocol_holds_without_its_version_header() -> None:
    backend = Scripted([Turn(text="Yes.")])

    async def main(client: anthropic.AsyncAnthropic) -> None:
        async with httpx2.AsyncClient(base_url=client.base_url) as plain:
            body = {"model": MODEL, "max_tokens": 9, "messages": HELLO}
            reply = await plain.post("/v1/messages?beta=true", json=body)
            assert (reply.status_code, reply.json()["content"][0]["text"]) == (200, "Yes.")
            assert reply.headers["request-id"] == reply.headers["x-request-id"]

    play(backend, main)
