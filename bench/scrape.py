"""What does a scrape of /metrics cost, and how long does it hold the event loop, which all streams wait for?

Metrics of so many models, all filled, are told three ways by turns: as the server does (pieces, the loop given back
between them), by Prometheus's own client at once on the loop, and by that in a thread. A second coroutine that does
nothing but give the loop back again and again measures the longest time that it was not asked; CPU is that of the
process, without what this coroutine takes beside a thread. No socket, no HTTP.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import generate_latest

from bench.report import Row, publish, row
from headrace.observe.metrics import Metrics

Way = Callable[[Metrics], Awaitable[bytes]]


class Untimed(CollectorRegistry):
    """What another has, without when its counters were made, which we do not tell."""

    def __init__(self, whole: CollectorRegistry) -> None:
        super().__init__()
        self._whole = whole

    def collect(self) -> Iterator[Metric]:
        for family in self._whole.collect():
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            yield family


async def in_pieces(metrics: Metrics) -> bytes:
    pieces: list[str] = []
    for piece in metrics.pieces():
        pieces.append(piece)
        await asyncio.sleep(0)
    return "".join(pieces).encode()


async def by_client(metrics: Metrics) -> bytes:
    return generate_latest(Untimed(metrics.registry))


async def in_thread(metrics: Metrics) -> bytes:
    return await asyncio.to_thread(generate_latest, Untimed(metrics.registry))


WAYS: dict[str, Way] = {"pieces": in_pieces, "client": by_client, "thread": in_thread}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--repeats", type=int, default=9, help="rounds; each is the median of 20 scrapes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [one for num in options.models for one in asyncio.run(_measure(num, options.repeats))]
    publish("scrape", {"models": options.models, "repeats": options.repeats}, rows, options.json)


async def _measure(num_models: int, repeats: int) -> list[Row]:
    metrics = filled(num_models)
    texts = {await way(metrics) for way in WAYS.values()}
    assert len(texts) == 1, "the bytes are to be the same"
    held: dict[str, list[float]] = {name: [] for name in WAYS}
    cpu: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, way in WAYS.items():
            held[name].append(1000 * statistics.median([await _hold(way, metrics) for _ in range(20)]))
            begun = time.thread_time()
            for _ in range(20):
                await way(metrics)
            cpu[name].append(1000 * (time.thread_time() - begun) / 20)
    del cpu["thread"]  # another's
    return [
        _row(f"hold-{num_models}", held),
        _row(f"cpu-{num_models}", cpu),
    ]


def _row(measure: str, samples: dict[str, list[float]]) -> Row:
    ours = samples.pop("pieces")
    return row(measure, "ms", ours, samples, lower_is_better=True)


async def _hold(way: Way, metrics: Metrics) -> float:
    """The longest time that the loop was held while this was told, in seconds."""
    longest, last, is_over = 0.0, time.perf_counter(), False

    async def watch() -> None:
        nonlocal longest, last
        while not is_over:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    await way(metrics)
    is_over = True
    await watching
    return longest


def filled(num_models: int) -> Metrics:
    """All that a server tells of so many models that have worked."""
    metrics = Metrics()
    for number in range(num_models):
        name = f"model-{number}"
        bound = metrics.for_model(name)
        bound.state.num_blocks = 1000
        bound.state.gaps.add(0.02, 1000)
        metrics.count_end(name, "stop")
        for field in bound.__slots__:
            metric = getattr(bound, field)
            if isinstance(metric, Histogram):
                for value in range(40):
                    metric.observe(0.013 * value)
            elif isinstance(metric, Counter | Gauge):
                metric.inc(12_345)
    return metrics


if __name__ == "__main__":
    main()
