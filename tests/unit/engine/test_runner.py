"""The arrays of a step: the fast fill of pure decodes equals the plain one, tables follow pages."""

import copy

import numpy as np
from tests.doubles import TOY_CACHE, ToyProgram, toy_answer

from headrace.core.request import Sampling
from headrace.engine.batch import Batch
from headrace.engine.config import EngineConfig
from headrace.engine.kv.pool import PagePool
from headrace.engine.runner import Runner
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence, Work

CONFIG = EngineConfig(max_batch_tokens=64, max_sequences=8, prefill_chunk=16)


def sequence(
    arrival: int, prompt: list[int], max_tokens: int = 600, temperature: float = 0.0, adapter: str | None = None
) -> Sequence:
    tokens = np.array(prompt, np.int32)
    sampling = Sampling(temperature=temperature)
    work = Work(model="toy", tokens=tokens, sampling=sampling, seed=arrival, max_tokens=max_tokens, adapter=adapter)
    return Sequence(work, arrival, 0)


def answers(scheduler: Scheduler, runner: Runner) -> dict[int, list[int]]:
    """What is left of every sequence's answer, by arrival."""
    drawn: dict[int, list[int]] = {}
    while scheduler.running or scheduler.waiting:
        batch = scheduler.schedule()
        for result in scheduler.complete(batch, runner.run(batch)):
            drawn.setdefault(result.sequence.order[1], []).append(result.token)
    return drawn


def test_a_pure_decode_is_filled_the_quick_way_exactly_as_the_plain_way() -> None:
    scheduler = Scheduler(CONFIG, PagePool.allocate(TOY_CACHE, 64))
    runner = Runner(CONFIG, ToyProgram(), None, scheduler.pool)
    for arrival in range(5):
        adapter = {1: "one", 3: "three"}.get(arrival)
        scheduler.add(sequence(arrival, [arrival + 1] * (arrival + 3), adapter=adapter))
    for _ in range(3):
        batch = scheduler.schedule()
        scheduler.complete(batch, runner.run(batch))
    batch = scheduler.schedule()
    assert not batch.is_ragged and batch.counts == [1] * 5
    *quick, quick_sampling, quick_adapters = (copy.deepcopy(array) for array in runner.prepare(batch))
    *plain, plain_sampling, plain_adapters = runner._fill_ragged(batch)
    for one, other in zip([*quick, *quick_sampling.values()], [*plain, *plain_sampling.values()], strict=True):
        assert np.array_equal(one, other) and one.dtype == other.dtype
    assert quick_sampling.keys() == plain_sampling.keys()
    assert quick_adapters == plain_adapters == [None, "one", None, "three", None]


def test_arrays_kept_from_step_to_step_follow_everybody_who_comes_and_goes() -> None:
    """Sequences end, arrive, are cancelled, fill pages and change slots, while the others go on decoding."""
    scheduler = Scheduler(CONFIG, PagePool.allocate(TOY_CACHE, 64))
    runner = Runner(CONFIG, ToyProgram(), None, scheduler.pool)
    sequences = [sequence(arrival, [arrival + 1] * 20, 10 + 9 * arrival, arrival / 2) for arrival in range(6)]
    drawn: dict[int, list[int]] = {}
    for step in range(30):
        if step % 5 == 0:
            scheduler.add(sequences[step // 5])
        if step == 12:
            scheduler.remove(sequences[1])
        batch = scheduler.schedule()
        for result in scheduler.complete(batch, runner.run(batch)):
            drawn.setdefault(result.sequence.order[1], []).append(result.token)
    for arrival, tokens in answers(scheduler, runner).items():
        drawn[arrival] += tokens
    for one in sequences:
        expected = toy_answer([one.order[1] + 1] * 20, one.work.max_tokens, one.work.sampling, seed=one.order[1])
        assert drawn[one.order[1]] == (expected[:6] if one is sequences[1] else expected)


def test_one_token_of_a_longer_prompt_draws_nothing() -> None:
    pool = PagePool.allocate(TOY_CACHE, 4)
    runner = Runner(CONFIG, ToyProgram(), None, pool)
    one = sequence(1, [1, 2, 3])
    one.slot, one.pages = 0, [pool.take()]
    assert runner.run(Batch([one], [1], [one], is_ragged=True)).tokens == []


def test_a_context_longer_than_the_table_widens_it() -> None:
    scheduler = Scheduler(CONFIG, PagePool.allocate(TOY_CACHE, 64))
    runner = Runner(CONFIG, ToyProgram(), None, scheduler.pool)
    prompt = [index % 90 for index in range(700)]
    scheduler.add(sequence(7, prompt, max_tokens=3, temperature=1.0))
    assert answers(scheduler, runner)[7] == toy_answer(prompt, 3, Sampling(), seed=7)
