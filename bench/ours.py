"""Our engine in this process, driven with token ids through its thread and its mailboxes. Rates are tokens per second.

The program is wrapped by a clock, so that the time between native calls can be told from the time in them.
"""

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.core.clock import SystemClock
from headrace.core.request import Sampling
from headrace.engine.config import EngineConfig, detect_hardware, resolve
from headrace.engine.engine import Engine
from headrace.engine.grammar.matcher import Grammar
from headrace.engine.item import Failed, Token
from headrace.engine.kv.salt import Salt
from headrace.engine.lane import EngineModel
from headrace.engine.mailbox import Mailbox
from headrace.engine.runner import StepProgram
from headrace.engine.sequence import Work
from headrace.kernels import native
from headrace.kernels.plan import KvKind
from headrace.models.load import LoadedModel

POOL_BYTES = 2**31


@dataclass(slots=True)
class TimedProgram:
    """A program that notes (begin, end, tokens) of its steps, in `time.perf_counter` seconds."""

    program: StepProgram
    steps: list[tuple[float, float, int]] = field(default_factory=list)

    def step(self, threads: Any, pool: Any, tokens: Any, *rest: Any, **named: Any) -> Any:
        """The program's step."""
        begin = time.perf_counter()
        result = self.program.step(threads, pool, tokens, *rest, **named)
        self.steps.append((begin, time.perf_counter(), len(tokens)))
        return result

    def share_outside(self, num_tokens: int) -> float:
        """Of the time from one step's begin to the next one's, the share that is not in the native call.

        Counted over neighbouring steps of so many tokens.
        """
        pairs = [
            (first, second)
            for first, second in zip(self.steps, self.steps[1:], strict=False)
            if first[2] == second[2] == num_tokens
        ]
        whole = sum(second[0] - first[0] for first, second in pairs)
        inside = sum(first[1] - first[0] for first, _ in pairs)
        return 1.0 - inside / whole

    def seconds_outside(self) -> float:
        """Mean time from one step's end to the next one's begin."""
        gaps = [second[0] - first[1] for first, second in zip(self.steps, self.steps[1:], strict=False)]
        return sum(gaps) / len(gaps)


def fresh_salt() -> Salt:
    """One under which nothing is cached."""
    return Salt(caller=os.urandom(8).hex())


@dataclass(slots=True)
class Ours:
    """The engine of one model; greedy. `adapters`: of each stream, as the model's program takes them; empty: none.
    `grammar`: what answers are held to from now on."""

    model: LoadedModel
    num_threads: int
    kv: KvKind
    adapters: tuple[Any, ...] = ()
    grammar: Grammar | None = None
    engine: Engine = field(init=False)
    threads: native.Threads = field(init=False)
    program: TimedProgram = field(init=False)
    _prepared: tuple[list[list[int]], Salt] = ([], Salt())

    def __post_init__(self) -> None:
        config = resolve(EngineConfig(threads=self.num_threads, kv_memory_bytes=POOL_BYTES), detect_hardware())
        self.threads = native.Threads(self.num_threads)
        self.program = TimedProgram(self.model.program)
        lane = EngineModel(
            name="m",
            program=self.program,
            cache=self.model.plan.cache,
            context_length=self.model.context_length,
            kv_kind=self.kv,
        )
        self.engine = Engine(config, [lane], self.threads, SystemClock())
        self.engine.start()

    def close(self) -> None:
        """Stop the engine and its threads."""
        self.engine.close()
        self.threads.close()

    def prefill(self, tokens: list[int]) -> float:
        """A fresh prompt, to its first new token."""
        seconds, _ = self._run([tokens], 1, fresh_salt())
        return len(tokens) / seconds

    def prepare(self, prompts: list[list[int]]) -> None:
        """Compute what `decode` goes on from: all pages but that of the last token are then warm in the tree."""
        self._prepared = (prompts, fresh_salt())
        self._run(prompts, 1, self._prepared[1])

    def decode(self, new: int) -> float:
        """New tokens of all prepared prompts together."""
        self.program.steps.clear()
        prompts, salt = self._prepared
        seconds, tokens = self._run(prompts, new, salt)
        return tokens / seconds

    def shared(self, prefix: list[int], tails: list[list[int]], new: int) -> float:
        """New tokens of streams that share a prefix and arrive at once, from an empty cache."""
        seconds, tokens = self._run([prefix + tail for tail in tails], new, fresh_salt())
        return tokens / seconds

    def _run(self, prompts: list[list[int]], new: int, salt: Salt) -> tuple[float, int]:
        """Seconds and new tokens of all prompts at once."""

        async def everything() -> int:
            adapters = self.adapters or (None,) * len(prompts)
            streams = zip(prompts, adapters, strict=True)
            return sum(await asyncio.gather(*(self._one(prompt, new, salt, each) for prompt, each in streams)))

        started = time.perf_counter()
        tokens = asyncio.run(everything())
        return time.perf_counter() - started, tokens

    async def _one(self, tokens: list[int], new: int, salt: Salt, adapter: Any) -> int:
        mailbox = Mailbox(asyncio.get_running_loop())
        self.engine.submit(
            Work(
                model="m",
                tokens=np.array(tokens, np.int32),
                sampling=Sampling(temperature=0.0),
                seed=0,
                max_tokens=new,
                salt=salt,
                grammar=self.grammar,
                adapter=adapter,
            ),
            mailbox,
        )
        count = 0
        while True:
            for item in await mailbox.take():
                if isinstance(item, Failed):
                    raise item.error
                if isinstance(item, Token):
                    count += 1
                    if item.reason is not None:
                        return count
