"""The thread pool: any number of threads on any number of cores, one step at a time, and an orderly end."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.kernels import tiny_plan
from tests.unit.kernels.tiny_plan import VOCAB, Cache, Model, sequences

from headrace.kernels import native


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_plan.build()


def decode(model: Model, threads: native.Threads, steps: int) -> NDArray[np.float32]:
    """The logits of some steps over three sequences."""
    cache, batch = Cache(), sequences(60, 60, 60)
    logits = np.empty((steps, 3, VOCAB), dtype=np.float32)
    for step in range(steps):
        model.program.step(threads, **cache.arguments([(s, 1) for s in batch]), output=logits[step])
    return logits


def test_more_threads_than_cores_give_the_same_results(model: Model) -> None:
    alone, crowd = native.Threads(1), native.Threads(4 * (os.cpu_count() or 1) + 1)
    assert np.array_equal(decode(model, alone, 20), decode(model, crowd, 20))
    alone.close()
    crowd.close()


@pytest.mark.parametrize("spin_us", [0, 1, 1000])
def test_threads_that_park_at_once_or_spin_for_long_give_the_same_results(model: Model, spin_us: int) -> None:
    alone, pool = native.Threads(1), native.Threads(3, spin_us=spin_us)
    assert np.array_equal(decode(model, alone, 30), decode(model, pool, 30))
    alone.close()
    pool.close()


def test_two_programs_share_threads_one_step_after_the_other(model: Model) -> None:
    other = tiny_plan.build(seed=9)
    pool = native.Threads(2)
    assert not np.array_equal(decode(model, pool, 3), decode(other, pool, 3))
    pool.close()


def test_pools_of_their_own_run_programs_side_by_side(model: Model) -> None:
    programs = [tiny_plan.build(), tiny_plan.build()]
    pools = [native.Threads(2), native.Threads(2)]
    results: list[Any] = [None, None]

    def run(i: int) -> None:
        results[i] = decode(programs[i], pools[i], 40)

    runners = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    expected = decode(model, pools[0], 40)
    assert np.array_equal(results[0], expected)
    assert np.array_equal(results[1], expected)
    for pool in pools:
        pool.close()


def test_a_second_step_on_busy_threads_is_refused_and_the_first_one_goes_on(model: Model) -> None:
    """Two threads hammer one pool; every call either runs or says that the pool is busy, and none returns wrong."""
    programs = [tiny_plan.build(), tiny_plan.build()]
    pool = native.Threads(2)
    expected = decode(model, pool, 1)
    refused = [0, 0]
    barrier = threading.Barrier(2)

    def hammer(i: int) -> None:
        barrier.wait(timeout=5)
        for _ in range(200):
            try:
                assert np.array_equal(decode(programs[i], pool, 1), expected)
            except RuntimeError as error:
                assert "already running a step" in str(error)
                refused[i] += 1

    runners = [threading.Thread(target=hammer, args=(i,)) for i in range(2)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert sum(refused) < 400
    pool.close()


def test_closed_threads_refuse_a_step_and_close_again_in_silence(model: Model) -> None:
    pool = native.Threads(3)
    decode(model, pool, 1)
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        decode(model, pool, 1)


def test_threads_that_nobody_closed_end_with_their_object() -> None:
    before = native_threads()
    pools = [native.Threads(4) for _ in range(3)]
    workers = native_threads() - before
    assert len(workers) == 9
    del pools
    assert ended(workers)


@pytest.mark.parametrize("spin_us", [0, 1000, 20_000])
def test_waiting_workers_park(model: Model, spin_us: int) -> None:
    """Whatever the pace of the steps was, soon after the last one no worker uses a CPU any more."""
    before = native_threads()
    pool = native.Threads(3, spin_us=spin_us)
    workers = native_threads() - before
    assert len(workers) == 2
    decode(model, pool, 30)
    deadline = time.monotonic() + 10.0
    while any(run_state(worker) != "S" for worker in workers):
        assert time.monotonic() < deadline, "a worker spins without end"
    pool.close()


def run_state(thread: str) -> str:
    """R while it runs or could, S while it sleeps."""
    return Path(f"/proc/self/task/{thread}/stat").read_text("ascii").rsplit(") ", 1)[1][0]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux binds threads to CPUs")
def test_threads_stay_on_the_cpus_they_were_given(model: Model) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    given = [cpus[0], cpus[-1], cpus[0]]
    before = native_threads()
    pool = native.Threads(3, cpus=given)
    workers = native_threads() - before
    bound = sorted([*os.sched_getaffinity(int(worker))] for worker in workers)
    assert bound == sorted([[cpus[-1]], [cpus[0]]])
    caller: list[set[int]] = []

    def call() -> None:
        pool.pin_caller()
        caller.append(os.sched_getaffinity(0))
        decode(model, pool, 3)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert caller == [{cpus[0]}]
    assert os.sched_getaffinity(0) == set(cpus)
    pool.close()
    native.Threads(1).pin_caller()
    assert os.sched_getaffinity(0) == set(cpus)


@pytest.mark.parametrize(
    ("cpus", "message"),
    [([0], "cpus: 1 given for 2 threads"), ([0, 5000], "cpus: 5000"), ([0, -1], "cpus: -1")],
)
def test_cpus_that_cannot_be_are_refused_by_name(cpus: list[int], message: str) -> None:
    before = native_threads()
    with pytest.raises(ValueError, match=message):
        native.Threads(2, cpus=cpus)
    assert ended(native_threads() - before)


def ended(workers: set[str]) -> bool:
    """Whether these threads are gone; the system still lists a joined one for a moment."""
    deadline = time.monotonic() + 10.0
    while workers & native_threads() and time.monotonic() < deadline:
        os.sched_yield()
    return not workers & native_threads()


def native_threads() -> set[str]:
    status = "/proc/self/task"
    if not os.path.isdir(status):  # noqa: PTH112 - a plain question
        pytest.skip("counting threads needs /proc, which only Linux has")
    return set(os.listdir(status))  # noqa: PTH208


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "count: 0"), ((-1,), "count: -1"), ((5000,), "count: 5000"), ((1, -1), "spin_us: -1")],
)
def test_a_pool_of_impossible_size_is_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native.Threads(*arguments)


def test_the_count_includes_the_caller_and_memory_can_be_read() -> None:
    pool = native.Threads(2)
    assert pool.count == 2
    assert native.read_bandwidth(pool, 8) > 0.0
    with pytest.raises(ValueError, match="megabytes: 0"):
        native.read_bandwidth(pool, 0)
    pool.close()


@pytest.mark.parametrize("variant", ["", *native.variants()])
def test_every_variant_can_tell_how_fast_it_multiplies(variant: str) -> None:
    pool = native.Threads(1)
    assert native.multiply_rate(pool, variant) > 0.0
    pool.close()


def test_the_rate_of_a_variant_that_cannot_run_here_is_refused() -> None:
    pool = native.Threads(1)
    with pytest.raises(ValueError, match="variant: 'abacus'"):
        native.multiply_rate(pool, "abacus")
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        native.multiply_rate(pool)


def test_the_variant_in_use_is_one_that_can_run_here() -> None:
    assert native.variant() in native.variants()
    assert native.variants()[-1] == "portable"
    assert all(isinstance(present, bool) for present in native.cpu_features().values())
