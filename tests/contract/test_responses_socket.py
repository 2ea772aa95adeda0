"""The WebSocket cases of the Open Responses compliance suite, re-expressed, and what its sentences promise beside them.

websocket-response                          websocket-previous-response-not-found
websocket-sequential-responses              websocket-failed-continuation-evicts-cache
websocket-continuation                      websocket-compact-new-chain
websocket-reconnect-store-false-recovery
"""

import asyncio
from typing import Any

from openai import AsyncOpenAI, OpenAI
from openai.resources.responses.responses import AsyncResponsesConnection
from openai.types.responses.responses_server_event import ResponseWsError
from tests.adversarial.test_socket_handshake import entry
from tests.doubles_http import run
from tests.scripted import Call, Gate, Turn, last_says, tool_results
from tests.socket_client import LOOKUP, Place, serving, until

from headrace.api.socket_frames import encode_notice
from headrace.server.config import ServerConfig
from headrace.server.keys import KeyRing

OK = [Turn(text="OK")]
TOOL_LOOP = [Turn(calls=(Call("lookup", {}),), when=tool_results(0)), Turn(text="It is 42.")]


def test_a_response_comes_with_the_events_of_http() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _), place.client() as client:
            last = await client.turn("Say OK.")
            assert last["type"] == "response.completed"
            assert last["response"]["output"][0]["content"][0]["text"] == "OK"
            assert [frame["sequence_number"] for frame in client.frames] == list(range(len(client.frames)))
            types = [frame["type"] for frame in client.frames]
            assert types[:2] == ["response.created", "response.in_progress"]
            assert "response.output_text.delta" in types
            assert not any("stream_id" in frame for frame in client.frames)

    run(main())


def test_a_connection_answers_one_response_after_the_other() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _), place.client() as client:
            first, second = await client.turn("first"), await client.turn("second")
            assert first["response"]["id"] != second["response"]["id"]

    run(main())


def test_what_is_not_stored_can_be_continued_on_its_connection() -> None:
    async def main() -> None:
        async with serving(OK) as (place, backend), place.client() as client:
            first = await client.turn("Remember: cobalt.")
            last = await client.turn("What was it?", previous_response_id=first["response"]["id"])
            assert last["type"] == "response.completed"
            said = [message.text for message in backend.requests[-1].messages]
            assert said == ["Remember: cobalt.", "OK", "What was it?"]

    run(main())


def test_what_was_not_stored_is_gone_with_its_connection_and_a_new_chain_can_begin() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _):
            async with place.client() as client:
                first = await client.turn("Remember: copper.")
            async with place.client() as client:
                refused = await client.turn("What was it?", previous_response_id=first["response"]["id"])
                assert (refused["type"], refused["status"]) == ("error", 400)
                assert refused["error"]["code"] == "previous_response_not_found"
                assert refused["error"]["param"] == "previous_response_id"
                assert refused["error"]["type"] == "invalid_request_error"
                recovered = await client.turn("Remember: copper. What was it?")
                assert recovered["type"] == "response.completed"

    run(main())


def test_a_failed_continuation_takes_away_what_it_continued() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _), place.client() as client:
            first = (await client.turn("Remember: ember."))["response"]["id"]
            orphan = {"type": "function_call_output", "call_id": "call_nobody_made", "output": "x"}
            failed = await client.turn([orphan], previous_response_id=first)
            assert failed["type"] == "error"
            assert failed["error"]["param"] == "input"
            again = await client.turn("What was it?", previous_response_id=first)
            assert again["error"]["code"] == "previous_response_not_found"

    run(main())


def test_a_continuation_with_a_wrong_field_has_failed_like_any_other() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _), place.client() as client:
            first = (await client.turn())["response"]["id"]
            assert (await client.turn(previous_response_id=first, temperature="hot"))["type"] == "error"
            again = await client.turn(previous_response_id=first)
            assert again["error"]["code"] == "previous_response_not_found"

    run(main())


def test_a_tenants_connections_share_what_they_may_remember_and_free_it_when_they_end() -> None:
    config = ServerConfig(port=0, max_tenant_lane_bytes=2000)

    async def main() -> None:
        async with serving(OK, config) as (place, _):
            async with place.client() as client:
                first = (await client.turn("x" * 1000))["response"]["id"]
                async with place.client() as other:
                    second = (await other.turn("x" * 1000))["response"]["id"]
                    lost = await other.turn("more", previous_response_id=second)
                    assert lost["error"]["code"] == "previous_response_not_found"
                assert (await client.turn("more", previous_response_id=first))["type"] == "response.completed"
            await until(lambda: not place.server.server_state.tasks)
            async with place.client() as client:
                first = (await client.turn("x" * 1000))["response"]["id"]
                assert (await client.turn("more", previous_response_id=first))["type"] == "response.completed"

    run(main())


def sdk(place: Place, kind: type[Any]) -> Any:
    return kind(api_key="hr_any", base_url=f"http://127.0.0.1:{place.port}/v1", max_retries=0)


def test_the_official_client_runs_a_tool_loop_over_one_connection_and_types_every_event() -> None:
    async def main() -> None:
        async with serving(TOOL_LOOP) as (place, backend), sdk(place, AsyncOpenAI) as client:
            async with client.responses.connect() as connection:
                await connection.response.create(model="scripted", input="Look it up.", tools=[LOOKUP], store=False)
                seen, first = [], None
                async for event in connection:
                    seen.append(event)
                    if event.type == "response.completed" and first is None:
                        first = event.response
                        (call,) = first.output
                        answer = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
                        await connection.response.create(
                            model="scripted",
                            input=[answer],
                            tools=[LOOKUP],
                            store=False,
                            previous_response_id=first.id,
                        )
                    elif event.type == "response.completed":
                        assert event.response.output_text == "It is 42."
                        break
            for event in seen:
                strict(event)
            assert [message.role for message in backend.requests[-1].messages] == ["user", "assistant", "tool"]
            assert backend.num_open == 0

    run(main())


def test_the_official_client_without_a_loop_hears_of_steering_and_of_errors_by_their_types() -> None:
    gate = Gate()
    turns = [Turn(text="Never mind then.", when=last_says("Stop")), Turn(text="One two three", gates={1: gate})]

    def talk(place: Place, loop: asyncio.AbstractEventLoop) -> list[Any]:
        seen = []
        with sdk(place, OpenAI) as client, client.responses.connect() as connection:
            connection.response.create(model="scripted", input="Count.", stream_id="a")
            for event in connection:
                seen.append(event)
                if event.type == "response.output_text.delta" and len(seen) < 8:
                    connection.response.steer(previous_response_id=seen[0].response.id, input="Stop")
                elif event.type == "response.steer.accepted":
                    loop.call_soon_threadsafe(gate.go.set)
                elif event.type == "response.completed":
                    connection.response.create(model="scripted", input="Go on.", previous_response_id="resp_none")
                elif event.type == "error":
                    return seen
        return seen

    async def main() -> None:
        async with serving(turns) as (place, _):
            seen = await asyncio.to_thread(talk, place, asyncio.get_running_loop())
        for event in seen:
            strict(event)
        types = [event.type for event in seen]
        assert types.index("response.steer.accepted") < types.index("response.incomplete") < types.index("error")
        steered = seen[types.index("response.incomplete")].response
        assert steered.incomplete_details.reason == "steered"
        assert seen[types.index("response.completed")].response.output_text == "Never mind then."
        assert {event.stream_id for event in seen[:-1]} == {"a"}
        assert isinstance(seen[-1], ResponseWsError)
        assert (seen[-1].status, seen[-1].error.code) == (400, "previous_response_not_found")

    run(main())


def strict(event: Any) -> None:
    """The SDK's own type of an event holds for every field, not only for its name."""
    kind = type(event)
    assert kind.__name__ != "BaseModel"
    kind.model_validate(event.model_dump(warnings="error"), strict=False)


def test_what_was_compacted_over_http_begins_a_new_chain() -> None:
    async def main() -> None:
        async with serving(OK) as (place, backend), sdk(place, AsyncOpenAI) as http, place.client() as client:
            kept = await http.responses.compact(model="scripted", input=[{"role": "user", "content": "Code: opal."}])
            given = kept.model_dump(mode="json", exclude_none=True, warnings=False)["output"]
            again = {"type": "message", "role": "user", "content": "Which code?"}
            last = await client.turn([*given, again])
            assert last["type"] == "response.completed"
            said = [message.text for message in backend.requests[-1].messages]
            assert (said[0], said[-1]) == ("Code: opal.", "Which code?")
            more = await client.turn("And now?", previous_response_id=last["response"]["id"])
            assert more["type"] == "response.completed"

    run(main())


def test_what_is_stored_can_be_continued_from_another_connection_and_over_http() -> None:
    async def main() -> None:
        async with serving(OK) as (place, _), sdk(place, AsyncOpenAI) as http:
            async with place.client() as client:
                first = (await client.turn("One.", store=True))["response"]["id"]
            async with place.client() as client:
                second = (await client.turn("Two.", store=True, previous_response_id=first))["response"]["id"]
            third = await http.responses.create(model="scripted", input="Three.", previous_response_id=second)
            assert third.output_text == "OK"
            assert (await http.responses.retrieve(first)).output_text == "OK"

    run(main())


def test_another_tenants_response_is_not_found_and_never_forbidden() -> None:
    keys = KeyRing(lambda: [entry("hr_anna", tenant="anna"), entry("hr_ben", tenant="ben")])

    async def main() -> None:
        async with serving(OK, keys=keys) as (place, _):
            async with place.client(authorization="Bearer hr_anna") as client:
                theirs = (await client.turn("Mine.", store=True))["response"]["id"]
            async with place.client(authorization="Bearer hr_ben") as client:
                refused = await client.turn("Yours?", previous_response_id=theirs)
                absent = await client.turn("Yours?", previous_response_id="resp_none")
                assert (refused["status"], refused["error"]["code"]) == (400, "previous_response_not_found")
                assert refused["error"]["message"].replace(theirs, "") == absent["error"]["message"].replace(
                    "resp_none", ""
                )

    run(main())


def test_a_steered_call_is_finished_and_its_input_precedes_the_result() -> None:
    gate = Gate()
    turns = [
        Turn(calls=(Call("lookup", {"part": 1}),), sizes=(4,), gates={2: gate}, when=tool_results(0)),
        Turn(text="Done."),
    ]

    async def main() -> None:
        async with serving(turns) as (place, backend), place.client() as client:
            await client.create("Look.", tools=[LOOKUP], stream_id="a")
            await client.until("response.function_call_arguments.delta")
            steer = {"type": "response.steer", "previous_response_id": client.frames[0]["response"]["id"]}
            await client.send(steer | {"input": "Be quick."})
            accepted = await client.until("response.steer.accepted")
            gate.go.set()
            done = await client.until("response.completed")
            pending = await client.until("response.steer.pending")
            (call,) = done["response"]["output"]
            stub = {"type": "function_call_output", "call_id": call["call_id"], "name": "lookup"}
            assert pending["required_input"] == [stub]
            assert pending["steer"]["id"] == accepted["steer"]["id"]
            numbers = [frame["sequence_number"] for frame in client.frames]
            assert numbers == list(range(len(numbers)))
            assert {frame["stream_id"] for frame in client.frames} == {"a"}
            answer = {**stub, "output": "42"}
            del answer["name"]
            fields = {"tools": [LOOKUP], "stream_id": "a", "previous_response_id": done["response"]["id"]}
            assert (await client.turn([answer], **fields))["type"] == "response.completed"
            said = [(message.role, message.text) for message in backend.requests[-1].messages]
            assert said == [("user", "Look."), ("assistant", ""), ("user", "Be quick."), ("tool", "42")]

    run(main())


def test_the_official_client_takes_our_own_notice_for_what_it_is() -> None:
    connection = object.__new__(AsyncResponsesConnection)
    event = connection.parse_event(encode_notice(300))
    assert event.type == "headrace:connection.expiring"  # type: ignore[comparison-overlap]
