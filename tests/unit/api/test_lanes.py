"""Lanes: order within one, concurrency across, limits, and what steering becomes in every phase of a response."""

from typing import Any

import msgspec
import pytest

from headrace.api.lanes import (
    MAX_IN_FLIGHT,
    MAX_NAMED_LANES,
    MAX_STEERS,
    NO_STEERING,
    PHASES,
    Drop,
    Halt,
    Lanes,
    Move,
    Phase,
    Say,
    Start,
    Turn,
)
from headrace.api.socket_frames import Create, Steer
from headrace.core.errors import InvalidRequest

STUB = {"type": "function_call_output", "call_id": "c1", "name": "lookup"}


def order(stream_id: str | None = None, given: str = "Hi", **fields: Any) -> Create:
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in {"input": given, **fields}.items()}
    return Create(stream_id, raw, fields.get("previous_response_id"))


def steer(target: str, text: str = "Wait") -> Steer:
    return Steer(target, text, ({"type": "message", "role": "user", "content": text},))


def started(actions: list[Any]) -> Turn:
    (turn,) = [action.turn for action in actions if isinstance(action, Start)]
    return turn


def said(actions: list[Any]) -> list[tuple[str, str | None]]:
    return [
        (action.fields["type"].removeprefix("response.steer."), action.fields.get("error", {}).get("code"))
        for action in actions
        if isinstance(action, Say)
    ]


def running(lanes: Lanes, response_id: str = "resp_1", **fields: Any) -> Turn:
    turn = started(lanes.create(order(**fields)))
    lanes.created(turn, response_id)
    return turn


def body(turn: Turn) -> Any:
    return msgspec.json.decode(turn.create.body)


def test_one_lane_runs_one_turn_at_a_time_in_order_and_others_run_beside_it() -> None:
    lanes = Lanes()
    first = started(lanes.create(order("a", "1")))
    assert first.lane.state == "RUNNING"
    assert lanes.create(order("a", "2")) == []
    assert lanes.create(order("a", "3")) == []
    beside = started(lanes.create(order("b", "4")))
    assert beside.lane is not first.lane
    lanes.created(first, "resp_1")
    second = started(lanes.finished(first, Move.COMPLETE))
    assert body(second)["input"] == "2"
    third = started(lanes.finished(second, Move.FAIL))
    assert body(third)["input"] == "3"
    assert lanes.finished(third, Move.FAIL) == []
    assert third.lane.state == "DONE"
    assert lanes.num_in_flight == 1


def test_what_waits_counts_as_in_flight_and_one_too_many_is_refused_until_one_ends() -> None:
    lanes = Lanes()
    turns = [started(lanes.create(order(f"lane{index}"))) for index in range(MAX_IN_FLIGHT - 1)]
    lanes.create(order("lane0"))
    with pytest.raises(InvalidRequest) as refused:
        lanes.create(order("lane1"))
    assert refused.value.code == "websocket_stream_limit_reached"
    lanes.finished(turns[1], Move.FAIL)
    assert started(lanes.create(order("lane1")))


def test_a_connection_names_32_lanes_and_the_nameless_one_is_not_among_them() -> None:
    lanes = Lanes()
    for index in range(MAX_NAMED_LANES):
        lanes.finished(started(lanes.create(order(f"lane{index}"))), Move.FAIL)
    lanes.finished(started(lanes.create(order(None))), Move.FAIL)
    with pytest.raises(InvalidRequest) as refused:
        lanes.create(order("another"))
    assert refused.value.code == "websocket_stream_limit_reached"
    assert started(lanes.create(order("lane7")))


def test_steering_an_active_response_halts_it_and_its_successor_continues_with_its_settings() -> None:
    lanes = Lanes()
    turn = running(lanes, temperature=0, previous_response_id="resp_0")
    lanes.create(order(None, "behind"))
    actions = lanes.steer(steer("resp_1", "Shorter"), "steer_1")
    assert said(actions) == [("accepted", None)]
    assert [type(action) for action in actions] == [Say, Halt]
    assert said(lanes.steer(steer("resp_1", "In French"), "steer_2")) == [("accepted", None)]
    successor = started(lanes.finished(turn, Move.STOP))
    assert body(successor) == {
        "input": [
            {"type": "message", "role": "user", "content": "Shorter"},
            {"type": "message", "role": "user", "content": "In French"},
        ],
        "temperature": 0,
        "previous_response_id": "resp_1",
    }
    lanes.created(successor, "resp_2")
    behind = started(lanes.finished(successor, Move.COMPLETE))
    assert body(behind)["input"] == "behind"
    assert lanes.num_in_flight == 1


def test_a_call_that_has_begun_is_finished_and_the_input_waits_for_its_answer() -> None:
    lanes = Lanes()
    turn = running(lanes)
    lanes.calls(turn)
    actions = lanes.steer(steer("resp_1", "Hurry"), "steer_1")
    assert [type(action) for action in actions] == [Say]
    (pending,) = lanes.finished(turn, Move.COMPLETE, [STUB])
    assert isinstance(pending, Say)
    assert pending.fields == {
        "type": "response.steer.pending",
        "steer": {"id": "steer_1", "previous_response_id": "resp_1"},
        "reason": "waiting_for_required_input",
        "required_input": [STUB],
    }
    answer = STUB | {"output": "42"}
    create = order(None, previous_response_id="resp_1")
    create = Create(None, {**create.fields, "input": msgspec.Raw(msgspec.json.encode([answer]))}, "resp_1")
    turn = started(lanes.create(create))
    assert body(turn)["input"] == [{"type": "message", "role": "user", "content": "Hurry"}, answer]
    lanes.created(turn, "resp_2")
    assert lanes.finished(turn, Move.COMPLETE) == []


def test_waiting_input_comes_back_when_its_lane_goes_elsewhere_and_when_the_connection_ends() -> None:
    for ends in (lambda lanes: lanes.create(order(None, "something else")), lambda lanes: lanes.abandon()):
        lanes = Lanes()
        turn = running(lanes)
        lanes.calls(turn)
        lanes.steer(steer("resp_1"), "steer_1")
        lanes.finished(turn, Move.COMPLETE, [STUB])
        actions = ends(lanes)
        assert said(actions) == [("failed", "response_not_active")]
        assert actions[0].fields["steer"] == {"id": "steer_1", "previous_response_id": "resp_1", "input": "Wait"}


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (Move.COMPLETE, "response_already_completed"),
        (Move.STOP, "response_not_active"),
        (Move.FAIL, "response_not_active"),
    ],
)
def test_a_response_that_has_ended_says_how_it_has(end: Move, code: str) -> None:
    lanes = Lanes()
    lanes.finished(running(lanes), end)
    (failed,) = lanes.steer(steer("resp_1"), "steer_1")
    assert said([failed]) == [("failed", code)]
    assert isinstance(failed, Say)
    assert failed.fields["steer"] == {"previous_response_id": "resp_1", "input": "Wait"}  # no id was given out


def test_what_cannot_be_steered_is_refused_by_its_reason() -> None:
    lanes = Lanes()
    assert said(lanes.steer(steer("resp_9"), "steer_1")) == [("failed", "response_not_found")]
    running(lanes, "resp_1", stream_id="a", conversation="conv_1")
    assert said(lanes.steer(steer("resp_1"), "steer_1")) == [("failed", "steering_not_supported")]
    running(lanes, "resp_2", stream_id="b")
    for _ in range(MAX_STEERS):
        assert said(lanes.steer(steer("resp_2"), "steer_1"))[0] == ("accepted", None)
    assert said(lanes.steer(steer("resp_2"), "steer_1")) == [("failed", "too_many_pending_steers")]


def test_accepted_input_comes_back_when_the_response_or_its_successor_fails() -> None:
    lanes = Lanes()
    turn = running(lanes)
    lanes.steer(steer("resp_1"), "steer_1")
    assert said(lanes.finished(turn, Move.FAIL)) == [("failed", "response_not_active")]
    turn = running(lanes, "resp_2")
    lanes.steer(steer("resp_2"), "steer_2")
    successor = started(lanes.finished(turn, Move.STOP))
    (failed,) = lanes.finished(successor, Move.FAIL, reason="the queue is full")
    assert said([failed]) == [("failed", "successor_creation_failed")]
    assert isinstance(failed, Say)
    assert failed.fields["error"]["message"] == "the queue is full"
    assert failed.fields["steer"]["id"] == "steer_2"


def test_a_connection_that_ends_begins_nothing_more() -> None:
    lanes = Lanes()
    turn = running(lanes)
    lanes.create(order(None, "behind"))
    lanes.steer(steer("resp_1"), "steer_1")
    assert [type(action) for action in lanes.abandon()] == [Drop]
    assert said(lanes.finished(turn, Move.STOP)) == [("failed", "successor_creation_failed")]
    assert lanes.num_in_flight == 0


def test_numbers_of_a_turn_count_what_is_said_about_it_too() -> None:
    lanes = Lanes()
    turn = running(lanes)
    assert [turn.next_number(), turn.next_number()] == [0, 1]


def test_every_phase_but_the_last_ones_has_a_way_out_and_those_have_none() -> None:
    leaving = {phase for phase, _ in PHASES}
    assert leaving == set(Phase) - set(NO_STEERING)
    reached = {Phase.WAITING, *PHASES.values()}
    assert reached == set(Phase)


def test_a_move_that_is_not_in_the_table_is_a_defect() -> None:
    lanes = Lanes()
    turn = running(lanes)
    with pytest.raises(AssertionError):
        turn.move(Move.START)


def test_old_responses_are_forgotten_and_running_ones_are_not() -> None:
    lanes = Lanes()
    running(lanes, "resp_running", stream_id="a")
    for index in range(300):
        lanes.finished(running(lanes, f"resp_{index}", stream_id="b"), Move.COMPLETE)
    assert said(lanes.steer(steer("resp_0"), "s")) == [("failed", "response_not_found")]
    assert said(lanes.steer(steer("resp_299"), "s")) == [("failed", "response_already_completed")]
    assert said(lanes.steer(steer("resp_running"), "s")) == [("accepted", None)]
