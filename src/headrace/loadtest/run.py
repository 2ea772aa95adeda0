"""Drives one stage: conversations begin when they are due, answers are waited for, and every request ends in one point.

Open loop: they begin by the schedule, whatever the server does, and a request that is sent late counts from when it was
due (no coordinated omission). Closed loop: so many at once, each due when the one before it ended. A stage stops when
its bounds are reached or it is told to; what has not ended by then is counted as `unfinished`. Knows no sockets.
"""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from typing import Protocol as Contract

from headrace.core.clock import Clock
from headrace.loadtest.plan import Plan, Protocol, Stage
from headrace.loadtest.reading import OK, Failed, Point, Reading
from headrace.loadtest.schedule import arrivals, bounded
from headrace.loadtest.watch import Effort, Watch
from headrace.loadtest.workload import Conversation, Workload

_RECENT: Final = 512
_BREATH: Final = 64
"""Conversations that begin in a row, when the schedule is behind, before others may run."""


class Asker(Contract):
    """Whoever sends a request and has it read."""

    async def ask(self, protocol: Protocol, body: bytes, reading: Reading) -> None:
        """Until its end. Raises Failed."""
        ...


@dataclass
class Tally:
    """A stage so far. `points` in the order in which they ended; moments are the clock's seconds. `counts_from_s` is
    when the first that counts was due, `sent_until_s` when no more began."""

    stage: Stage
    began_s: float
    points: list[Point] = field(default_factory=list)
    counts_from_s: float | None = None
    sent_until_s: float = 0.0
    ended_s: float = 0.0
    num_begun: int = 0
    num_under_way: int = 0
    is_stopped: bool = False
    effort: Effort | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    output_tokens: int = 0
    recent_first_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def add(self, point: Point) -> None:
        """A request has ended."""
        self.points.append(point)
        self.outcomes[point.outcome] += 1
        self.output_tokens += point.output_tokens
        if point.first_s is not None:
            self.recent_first_s.append(point.first_s - point.due_s)


class Run:
    """Stage after stage against one server. `fields` go into every body, None leaves a field out; `stop` may be set at
    any moment."""

    def __init__(
        self,
        plan: Plan,
        workload: Workload,
        asker: Asker,
        clock: Clock,
        *,
        fields: Mapping[str, Any],
        cpu_s: Callable[[], float],
    ) -> None:
        self._plan = plan
        self._workload = workload
        self._asker = asker
        self._clock = clock
        self._fields = fields
        self._cpu_s = cpu_s
        self._num_before = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._defect: BaseException | None = None
        self._room = asyncio.Semaphore(plan.bounds.max_in_flight)
        self.stop = asyncio.Event()
        self.tally: Tally | None = None

    async def run_stage(self, stage: Stage) -> Tally:
        """Hold one load until its bounds, or until it is stopped; its points. Cancelling leaves nothing under way."""
        tally = self.tally = Tally(stage, self._clock.monotonic_s())
        watch = Watch(self._clock, self._cpu_s)
        watching = asyncio.create_task(watch.run())
        try:
            if stage.rate is not None:
                await self._open(tally, stage.rate)
            else:
                await self._closed(tally, stage.concurrency or 1)
            tally.sent_until_s = self._clock.monotonic_s()
            await self._drain()
        finally:
            watching.cancel()
            await self._cancel()
            self._num_before += tally.num_begun
        if self._defect is not None:
            raise self._defect
        tally.ended_s = self._clock.monotonic_s()
        tally.effort = watch.effort()
        tally.is_stopped = self.stop.is_set()
        return tally

    # Open loop

    async def _open(self, tally: Tally, rate: float) -> None:
        bounds = self._plan.bounds
        moments = arrivals(rate, f"{self._plan.seed}/{tally.stage.name}")
        num_late = 0
        for number, offset_s in bounded(moments, bounds):
            due_s = tally.began_s + offset_s
            wait_s = due_s - self._clock.monotonic_s()
            num_late = num_late + 1 if wait_s <= 0 else 0
            if (wait_s > 0 and await self._is_stopped_within(wait_s)) or self.stop.is_set():
                return
            self._begin(tally, number, due_s)
            if num_late % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)
        if bounds.duration_s is not None and tally.counts_from_s is not None and tally.num_begun < bounds.most:
            await self._is_stopped_within(tally.counts_from_s + bounds.duration_s - self._clock.monotonic_s())

    async def _is_stopped_within(self, wait_s: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                await self.stop.wait()
        except TimeoutError:
            return False
        return True

    def _begin(self, tally: Tally, number: int, due_s: float) -> None:
        self._count(tally, number, due_s)
        self._keep(asyncio.create_task(self._converse(tally, number, due_s)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:  # of this program; the run has no meaning then
            self._defect = task.exception()
            self.stop.set()

    # Closed loop

    async def _closed(self, tally: Tally, concurrency: int) -> None:
        workers = [asyncio.create_task(self._work(tally)) for _ in range(min(concurrency, self._plan.bounds.most))]
        for worker in workers:
            self._keep(worker)
        stopped = asyncio.create_task(self.stop.wait())
        try:
            pending: set[asyncio.Task[Any]] = set(workers)
            while pending and not stopped.done() and not self._is_over(tally):
                done, _ = await asyncio.wait(
                    {*pending, stopped}, timeout=self._left_s(tally), return_when=asyncio.FIRST_COMPLETED
                )
                pending -= done
        finally:
            stopped.cancel()

    async def _work(self, tally: Tally) -> None:
        while not self.stop.is_set() and not self._is_over(tally):
            number, due_s = tally.num_begun, self._clock.monotonic_s()
            self._count(tally, number, due_s)
            await self._converse(tally, number, due_s)

    def _is_over(self, tally: Tally) -> bool:
        return tally.num_begun >= self._plan.bounds.most or self._left_s(tally) <= 0

    def _left_s(self, tally: Tally) -> float:
        """Seconds in which conversations may still begin. What comes before counting is bounded by the same time."""
        from_s = tally.began_s if tally.counts_from_s is None else tally.counts_from_s
        return from_s + self._plan.bounds.longest_s - self._clock.monotonic_s()

    # One conversation

    def _count(self, tally: Tally, number: int, due_s: float) -> None:
        tally.num_begun += 1
        if number == self._plan.bounds.num_warm:
            tally.counts_from_s = due_s if number else tally.began_s

    async def _converse(self, tally: Tally, number: int, due_s: float) -> None:
        conversation = self._workload.conversation(self._num_before + number)
        answers: list[str] = []
        is_warm = number < self._plan.bounds.num_warm
        for turn in range(len(conversation.turns)):
            body = self._body(conversation, answers)
            reading = Reading()
            ended: Failed | None = Failed("unfinished", "it had not ended when its stage was over")
            tally.num_under_way += 1
            try:
                async with self._room:
                    async with asyncio.timeout(self._plan.bounds.request_s):
                        await self._asker.ask(self._plan.protocol, body, reading)
                ended = None
            except TimeoutError:
                ended = Failed("timeout", f"it had not ended after {self._plan.bounds.request_s:g} s")
            except Failed as error:
                ended = error
            finally:
                end_s = self._clock.monotonic_s()
                tally.num_under_way -= 1
                tally.add(
                    reading.point(
                        index=self._num_before + number,
                        turn=turn,
                        is_warm=is_warm,
                        due_s=due_s,
                        end_s=end_s,
                        failed=ended,
                    )
                )
            if ended is not None or self.stop.is_set():
                return
            answers.append(reading.text)
            due_s = end_s

    def _body(self, conversation: Conversation, answers: list[str]) -> bytes:
        body = {**conversation.body(answers, self._plan.protocol), **self._fields}
        return json.dumps({name: value for name, value in body.items() if value is not None}).encode()

    # The end

    async def _drain(self) -> None:
        """Wait for answers that are under way, but not for ever."""
        if not self._tasks or self.stop.is_set():
            return
        stopped = asyncio.create_task(self.stop.wait())
        all_ended = asyncio.ensure_future(asyncio.wait(set(self._tasks)))
        try:
            await asyncio.wait(
                {stopped, all_ended}, timeout=self._plan.bounds.drain_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopped.cancel()
            all_ended.cancel()

    async def _cancel(self) -> None:
        left = set(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


def failures(tally: Tally) -> int:
    """Requests that came to no good end so far."""
    return sum(count for outcome, count in tally.outcomes.items() if outcome != OK)
