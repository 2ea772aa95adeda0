"""Joins the parts into a backend: settings -> file -> loaded model -> engine. Used by every command that runs a model.

Knows every constructor and decides nothing: defaults are `config.py`'s, "auto" is `engine/config.py`'s.
"""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from headrace.cli.config import Settings
from headrace.cli.model_signatures import SignatureGate
from headrace.cli.served_models import served_name, served_paths
from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest
from headrace.engine.config import KV_TYPES, EngineConfig, detect_hardware
from headrace.engine.config import resolve as resolve_config
from headrace.engine.kv.cipher import open_cipher
from headrace.engine.kv.disk import DAY_S, DiskConfig, DiskTier
from headrace.engine.kv.gate import choose_kind
from headrace.engine.text import Setup, Source, TextEngine
from headrace.kernels import native
from headrace.models.catalog import ALIASES, system_turn
from headrace.models.load import LoadedModel, Reading, load_model
from headrace.models.store import Layout, open_home, resolve
from headrace.observe.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Assembled:
    """An engine around loaded models, which is not started yet. `name` is the first one's, `guests` are the others';
    no model is held here, or it could not leave."""

    name: str
    guests: tuple[str, ...]
    engine: TextEngine
    metrics: Metrics


def assemble(settings: Settings, *, with_guests: bool = False) -> Assembled:
    """Load the model that the settings name and put an engine around it. Raises HeadraceError.

    `with_guests`: models come and go. Each is loaded here once, so that a broken one is refused now, and that what is
    done once for a model, packing its weights and measuring what 8-bit keys and values cost it, is done.
    """
    config = engine_config(settings)
    wanted = served_paths(settings) if with_guests else {served_name(settings): resolve(settings.model, settings.home)}
    metrics = Metrics()
    disk = open_disk(settings, metrics)
    cache_dir = open_home(settings.home).packed
    gate = SignatureGate(settings.trust.model_signatures, cache_dir)
    readings: dict[Path, Reading] = {}
    first: LoadedModel | None = None
    sources: list[Source] = []
    for name, path in wanted.items():
        load = partial(
            load_model, path, name=name, cache_dir=cache_dir, max_context=settings.context, readings=readings
        )
        loaded = gate.load(path, load)
        again = partial(gate.load, path, partial(load, touches=True))
        ttl_s = math.inf if first is None else settings.model_ttl
        sources.append(Source.of(loaded, setup_of(loaded, settings), again, ttl_s=ttl_s))
        if first is None:
            first = loaded
        elif sources[-1].generates:
            _measure(loaded, config)
    assert first is not None
    engine = TextEngine(
        [first],
        config,
        metrics=metrics,
        setups={source.name: source.setup for source in sources},
        sources=sources if with_guests else (),
        disk=disk,
        check_adapter=gate.admit,
    )
    return Assembled(first.name, tuple(source.name for source in sources[1:]), engine, metrics)


def setup_of(loaded: LoadedModel, settings: Settings) -> Setup:
    """How a model is served: under its aliases, too, and with the system turn that goes with it."""
    return Setup(
        aliases=tuple(alias for alias, target in ALIASES.items() if target == loaded.name),
        system=system_turn(loaded.digest) if settings.system is None else settings.system,
    )


def _measure(loaded: LoadedModel, config: EngineConfig) -> None:
    """What 8-bit keys and values cost a model, written down beside its weights if it is not there yet."""
    threads = native.Threads(resolve_config(config, detect_hardware()).threads or 1)
    try:
        choose_kind(loaded, KV_TYPES[config.kv_type], threads)
    finally:
        threads.close()


def open_disk(settings: Settings, metrics: Metrics) -> DiskTier | None:
    """The disk tier that the settings ask for, not started yet. Raises InvalidRequest for a key that is none."""
    if settings.disk_cache == "off":
        return None
    config = DiskConfig(
        root=disk_root(settings), max_bytes=settings.disk_cache_bytes, max_age_s=settings.disk_cache_days * DAY_S
    )
    cipher = None if settings.disk_cache_key is None else open_cipher(settings.disk_cache_key)
    return DiskTier(config, SystemClock(), cipher=cipher, metrics=metrics.disk)


def disk_root(settings: Settings) -> Path:
    """Where the disk tier's files are, or would be if it is off."""
    on_or_off = settings.disk_cache in {"on", "off"}
    return Layout(settings.home).kv if on_or_off else Path(settings.disk_cache)


def engine_config(settings: Settings) -> EngineConfig:
    """The engine's part of the settings. Raises InvalidRequest for values that do not go together."""
    try:
        return EngineConfig(
            threads=settings.threads,
            pin_threads=settings.pin_threads,
            kv_memory_bytes=settings.kv_memory,
            memory_bytes=settings.memory,
            kv_type=settings.kv_type,
            max_batch_tokens=settings.max_batch_tokens,
            max_sequences=settings.max_sequences,
            max_waiting=settings.queue,
            max_gap_s=settings.max_gap,
            aging_s=settings.aging,
            speculation=settings.speculation,
            cache_min_tokens=settings.cache_min_tokens,
            adapters=settings.adapters,
            adapter_memory_bytes=settings.adapter_memory,
            prefill_chunk=min(EngineConfig().prefill_chunk, settings.max_batch_tokens),
        )
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


@contextmanager
def open_model(settings: Settings) -> Iterator[TextEngine]:
    """The engine, started, and closed at the end. Its methods may be used on any event loop in between."""
    assembled = assemble(settings)
    assembled.engine.start()
    try:
        yield assembled.engine
    finally:
        asyncio.run(_close(assembled.engine))


async def _close(engine: TextEngine) -> None:
    await engine.close()
