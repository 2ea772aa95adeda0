"""Joins the parts into a backend: settings -> file -> loaded model -> engine. Used by every command that runs a model.

Knows every constructor and decides nothing: defaults are `config.py`'s, "auto" is `engine/config.py`'s.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.cli.config import Settings
from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest
from headrace.engine.config import EngineConfig
from headrace.engine.kv.cipher import open_cipher
from headrace.engine.kv.disk import DAY_S, DiskConfig, DiskTier
from headrace.engine.text import Setup, TextEngine
from headrace.models.catalog import ALIASES, canonical_name, system_turn
from headrace.models.load import LoadedModel, load_model
from headrace.models.store import Layout, installed_names, open_home, resolve
from headrace.observe.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Assembled:
    """A model that is loaded and the engine around it, which is not started yet."""

    loaded: LoadedModel
    engine: TextEngine
    metrics: Metrics


def assemble(settings: Settings) -> Assembled:
    """Load the model that the settings name and put an engine around it. Raises HeadraceError."""
    config = engine_config(settings)
    path = resolve(settings.model, settings.home)
    metrics = Metrics()
    disk = open_disk(settings, metrics)
    layout = open_home(settings.home)
    name = served_name(settings)
    loaded = load_model(path, name=name, cache_dir=layout.packed, max_context=settings.context)
    setup = Setup(
        aliases=tuple(alias for alias, target in ALIASES.items() if target == name),
        system=system_turn(loaded.digest) if settings.system is None else settings.system,
    )
    engine = TextEngine([loaded], config, metrics=metrics, setups={name: setup}, disk=disk)
    return Assembled(loaded, engine, metrics)


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
            kv_type=settings.kv_type,
            max_batch_tokens=settings.max_batch_tokens,
            max_sequences=settings.max_sequences,
            max_waiting=settings.queue,
            max_gap_s=settings.max_gap,
            aging_s=settings.aging,
            speculation=settings.speculation,
            adapters=settings.adapters,
            adapter_memory_bytes=settings.adapter_memory,
            prefill_chunk=min(EngineConfig().prefill_chunk, settings.max_batch_tokens),
        )
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


def served_name(settings: Settings) -> str:
    """What the model is called in requests: the name it is installed under, or that of its file or folder."""
    name = canonical_name(settings.model)
    if name in installed_names(Layout(settings.home).home):
        return name
    path = resolve(settings.model, settings.home)
    return path.stem if path.is_file() else path.name


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
