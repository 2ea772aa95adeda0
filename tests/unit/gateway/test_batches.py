"""Batches: who goes first, what becomes of each line, and that nothing is lost or run twice whoever dies when."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_files import ACME, line, opened
from tests.doubles_http import HandClock, Pause, ScriptedBackend, Step, answer, run

from headrace.core.batch import LIFE, BatchStatus
from headrace.core.errors import Conflict, EngineFault, InvalidRequest, NotFound, Overloaded, RateLimited
from headrace.core.request import Principal, Request
from headrace.gateway.batches import BACKGROUND_PRIORITY, BatchLimits, Load, num_to_start


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (Load(0, 0, 0.0), 8),
        (Load(0, 5, 0.0), 3),
        (Load(0, 9, 0.0), 0),
        (Load(1, 0, 599.0), 0),
        (Load(1, 0, 600.0), 1),  # late is better than never
        (Load(1, 1, 9999.0), 0),
        (Load(40, 8, 9999.0), 0),
    ],
)
def test_lines_begin_when_nobody_waits_and_one_by_one_if_that_never_comes(load: Load, expected: int) -> None:
    assert num_to_start(load, BatchLimits()) == expected


def test_every_end_is_reached_and_left_by_nothing() -> None:
    reachable = {BatchStatus.VALIDATING} | {status for following in LIFE.values() for status in following}
    assert reachable == set(BatchStatus)


def test_a_batch_runs_behind_everybody_and_says_what_each_line_said(tmp_path: Path) -> None:
    backend = ScriptedBackend(answer("Par", "is"))

    async def main() -> None:
        async with opened(tmp_path, backend) as shelf:
            batch = await shelf.order(line("a") + b"\n" + line("b", temperature=-1) + line("c", priority=5)[:-1])
            batch = await shelf.until(batch)
            assert (batch.status, batch.num_lines, batch.num_ended, batch.num_failed) == ("completed", 3, 3, 1)
            assert (batch.model, batch.usage.prompt_tokens, batch.usage.completion_tokens) == ("tiny", 14, 4)
            first, second = await shelf.lines_of(batch.output_file_id)
            assert (first["custom_id"], second["custom_id"]) == ("a", "c")
            assert first["response"]["body"]["choices"][0]["message"]["content"] == "Paris"
            assert first["response"]["body"]["usage"]["cost"] == pytest.approx((3 * 1 + 4 * 0.1 + 2 * 2) / 1e6)
            (failed,) = await shelf.lines_of(batch.error_file_id)
            assert (failed["custom_id"], failed["response"]["status_code"], failed["error"]) == ("b", 400, None)
            assert failed["response"]["body"]["error"]["param"] == "temperature"
            assert shelf.runner._lines == {}
            told = shelf.metrics.expose()[0].decode()
            assert 'headrace:batch_lines_total{outcome="succeeded"} 2.0' in told
            assert 'headrace:batch_lines_total{outcome="failed"} 1.0' in told

    run(main())
    priorities = sorted(request.principal.priority for request in backend.requests)
    assert priorities == [BACKGROUND_PRIORITY - 5, BACKGROUND_PRIORITY]
    assert {request.principal.tenant for request in backend.requests} == {"acme"}


def test_no_line_begins_while_somebody_waits_for_an_answer(tmp_path: Path) -> None:
    pause = Pause()

    def script(request: Request) -> list[Step]:
        steps = answer("ok")(request)
        return steps if request.principal.priority < 0 else [steps[0], pause, *steps[1:]]

    backend = ScriptedBackend(script)

    async def main() -> None:
        async with opened(tmp_path, backend) as shelf:
            request = Request(id="r", model="tiny", prompt="Hi")
            foreground = asyncio.ensure_future(_drain(shelf.foreground.run(request)))
            await pause.reached.wait()
            batch = await shelf.order(line("a"))
            batch = await shelf.until(batch, lambda batch: batch.status == "in_progress")
            shelf.ticks.now.set()
            for _ in range(50):
                await shelf.store.call(lambda _: None)
            assert len(backend.requests) == 1
            pause.go.set()
            await foreground
            assert (await shelf.until(batch)).status == "completed"

    run(main())


async def _drain(events: Any) -> None:
    async for _ in events:
        pass


@pytest.mark.parametrize(
    ("data", "code", "number"),
    [
        (b"", "empty_file", None),
        (b"\n \n", "empty_file", None),
        (b"{nonsense\n", "invalid_json_line", 1),
        (b"\xff\xfe\n", "invalid_json_line", 1),
        (b'{"body":' * 100_000, "invalid_json_line", 1),
        (b"[]\n", "invalid_request", 1),
        (b'{"custom_id":1}\n', "invalid_request", 1),
        (line("a") + line("a"), "duplicate_custom_id", 2),
        (line(""), "invalid_custom_id", 1),
        (line("a", url="/v1/embeddings"), "mismatched_url", 1),
        (line("a", url="/v1/nonsense"), "invalid_url", 1),
        (line("a", model="gpt-9"), "model_not_found", 1),
        (line("a", model=""), "missing_required_parameter", 1),
        (line("a").replace(b"POST", b"GET"), "invalid_method", 1),
        (line("a", "x" * 1_000_000), "line_too_long", 1),
        (line("a") + line("b") + line("c") + line("d"), "too_many_lines", None),
    ],
)
def test_an_input_that_is_not_valid_fails_whole_and_says_where(
    tmp_path: Path, data: bytes, code: str, number: int | None
) -> None:
    backend = ScriptedBackend(answer("never"))

    async def main() -> None:
        async with opened(tmp_path, backend, limits=BatchLimits(max_lines=3, max_line_bytes=1_000_000)) as shelf:
            batch = await shelf.until(await shelf.order(data))
            assert batch.status == "failed"
            assert (batch.problems[0].code, batch.problems[0].line) == (code, number)
            assert batch.output_file_id is None

    run(main())
    assert backend.requests == []


def test_a_line_that_could_not_run_now_runs_later_and_one_that_never_can_fails(tmp_path: Path) -> None:
    refusals: dict[str, list[Exception]] = {
        "full": [Overloaded("full.") for _ in range(5)],
        "broken": [EngineFault("bad.") for _ in range(5)],
        "defect": [ZeroDivisionError("oops")],
        "fine": [],
    }

    def script(request: Request) -> list[Step]:
        assert request.messages is not None
        left = refusals[request.messages[0].text]
        return [left.pop()] if left else answer("ok")(request)

    async def main() -> None:
        async with opened(tmp_path, ScriptedBackend(script)) as shelf:
            batch = await shelf.order(b"".join(line(name, name) for name in refusals))

            def moves_on(batch: Any) -> bool:
                shelf.ticks.now.set()
                return bool(batch.is_over)

            batch = await shelf.until(batch, moves_on)
            good = await shelf.lines_of(batch.output_file_id)
            assert {one["custom_id"] for one in good} == {"full", "fine"}
            bad = await shelf.lines_of(batch.error_file_id)
            assert {one["custom_id"]: one["response"]["body"]["error"]["code"] for one in bad} == {
                "broken": "engine_fault",
                "defect": "engine_fault",
            }
        assert len(refusals["broken"]) == 2  # three tries
        assert refusals["full"] == []

    run(main())


def test_a_process_that_dies_leaves_a_batch_that_another_ends_without_running_a_line_twice(tmp_path: Path) -> None:
    gate = Pause()

    def until_third(request: Request) -> list[Step]:
        assert request.messages is not None
        steps = answer("first process")(request)
        return [gate] if request.messages[0].text in {"2", "3"} else steps

    before, after = ScriptedBackend(until_third), ScriptedBackend(answer("second process"))
    data = b"".join(line(f"l{number}", str(number)) for number in range(6))

    async def main() -> None:
        async with opened(tmp_path, before, limits=BatchLimits(max_running=2)) as shelf:
            batch = await shelf.order(data)
            await gate.reached.wait()
            await shelf.until(batch, lambda batch: batch.num_ended == 2)
        assert before.num_open == 0
        async with opened(tmp_path, after) as shelf:
            batch = await shelf.until(batch)
            assert (batch.status, batch.num_ended) == ("completed", 6)
            lines = await shelf.lines_of(batch.output_file_id)
            said = [one["response"]["body"]["choices"][0]["message"]["content"] for one in lines]
            assert said == ["first process"] * 2 + ["second process"] * 4

    run(main())
    assert sorted(request.messages[0].text for request in after.requests if request.messages) == ["2", "3", "4", "5"]


def test_only_one_process_runs_batches(tmp_path: Path) -> None:
    first, second = ScriptedBackend(answer("one")), ScriptedBackend(answer("two"))

    async def main() -> None:
        async with opened(tmp_path, first) as shelf, opened(tmp_path, second) as other:
            assert (await shelf.until(await shelf.order(line("a")))).status == "completed"
            batch = await other.order(line("b"))
            other.ticks.now.set()
            shelf.ticks.now.set()  # a process hears of another's batch with its next tick
            assert (await other.until(batch)).status == "completed"

    run(main())
    assert (len(first.requests), len(second.requests)) == (2, 0)


def test_a_cancelled_batch_keeps_what_it_has_and_stops_what_runs(tmp_path: Path) -> None:
    gate = Pause()

    def script(request: Request) -> list[Step]:
        assert request.messages is not None
        return answer("ok")(request) if request.messages[0].text == "quick" else [gate]

    backend = ScriptedBackend(script)

    async def main() -> None:
        async with opened(tmp_path, backend, limits=BatchLimits(max_running=2)) as shelf:
            batch = await shelf.order(line("a", "quick") + line("b") + line("c") + line("d"))
            await gate.reached.wait()
            await shelf.until(batch, lambda batch: batch.num_ended == 1)
            assert (await shelf.batches.cancel("acme", batch.id)).status == "cancelling"
            batch = await shelf.until(batch)
            assert (batch.status, batch.num_failed, batch.num_unrun) == ("cancelled", 3, 3)
            assert [one["custom_id"] for one in await shelf.lines_of(batch.output_file_id)] == ["a"]
            lost = await shelf.lines_of(batch.error_file_id)
            assert [(one["custom_id"], one["error"]["code"]) for one in lost] == [
                ("b", "batch_cancelled"),
                ("c", "batch_cancelled"),
                ("d", "batch_cancelled"),
            ]
            assert backend.num_open == 0
            with pytest.raises(Conflict, match="cannot be cancelled"):
                await shelf.batches.cancel("acme", batch.id)

    run(main())


def test_a_batch_whose_time_is_over_says_so_for_every_line_that_did_not_run(tmp_path: Path) -> None:
    gate = Pause()
    clock = HandClock()
    backend = ScriptedBackend(lambda _: [gate])

    async def main() -> None:
        async with opened(tmp_path, backend, clock=clock) as shelf:
            batch = await shelf.order(line("a") + line("b"))
            await gate.reached.wait()
            clock.now_s += 86_400
            shelf.ticks.now.set()
            batch = await shelf.until(batch)
            assert (batch.status, batch.output_file_id) == ("expired", None)
            lost = await shelf.lines_of(batch.error_file_id)
            assert {one["error"]["code"] for one in lost} == {"batch_expired"}

    run(main())
    assert backend.num_open == 0


def test_batches_are_refused_by_name_and_hidden_from_other_tenants(tmp_path: Path) -> None:
    async def main() -> None:
        backend = ScriptedBackend(lambda _: [Pause()])
        async with opened(tmp_path, backend, limits=BatchLimits(max_input_bytes=300, max_unfinished=1)) as shelf:
            picture = await shelf.keep(b"x", purpose="vision")
            batch = await shelf.order(line("a"))
            order = batch.order
            with pytest.raises(NotFound, match="no file"):
                await shelf.batches.create(Principal(tenant="other"), order)
            with pytest.raises(InvalidRequest, match="purpose"):
                await shelf.batches.create(ACME, type(order)(**_fields(order) | {"input_file_id": picture.id}))
            with pytest.raises(InvalidRequest, match="bytes"):
                await shelf.order(line("a") * 3)
            with pytest.raises(RateLimited, match="not over"):
                await shelf.order(line("b"))
            with pytest.raises(NotFound, match="no batch"):
                await shelf.batches.get("other", batch.id)
            with pytest.raises(NotFound, match="no batch"):
                await shelf.batches.cancel("other", batch.id)
            with pytest.raises(Conflict, match="being read"):
                await shelf.files.delete("acme", order.input_file_id)

    run(main())


def _fields(order: Any) -> dict[str, Any]:
    return {name: getattr(order, name) for name in type(order).__dataclass_fields__}


def test_tenants_take_turns(tmp_path: Path) -> None:
    backend = ScriptedBackend(answer("ok"))

    async def main() -> None:
        async with opened(tmp_path, backend, limits=BatchLimits(max_running=1), starts=False) as shelf:
            one = await shelf.order(b"".join(line(f"a{number}") for number in range(4)))
            for _ in range(3):  # more batches are not more turns
                await shelf.order(line("more"))
            other = Principal(tenant="other")
            two = await shelf.order(b"".join(line(f"b{number}") for number in range(4)), other)
            shelf.runner.start()
            await shelf.until(one)
            await shelf.until(two, tenant="other")

    run(main())
    tenants = [request.principal.tenant for request in backend.requests]
    assert tenants[:6] == ["acme", "other"] * 3
