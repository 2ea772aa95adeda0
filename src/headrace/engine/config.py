"""What an operator can set on the engine, its limits, and how "auto" is resolved from the hardware.

`resolve` is pure: hardware comes in as a value (`detect_hardware` reads it). Nothing writes to a resolved config.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.kernels.plan import PAGE_TOKENS, KvKind

MAX_THREADS = 1024
MAX_BATCH_TOKENS = 65536
MAX_SEQUENCES = 4096
MAX_KV_BYTES = 2**46
KV_TYPES = {"auto": None, "fp16": KvKind.HALF, "int8": KvKind.INT8}
SPECULATION = ("auto", "off")
DEFAULT_KV_SHARE = 4  # the pool may grow to this fraction (1/4) of the machine's memory


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How much one engine may use and how it shares it out. None means that `resolve` chooses.

    threads: compute threads (None: physical cores). pin_threads: CPUs they are bound to, on Linux: "none"; "cores", one
    each; or a list such as "0,2-5", the engine's own thread first. kv_memory_bytes: for the page pools of all models
    together (None: a quarter of memory, and no more than half of memory_bytes; committed only as it is used).
    memory_bytes: for weights and pages of the models that come and go (None: no bound). kv_type: how keys and values
    are stored, fp16, int8 or auto (int8 for models that pass the gate, `kv/gate.py`). max_batch_tokens: tokens in one
    step. max_sequences: sequences that run at once. max_waiting: sequences that may wait beyond those before requests
    are refused as Overloaded. max_gap_s: how long a stream may wait for its next token while prompts are read in the
    same steps; how many of their tokens that leaves room for is learnt from the steps (`cost.py`), and is prefill_chunk
    until enough of them ran. speculation: auto, guess next tokens from what was said before where that pays (`draft/`),
    or off; alters no token. aging_s: whoever has waited so long counts as one priority higher. session_ttl_s: how long
    after a session's last answer its pages stay pinned. cache_min_tokens: cache breakpoints behind fewer tokens keep
    nothing (0: all keep what whole pages lie before them). switch_interval_s: Python's thread switch interval while the
    engine runs (None: unchanged). tokenizer_threads and inline_prompt_chars: prompts longer than that are tokenised in
    that many threads instead of on the event loop. adapters: folder of adapters that requests may name (None: there are
    none). adapter_memory_bytes: what those in memory may take together, for each model. checks: verify pool and tree
    against a recount whenever the engine goes idle.
    """

    threads: int | None = None
    pin_threads: str = "none"
    kv_memory_bytes: int | None = None
    memory_bytes: int | None = None
    kv_type: str = "auto"
    max_batch_tokens: int = 512
    max_sequences: int = 64
    max_waiting: int = 1024
    prefill_chunk: int = 128
    max_gap_s: float = 0.1
    aging_s: float = 30.0
    speculation: str = "auto"
    session_ttl_s: float = 600.0
    cache_min_tokens: int = 0
    switch_interval_s: float | None = None
    tokenizer_threads: int = 2
    inline_prompt_chars: int = 4096
    adapters: Path | None = None
    adapter_memory_bytes: int = 2**29
    checks: bool = False

    def __post_init__(self) -> None:
        if self.kv_type not in KV_TYPES:
            raise ValueError(f"kv_type: {self.kv_type!r} is not one of {', '.join(KV_TYPES)}.")
        if self.speculation not in SPECULATION:
            raise ValueError(f"speculation: {self.speculation!r} is not one of {', '.join(SPECULATION)}.")
        _inside("threads", self.threads, 1, MAX_THREADS)
        if self.pin_threads not in {"none", "cores"}:
            _parse_cpus(self.pin_threads)
        _inside("kv_memory_bytes", self.kv_memory_bytes, 1, MAX_KV_BYTES)
        _inside("memory_bytes", self.memory_bytes, 1, MAX_KV_BYTES)
        _inside("max_batch_tokens", self.max_batch_tokens, 2, MAX_BATCH_TOKENS)
        # Each decoding sequence needs one token of every step, and one must be left for a prompt.
        _inside("max_sequences", self.max_sequences, 1, min(MAX_SEQUENCES, self.max_batch_tokens - 1))
        _inside("max_waiting", self.max_waiting, 0, 1_000_000)
        _inside("prefill_chunk", self.prefill_chunk, 1, self.max_batch_tokens)
        _inside("max_gap_s", self.max_gap_s, 1e-3, 86_400.0)
        _inside("aging_s", self.aging_s, 1e-3, 86_400.0)
        _inside("session_ttl_s", self.session_ttl_s, 1e-3, 7 * 86_400.0)
        _inside("cache_min_tokens", self.cache_min_tokens, 0, 2**31 - 1)
        _inside("switch_interval_s", self.switch_interval_s, 1e-6, 1.0)
        _inside("tokenizer_threads", self.tokenizer_threads, 1, 64)
        _inside("adapter_memory_bytes", self.adapter_memory_bytes, 1, MAX_KV_BYTES)
        _inside("inline_prompt_chars", self.inline_prompt_chars, 0, 10_000_000)

    @property
    def cpus(self) -> tuple[int, ...]:
        """The CPU of each thread, the engine's own first; empty if they are not bound. Of a resolved config."""
        return () if self.pin_threads == "none" else _parse_cpus(self.pin_threads)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What `resolve` needs to know of the machine. `cores`: each core's CPUs, if threads can be bound to them."""

    physical_cores: int
    memory_bytes: int
    cores: tuple[tuple[int, ...], ...] = ()


def resolve(config: EngineConfig, hardware: Hardware) -> EngineConfig:
    """Replace everything that stands for "auto" by the value for this machine.

    Raises ValueError for threads that cannot be bound as they should.
    """
    given = config.pin_threads
    most = MAX_KV_BYTES if config.memory_bytes is None else config.memory_bytes // 2
    threads = config.threads or min(hardware.physical_cores, MAX_THREADS)
    if given not in {"none", "cores"}:
        threads = config.threads or len(config.cpus)
    return replace(
        config,
        threads=threads,
        pin_threads="none" if given == "none" else ",".join(map(str, _pinned(config, threads, hardware))),
        kv_memory_bytes=config.kv_memory_bytes or max(1, min(hardware.memory_bytes // DEFAULT_KV_SHARE, most)),
    )


def pages_for(kv_memory_bytes: int, page_bytes: int, max_sequences: int, context_length: int) -> int:
    """Pages one model gets from its share of the budget: no more than a full house of full contexts could use twice.

    Raises ValueError if not even one page fits.
    """
    pages = kv_memory_bytes // page_bytes
    if pages < 1:
        raise ValueError(f"kv_memory_bytes: {kv_memory_bytes} holds no page of {page_bytes} bytes; give at least that.")
    return min(pages, 2 * max_sequences * (-(-context_length // PAGE_TOKENS)), 2**31 - 1)


def detect_hardware(sys_cpu: Path = Path("/sys/devices/system/cpu")) -> Hardware:
    """Cores that this process may run on, counted without their hyper-threads, and memory, cgroup limits included."""
    can_pin = hasattr(os, "sched_getaffinity")
    cpus = sorted(os.sched_getaffinity(0)) if can_pin else list(range(os.cpu_count() or 1))
    cores: dict[str, list[int]] = {}
    for cpu in cpus:
        path = sys_cpu / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        cores.setdefault(_read(path) or str(cpu), []).append(cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        text = _read(limit)
        if text.isdigit():
            memory = min(memory, int(text))
    return Hardware(len(cores), memory, tuple(map(tuple, cores.values())) if can_pin else ())


def _pinned(config: EngineConfig, threads: int, hardware: Hardware) -> tuple[int, ...]:
    given = config.pin_threads
    if not hardware.cores:
        raise ValueError(f"pin_threads: {given!r} is not possible, this system binds no thread to a CPU; give none.")
    allowed = {cpu for core in hardware.cores for cpu in core}
    cpus = tuple(core[0] for core in hardware.cores) if given == "cores" else config.cpus
    strange = sorted(set(cpus) - allowed)
    if strange:
        raise ValueError(
            f"pin_threads: {given!r} names CPU {strange[0]}, but this process may use only "
            f"{','.join(map(str, sorted(allowed)))}; name those."
        )
    if len(cpus) < threads:
        raise ValueError(
            f"pin_threads: {given!r} gives {len(cpus)} CPUs to {threads} threads; name one for each or lower --threads."
        )
    return cpus[:threads]


def _parse_cpus(text: str) -> tuple[int, ...]:
    """CPU numbers out of a list such as 0,2-5."""
    cpus: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part.strip())
        if match is None:
            raise ValueError(
                f"pin_threads: {text!r} is neither none nor cores nor a list of CPUs; write for example 0,2-5."
            )
        cpus.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not cpus or len(set(cpus)) < len(cpus):
        raise ValueError(f"pin_threads: {text!r} names no CPU, or one twice; name one for each thread.")
    return tuple(cpus)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return ""


def _inside(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ValueError(f"{name}: {value!r} is not in [{low}, {high}]; give a number inside.")
