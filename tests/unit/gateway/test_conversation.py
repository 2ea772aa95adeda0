"""The service behind Responses: what is saved and when, what fails how, and what background work survives."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
import pytest
from tests.doubles_http import HandClock, run
from tests.scripted import CARD, Gate, Scripted, Turn, last_says, tool_results

from headrace.api.openai import Caller
from headrace.api.responses import decode_create, decode_turn
from headrace.api.responses_service import CreateCall, Halt, History, ResponseEvent
from headrace.core.errors import EngineFault, HeadraceError, InvalidRequest, NotFound, RateLimited, Unavailable
from headrace.core.request import Principal, Request
from headrace.gateway.conversation import DAY_S, Responses
from headrace.gateway.conversation_items import Conversations
from headrace.gateway.room import DEFAULT_QUOTA_BYTES, RECOUNT_S, Room
from headrace.memory.store import Store

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")
_numbers = iter(range(10**9))


def ask(text: str | list[Any], tenant: str = "a", labels: tuple[str, ...] = (), **fields: Any) -> CreateCall:
    body = msgspec.json.encode({"model": "scripted", "input": text} | fields)
    principal = Principal(tenant=tenant)
    caller = Caller(request_id=f"resp_{next(_numbers):04d}", principal=principal, labels=frozenset(labels))
    return decode_create(body, caller)


async def told(service: Responses, call: CreateCall, **named: Any) -> list[ResponseEvent]:
    async with aclosing(service.run(call, **named)) as events:
        return [event async for event in events]


async def answered(service: Responses, call: CreateCall, **named: Any) -> dict[str, Any]:
    last = (await told(service, call, **named))[-1]
    assert last.is_last and last.response is not None
    return dict(last.response)


class FailingStore(Store):
    """A store in which calls of some functions fail, as they do on a full disk."""

    fails: frozenset[str] = frozenset()

    async def call(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _Given], _Made],
        *given: _Given.args,
        **named: _Given.kwargs,
    ) -> _Made:
        if function.__name__ in self.fails:
            raise Unavailable("The disk is full.", code="disk_full")
        return await super().call(function, *given, **named)


@asynccontextmanager
async def opened(
    folder: Path, backend: Scripted, clock: HandClock | None = None, quota: int = DEFAULT_QUOTA_BYTES
) -> AsyncIterator[tuple[Responses, FailingStore]]:
    store = FailingStore(folder / "state.db")
    await store.open()
    clock = clock or HandClock()
    service = Responses(backend, store, clock, room=Room(store, clock, quota))
    await service.open()
    try:
        yield service, store
    finally:
        await service.close()
        await store.close()


class Memory:
    """A connection's memory."""

    def __init__(self) -> None:
        self.kept: dict[str, History] = {}

    def find(self, response_id: str) -> History | None:
        return self.kept.get(response_id)

    def keep(self, history: History) -> None:
        self.kept[history.response_id] = history

    def evict(self, response_id: str) -> None:
        self.kept.pop(response_id, None)


def test_a_response_can_be_continued_once_its_end_was_told(tmp_path: Path) -> None:
    backend = Scripted([Turn(text="ok")])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, _):
            events = service.run(ask("one"))
            async for event in events:
                if event.is_last:
                    assert event.response is not None
                    await answered(service, ask("two", previous_response_id=event.response["id"]))
            await events.aclose()

    run(main())
    assert [len(request.messages or ()) for request in backend.requests] == [1, 3]


def test_a_connection_continues_what_was_not_stored_until_a_continuation_fails(tmp_path: Path) -> None:
    backend = Scripted([Turn(error=EngineFault("broken."), error_after=0, when=last_says("fail")), Turn(text="ok")])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, _):
            memory = Memory()
            first = await answered(service, ask("one", store=False), local=memory)
            second = ask("two", store=False, previous_response_id=first["id"])
            assert (await answered(service, second, local=memory))["status"] == "completed"
            assert [item["id"] for item in memory.kept[second.request.id].items][:1] == [
                item["id"] for item in memory.kept[first["id"]].items
            ][:1]
            for wrong, error in (
                ({"input": [{"type": "function_call_output", "call_id": "nobody", "output": "x"}]}, InvalidRequest),
                ({"input": "fail"}, None),
            ):
                base = await answered(service, ask("again", store=False), local=memory)
                call = ask(wrong["input"], store=False, previous_response_id=base["id"])
                if error is None:
                    assert (await answered(service, call, local=memory))["status"] == "failed"
                else:
                    with pytest.raises(error, match="no tool call found"):
                        await told(service, call, local=memory)
                with pytest.raises(InvalidRequest) as caught:
                    await told(service, ask("on", store=False, previous_response_id=base["id"]), local=memory)
                assert caught.value.code == "previous_response_not_found"

    run(main())


def test_reading_without_answering_is_a_response_that_can_be_continued(tmp_path: Path) -> None:
    backend = Scripted([Turn(text="ok")])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, _):
            memory = Memory()
            body = b'{"model":"scripted","input":"long","store":false}'
            caller = Caller(request_id="resp_warm", principal=Principal(tenant="a"))
            warm = await answered(service, decode_turn(body, caller, generates=False), local=memory)
            assert (warm["status"], warm["output"], warm["usage"]["output_tokens"]) == ("completed", [], 0)
            await answered(service, ask("on", store=False, previous_response_id="resp_warm"), local=memory)

    run(main())
    assert backend.requests[0].limits.max_tokens == 0
    assert [message.text for message in backend.requests[1].messages or ()] == ["long", "on"]


def test_a_halted_response_ends_incomplete_with_what_was_said(tmp_path: Path) -> None:
    gate, halt = Gate(), Halt()
    backend = Scripted([Turn(text="one two three", gates={2: gate})])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, _):
            task = asyncio.get_running_loop().create_task(answered(service, ask("count"), halt=halt))
            await gate.reached.wait()
            halt.reason = "steered"
            gate.go.set()
            response = await task
            assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "steered"})
            assert response["output"][0]["content"][0]["text"] == "one two "
            assert (await service.retrieve("a", response["id"]))["status"] == "incomplete"

    run(main())
    assert backend.num_open == 0


def test_an_answer_that_cannot_be_stored_is_told_all_the_same(tmp_path: Path) -> None:
    backend = Scripted([Turn(text="ok")])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, store):
            store.fails = frozenset({"save_response"})
            response = await answered(service, ask("one"))
            assert (response["status"], response["store"]) == ("completed", False)
            assert response["output"][0]["content"][0]["text"] == "ok"
            with pytest.raises(NotFound):
                await service.retrieve("a", response["id"])
            with pytest.raises(Unavailable, match="disk is full"):
                await service.begin(ask("one", background=True))

    run(main())


@pytest.mark.parametrize("way", ["stored", "a stored one's next", "a connection's memory", "an item by its id"])
def test_what_was_said_under_a_label_is_never_asked_again_without_it(tmp_path: Path, way: str) -> None:
    backend = Scripted([Turn(text="ok")])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, _):
            local = Memory() if way == "a connection's memory" else None
            first = await answered(service, ask("secret", labels=("restricted",), store=local is None), local=local)
            if way == "a stored one's next":
                first = await answered(service, ask("more", previous_response_id=first["id"]))
            if way == "an item by its id":
                last = ask([{"type": "item_reference", "id": first["output"][0]["id"]}])
            else:
                last = ask("and?", previous_response_id=first["id"])
            await answered(service, last, local=local)

    run(main())
    assert [request.labels for request in backend.requests[1:]] == [{"restricted"}] * (len(backend.requests) - 1)


@pytest.mark.parametrize("way", ["created with", "added", "answered in it"])
def test_a_conversation_is_under_the_labels_of_all_that_it_holds(tmp_path: Path, way: str) -> None:
    backend = Scripted([Turn(text="ok")])
    item = {"id": "msg_1", "type": "message", "role": "user", "content": [], "status": "completed"}
    labels = frozenset({"restricted"})

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, store):
            conversations = Conversations(store, HandClock())
            is_first = way == "created with"
            await conversations.create_conversation("a", "conv_1", [item] * is_first, {}, labels)
            await answered(service, ask("before", conversation="conv_1"))
            if way == "added":
                await conversations.add_items("a", "conv_1", [item], labels)
            elif way == "answered in it":
                await answered(service, ask("secret", labels=("restricted",), conversation="conv_1"))
            await answered(service, ask("and?", conversation="conv_1"))

    run(main())
    assert backend.requests[0].labels == (labels if way == "created with" else frozenset())
    assert backend.requests[-1].labels == labels


def test_a_conversation_never_loses_a_turn_unnoticed(tmp_path: Path) -> None:
    backend = Scripted([Turn(text="ok")])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, store):
            conversations = Conversations(store, HandClock())
            await conversations.create_conversation("a", "conv_1", [], {})
            store.fails = frozenset({"save_response"})
            (*_, last) = await told(service, ask("one", conversation="conv_1"))
            assert last.type == "response.failed"
            assert last.error is not None and last.error.code == "disk_full"
            assert last.response is not None and last.response["status"] == "failed"

    run(main())


def test_an_item_that_the_conversation_has_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    backend = Scripted([Turn(text="ok")])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, store):
            conversations = Conversations(store, HandClock())
            first = [{"id": "msg_1", "type": "message", "role": "user", "content": [], "status": "completed"}]
            await conversations.create_conversation("a", "conv_1", first, {})
            again = [{"id": "msg_1", "role": "user", "content": "x"}]
            with pytest.raises(InvalidRequest, match="'msg_1' is in the conversation already"):
                await told(service, ask(again, conversation="conv_1"))

    run(main())
    assert backend.requests == []


def test_who_cancels_a_response_that_is_being_stored_finds_it_as_it_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, Scripted([Turn(text="ok")])) as (service, store):
            saving, go_on = asyncio.Event(), asyncio.Event()
            write = store.call

            async def slow(function: Any, *given: Any, **named: Any) -> Any:
                if function.__name__ == "save_response" and given[0].body["status"] == "completed":
                    saving.set()
                    await go_on.wait()
                return await write(function, *given, **named)

            store.call = slow  # type: ignore[method-assign]
            begun = await service.begin(ask("x", background=True))
            await saving.wait()
            task = asyncio.get_running_loop().create_task(service.cancel("a", begun["id"]))
            await asyncio.sleep(0)
            go_on.set()
            assert (await task)["status"] == "completed"

    run(main())


def test_background_work_that_is_stopped_or_left_behind_has_failed_and_says_why(tmp_path: Path) -> None:
    gate = Gate()
    backend = Scripted([Turn(text="one two", gates={1: gate})])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, _):
            stopped = await service.begin(ask("count", background=True))
            await gate.reached.wait()
        assert backend.num_open == 0
        async with opened(tmp_path, backend) as (service, store):
            kept = await service.retrieve("a", stopped["id"])
            assert kept["status"] == "failed"
            assert "server stopped" in kept["error"]["message"]
            killed = await service.begin(ask("count", background=True))
            # The row as a killed process leaves it: the task of this test's process is ended without being asked.
            row = await service.retrieve("a", killed["id"])
            assert row["status"] in ("queued", "in_progress")
            other = Responses(backend, store, HandClock())
            await other.open()
            left = await other.retrieve("a", killed["id"])
            assert (left["status"], left["error"]["code"]) == ("failed", "server_error")
            await other.close()

    run(main())


def test_a_defect_in_the_backend_fails_a_background_response_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Scripted):
        def _steps(self, request: Request) -> Any:
            raise ZeroDivisionError

    async def main() -> None:
        async with opened(tmp_path, Broken([])) as (service, _):
            begun = await service.begin(ask("x", background=True, stream=True))
            events = [event async for event in service.follow("a", begun["id"])]
            assert [event.type for event in events] == ["response.created", "response.queued", "response.failed"]
            response = await service.retrieve("a", begun["id"])
            assert response["error"]["code"] == "server_error"

    run(main())
    assert "met a defect" in caplog.text


def test_a_chain_lives_as_long_as_somebody_goes_on_with_it(tmp_path: Path) -> None:
    clock, backend = HandClock(), Scripted([Turn(text="ok")])

    async def main() -> None:
        async with opened(tmp_path, backend, clock) as (service, _):
            first = await answered(service, ask("one"))
            clock.now_s += 20 * DAY_S
            second = await answered(service, ask("two", previous_response_id=first["id"]))
        clock.now_s += 20 * DAY_S
        async with opened(tmp_path, backend, clock) as (service, _):
            await service.retrieve("a", first["id"])
        clock.now_s += 20 * DAY_S
        async with opened(tmp_path, backend, clock) as (service, _):
            for response_id in (first["id"], second["id"]):
                with pytest.raises(NotFound):
                    await service.retrieve("a", response_id)

    run(main())


def test_a_full_quota_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    backend = Scripted([Turn(text="ok")])

    async def main() -> None:
        async with opened(tmp_path, backend, quota=10) as (service, _):
            await answered(service, ask("one"))
            with pytest.raises(RateLimited):
                await answered(service, ask("two"))
            await answered(service, ask("two", store=False))
            await answered(service, ask("two", tenant="b"))

    run(main())
    assert len(backend.requests) == 3


def test_rows_are_counted_once_a_minute_and_when_the_quota_seems_full(tmp_path: Path) -> None:
    clock, backend = HandClock(), Scripted([Turn(text="ok")])

    async def main() -> None:
        async with opened(tmp_path, backend, clock) as (_, store):
            room = Room(store, clock, 100)
            await room.check("a")
            room.add("a", 99)
            store.fails = frozenset({"used_bytes"})
            await room.check("a")
            clock.now_s += RECOUNT_S
            with pytest.raises(Unavailable):
                await room.check("a")
            clock.now_s -= RECOUNT_S
            room.add("a", 1)
            with pytest.raises(Unavailable):
                await room.check("a")
            store.fails = frozenset()
            await room.check("a")

    run(main())


def test_log_probabilities_end_before_they_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.api.responses_events.MAX_LOGPROBS", 8)
    backend = Scripted([Turn(text="one two three four")])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, _):
            fields: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
            (*_, last) = await told(service, ask("x", **fields))
            assert last.type == "response.failed"
            assert last.error is not None and last.error.param == "top_logprobs"

    run(main())
    assert backend.num_open == 0


def test_a_summary_leaves_out_what_does_not_fit_and_takes_a_part_of_the_context(tmp_path: Path) -> None:
    backend = Scripted([Turn(text="They counted.")], cards=[replace(CARD, context_length=120)])
    turns: list[Any] = [{"role": "developer", "content": "Be kind."}]
    for index in range(20):
        turns += [{"role": "user", "content": f"turn {index} has five words"}, {"role": "assistant", "content": "ok"}]

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, _):
            made = await service.compact(ask(turns))
            kinds = [item.get("role", item["type"]) for item in made["output"]]
            assert kinds == ["developer", *["user"] * 20, "compaction"]

    run(main())
    (request,) = backend.requests
    assert request.limits.max_tokens == 30
    texts = [message.text for message in request.messages or ()]
    assert texts[0] == "Be kind."
    assert 3 < len(texts) < 30
    assert texts[-3:-1] == ["turn 19 has five words", "ok"]


def test_references_find_items_of_the_tenant_alone(tmp_path: Path) -> None:
    backend = Scripted([Turn(text="ok")])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, _):
            first = await answered(service, ask("one"))
            reference: list[Any] = [{"type": "item_reference", "id": first["output"][0]["id"]}]
            await answered(service, ask([*reference, {"role": "user", "content": "two"}]))
            with pytest.raises(NotFound):
                await answered(service, ask(reference, tenant="b"))

    run(main())
    assert [message.text for message in backend.requests[1].messages or ()] == ["ok", "two"]


def test_a_call_that_was_cut_is_not_taken_for_one_that_was_made(tmp_path: Path) -> None:
    from tests.scripted import Call

    backend = Scripted(
        [Turn(calls=(Call("f", {"a": "b c d e f"}),), when=tool_results(0)), Turn(text="ok")], any_model=True
    )
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, _):
            cut = await answered(service, ask("go", tools=[tool], max_output_tokens=3))
            assert (cut["status"], cut["output"][0]["status"]) == ("incomplete", "incomplete")
            await told(service, ask("on", previous_response_id=cut["id"]))

    run(main())
    assert [message.tool_calls for message in backend.requests[1].messages or ()] == [(), ()]


def test_every_error_that_comes_before_the_first_event_is_raised(tmp_path: Path) -> None:
    backend = Scripted([Turn(text="ok", error=EngineFault("broken."), error_after=0)])

    async def main() -> None:
        async with opened(tmp_path, backend) as (service, _):
            for wrong in (
                {"conversation": "conv_nobody"},
                {"previous_response_id": "resp_nobody"},
                {"model": "nobody"},
            ):
                events = service.run(ask("x", **wrong))
                with pytest.raises(HeadraceError):
                    await anext(events)
                await events.aclose()

    run(main())
