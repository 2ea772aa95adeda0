"""`headrace doctor`: what this machine offers, measured where it can be, what a model would need of it, and how close
to the machine's ceilings it runs."""

import json as jsonlib
import os
import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import typer

from headrace import __version__
from headrace.cli.config import Settings, compose
from headrace.cli.model_signatures import SignatureGate
from headrace.core.clock import SystemClock
from headrace.core.errors import NotFound
from headrace.engine.config import DEFAULT_KV_SHARE, KV_TYPES, detect_hardware
from headrace.engine.kv.gate import Decision, choose_kind, decide_unmeasured, recorded_decision
from headrace.engine.roofline import Ceilings, Rig, measure_ceilings, standing
from headrace.kernels import native
from headrace.kernels.choice import REFERENCE, kernels_in_use, possible_kernels
from headrace.kernels.plan import PAGE_TOKENS, KvKind, Plan
from headrace.models.digest import DigestMemory
from headrace.models.load import damaged_matrices, load_model, open_checkpoint
from headrace.models.registry import architecture_for
from headrace.models.store import Layout, open_home, resolve

_MEBIBYTE = 1 << 20
_SECONDS_A_STEP = 0.4
_SMALLEST_SHARE = 0.01


def run_doctor(flags: Mapping[str, Any], config: Path | None, *, json: bool, quick: bool) -> None:
    """Print the report; the exit status is 1 if the model cannot run here. `quick` does not run it."""
    settings = compose(flags, os.environ, config).settings
    machine = examine_machine(settings)
    model = examine_model(settings)
    if model is not None:
        model["fits"] = _fits(machine, model)
        model["running"] = None
        # The reference has no stages to time.
        if model["fits"] and not quick and machine["kernels"] != REFERENCE:
            model["running"] = examine_running(settings, machine)
            model |= model["running"].pop("keys_and_values")
    if json:
        typer.echo(jsonlib.dumps({"version": __version__, "machine": machine, "model": model}, indent=2))
    else:
        typer.echo("\n".join([*_machine_lines(machine), "", *_model_lines(settings, model)]))
    if model is not None and not model["fits"]:
        raise typer.Exit(1)


def examine_machine(settings: Settings) -> dict[str, Any]:
    """Cores, memory, kernels, and the ceilings that all threads reach together."""
    kernels = kernels_in_use()
    hardware = detect_hardware()
    count = settings.threads or hardware.physical_cores
    threads = native.Threads(count)
    try:
        ceilings = measure_ceilings(threads)
    finally:
        threads.close()
    features = native.cpu_features()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": hardware.physical_cores,
        "threads": count,
        "memory_bytes": hardware.memory_bytes,
        "read_bandwidth": ceilings.read_bandwidth,
        "multiply_rate": ceilings.multiply_rate,
        "cpu_features": sorted(name for name, there in features.items() if there),
        "kernels": kernels,
        "kernels_available": possible_kernels(),
        "home": str(settings.home),
    }


def examine_model(settings: Settings) -> dict[str, Any] | None:
    """What the model's file says of its needs; None if it is not installed."""
    try:
        path = resolve(settings.model, settings.home)
    except NotFound:
        return None
    checkpoint = open_checkpoint(path)
    architecture = architecture_for(checkpoint)
    plan = architecture.record(architecture.read_config(checkpoint, settings.context))
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return {
        "name": settings.model,
        "path": str(path),
        "architecture": architecture.name,
        "weights_bytes": sum(file.stat().st_size for file in files),
        "context": plan.max_positions,
        "head_dim": plan.cache.head_dim,
        "attention": native.attention_variant(plan.cache.head_dim),
        "packed": _examine_packed(path, settings),
    } | _keys_and_values(plan, _known_decision(path, plan, settings))


def examine_running(settings: Settings, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Runs the model for about two seconds; packs its weights and asks the int8 gate first, as the next start would."""
    path = resolve(settings.model, settings.home)
    cache_dir = open_home(settings.home).packed
    load = partial(load_model, path, cache_dir=cache_dir, max_context=settings.context)
    loaded = SignatureGate(settings.trust.model_signatures, cache_dir).load(path, load)
    ceilings = Ceilings(machine["read_bandwidth"], machine["multiply_rate"])
    threads = native.Threads(machine["threads"])
    try:
        decision = choose_kind(loaded, KV_TYPES[settings.kv_type], threads)
        rig = Rig(loaded, threads, decision.kind, SystemClock())
        steps = [standing(profile, ceilings) for profile in rig.profile_model(_SECONDS_A_STEP)]
    finally:
        threads.close()
    return {"steps": steps, "keys_and_values": _keys_and_values(loaded.plan, decision)}


def _keys_and_values(plan: Plan, decision: Decision) -> dict[str, Any]:
    per_token = plan.cache.page_bytes(decision.kind) // PAGE_TOKENS
    return {
        "kv_type": decision.kv_type,
        "kv_reason": decision.reason,
        "kv_nll": None if decision.figures is None else msgspec.to_builtins(decision.figures),
        "kv_bytes_per_token": per_token,
        "kv_bytes_for_context": per_token * plan.max_positions,
    }


def _known_decision(path: Path, plan: Plan, settings: Settings) -> Decision:
    """How keys and values would be stored, as far as that is known without running the model."""
    packed = Layout(settings.home).packed
    known = decide_unmeasured(plan, KV_TYPES[settings.kv_type])
    if known is None and packed.is_dir():
        known = recorded_decision(packed, open_checkpoint(path, DigestMemory(packed)).digest(), plan)
    return known or Decision(KvKind.HALF, "until the first start has measured what int8 costs")


def _examine_packed(path: Path, settings: Settings) -> str:
    damaged = damaged_matrices(path, Layout(settings.home).packed)
    if damaged is None:
        return "not yet; the next start packs the weights"
    if damaged:
        return f"bytes of {', '.join(damaged)} had changed on disk; discarded, the next start packs the weights again"
    return "as they were written"


def _fits(machine: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    return bool(model["weights_bytes"] + model["kv_bytes_for_context"] <= machine["memory_bytes"])


def _machine_lines(machine: Mapping[str, Any]) -> list[str]:
    fastest = machine["kernels_available"][0]
    measured = fastest if machine["kernels"] == REFERENCE else machine["kernels"]
    others = [name for name in machine["kernels_available"] if name != machine["kernels"]]
    return [
        f"Headrace {__version__} on {machine['system']}, Python {machine['python']}",
        f"  cores       {machine['cores']} (threads: {machine['threads']})",
        f"  memory      {machine['memory_bytes'] / (1 << 30):.1f} GiB",
        f"  bandwidth   {machine['read_bandwidth'] / 1e9:.1f} GB/s read by {machine['threads']} threads",
        f"  multiplying {machine['multiply_rate'] / 1e9:.0f} billion integer operations a second, {measured}",
        f"  CPU has     {', '.join(machine['cpu_features']) or 'nothing we use'}",
        f"  kernels     {machine['kernels']} in use; also possible: {', '.join(others) or 'none'}",
        f"  state       {machine['home']}",
    ]


def _absence(settings: Settings) -> str:
    """Why there is nothing to say of the model."""
    if not settings.has_engine:
        return "These settings run no model here; `headrace doctor MODEL` examines one."
    try:
        resolve(settings.model, settings.home)
    except NotFound as error:
        return error.message
    return ""


def _model_lines(settings: Settings, model: Mapping[str, Any] | None) -> list[str]:
    if model is None:
        return [_absence(settings)]
    verdict = "fits" if model["fits"] else "does NOT fit: give a smaller --context"
    return [
        f"{model['name']} ({model['architecture']})",
        f"  file        {model['path']}",
        f"  weights     {model['weights_bytes'] / _MEBIBYTE:.0f} MiB as stored",
        f"  packed      {model['packed']}",
        f"  KV type     {model['kv_type']}: {model['kv_reason']}",
        f"  keys/values {model['kv_bytes_per_token'] / 1024:.1f} KiB a token, "
        f"{model['kv_bytes_for_context'] / _MEBIBYTE:.0f} MiB for its context of {model['context']} tokens",
        *_plain_path_lines(model),
        f"  {verdict}; `serve` gives keys and values up to 1/{DEFAULT_KV_SHARE} of memory unless --kv-memory says more",
        *_running_lines(model["running"]),
    ]


def _plain_path_lines(model: Mapping[str, Any]) -> list[str]:
    """Says where no vector kernel fits the model."""
    if native.variant() == model["attention"]:
        return []
    return [
        f"  plain path  attention runs {model['attention']} code: no vector kernel takes {model['head_dim']} features"
    ]


def _running_lines(running: Mapping[str, Any] | None) -> list[str]:
    """Steps and their parts beside the ceilings; parts that take less than a hundredth of a step are left out."""
    if running is None:
        return []
    lines = ["", f"Run for a moment: {'tokens/s':>27} {'time':>6} {'of reading':>11} {'of multiplying':>15}"]
    for step in running["steps"]:
        lines.append(f"  {step['name']:<32} {step['tokens_per_second']:>10,.0f} {'':>6} {_share_columns(step)}")
        for stage in step["stages"]:
            share = stage["seconds"] / step["seconds"]
            if share >= _SMALLEST_SHARE:
                lines.append(f"    {stage['kind']:<30} {'':>10} {share:>6.0%} {_share_columns(stage)}")
    return lines


def _share_columns(work: Mapping[str, Any]) -> str:
    return f"{work['share_of_read_bandwidth']:>11.0%} {work['share_of_multiply_rate']:>15.0%}"
