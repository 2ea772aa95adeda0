"""`headrace route explain`: from the settings file, as a server that has just started, or from a running server.

Decides nothing: the planner does, or the server's.
"""

import json as jsonlib
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from headrace.api.explanation import encode_explanation
from headrace.cli.config import Settings, compose
from headrace.cli.residents import Server
from headrace.cli.served_models import served_paths
from headrace.core.backend import ModelCard
from headrace.core.clock import SystemClock
from headrace.core.explanation import Question
from headrace.gateway.routing.planner import RoutePlanner
from headrace.gateway.routing.sightings import RouteSightings
from headrace.gateway.routing.world import World
from headrace.models.catalog import ALIASES

_UNITS: Mapping[str, str] = {
    "weighted": "share {:g}",
    "least_loaded": "{:g} on the way",
    "lowest_latency": "{:.2f} s",
    "lowest_cost": "costs {:.6f}",
    "cache_affinity": "{:.0%} warm",
    "complexity": "tier {:g}",
}


def run_explain(question: Question, server: Server | None, config: Path | None, *, json: bool) -> None:
    """Print the order and the reasons. `server` None: what the settings alone say. Raises HeadraceError."""
    if server is not None:
        told = server.ask("/v1/gateway/explain", _body(question))
    else:
        told = jsonlib.loads(encode_explanation(_planner(compose({}, os.environ, config).settings).explain(question)))
    typer.echo(jsonlib.dumps(told, indent=2) if json else "\n".join(_lines(told, is_live=server is not None)))


def _planner(settings: Settings) -> RoutePlanner:
    """One that has seen nothing yet: no loads, no times, nobody out."""
    cards = tuple(_card(name, settings) for name in served_paths(settings))
    clock = SystemClock()
    # Choices between equals, not secrets.
    rng = random.Random()  # noqa: S311
    world = World(clock=clock, rng=rng, served=lambda: cards, prices=settings.prices)
    return RoutePlanner(settings.gateway, RouteSightings(clock), world)


def _card(name: str, settings: Settings) -> ModelCard:
    """A model of the engine that is not loaded: its context is known when it is, unless the settings bound it."""
    aliases = tuple(sorted(alias for alias, canonical in ALIASES.items() if canonical == name))
    context = settings.context or 2**31 - 1
    return ModelCard(id=name, created=0, owned_by="headrace", context_length=context, digest="", aliases=aliases)


def _body(question: Question) -> dict[str, Any]:
    return {
        "model": question.model,
        "tenant": question.tenant,
        "user": question.user,
        "session": question.session,
        "labels": sorted(question.labels),
        "needs": sorted(question.needs),
        "prompt_tokens": question.prompt_tokens,
        "max_tokens": question.max_tokens,
        "text": question.text,
    }


def _lines(told: Mapping[str, Any], *, is_live: bool) -> list[str]:
    policies = ", ".join(told["policies"])
    lines = [f"{told['model']} -> route {told['route']}: {told['reason'] or policies}"]
    targets = told["targets"]
    width = max((len(one["target"]) for one in targets), default=0)
    for one in targets:
        place = "-" if one["place"] is None else str(one["place"])
        facts = [one["reason"]] if one["reason"] else []
        facts += [
            _UNITS[policy].format(score) if score is not None else f"{policy} unknown"
            for policy, score in one["scores"].items()
            if policy in _UNITS
        ]
        if one["place"] is not None:
            facts.append(f"at most {one['max_prompt_and_answer_tokens']:,} tokens, {one['max_cost']:.6f}")
        if one["max_tokens"] is not None:
            facts.append(f"answers cut to {one['max_tokens']:,} tokens")
        lines.append(f"  {place:>2}  {one['target']:<{width}}  {'; '.join(facts)}")
    if told["num_used"] and told["num_used"] < sum(one["place"] is not None for one in targets):
        lines.append(f"The first {told['num_used']} of them and the fallbacks are as many as a request can use.")
    if told["shadow"]:
        lines.append(f"A share is copied to {told['shadow']}.")
    if told["refusal"]:
        lines.append(f"Nobody would be asked; the client would be told: {told['refusal']}")
    if not is_live:
        lines.append("From the settings alone: no loads, no times, nobody out. --live asks a running server.")
    return lines
