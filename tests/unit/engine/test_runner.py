"""The arrays of a step: the fast fill of pure decodes equals the plain one, tables follow pages."""

import numpy as np
from tests.doubles import TOY_CACHE, ToyProgram, toy_answer

from headrace.core.request import Sampling
from headrace.engine.config import EngineConfig
from headrace.engine.kv.pool import PagePool
from headrace.engine.runner import Runner
from headrace.engine.scheduler import Batch, Scheduler
from headrace.engine.sequence import Sequence, Work

CONFIG = EngineConfig(max_batch_tokens=64, max_sequences=8, prefill_chunk=16)


def sequence(arrival: int, prompt: list[int], max_tokens: int = 600, temperature: float = 0.0) -> Sequence:
    tokens = np.array(prompt, np.int32)
    sampling = Sampling(temperature=temperature)
    return Sequence(
        Work(model="toy", tokens=tokens, sampling=sampling, seed=arrival, max_tokens=max_tokens), arrival, 0
    )


def test_a_pure_decode_is_filled_the_quick_way_exactly_as_the_plain_way() -> None:
    scheduler = Scheduler(CONFIG, PagePool.allocate(TOY_CACHE, 64))
    runner = Runner(CONFIG, ToyProgram(), None, scheduler.pool)
    for arrival in range(5):
        scheduler.add(sequence(arrival, [arrival + 1] * (arrival + 3)))
    for _ in range(3):
        batch = scheduler.schedule()
        scheduler.complete(batch, runner.run(batch))
    batch = scheduler.schedule()
    assert batch.counts == [1] * 5
    quick = [array.copy() for array in runner._fill_decodes(batch)]
    plain = runner._fill_ragged(batch)
    assert all(np.array_equal(one, other) for one, other in zip(quick, plain, strict=True))
    assert [array.dtype for array in quick] == [array.dtype for array in plain]


def test_one_token_of_a_longer_prompt_draws_nothing() -> None:
    pool = PagePool.allocate(TOY_CACHE, 4)
    runner = Runner(CONFIG, ToyProgram(), None, pool)
    one = sequence(1, [1, 2, 3])
    one.slot, one.pages = 0, [pool.take()]
    assert runner.run(Batch([one], [1], [one])) == []


def test_a_context_longer_than_the_table_widens_it() -> None:
    scheduler = Scheduler(CONFIG, PagePool.allocate(TOY_CACHE, 64))
    runner = Runner(CONFIG, ToyProgram(), None, scheduler.pool)
    prompt = [index % 90 for index in range(700)]
    scheduler.add(sequence(7, prompt, max_tokens=3, temperature=1.0))
    drawn = []
    while scheduler.running or scheduler.waiting:
        batch = scheduler.schedule()
        drawn += [result.token for result in scheduler.complete(batch, runner.run(batch))]
    assert drawn == toy_answer(prompt, 3, Sampling(), seed=7)
