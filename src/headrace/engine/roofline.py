"""Where a model's steps stand against what the machine allows: reading memory and multiplying.

Runs a loaded model's program for a moment, on pages of its own and beside no engine, and counts for every stage of a
step what it cannot do without: bytes that must come from memory once (weights; keys and values of the context) and
operations (a multiply-add is two). Activations stay in caches and are not counted. Prints nothing; `cli/doctor.py` and
the benchmarks do.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headrace.core.clock import Clock
from headrace.engine.kv.pool import PagePool
from headrace.kernels import native
from headrace.kernels.plan import PAGE_TOKENS, AttentionMode, KvKind, Op, OpKind, Plan, Rows
from headrace.models.load import LoadedModel

ROWS, HEAD, SAMPLER = "norms, positions, stores", "head", "sampler"
_SECONDS_FOR_A_PROMPT = 1.0
_WARM_TOKENS = 16
_HEAVY = {OpKind.LINEAR, OpKind.GATED, OpKind.ACTIVATED, OpKind.ATTENTION, OpKind.EXPERTS}


@dataclass(frozen=True, slots=True)
class StepShape:
    """A step to run: `new_tokens` for each of so many sequences, behind `context` tokens that are in the cache."""

    name: str
    sequences: int
    new_tokens: int
    context: int


PREFILL = StepShape("prefill-512", 1, 512, 0)
DECODES = (StepShape("decode-1", 1, 1, 128), StepShape("decode-8", 8, 1, 128))


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What all threads together reach: bytes read from memory, and integer operations, per second."""

    read_bandwidth: float
    multiply_rate: float


@dataclass(frozen=True, slots=True)
class Stage:
    """All stages of one kind in a step."""

    kind: str
    seconds: float
    bytes: float
    operations: float


@dataclass(frozen=True, slots=True)
class StepProfile:
    """One step: its native call's duration, and where it went."""

    shape: StepShape
    seconds: float
    stages: tuple[Stage, ...]

    @property
    def tokens_per_second(self) -> float:
        """New tokens a second, were every step like this one."""
        return self.shape.sequences * self.shape.new_tokens / self.seconds

    @property
    def bytes(self) -> float:
        """Weights, keys and values that the step reads."""
        return sum(stage.bytes for stage in self.stages)

    @property
    def operations(self) -> float:
        """Operations of products and attention."""
        return sum(stage.operations for stage in self.stages)


def measure_ceilings(threads: native.Threads) -> Ceilings:
    """Measure the machine; takes about a third of a second."""
    return Ceilings(native.read_bandwidth(threads), native.multiply_rate(threads))


@dataclass(frozen=True, slots=True)
class Rig:
    """A model on its test stand: the threads it runs on and the kind of keys and values."""

    model: LoadedModel
    threads: native.Threads
    kv: KvKind
    clock: Clock

    def profile_model(self, seconds_each: float) -> list[StepProfile]:
        """A prompt and short decodes; the prompt is cut down where the machine would take too long for it."""
        context = self.model.context_length
        pace = self.profile(replace(PREFILL, new_tokens=min(_WARM_TOKENS, context)), 0.0).seconds / _WARM_TOKENS
        longest = min(PREFILL.new_tokens, context, int(_SECONDS_FOR_A_PROMPT / pace))
        num_tokens = max(min(_WARM_TOKENS, context), longest // PAGE_TOKENS * PAGE_TOKENS)
        shapes = [StepShape(f"prefill-{num_tokens}", 1, num_tokens, 0)]
        shapes += () if self.model.plan.is_whole else DECODES
        return [self.profile(shape, seconds_each) for shape in shapes if shape.context + shape.new_tokens <= context]

    def profile(self, shape: StepShape, seconds: float) -> StepProfile:
        """Run a step again and again for about so many seconds, twice at least; the profile is that of the median one.

        Raises ValueError as `native.Program.step` does, for a shape that is beyond the model's context, and for the
        reference, which has no stages to time.
        """
        program = self.model.program
        if not isinstance(program, native.Program):
            raise ValueError("program: the NumPy reference times no stages; unset HEADRACE_KERNELS")  # noqa: TRY004
        run = self._stepper(shape)
        run()
        samples: list[tuple[float, list[tuple[int, int, float]]]] = []
        end = self.clock.monotonic_s() + seconds
        try:
            while len(samples) < 2 or self.clock.monotonic_s() < end:
                program.profile(is_on=True)
                begin = self.clock.monotonic_s()
                run()
                samples.append((self.clock.monotonic_s() - begin, program.stage_times()))
        finally:
            program.profile(is_on=False)
        samples.sort(key=lambda sample: sample[0])
        duration, times = samples[len(samples) // 2]
        stages: dict[str, Stage] = {}
        for part in self._stages(shape, times):
            known = stages.get(part.kind, Stage(part.kind, 0.0, 0.0, 0.0))
            stages[part.kind] = Stage(
                part.kind, known.seconds + part.seconds, known.bytes + part.bytes, known.operations + part.operations
            )
        return StepProfile(shape, duration, tuple(sorted(stages.values(), key=lambda stage: -stage.seconds)))

    def _stepper(self, shape: StepShape) -> Callable[[], object]:
        """The step as a call; the greedy sampler draws for the last token of every sequence, if there are logits."""
        count, new = shape.sequences, shape.new_tokens
        pages = -(-(shape.context + new) // PAGE_TOKENS)
        pool = self._filled_pool(count * pages)
        tokens = np.arange(count * new, dtype=np.int32) % self.model.plan.vocab_size
        starts = np.arange(count + 1, dtype=np.int32) * new
        contexts = np.full(count, shape.context, np.int32)
        tables = np.arange(count * pages, dtype=np.int32).reshape(count, pages)
        selected = starts[1:] - 1
        if self.model.plan.is_whole:
            output = np.empty((count, self.model.plan.buffers[self.model.plan.output].width), np.float32)
            return lambda: self.model.program.step(
                self.threads, pool.array, tokens, starts, contexts, tables, selected, output=output
            )
        sampling: dict[str, Any] = {
            "temperature": np.zeros(count, np.float32),
            "top_k": np.zeros(count, np.int32),
            "top_p": np.ones(count, np.float32),
            "min_p": np.zeros(count, np.float32),
            "seed": np.zeros(count, np.uint64),
            "choice": np.zeros(count, np.uint32),
            "position": np.zeros(count, np.uint32),
        }
        return lambda: self.model.program.step(
            self.threads, pool.array, tokens, starts, contexts, tables, selected, sampling=sampling
        )

    def _filled_pool(self, num_pages: int) -> PagePool:
        """Pages with keys and values of real tokens; untouched ones would all be one cached page of zeros."""
        pool = PagePool.allocate(self.model.plan.cache, num_pages, self.kv)
        count = min(PAGE_TOKENS, self.model.context_length)
        self.model.program.step(
            self.threads,
            pool.array,
            np.arange(count, dtype=np.int32) % self.model.plan.vocab_size,
            np.array([0, count], np.int32),
            np.zeros(1, np.int32),
            np.zeros((1, 1), np.int32),
            np.zeros(0, np.int32),
        )
        pool.array[1:] = pool.array[0]
        return pool

    def _stages(self, shape: StepShape, times: list[tuple[int, int, float]]) -> Iterator[Stage]:
        """Every stage of a step with what it reads and computes."""
        plan = self.model.plan
        before: OpKind | None = None  # the last operation that was a stage of its own
        for begin, end, seconds in times:
            heavy = [op for op in plan.ops[begin:end] if op.kind in _HEAVY]
            if not heavy:
                yield Stage(ROWS if begin < end else SAMPLER, seconds, 0.0, 0.0)
            for op in heavy:
                num_bytes, operations = self._work(shape, op)
                yield Stage(_kind(plan, op, before), seconds / len(heavy), num_bytes, operations)
                before = op.kind

    def _work(self, shape: StepShape, op: Op) -> tuple[float, float]:
        """Bytes and operations of a product, of experts or of an attention."""
        operands = op.operands()
        if op.kind is OpKind.ATTENTION:
            return _attention_work(self.model.plan, self.kv, shape, operands)
        index = int(operands["matrix"])
        spec = self.model.plan.matrices[index]
        is_selected = self.model.plan.buffers[int(operands["x"])].rows is Rows.SELECTED
        rows = shape.sequences * (1 if is_selected else shape.new_tokens)
        if op.kind is OpKind.EXPERTS:
            return _experts_work(self.model.plan, self.model.matrix_bytes, rows, operands)
        return float(self.model.matrix_bytes[index]), 2.0 * rows * spec.rows * spec.cols


def standing(profile: StepProfile, ceilings: Ceilings) -> dict[str, Any]:
    """A profile beside the ceilings, as values for JSON; shares are fractions."""
    return {
        "name": profile.shape.name,
        "tokens_per_second": profile.tokens_per_second,
        **_shares(profile, ceilings),
        "stages": [{"kind": stage.kind, **_shares(stage, ceilings)} for stage in profile.stages],
    }


def _shares(work: StepProfile | Stage, ceilings: Ceilings) -> dict[str, float]:
    return {
        "seconds": work.seconds,
        "bytes": work.bytes,
        "operations": work.operations,
        "share_of_read_bandwidth": work.bytes / work.seconds / ceilings.read_bandwidth if work.seconds else 0.0,
        "share_of_multiply_rate": work.operations / work.seconds / ceilings.multiply_rate if work.seconds else 0.0,
    }


def _kind(plan: Plan, op: Op, before: OpKind | None) -> str:
    """What a product, experts or an attention are called, by their place in the layer."""
    if op.kind is OpKind.ATTENTION:
        return "attention"
    if op.kind is OpKind.GATED:
        return "gate and up"
    if op.kind is OpKind.ACTIVATED:
        return "up"
    if op.kind is OpKind.EXPERTS:
        return "experts"
    if op.operands()["out"] == plan.output and not plan.is_whole:
        return HEAD
    behind = {OpKind.ATTENTION: "attention output", OpKind.GATED: "down", OpKind.ACTIVATED: "down"}
    return "query, key, value" if before is None else behind.get(before, "query, key, value")


def _experts_work(
    plan: Plan, matrix_bytes: Sequence[int], rows: int, operands: dict[str, int | float]
) -> tuple[float, float]:
    """Bytes of as many distinct experts as so many rows are expected to choose if they choose evenly."""
    count, used = int(operands["num_experts"]), plan.buffers[int(operands["route"])].width // 2
    matrices = [int(operands[name]) for name in ("matrix", "down")]
    weights = sum(plan.matrices[index].rows * plan.matrices[index].cols for index in matrices)
    touched = 1.0 - (1.0 - used / count) ** rows
    return touched * sum(matrix_bytes[index] for index in matrices), 2.0 * rows * used * weights / count


def _attention_work(plan: Plan, kv: KvKind, shape: StepShape, operands: dict[str, int | float]) -> tuple[float, float]:
    total = shape.context + shape.new_tokens
    seen = np.arange(shape.context + 1, total + 1, dtype=np.float64)
    reach = float(total)
    if operands["mode"] == AttentionMode.WINDOW:
        seen = np.minimum(seen, operands["window"])
        reach = min(reach, operands["window"] - 1 + shape.new_tokens)
    elif operands["mode"] == AttentionMode.BIDIRECTIONAL:
        seen[:] = total
    layer_token_bytes = plan.cache.page_bytes(kv) / PAGE_TOKENS / plan.cache.num_layers
    operations = 4.0 * operands["num_heads"] * plan.cache.head_dim * float(seen.sum())
    return shape.sequences * reach * layer_token_bytes, shape.sequences * operations
