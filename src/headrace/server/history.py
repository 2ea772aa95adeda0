"""What the server did in the last quarter of an hour, in coarse steps: the past of whoever begins to watch.

    every INTERVAL_S: counts of the engine, what is open, what has ended -> one sample -> its JSON, in a ring

Always on, so that it must cost next to nothing: an engine is asked for its counts alone, an answer is looked at once a
sample and at its end, and all models together are one row. So it holds no name of a model, tenant or key, and has no
more of it the more there are of them. A restart begins it anew. Knows no viewers.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from headrace.api.live import LatencyAnswer, LiveSample, encode_history, encode_sample, milliseconds
from headrace.core.errors import HeadraceError
from headrace.core.watching import LiveModel, LiveTotals, Watching
from headrace.server.feed import Pace
from headrace.server.latencies import Latencies, Progress
from headrace.server.sights import ended_progress
from headrace.server.tally import Open, Tally

INTERVAL_S: Final = 5.0
KEPT: Final = 180
"""Samples: a quarter of an hour."""

MAX_SAMPLE_BYTES: Final = 1024
"""More than any sample has whose numbers are below 2^53, as JSON's are: what is kept is at most KEPT times that."""

_SUMS: Final = ("output_tokens", "read_tokens", "prompt_tokens", "reused_tokens", "num_steps", "num_sequences")

_logger = logging.getLogger("headrace.server")


class Ring:
    """Encoded samples, so many at most; the oldest makes room."""

    def __init__(self, since_ms: int, interval_ms: int) -> None:
        self._since_ms = since_ms
        self._interval_ms = interval_ms
        self._samples: deque[bytes] = deque(maxlen=KEPT)
        self._encoded: bytes | None = None

    def add(self, sample: LiveSample) -> None:
        """The newest."""
        self._samples.append(encode_sample(sample))
        self._encoded = None

    def encode(self) -> bytes:
        """All of them as a LiveHistory; made once for all who come before the next."""
        if self._encoded is None:
            self._encoded = encode_history(self._since_ms, self._interval_ms, self._samples)
        return self._encoded


def grown(before: Mapping[str, LiveTotals], models: Iterable[LiveModel]) -> dict[str, int]:
    """What all models have done since their totals were those of `before`: one that was not there, or that left and
    came back, has done all that it tells."""
    sums = dict.fromkeys(_SUMS, 0)
    for model in models:
        old, new = before.get(model.name), model.totals
        is_same = old is not None and all(getattr(new, name) >= getattr(old, name) for name in _SUMS)
        for name in _SUMS:
            sums[name] += getattr(new, name) - (getattr(old, name) if is_same else 0)
    return sums


@dataclass(slots=True)
class History:
    """Takes samples between `start` and `stop`. `watching` is the engine, if there is one."""

    tally: Tally
    pace: Pace
    watching: Watching | None
    interval_s: float = INTERVAL_S
    _ring: Ring = field(init=False)
    _latencies: Latencies = field(init=False)
    _before: Mapping[str, LiveTotals] = field(default_factory=dict)
    _sampled_s: float = 0.0
    _task: asyncio.Task[None] | None = None
    _has_told: bool = False

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        clock = self.pace.clock
        self._sampled_s = clock.monotonic_s()
        self._ring = Ring(milliseconds(clock.unix_s()), milliseconds(self.interval_s))
        self._latencies = Latencies(self._sampled_s)

    def start(self) -> None:
        """Begin, with nothing."""
        self._begin()
        self.tally.on_end.append(self._note_end)
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """No more samples; those that were taken stay. Does nothing if there are none."""
        task, self._task = self._task, None
        if task is None:
            return
        self.tally.on_end.remove(self._note_end)
        task.cancel()
        await asyncio.wait([task])

    def encode(self) -> bytes:
        """A LiveHistory."""
        return self._ring.encode()

    async def _work(self) -> None:
        while True:
            await self.pace.pause(self.interval_s)
            try:
                await self._sample()
            except HeadraceError:  # the engine has stopped: there is nothing to count
                continue
            except Exception:
                # What is missing shows as a gap, or in the next sample; the log would be full of it.
                if not self._has_told:
                    self._has_told = True
                    _logger.exception("the history of the live feed met a defect; it goes on and says so only once")

    def _note_end(self, one: Open) -> None:
        if one.record.model is not None:
            now_s = one.started_s + one.record.duration_s
            self._latencies.note(one, one.started_s, ended_progress(one), now_s, is_over=True)

    async def _sample(self) -> None:
        """A step that takes long is waited for: the sample then has all of its time."""
        models = () if self.watching is None else (await self.watching.look(is_whole=False)).models
        clock = self.pace.clock
        now_s = clock.monotonic_s()
        num_open = self._note_open(now_s)
        latency = self._latencies.take(now_s)
        sample = LiveSample(
            time_ms=milliseconds(clock.unix_s()),
            span_ms=milliseconds(now_s - self._sampled_s),
            first_token=_row(latency.first_token),
            between_tokens=_row(latency.between_tokens),
            total_pages=sum(one.pages.total for one in models),
            used_pages=sum(one.pages.used for one in models),
            cached_pages=sum(one.pages.cached for one in models),
            num_waiting=sum(one.num_waiting for one in models),
            num_running=num_open if self.watching is None else sum(one.num_running for one in models),
            **grown(self._before, models),
        )
        if self.watching is None:  # then it is known of tokens what passed
            sample.output_tokens = sum(sample.first_token) + sum(sample.between_tokens)
        self._before = {one.name: one.totals for one in models}
        self._sampled_s = now_s
        self._ring.add(sample)

    def _note_open(self, now_s: float) -> int:
        """How many requests to models are open, and how far they are."""
        num_open = 0
        for one in self.tally.all_open():
            record = one.record
            if record.model is None:
                continue
            num_open += 1
            first_s = None if record.ttft_s is None else one.started_s + record.ttft_s
            self._latencies.note(one, one.started_s, Progress(first_s, record.completion_tokens), now_s)
        return num_open


def _row(told: LatencyAnswer) -> list[int]:
    return told.counts if any(told.counts) else []
