"""Random conversations with the lanes of a connection, beside a naive twin that only keeps lists.

The twin knows one rule a line: a lane's orders run in the order they came, one at a time; at most 16 run or wait; at
most 32 lanes have names; and steering that was accepted is owed until a response begins with it or it comes back.
"""

from collections import defaultdict
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.api.lanes import MAX_IN_FLIGHT, MAX_NAMED_LANES, MAX_STEERS, Drop, Halt, Lanes, Move, Phase, Say, Start
from headrace.api.socket_frames import Create, Steer
from headrace.core.errors import InvalidRequest

LANES = [None, *(f"lane{index}" for index in range(MAX_NAMED_LANES + 2))]
STUB = {"type": "function_call_output", "call_id": "c", "name": "f"}


class Conversation(RuleBasedStateMachine):
    @initialize()
    def connect(self) -> None:
        self.lanes = Lanes()
        self.waiting: dict[str | None, list[str]] = defaultdict(list)  # orders that have not begun
        self.running: dict[str | None, Any] = {}
        self.named: set[str] = set()
        self.owed: dict[str, str] = {}  # accepted steering -> the response it is for
        self.begun: dict[str, list[str]] = defaultdict(list)  # response -> steering its successors began with
        self.accepted: dict[str, list[str]] = defaultdict(list)
        self.lane_of: dict[str, str | None] = {}
        self.num_orders = self.num_ids = 0

    def act(self, actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, Start):
                lane = action.turn.lane.name
                assert lane not in self.running, "one turn at a time"
                mark = msgspec.json.decode(action.turn.create.fields.get("mark", b"null"))
                if not action.turn.create.is_automatic:
                    assert self.waiting[lane].pop(0) == mark, "in the order they came"
                self.running[lane] = action.turn
            elif isinstance(action, Say) and action.fields["type"] == "response.steer.failed":
                given = action.fields["steer"]
                if "id" in given:
                    assert self.owed.pop(given["id"]) == given["previous_response_id"], "comes back once"
            elif isinstance(action, Halt):
                assert action.turn.phase is Phase.HALTING
            elif isinstance(action, Drop):
                self.waiting[action.turn.lane.name].pop(0)

    @rule(lane=st.one_of(st.sampled_from(LANES), st.sampled_from(LANES[:2])), continues=st.booleans())
    def create(self, lane: str | None, continues: bool) -> None:
        owed = [target for target in self.owed.values() if self.lane_of[target] == lane]
        parent = owed[0] if owed and continues else None
        self.num_orders += 1
        mark = f"order{self.num_orders}"
        raw = {"input": msgspec.Raw(b'"x"'), "mark": msgspec.Raw(msgspec.json.encode(mark))}
        num_in_flight = len(self.running) + sum(map(len, self.waiting.values()))
        is_new = lane is not None and lane not in self.named
        too_many = num_in_flight >= MAX_IN_FLIGHT or (is_new and len(self.named) >= MAX_NAMED_LANES)
        self.waiting[lane].append(mark)
        try:
            actions = self.lanes.create(Create(lane, raw, parent))
        except InvalidRequest as refusal:
            assert refusal.code == "websocket_stream_limit_reached"
            assert too_many
            self.waiting[lane].pop()
            return
        assert not too_many
        if lane is not None:
            self.named.add(lane)
        self.act(actions)

    @precondition(lambda self: any(turn.phase is Phase.STARTING for turn in self.running.values()))
    @rule(data=st.data())
    def created(self, data: Any) -> None:
        turn = data.draw(st.sampled_from([one for one in self.running.values() if one.phase is Phase.STARTING]))
        for steer in turn.steers:
            self.begun[self.owed.pop(steer.id)].append(steer.id)
        self.num_ids += 1
        self.lane_of[f"resp_{self.num_ids}"] = turn.lane.name
        self.lanes.created(turn, f"resp_{self.num_ids}")

    @precondition(lambda self: any(turn.response_id for turn in self.running.values()))
    @rule(data=st.data())
    def calls(self, data: Any) -> None:
        self.lanes.calls(data.draw(st.sampled_from([one for one in self.running.values() if one.response_id])))

    @rule(data=st.data())
    def steer(self, data: Any) -> None:
        number = data.draw(st.integers(0, self.num_ids + 1))
        target, steer_id = f"resp_{number}", f"steer{self.num_orders}_{len(self.owed)}_{number}"
        turn = next((one for one in self.running.values() if one.response_id == target), None)
        taken = turn is not None and sum(one == target for one in self.owed.values()) < MAX_STEERS
        if steer_id in self.owed or steer_id in self.accepted[target]:
            return
        actions = self.lanes.steer(Steer(target, "x", ({"role": "user", "content": steer_id},)), steer_id)
        assert (actions[0].fields["type"] == "response.steer.accepted") == taken
        if taken:
            self.owed[steer_id] = target
            self.accepted[target].append(steer_id)
        self.act(actions)

    @precondition(lambda self: bool(self.running))
    @rule(data=st.data(), end=st.sampled_from([Move.COMPLETE, Move.STOP, Move.FAIL]), answers=st.booleans())
    def finish(self, data: Any, end: Move, answers: bool) -> None:
        turn = data.draw(st.sampled_from(list(self.running.values())))
        if turn.phase is Phase.STARTING:
            end = Move.FAIL
        del self.running[turn.lane.name]
        self.act(self.lanes.finished(turn, end, [STUB] if answers else []))

    @invariant()
    def counts_agree(self) -> None:
        assert self.lanes.num_in_flight == len(self.running) + sum(map(len, self.waiting.values()))
        for lane, orders in self.waiting.items():
            assert not orders or lane in self.running, "nobody waits for nothing"

    @invariant()
    def steering_begins_in_its_order(self) -> None:
        for target, ids in self.begun.items():
            assert ids == [one for one in self.accepted[target] if one in ids]

    def teardown(self) -> None:
        if not hasattr(self, "lanes"):
            return
        self.act(self.lanes.abandon())
        for turn in list(self.running.values()):
            self.act(self.lanes.finished(turn, Move.FAIL))
        assert not self.owed, "nothing that was accepted is lost"
        assert self.lanes.num_in_flight == 0


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
