"""Ten thousand requests are given up at every point of their lives, under load: nothing is left behind.

The engine's own thread runs the toy; readers cancel whole requests or single choices, before the first item, after
some, or not at all, with prompts that share prefixes, drafts, scored prompts and choices that part, in a pool that is
short.
"""

import asyncio
import random
from typing import Any

import numpy as np
from tests.doubles import TOY_CACHE, TOY_PAGE_BYTES, TOY_VOCAB, ManualClock, ToyProgram, toy_answer

from headrace.core.request import Sampling
from headrace.engine.config import EngineConfig
from headrace.engine.draft.speculator import NO_DRAFTS, Tally
from headrace.engine.engine import Engine
from headrace.engine.item import Begun, Dropped, Failed, Token
from headrace.engine.kv.salt import Salt
from headrace.engine.lane import EngineModel
from headrace.engine.mailbox import Mailbox
from headrace.engine.sequence import Sequence, Work

NUM_CANCELS = 10_000
NUM_READERS = 48
BOUND_S = 300.0  # never reached: what ends a test that would hang


class Guesser:
    """Guesses right, wrong, or not at all."""

    def __init__(self, draws: random.Random) -> None:
        self.draws = draws
        self.live: set[Sequence] = set()

    def limit(self, num_decoding: int) -> int:
        return 3

    def propose(self, sequence: Sequence, limit: int) -> list[int]:
        self.live.add(sequence)
        if self.draws.random() < 0.5:
            return []
        work = sequence.work
        guess = toy_answer(sequence.tokens.tolist(), limit, work.sampling, work.seed, sequence.choice)
        guess[-1] ^= self.draws.randrange(2)
        return guess

    def observe(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """Nothing to learn."""

    def observe_step(self, num_streams: int, num_extra: int, seconds: float) -> None:
        """Nothing to learn."""

    def tally(self) -> Tally:
        return NO_DRAFTS

    def check(self) -> None:
        """Nothing to keep in order."""

    def end(self, sequence: Sequence) -> None:
        self.live.discard(sequence)


class Crowd:
    """Readers that take up and give up requests until enough were cancelled."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine = engine
        self.draws = random.Random(seed)
        self.num_cancelled = 0
        self.num_complete = 0

    def work(self) -> Work:
        draws = self.draws
        family = draws.randrange(4)
        prompt = np.random.default_rng(family).integers(0, TOY_VOCAB, 80)[: draws.choice([1, 5, 31, 32, 33, 64, 80])]
        return Work(
            model="toy",
            tokens=prompt.astype(np.int32),
            sampling=Sampling(temperature=draws.choice([0.0, 1.0]), num_choices=draws.choice([1, 1, 1, 3])),
            seed=family,
            max_tokens=draws.randint(1, 12),
            tenant=draws.choice("ab"),
            salt=Salt(caller=str(draws.randrange(2))),
            priority=draws.randrange(2),
            prompt_logprobs=draws.choice([None, None, None, 0]),
        )

    async def read(self) -> None:
        while self.num_cancelled < NUM_CANCELS:
            work = self.work()
            mailbox = Mailbox(asyncio.get_running_loop())
            ticket = self.engine.submit(work, mailbox)
            patience = self.draws.choice([0, 0, 1, 2, 3, 5, 8, 1000])
            if patience == 0:
                if self.draws.random() < 0.5:
                    await asyncio.sleep(0)  # one turn of the loop: the engine may have begun
                self.engine.cancel(ticket)
                self.num_cancelled += 1
                continue
            await self.follow(work, mailbox, ticket, patience)

    async def follow(self, work: Work, mailbox: Mailbox, ticket: Any, patience: int) -> None:
        """Read until patience or the answer ends; the tokens read are those of a cold run alone."""
        open_choices = work.sampling.num_choices
        told: dict[int, list[int]] = {choice: [] for choice in range(open_choices)}
        dropped: set[int] = set()
        while open_choices:
            for item in await mailbox.take():
                assert not isinstance(item, Failed), item.error
                patience -= 1
                if isinstance(item, Token):
                    told[item.choice].append(item.token)
                    open_choices -= item.reason is not None
                elif isinstance(item, Dropped):
                    open_choices -= item.was_live
                elif isinstance(item, Begun) and work.sampling.num_choices > 1 and self.draws.random() < 0.3:
                    dropped.add(choice := self.draws.randrange(work.sampling.num_choices))
                    self.engine.cancel(ticket, choice)
            if patience <= 0 and open_choices:
                self.engine.cancel(ticket)
                self.num_cancelled += 1
                return
        self.num_complete += 1
        for choice, tokens in told.items():
            expected = toy_answer(work.tokens.tolist(), work.max_tokens, work.sampling, work.seed, choice)
            assert tokens == (expected[: len(tokens)] if choice in dropped else expected)


def test_ten_thousand_cancels_leave_every_page_where_it_was() -> None:
    guesser = Guesser(random.Random(1))
    config = EngineConfig(
        max_batch_tokens=64, max_sequences=12, max_waiting=4096, prefill_chunk=16, kv_memory_bytes=24 * TOY_PAGE_BYTES
    )
    model = EngineModel(name="toy", program=ToyProgram(), cache=TOY_CACHE, context_length=512, speculator=guesser)
    engine = Engine(config, [model], None, ManualClock())
    crowd = Crowd(engine, 7)

    async def main() -> None:
        async with asyncio.timeout(BOUND_S):
            await asyncio.gather(*(crowd.read() for _ in range(NUM_READERS)))

    engine.start()
    try:
        asyncio.run(main())
        assert engine.drain(BOUND_S)
        snapshot = engine.snapshot("toy")
        assert (snapshot.running, snapshot.waiting) == (0, 0)
        assert snapshot.free_pages + snapshot.idle_pages == snapshot.total_pages
    finally:
        engine.close()
    engine.check()
    assert crowd.num_cancelled >= NUM_CANCELS
    assert crowd.num_complete > 500
    assert guesser.live == set()
    lane = engine._lanes["toy"]
    lane.scheduler.tree.evict(lane.pool.num_pages)
    assert len(lane.pool.free) == lane.pool.num_pages
    assert len(lane.scheduler.free_slots) == config.max_sequences
