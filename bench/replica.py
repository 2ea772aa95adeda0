"""Question: what would an engine replica with a prefix cache do, and when? A model of one, for `affinity.py`.

Pages of 16 tokens in a prefix tree with a capacity, the least recently used unlocked leaf forgotten first; continuous
batching in steps of at most `step_tokens`: every running sequence writes one token a step, and what room is left reads
prompts in order of arrival. A step takes a fixed time, some a sequence that writes, and the time of the tokens read.
Pages are locked from admission to the end of an answer and warm once they are computed; answers are in the tree too.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PAGE_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """Tokens a second and seconds; the default is our engine with SmolLM2-135M on two cores (docs/performance.md)."""

    capacity_pages: int = 2048
    prefill_rate: float = 2000.0
    step_s: float = 0.002
    stream_s: float = 0.003
    step_tokens: int = 256
    max_streams: int = 32


@dataclass(slots=True, eq=False)
class Job:
    """A prompt and its answer as chained page hashes; the last page of neither needs to be full."""

    pages: Sequence[int]  # of prompt and answer together
    prompt_tokens: int
    answer_tokens: int
    arrived_s: float
    num_read: int = 0  # tokens of the prompt that are computed or were cached
    num_cached: int = 0
    num_written: int = 0
    num_locked: int = 0  # pages
    num_filled: int = 0
    first_s: float | None = None
    tag: Any = None  # whose it is


class PageTree:
    """Cached pages by chained hash. What is locked cannot be forgotten."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free: OrderedDict[int, None] = OrderedDict()  # unlocked; what is forgotten next comes first
        self._locked: dict[int, int] = {}
        self._ready: set[int] = set()  # computed

    def __len__(self) -> int:
        return len(self._free) + len(self._locked)

    def warm(self, pages: Sequence[int]) -> int:
        """Leading pages that are there."""
        for depth, page in enumerate(pages):
            if page not in self._ready:
                return depth
        return len(pages)

    def lock(self, pages: Sequence[int]) -> bool:
        """Lock pages, forgetting others for those that are new. False, and nothing done, if there is no room."""
        new = sum(page not in self._locked for page in pages)
        if len(self._locked) + new > self._capacity:
            return False
        for page in pages:
            self._free.pop(page, None)
            self._locked[page] = self._locked.get(page, 0) + 1
        while len(self) > self._capacity:
            page, _ = self._free.popitem(last=False)
            self._ready.discard(page)
        return True

    def fill(self, pages: Sequence[int]) -> None:
        """Locked pages are computed now."""
        self._ready.update(pages)

    def unlock(self, pages: Sequence[int]) -> None:
        """Let go; deeper pages are forgotten before those that they continue."""
        for page in reversed(pages):
            self._locked[page] -= 1
            if not self._locked[page]:
                del self._locked[page]
                self._free[page] = None


@dataclass(slots=True)
class Replica:
    """One engine. `step` begins one; its end is for the caller to wait for."""

    config: ReplicaConfig
    tree: PageTree = field(init=False)
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    num_computed: int = 0  # tokens of prompts
    is_busy: bool = False
    _reads: list[tuple[Job, int]] = field(default_factory=list)
    _writers: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tree = PageTree(self.config.capacity_pages)

    def begin_step(self) -> float | None:
        """What the next step does; how long it takes, None if there is nothing to do."""
        config = self.config
        self._admit()
        self._writers = [job for job in self.running if job.num_read == job.prompt_tokens]
        room = config.step_tokens - len(self._writers)
        self._reads = []
        for job in self.running:
            count = min(room, job.prompt_tokens - job.num_read)
            if count > 0:
                self._reads.append((job, count))
                room -= count
        num_read = sum(count for _, count in self._reads)
        if not num_read and not self._writers:
            return None
        self.num_computed += num_read
        return config.step_s + config.stream_s * len(self._writers) + num_read / config.prefill_rate

    def end_step(self, now_s: float) -> tuple[list[Job], list[Job]]:
        """Those whose first token is here, and those whose answer is at its end."""
        first, done = [], []
        for job in self._writers:
            job.num_written += 1
            self._fill(job)
        for job, count in self._reads:
            job.num_read += count
            if job.num_read == job.prompt_tokens:
                job.first_s, job.num_written = now_s, 1
                first.append(job)
            self._fill(job)
        for job in self.running:
            if job.num_written >= job.answer_tokens:
                done.append(job)
                self.tree.unlock(job.pages[: job.num_locked])
        self.running = [job for job in self.running if job.num_written < job.answer_tokens]
        return first, done

    def _fill(self, job: Job) -> None:
        num_pages = (job.num_read + job.num_written) // PAGE_TOKENS
        if num_pages > job.num_filled:
            self.tree.fill(job.pages[job.num_filled : num_pages])
            job.num_filled = num_pages

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.config.max_streams:
            job = self.waiting[0]
            # One token at least is computed.
            warm = self.tree.warm(job.pages[: (job.prompt_tokens - 1) // PAGE_TOKENS])
            if not self.tree.lock(job.pages):
                return
            self.waiting.popleft()
            job.num_cached = job.num_read = warm * PAGE_TOKENS
            job.num_filled = warm
            job.num_locked = len(job.pages)
            self.running.append(job)
