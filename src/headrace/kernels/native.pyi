"""The compiled module. Every argument is checked once here, with an exception that names it; inside nothing can read
out of bounds. All arrays are C-contiguous NumPy arrays; the objects keep what they were given alive."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Sampled = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]
"""Tokens [R], log-probabilities [R], alternatives [R, T] and theirs [R, T]."""

def cpu_features() -> dict[str, bool]:
    """What the CPU offers, by name: avx2, fma, f16c, avx512vnni, avxvnni, neon_dotprod ..."""

def variants() -> list[str]:
    """Kernel variants that can run here, best first."""

def variant() -> str:
    """The variant in use: the best, or the one that HEADRACE_KERNELS named when the module was loaded.

    "reference" if that was its name: programs of this module then use the best variant, and the engine uses none.
    Raises ValueError for a name that is unknown or cannot run on this CPU; so does whatever needs kernels.
    """

def attention_variant(head_dim: int) -> str:
    """The variant whose attention a model with heads of this size runs: the one in use, or the portable one."""

def read_bandwidth(threads: Threads, megabytes: int = 256) -> float:
    """Bytes per second that all threads together read from memory (best of a few passes)."""

def multiply_rate(threads: Threads, variant: str = "") -> float:
    """Integer operations per second (a multiply-add is two) that a variant's dot products reach with all threads on
    data in registers; the variant in use if none is named. ValueError for one that cannot run here."""

def signal_event(event: int) -> None:
    """Add 1 to an event counter (`os.eventfd`) without giving up the GIL. Linux only."""

class Threads:
    """A persistent pool of `count` compute threads, the calling one included; tiles are claimed by an atomic counter.

    Waiting spins and then parks: for twice the last gap between two steps if that is at most `spin_us` microseconds, or
    else for 50. cpus: empty, or the CPU that each thread is bound to, the caller's first (Linux). ValueError names what
    cannot be.
    """

    def __init__(self, count: int, spin_us: int = 1000, cpus: Sequence[int] = ()) -> None: ...
    @property
    def count(self) -> int: ...
    def pin_caller(self) -> None:
        """Bind the calling thread to the first of `cpus`; nothing happens if there are none."""

    def close(self) -> None:
        """Stop and join the threads; a step afterwards raises RuntimeError."""

class Matrix:
    """A packed weight matrix (`kernels.grouped.pack`), 1-D uint8; ValueError if its size does not fit its shape."""

    def __init__(self, tiles: NDArray[np.uint8], rows: int, cols: int, bits: int, has_minimum: bool) -> None: ...

class Program:
    """A plan bound to weights. ValueError names the op and operand that does not fit.

    buffers: (kind, width, rows) per buffer; ops: (kind, ints, floats) as in `plan.SIGNATURES`;
    vectors: float32 arrays in the order of `Plan.vectors`; cache: (num_layers, num_kv_heads, head_dim);
    variant: kernels to run on, those chosen at import where none are named.
    """

    def __init__(
        self,
        buffers: list[tuple[int, int, int]],
        ops: list[tuple[int, list[int], list[float]]],
        matrices: list[Matrix],
        vectors: list[NDArray[np.float32]],
        cache: tuple[int, int, int],
        vocab_size: int,
        max_positions: int,
        output: int,
        variant: str = "",
    ) -> None: ...
    def step(
        self,
        threads: Threads,
        pool: NDArray[Any],  # uint16 or uint8, of a shape that `CacheShape.pool_shape` gives for some kind
        tokens: NDArray[np.int32],  # [N]
        starts: NDArray[np.int32],  # [S + 1], offsets of each sequence's tokens in `tokens`
        contexts: NDArray[np.int32],  # [S], tokens already in each sequence's pages = position of its first new token
        page_tables: NDArray[np.int32],  # [S, P]
        selected: NDArray[np.int32],  # [R], indices into `tokens`
        output: NDArray[np.float32] | None = None,  # [R, width of the output buffer]: filled when given
        sampling: dict[str, NDArray[Any]] | None = None,
        adapters: Sequence[Adapter | None] | None = None,
        segments: NDArray[np.int32] | None = None,  # [N]
    ) -> _Sampled | None:
        """Run the plan on one ragged batch, holding no GIL, and sample one token per selected row.

        adapters: of each sequence, made for this program; None, there or as a whole: none. segments: of each token, a
        row of the plan's table of segments (only 0 without one); None: all 0.

        `selected` may repeat a token and need not ascend. sampling (arrays of length R unless said otherwise):
          temperature f32 (0 = greedy), top_k i32 (0 = off), top_p f32 (1 = off), min_p f32 (0 = off), seed u64,
          choice u32, position u32; and optionally
          typical_p f32 (1 = off);
          adjust_starts i32 [R + 1], adjust_tokens i32 [K] (strictly ascending within a row), adjust_bias,
          adjust_repetition, adjust_minus f32 [K]: a logit l becomes repeat(l + bias, repetition) - minus, where
          repeat(x, r) is x / r if x > 0 and x * r otherwise;
          masks u32 [M, ceil(vocab / 32)] (bit t % 32 of word t // 32 set = token t is allowed) and mask_rows i32 (the
          row of `masks`, -1 = none);
          logprobs bool (which rows ask), num_top i32 (alternatives wanted, at most 20), targets i32 (-1 = draw; else
          nothing is drawn, and this token is returned with its log-probability).
        Returns tokens i32 [R] (-1 where a row holds no logit above -infinity, or none that its mask allows); their
        natural log-probabilities f32 [R] under the unchanged logits, NaN for rows that asked for nothing of the kind;
        the tokens of the num_top largest unchanged logits i32 [R, T] and their log-probabilities f32 [R, T], T being
        the largest num_top, -1 and NaN where there are none; or None if `sampling` is None. Order of the cuts:
        `sampler.h`; noise: `noise.h`. Without `output` no row of logits is written: they are sampled by tiles as they
        are computed.

        Raises:
            ValueError: an array does not fit the plan or another array; names it, nothing has been written.
            RuntimeError: the program or the threads run a step already, or the threads are closed.
        """
    @property
    def num_experts_touched(self) -> int:
        """Experts whose weights the last step read, summed over the layers."""

    @property
    def num_second_scans(self) -> int:
        """How many rows the sampler had to scan twice so far, because their cuts reached below what it had kept."""

    def limit_survivors(self, most: int) -> None:
        """For tests: keep at most about so many tokens of a row per thread at first, 0 = the usual; alters no token."""

    def profile(self, is_on: bool) -> None:
        """Switch timing of stages on, from zero, or off; not while a step runs."""

    def stage_times(self) -> list[tuple[int, int, float]]:
        """(first op, past-the-last op, seconds since `profile(True)`) of every stage; the last, without ops, is the
        sampler, where it does not run within the head. Empty unless profiling."""

class Adapter:
    """Thin factors beside matrices of one program; ValueError names the matrix and part that does not fit.

    matrices: (index of the plan's matrix, A [sum of ranks, cols], parts); a part is (first row of A, rank, outputs,
    first output, outputs from one block of 32 to the next, factor, blocks of B as `kernels.low_rank.pack` makes them).
    """

    def __init__(
        self,
        program: Program,
        matrices: list[tuple[int, Matrix, list[tuple[int, int, int, int, int, float, NDArray[np.uint8]]]]],
    ) -> None: ...

def attention_parts(
    starts: NDArray[np.int32],
    contexts: NDArray[np.int32],
    page_tables: NDArray[np.int32],
    heads: tuple[int, int, int],
    mode: int,
    window: int,
    num_threads: int,
) -> list[tuple[int, int, int, list[tuple[int, int, int]]]]:
    """How a batch's attention is cut for ops of one shape, heads being (KV heads, query heads of each, head_dim): KV
    head, first and past-the-last span, and members (sequence, first new token, count) of each part, in the order they
    are claimed. The batch is taken as it is: only for tests.
    """

def attention_tokens_per_task(heads_per_kv: int) -> int:
    """The most tokens of one part."""

def sample(
    threads: Threads, logits: NDArray[np.float32], sampling: dict[str, NDArray[Any]], most_survivors: int = 0
) -> _Sampled:
    """The sampler alone, on logits [R, vocab]; `most_survivors` as `Program.limit_survivors`."""

def scan_shard(
    threads: Threads,
    logits: NDArray[np.float32],  # [R, tokens of the shard]
    sampling: dict[str, NDArray[Any]],
    place: tuple[int, int],
    keeps_all: bool = False,
    most_survivors: int = 0,
) -> bytes:
    """What a contiguous shard of the vocabulary says about every row, to be joined with what its neighbours say.

    place: the shard's first token, a multiple of 256, and the size of the whole vocabulary, in whose tokens `sampling`
    counts. A shard ends at a multiple of 256 or with the vocabulary. keeps_all: for rows of `decide_shards`' second
    result. The size of a row follows what it asks: a winner; with top-k, as many tokens; with top-p but no top-k, or
    with log-probabilities, 16 bytes per 64 tokens besides; with keeps_all, 8 bytes per token.
    """

def join_shards(left: bytes, right: bytes) -> bytes:
    """Of two neighbours, in order; associative. ValueError for what is no pair of neighbours."""

def decide_shards(whole: bytes, sampling: dict[str, NDArray[Any]]) -> tuple[_Sampled, list[int]]:
    """What `sample` returns, bit for bit, from the joined shards of a whole vocabulary, scanned with this `sampling`.

    Second: rows of which too little was kept, whose token is -1 here: all shards scan these (and the same rows of
    `sampling`) again with `keeps_all`. ValueError where the shards or their sampling do not fit.
    """

def gumbel_noise(seed: int, choice: int, position: int, first_token: int, count: int) -> NDArray[np.float32]:
    """The noise the sampler adds for `count` consecutive tokens."""

def gumbel_of(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The noise of a block's strongest token by the block's word. For tests."""

def linear(x: NDArray[np.float32], matrix: Matrix, variant: str = "") -> NDArray[np.float32]:
    """x[N, cols] quantised to 8 bits, times the matrix transposed: [N, rows]. For tests and benchmarks."""

def gated(x: NDArray[np.float32], matrix: Matrix, activation: int, variant: str = "") -> NDArray[np.float32]:
    """The gated feed-forward product [N, rows / 2] in float32. For tests and benchmarks."""

def activate(x: NDArray[np.float32], activation: int, variant: str = "") -> NDArray[np.float32]:
    """The end of `gated` alone: [N, rows] of gates and ups to [N, rows / 2]. For tests."""

def layer_norm(
    x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32], eps: float, variant: str = ""
) -> NDArray[np.float32]:
    """The layer norm of every row of x[N, D]. For tests."""

def pointwise(x: NDArray[np.float32], activation: int, variant: str = "") -> NDArray[np.float32]:
    """A plain activation of every feature of x[N, D]. For tests and benchmarks."""

def softcap(x: NDArray[np.float32], cap: float, variant: str = "") -> NDArray[np.float32]:
    """cap * tanh(x / cap) of x [N, width]; NaN where x is infinite or NaN. For tests."""

def low_rank(
    u: NDArray[np.float32], blocks: NDArray[np.uint8], rows: int, factor: float = 1.0, variant: str = ""
) -> NDArray[np.float32]:
    """factor * B u, u [N, rank] and B in the blocks of `kernels.low_rank.pack`: [N, rows]. For tests."""

def attention(
    q: NDArray[np.float32],  # [n, heads * head_dim]: queries at positions context .. context + n - 1
    pool: NDArray[np.uint16] | NDArray[np.uint8],  # of one layer, as `CacheShape.pool_shape` has it for either kind
    page_table: NDArray[np.int32],
    context: int,
    scale: float,
    mode: int = 0,
    window: int = 0,
    softcap: float = 0.0,
    spans_per_task: int = 0,
    variant: str = "",
) -> NDArray[np.float32]:
    """One sequence's attention [n, heads * head_dim]; keys and values of all positions are already stored. With
    `spans_per_task` partial sums of so many spans of 512 keys are computed apart and merged. For tests and benchmarks.
    """

def attention_batch(
    q: NDArray[np.float32],  # [n, heads * head_dim], sequence after sequence
    pool: NDArray[np.uint16] | NDArray[np.uint8],
    starts: NDArray[np.int32],  # [S + 1], offsets of each sequence's queries in `q`
    contexts: NDArray[np.int32],  # [S], positions of the first queries
    page_tables: NDArray[np.int32],  # [S, P]
    scale: float,
    mode: int = 0,
    window: int = 0,
    softcap: float = 0.0,
    spans_per_task: int = 0,
    variant: str = "",
) -> NDArray[np.float32]:
    """`attention` of several sequences, in tasks of as many neighbours as fit. For tests and benchmarks."""

def quantize(
    x: NDArray[np.float32], variant: str = "", rotates: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
    """Codes [n, padded], scales and sums [n, padded / 32], of x or of x rotated as ROTATE does. For tests."""

def narrow(x: NDArray[np.float32], variant: str = "") -> NDArray[np.uint16]:
    """x[n] as fp16 bits, rounded half to even; what fp16 cannot hold becomes +-65504. For tests."""

def quantize_heads(x: NDArray[np.float32], variant: str = "") -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes [n, head_dim] and scales [n] of heads [n, head_dim], as int8 pages hold them. For tests."""
