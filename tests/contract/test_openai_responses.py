"""Responses and Conversations through the official client over a real socket: its typed parsing accepts everything."""

from dataclasses import replace
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseReasoningItem
from pydantic import BaseModel
from tests.contract.responses_client import MODEL, play, two_tenants
from tests.scripted import CARD, Call, Gate, Scripted, Turn, last_says, tool_results

from headrace.core.errors import EngineFault, Overloaded
from headrace.core.ledger import PriceList, Prices
from headrace.core.request import Effort, FormatKind, Role, ToolMode
from headrace.server.config import ServerConfig

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
ASKS = Turn(text="Let me look.", calls=(Call("get_weather", {"city": "Paris"}),), when=tool_results(0))
KNOWS = Turn(reasoning="It says sun.", text="Sunny.", when=tool_results(1))


def test_a_whole_response_is_understood_and_the_backend_gets_what_was_asked() -> None:
    backend = Scripted(
        [Turn(text="Paris it is.", reasoning="Which one?", cached_tokens=3, cache_writes=((1800.0, 4),))]
    )

    async def main(client: openai.AsyncOpenAI) -> None:
        response = await client.responses.create(
            model=MODEL,
            instructions="Be brief.",
            input=[
                {"role": "developer", "content": "In English."},
                {"role": "user", "content": [{"type": "input_text", "text": "Capital of France?"}]},
            ],
            max_output_tokens=50,
            temperature=0.5,
            top_p=0.9,
            metadata={"run": "7"},
            reasoning={"effort": "low"},
            prompt_cache_options={"mode": "implicit", "ttl": "30m"},
            user="somebody",
        )
        assert (response.status, response.output_text) == ("completed", "Paris it is.")
        thought, said = response.output
        assert isinstance(thought, ResponseReasoningItem)
        assert thought.content is not None and thought.content[0].text == "Which one?"
        assert (said.type, said.status) == ("message", "completed")
        usage = response.usage
        assert usage is not None
        assert (usage.input_tokens_details.cached_tokens, usage.input_tokens_details.cache_write_tokens) == (3, 4)
        assert (usage.output_tokens, usage.output_tokens_details.reasoning_tokens) == (5, 2)
        assert response.metadata == {"run": "7"}
        assert (response.temperature, response.top_p, response.instructions) == (0.5, 0.9, "Be brief.")
        assert response.completed_at is not None

    play(backend, main)
    (request,) = backend.requests
    assert request.messages is not None
    assert [(message.role, message.text) for message in request.messages] == [
        (Role.SYSTEM, "Be brief."),
        (Role.DEVELOPER, "In English."),
        (Role.USER, "Capital of France?"),
    ]
    assert (request.limits.max_tokens, request.sampling.temperature, request.sampling.top_p) == (50, 0.5, 0.9)
    assert request.reasoning.effort is Effort.LOW
    assert [point.ttl_s for point in request.cache.breakpoints] == [1800.0]
    assert request.principal.user == "somebody"


def test_a_stream_of_thoughts_text_and_a_call_is_accumulated_to_the_same_response() -> None:
    turn = Turn(reasoning="Hm, so.", text="Let me look.", calls=(Call("get_weather", {"city": "Paris"}, "call_1"),))

    async def main(client: openai.AsyncOpenAI) -> None:
        types, numbers = [], []
        async with client.responses.stream(model=MODEL, input="Weather?", tools=[WEATHER]) as stream:
            async for event in stream:
                types.append(event.type)
                numbers.append(event.sequence_number)
            told = await stream.get_final_response()
        assert numbers == list(range(len(numbers)))
        assert types[:2] == ["response.created", "response.in_progress"]
        assert types[-1] == "response.completed"
        for kind, count in (("response.output_item.added", 3), ("response.output_item.done", 3)):
            assert types.count(kind) == count
        assert types.count("response.function_call_arguments.delta") > 1
        thought, said, call = told.output
        assert (thought.type, said.type) == ("reasoning", "message")
        assert isinstance(call, ResponseFunctionToolCall)
        assert (call.name, call.arguments, call.call_id) == ("get_weather", '{"city": "Paris"}', "call_1")
        kept = await client.responses.retrieve(told.id)
        # What the client adds to parsed answers is not ours.
        bare = {"output": {"__all__": {"parsed_arguments": True, "content": {"__all__": {"parsed": True}}}}}
        assert told.model_dump(exclude=bare)["output"] == kept.model_dump()["output"]

    play(Scripted([turn]), main)


def test_a_summary_is_streamed_where_one_is_asked_for_and_thoughts_come_back_sealed() -> None:
    backend = Scripted([Turn(reasoning="Hm, so.", text="Yes."), Turn(text="No.")])

    async def main(client: openai.AsyncOpenAI) -> None:
        asked: Any = {"model": MODEL, "store": False, "include": ["reasoning.encrypted_content"]}
        stream = await client.responses.create(**asked, input="Really?", reasoning={"summary": "auto"}, stream=True)
        events = [event async for event in stream]
        deltas = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
        assert "".join(deltas) == "Hm, so."
        assert events[-1].type == "response.completed"
        thought = events[-1].response.output[0]
        assert isinstance(thought, ResponseReasoningItem)
        assert [part.text for part in thought.summary] == ["Hm, so."]
        sent = thought.model_dump(exclude_none=True) | {"summary": []}
        assert sent["encrypted_content"] and "Hm" not in sent["encrypted_content"]
        await client.responses.create(
            **asked,
            input=[
                {"role": "user", "content": "Really?"},
                sent,
                *[item.model_dump(exclude_none=True) for item in events[-1].response.output[1:]],
                {"role": "user", "content": "Sure?"},
            ],
        )

    play(backend, main)
    assert backend.requests[1].messages is not None
    assert [(one.role, one.reasoning, one.text) for one in backend.requests[1].messages][1] == (
        Role.ASSISTANT,
        "Hm, so.",
        "Yes.",
    )


def test_a_tool_turn_goes_on_from_the_stored_response() -> None:
    backend = Scripted([ASKS, KNOWS], remembers=True)

    async def main(client: openai.AsyncOpenAI) -> None:
        first = await client.responses.create(model=MODEL, input="Weather?", tools=[WEATHER])
        call = first.output[-1]
        assert isinstance(call, ResponseFunctionToolCall)
        second = await client.responses.create(
            model=MODEL,
            previous_response_id=first.id,
            tools=[WEATHER],
            input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}],
        )
        assert second.output_text == "Sunny."
        assert second.previous_response_id == first.id
        items = [item async for item in client.responses.input_items.list(second.id)]
        assert [item.type for item in items] == ["function_call_output"]

    play(backend, main)
    messages = backend.requests[1].messages
    assert messages is not None
    assert [message.role for message in messages] == [Role.USER, Role.ASSISTANT, Role.TOOL]
    assert (messages[1].text, messages[1].tool_calls[0].name, messages[2].text) == (
        "Let me look.",
        "get_weather",
        "sunny",
    )
    assert messages[1].tool_calls[0].id == messages[2].tool_call_id
    # What continues a chain keeps its keys and values together.
    assert (backend.requests[0].session, backend.requests[1].session) == (None, backend.requests[0].id)


class Answer(BaseModel):
    """What the model is held to."""

    city: str


def test_an_answer_in_a_form_is_parsed() -> None:
    backend = Scripted([Turn(text='{"city": "Paris"}')])

    async def main(client: openai.AsyncOpenAI) -> None:
        response = await client.responses.parse(model=MODEL, input="Capital?", text_format=Answer)
        assert response.output_parsed == Answer(city="Paris")

    play(backend, main)
    assert backend.requests[0].response_format.kind is FormatKind.JSON_SCHEMA


def test_log_probabilities_are_told_where_they_are_included() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        stream = await client.responses.create(
            model=MODEL, input="Hi", include=["message.output_text.logprobs"], top_logprobs=2, stream=True
        )
        events = [event async for event in stream]
        told = [one for event in events if event.type == "response.output_text.delta" for one in event.logprobs]
        assert [one.token for one in told] == ["Hello ", "you"]
        assert events[-1].type == "response.completed"
        message = events[-1].response.output[0]
        assert message.type == "message" and message.content[0].type == "output_text"
        logprobs = message.content[0].logprobs
        assert logprobs is not None
        assert [(one.token, one.logprob, len(one.top_logprobs)) for one in logprobs] == [
            ("Hello ", -6.0, 2),
            ("you", -3.0, 2),
        ]

    play(Scripted([Turn(text="Hello you")]), main)


def test_tool_choices_reach_the_backend() -> None:
    backend = Scripted([Turn(text="Well.", calls=(Call("get_weather", {"city": "Rome"}),))])
    named: Any = {"type": "function", "name": "get_weather"}
    allowed: Any = {"type": "allowed_tools", "mode": "required", "tools": [named]}

    async def main(client: openai.AsyncOpenAI) -> None:
        for choice in ("none", "required", named, allowed):
            response = await client.responses.create(
                model=MODEL, input="Hi", tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False
            )
            assert (response.output[-1].type == "function_call") == (choice != "none")

    play(backend, main)
    assert [(request.tool_choice.mode, request.tool_choice.names) for request in backend.requests] == [
        (ToolMode.NONE, ()),
        (ToolMode.REQUIRED, ()),
        (ToolMode.REQUIRED, ("get_weather",)),
        (ToolMode.REQUIRED, ("get_weather",)),
    ]
    assert {request.tool_choice.max_calls for request in backend.requests} == {1}


def test_a_custom_tool_takes_text_and_a_namespace_keeps_its_name() -> None:
    calls = (Call("patch", {"input": "*** Begin\n"}), Call("files__read", {"path": "a"}))
    backend = Scripted([Turn(calls=calls, when=tool_results(0)), Turn(text="Done.")])
    tools: Any = [
        {"type": "custom", "name": "patch", "description": "Edit"},
        {"type": "namespace", "name": "files", "description": "Files", "tools": [
            {"type": "function", "name": "read", "parameters": {"type": "object"}, "strict": False}
        ]},
    ]  # fmt: skip

    async def main(client: openai.AsyncOpenAI) -> None:
        stream = await client.responses.create(model=MODEL, input="Go", tools=tools, stream=True)
        events = [event async for event in stream]
        assert "response.custom_tool_call_input.done" in [event.type for event in events]
        assert events[-1].type == "response.completed"
        first = events[-1].response
        custom, function = first.output
        assert custom.type == "custom_tool_call" and custom.input == "*** Begin\n"
        assert function.type == "function_call" and (function.namespace, function.name) == ("files", "read")
        results: Any = [
            {"type": "custom_tool_call_output", "call_id": custom.call_id, "output": "ok"},
            {"type": "function_call_output", "call_id": function.call_id, "output": "text"},
        ]
        last = await client.responses.create(model=MODEL, previous_response_id=first.id, tools=tools, input=results)
        assert last.output_text == "Done."

    play(backend, main)
    messages = backend.requests[1].messages
    assert messages is not None
    assert [(call.name, call.arguments) for call in messages[1].tool_calls] == [
        ("patch", '{"input":"*** Begin\\n"}'),
        ("files__read", '{"path": "a"}'),
    ]


def test_an_answer_that_is_cut_is_incomplete() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        response = await client.responses.create(model=MODEL, input="Count", max_output_tokens=2)
        assert (response.status, response.output_text) == ("incomplete", "one two ")
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.output[0].type == "message" and response.output[0].status == "incomplete"

    play(Scripted([Turn(text="one two three")]), main)


def test_what_fails_before_it_begins_has_its_own_status() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as caught:
                await client.responses.create(model=MODEL, input="x", stream=stream, max_output_tokens=0)
            assert caught.value.status_code == 400
            with pytest.raises(openai.NotFoundError):
                await client.responses.create(model="nobody", input="x", stream=stream)
            with pytest.raises(openai.BadRequestError) as refused:
                await client.responses.create(model=MODEL, input="w " * 300_000, stream=stream)
            assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")

    play(Scripted([Turn(text="x")]), main)


def test_what_fails_later_fails_the_response() -> None:
    turn = Turn(text="one two three", error=EngineFault("it broke."), error_after=2)

    async def main(client: openai.AsyncOpenAI) -> None:
        stream = await client.responses.create(model=MODEL, input="Count", stream=True)
        events = [event async for event in stream]
        assert events[-1].type == "response.failed"
        failed = events[-1].response
        assert failed.error is not None
        assert (failed.status, failed.error.code, failed.error.message) == ("failed", "server_error", "it broke.")
        assert failed.output_text == "one two "
        assert (await client.responses.retrieve(failed.id)).status == "failed"
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model=MODEL, input="On", previous_response_id=failed.id)
        assert refused.value.code == "previous_response_not_found"
        with pytest.raises(openai.InternalServerError):
            await client.responses.create(model=MODEL, input="Count")

    play(Scripted([turn]), main)


def test_a_client_that_leaves_cancels_a_foreground_response() -> None:
    backend = Scripted([Turn(text="one two", gates={1: Gate()})])

    async def main(client: openai.AsyncOpenAI) -> None:
        stream = await client.responses.create(model=MODEL, input="Count", stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()

    play(backend, main)


def test_a_background_response_is_followed_from_anywhere_and_read_afterwards() -> None:
    gate = Gate()
    backend = Scripted([Turn(text="one two three", gates={2: gate})])

    async def main(client: openai.AsyncOpenAI) -> None:
        stream = await client.responses.create(model=MODEL, input="Count", background=True, stream=True)
        seen = []
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        assert seen[0].type == "response.created"
        assert seen[0].response.status == "queued"
        response_id, last = seen[0].response.id, seen[-1].sequence_number
        assert (await client.responses.retrieve(response_id)).status == "in_progress"
        await gate.reached.wait()
        gate.go.set()
        more = await client.responses.retrieve(response_id, stream=True, starting_after=last)
        rest = [event async for event in more]
        assert [event.sequence_number for event in (*seen, *rest)] == list(range(len(seen) + len(rest)))
        assert rest[-1].type == "response.completed"
        done = await client.responses.retrieve(response_id)
        assert (done.status, done.output_text, done.background) == ("completed", "one two three", True)
        again = await client.responses.retrieve(response_id, stream=True, starting_after=last)
        assert [event.model_dump() async for event in again] == [event.model_dump() for event in rest]
        assert (await client.responses.cancel(response_id)).status == "completed"

    play(backend, main)


def test_a_background_response_is_cancelled_or_deleted_while_it_runs() -> None:
    backend = Scripted([Turn(text="one two", gates={1: Gate()})])

    async def main(client: openai.AsyncOpenAI) -> None:
        first = await client.responses.create(model=MODEL, input="Count", background=True)
        assert first.status == "queued"
        assert (await client.responses.cancel(first.id)).status == "cancelled"
        assert (await client.responses.retrieve(first.id)).status == "cancelled"
        second = await client.responses.create(model=MODEL, input="Count", background=True)
        await client.responses.delete(second.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(second.id)
        with pytest.raises(openai.BadRequestError, match="not begun with background and stream"):
            await client.responses.retrieve(first.id, stream=True)

    play(backend, main)


def test_a_background_response_that_is_not_admitted_fails_where_it_is_fetched() -> None:
    backend = Scripted([Turn(text="x", error=Overloaded("busy."), error_after=0)])

    async def main(client: openai.AsyncOpenAI) -> None:
        begun = await client.responses.create(model=MODEL, input="w " * 300_000, background=True, stream=True)
        events = [event async for event in begun]
        assert [event.type for event in events] == ["response.created", "response.queued", "response.failed"]

    play(backend, main)


def test_conversations_are_read_and_added_to() -> None:
    backend = Scripted([Turn(text="Hello Ann.", when=last_says("Ann")), Turn(text="Ann.")])

    async def main(client: openai.AsyncOpenAI) -> None:
        made = await client.conversations.create(
            metadata={"topic": "names"}, items=[{"type": "message", "role": "developer", "content": "Be kind."}]
        )
        first = await client.responses.create(model=MODEL, conversation=made.id, input="I am Ann.")
        assert first.conversation is not None and first.conversation.id == made.id
        await client.responses.create(model=MODEL, conversation={"id": made.id}, input="Who am I?")
        listed = [item async for item in client.conversations.items.list(made.id, order="asc", limit=2)]
        said = [(item.role, item.content[0].text) for item in listed if item.type == "message"]  # type: ignore[union-attr]
        assert said == [
            ("developer", "Be kind."),
            ("user", "I am Ann."),
            ("assistant", "Hello Ann."),
            ("user", "Who am I?"),
            ("assistant", "Ann."),
        ]
        added = await client.conversations.items.create(made.id, items=[{"role": "user", "content": "Bye."}])
        (item,) = added.data
        assert (await client.conversations.items.retrieve(item.id or "", conversation_id=made.id)).type == "message"
        await client.conversations.items.delete(item.id or "", conversation_id=made.id)
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.retrieve(item.id or "", conversation_id=made.id)
        changed = await client.conversations.update(made.id, metadata={"topic": "ann"})
        assert (await client.conversations.retrieve(made.id)).metadata == changed.metadata == {"topic": "ann"}
        assert (await client.conversations.delete(made.id)).deleted
        for gone in (
            client.conversations.retrieve(made.id),
            client.responses.create(model=MODEL, conversation=made.id, input="x"),
        ):
            with pytest.raises(openai.NotFoundError):
                await gone
        assert (await client.responses.retrieve(first.id)).output_text == "Hello Ann."

    play(backend, main)
    messages = backend.requests[1].messages
    assert messages is not None
    assert [message.text for message in messages] == ["Be kind.", "I am Ann.", "Hello Ann.", "Who am I?"]


def test_what_another_tenant_owns_is_not_there() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        mine = await client.responses.create(model=MODEL, input="Secret")
        talk = await client.conversations.create(items=[{"role": "user", "content": "Secret"}])
        (item,) = [item async for item in client.conversations.items.list(talk.id)]
        other = client.with_options(api_key="hr_two")
        nothing = [
            other.responses.retrieve(mine.id),
            other.responses.delete(mine.id),
            other.responses.cancel(mine.id),
            other.responses.input_items.list(mine.id),
            other.conversations.retrieve(talk.id),
            other.conversations.update(talk.id, metadata={}),
            other.conversations.delete(talk.id),
            other.conversations.items.list(talk.id),
            other.conversations.items.create(talk.id, items=[{"role": "user", "content": "x"}]),
            other.responses.create(model=MODEL, input=[{"type": "item_reference", "id": item.id or ""}]),
            other.responses.create(model=MODEL, input="x", conversation=talk.id),
        ]
        for call in nothing:
            with pytest.raises(openai.NotFoundError):
                await call
        with pytest.raises(openai.BadRequestError) as refused:
            await other.responses.create(model=MODEL, input="x", previous_response_id=mine.id)
        assert refused.value.code == "previous_response_not_found"
        assert (await client.responses.retrieve(mine.id)).id == mine.id

    play(Scripted([Turn(text="Well.")]), main, two_tenants())


def test_what_is_not_stored_is_nowhere() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        response = await client.responses.create(model=MODEL, input="Hi", store=False)
        assert response.store is False  # type: ignore[attr-defined]
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
        with pytest.raises(openai.BadRequestError, match="send the whole conversation"):
            await client.responses.create(model=MODEL, input="On", previous_response_id=response.id)

    play(Scripted([Turn(text="Hello.")]), main)


def test_input_is_counted_and_compacted_to_what_goes_on() -> None:
    backend = Scripted([Turn(text="They spoke of Rome.", when=last_says("Summarize")), Turn(text="Rome is old.")])

    async def main(client: openai.AsyncOpenAI) -> None:
        counted = await client.responses.input_tokens.count(model=MODEL, input="one two", instructions="three")
        assert counted.input_tokens == 5
        first = await client.responses.create(model=MODEL, input="Tell me of Rome.", instructions="Be brief.")
        raw = await client.responses.with_raw_response.compact(model=MODEL, previous_response_id=first.id)
        compacted = raw.parse()
        assert [item.type for item in compacted.output] == ["message", "compaction"]
        assert compacted.usage.output_tokens == 4
        sent = raw.http_response.json()["output"]
        await client.responses.create(model=MODEL, input=[*sent, {"role": "user", "content": "More."}])

    play(backend, main)
    messages = backend.requests[-1].messages
    assert messages is not None
    assert [message.role for message in messages] == [Role.USER, Role.ASSISTANT, Role.USER]
    assert "They spoke of Rome." in messages[1].text


def test_results_of_tools_go_before_the_question_does_and_never_without_their_call() -> None:
    backend = Scripted([Turn(text="ok")], cards=[replace(CARD, context_length=24)])
    calls: Any = [{"role": "user", "content": "the question"}]
    for index in range(4):
        call_id = f"call_{index}"
        calls += [
            {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": call_id, "output": "a result of five words"},
        ]

    async def main(client: openai.AsyncOpenAI) -> None:
        await client.responses.create(model=MODEL, input=calls, truncation="auto")

    play(backend, main)
    messages = backend.requests[-1].messages
    assert messages is not None
    assert messages[0].text == "the question"
    assert [message.role for message in messages[1:]] == [Role.ASSISTANT, Role.TOOL] * 2
    assert messages[1].tool_calls[0].id == messages[2].tool_call_id == "call_2"


def test_what_a_response_cost_and_why_it_was_not_in_the_cache_is_told_where_it_is_asked() -> None:
    prices = PriceList({MODEL: Prices(input=1.0, output=10.0)})

    async def main(client: openai.AsyncOpenAI) -> None:
        response = await client.responses.create(
            model=MODEL, input="one two", extra_headers={"x-headrace-explain": "cache"}
        )
        assert response.usage is not None
        told = response.to_dict()
        assert told["usage"]["cost"] == pytest.approx((3 * 1.0 + 2 * 10.0) / 1e6)  # type: ignore[index]
        assert told["headrace"] == {"cache_miss": None}
        plain = await client.responses.create(model=MODEL, input="one two")
        assert "headrace" not in plain.to_dict()

    play(Scripted([Turn(text="so much")]), main, config=ServerConfig(port=0, prices=prices))


def test_the_oldest_turns_go_where_a_request_would_not_fit() -> None:
    backend = Scripted([Turn(text="ok")], cards=[replace(CARD, context_length=20)])
    long: Any = [
        {"role": "developer", "content": "Be brief."},
        *({"role": "user", "content": f"turn {index} has five words"} for index in range(9)),
    ]

    async def main(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model=MODEL, input=long)
        assert refused.value.code == "context_length_exceeded"
        response = await client.responses.create(model=MODEL, input=long, truncation="auto")
        assert response.truncation == "auto"

    play(backend, main)
    messages = backend.requests[-1].messages
    assert messages is not None
    assert [message.text for message in messages] == ["Be brief.", "turn 7 has five words", "turn 8 has five words"]
