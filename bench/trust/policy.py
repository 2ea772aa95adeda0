"""What do a policy's decision and a delegation's token cost, and 10,000 policies? In one process, without a server.

Fresh decisions ask Cedar; remembered ones are what nearly every request of a server gets.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from importlib import resources
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.report import Row, row
from headrace.core.policy import Question
from headrace.core.request import Principal
from headrace.trust.delegation.grant import Block, Bounds, Grant
from headrace.trust.delegation.token import (
    Moment,
    RootKeys,
    authorize,
    make_token,
    narrow_token,
    public_key_of,
    read_token,
)
from headrace.trust.policy.judge import CedarJudge
from headrace.trust.policy.rules import read_rules
from headrace.trust.policy.settings import SETS
from headrace.trust.policy.statement import Source

CALLS: Final = 2000
MANY: Final = 10_000
_CALLER: Final = Principal(tenant="acme", key="laptop", subject="key:laptop")


def rows(options: argparse.Namespace, notes: dict[str, Any]) -> list[Row]:
    """All of it. `options` has `repeats`."""
    folder = resources.files("headrace.trust.policy").joinpath("sets")
    shipped = [Source(name, folder.joinpath(f"{name}.cedar").read_text("utf-8")) for name in SETS]
    many = Source("many", "".join(map(_policy, range(MANY))))
    few = CedarJudge(read_rules(shipped), time.time)
    notes["policies"] = f"{len(few.rules)} that ship; many: {MANY}, each of another principal with one condition"
    loads = [_time(lambda: read_rules([many]), 1) for _ in range(options.repeats)]
    large = CedarJudge(read_rules([many]), time.time)
    names = itertools.count()
    measures: dict[str, Callable[[], Any]] = {
        "policy-remembered-us": lambda: few.decide(_question("small")),
        "policy-fresh-us": lambda: few.decide(_question(f"model-{next(names)}")),
        **_tokens(),
    }
    made = [
        row(name, "us", [1e6 * _time(call, CALLS) for _ in range(options.repeats)], {}, lower_is_better=True)
        for name, call in measures.items()
    ]
    fresh = [1e3 * _time(lambda: large.decide(_question(f"m-{next(names)}")), 20) for _ in range(options.repeats)]
    made.append(row("policy-fresh-of-10000-ms", "ms", fresh, {}, lower_is_better=True))
    made.append(row("policy-load-10000-s", "s", loads, {}, lower_is_better=True))
    return made


def _tokens() -> dict[str, Callable[[], Any]]:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    keys, now_s = RootKeys.of([public_key_of(pem)]), time.time()
    bounds = Bounds(models=frozenset({"small", "large"}), max_calls=9, expires_s=float(int(now_s) + 3600))
    block = Block(revocation_id="", holder="planner", bounds=bounds)
    grant = Grant(tenant="acme", subject="key:laptop", scopes=frozenset({"generate"}), blocks=(block,))
    text = make_token(pem, grant)
    narrowed = narrow_token(text, Bounds(models=frozenset({"small"})), "helper")
    token = read_token(narrowed, keys)
    moment = Moment(operation="request", unix_s=now_s, model="small")
    return {
        "delegation-narrow-us": lambda: narrow_token(text, Bounds(models=frozenset({"small"})), "helper"),
        "delegation-read-us": lambda: read_token(narrowed, keys),
        "delegation-run-us": lambda: authorize(token, moment),
    }


def _policy(number: int) -> str:
    scope = f'principal == Key::"k{number}", action, resource'
    return f'@id("p{number}") permit ({scope}) when {{ context.minute > {number % 60} }};\n'


def _question(model: str) -> Question:
    return Question(principal=_CALLER, action="request", resource=model, context={"labels": (), "prompt_tokens": 99})


def _time(call: Callable[[], Any], times: int) -> float:
    """Seconds of one call."""
    started_s = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started_s) / times
