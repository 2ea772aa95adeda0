"""`headrace replay`: a recorded request once more, on the same model, and whether the same comes out.

Refuses where it could not: another model, adapter, template or tokenizer, an answer of another backend, a request that
nobody kept. Runs the engine in this process; asks no server.
"""

import asyncio
import json as jsonlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import typer

from headrace.cli.assembly import open_model
from headrace.cli.config import compose
from headrace.cli.record_books import StoredRecords
from headrace.cli.record_show import content_of, statement_of
from headrace.cli.saved_files import decoded, read_file
from headrace.core.backend import Backend
from headrace.core.errors import Conflict, InvalidRequest
from headrace.core.request import Request
from headrace.gateway.oversight.record_keys import open_secrets
from headrace.gateway.settings import ENGINE
from headrace.memory.provenance import Kept
from headrace.trust.records import request_form
from headrace.trust.records.answer_form import AnswerForm
from headrace.trust.records.commitment import commit, derived_nonce, opens
from headrace.trust.records.statement import ANSWER, REASONING, Statement

DIFFERS: Final = 3
_TELLS: Final = ("headrace", "kernel", "kernels", "quantisation", "kv_type")
"""Of the engine's build: not digests of what was run, and a reason why tokens may differ."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record that is to be run again: what it says, its nonce, and the answer where that was kept."""

    statement: Statement
    nonce: bytes
    request: Request
    texts: Mapping[int, str] | None = None
    tokens: Mapping[int, Sequence[int]] | None = None


def run_replay(
    record_id: str, request: Path | None, flags: Mapping[str, Any], config: Path | None, *, json: bool
) -> None:
    """Run it again; leave with 3 if something else comes out."""
    settings = compose(flags, os.environ, config).settings
    kept = StoredRecords(settings).kept(record_id)
    recorded = _recorded(kept, None if request is None else read_file(request, "request"))
    with open_model(settings) as engine:
        form = asyncio.run(_answer(engine, recorded))
    told = _compare(recorded, form)
    if json:
        typer.echo(jsonlib.dumps({"record": record_id, **told}))
    else:
        for name, value in told.items():
            typer.echo(f"{name:<12} {value}")
    if not told["is_same"]:
        raise typer.Exit(DIFFERS)


def _recorded(kept: Kept, body: bytes | None) -> Recorded:
    statement = statement_of(kept.item.envelope)
    nonce, _ = open_secrets(kept.item.secrets)
    way = statement.internal["way"]
    if way.get("backend") != ENGINE or way.get("cache"):
        where = f"the {way['cache']} cache" if way.get("cache") else f"the backend {way.get('backend', '')!r}"
        raise Conflict(f"{statement.record_id} was answered by {where}, not by this program's own engine.")
    if ANSWER not in statement.subjects or not nonce:
        raise Conflict(f"{statement.record_id} cannot be compared: its nonce was erased, or it is of bytes alone.")
    if body is not None:
        return Recorded(statement, nonce, _asked(statement, nonce, body))
    content = content_of(kept)
    if "asked" not in content:
        raise InvalidRequest(
            "the record has no request in neutral form; give the body with --request.", param="request"
        )
    texts = {one["index"]: one["text"] for one in content["answer"].get("choices", ())}
    tokens = {int(index): ids for index, ids in content.get("tokens", {}).items()}
    return Recorded(statement, nonce, request_form.read(msgspec.json.encode(content["asked"])), texts, tokens)


def _asked(statement: Statement, nonce: bytes, body: bytes) -> Request:
    """The request of a body as it was asked: what it says, and what was drawn and clamped for it."""
    told = statement.external["request"]
    for request in decoded(body):
        digest = bytes.fromhex(told["commitment"].removeprefix("sha256:"))
        if opens(digest, derived_nonce(nonce, "request"), request_form.encode(request)):
            return request_form.with_parameters(request, statement.external["parameters"])
    raise InvalidRequest("request: this body is not the one that the record commits to.", param="request")


async def _answer(engine: Backend, recorded: Recorded) -> AnswerForm:
    names = {name for card in engine.models() for name in (card.id, *card.aliases)}
    model = recorded.request.model
    if model not in names:
        raise Conflict(
            f"the record is of {model!r}, and this is {', '.join(sorted(names))}; name the model with --model.",
            param="model",
        )
    form = AnswerForm()
    stream = engine.run(replace(recorded.request, id="replay"))
    try:
        async for event in stream:
            form.hear(event)
            if form.started is event:
                _check_same(recorded.statement, form)
    finally:
        await stream.aclose()
    return form


def _check_same(statement: Statement, form: AnswerForm) -> None:
    assert form.started is not None
    here = {name: value for name, value in form.started.digests.items() if value.startswith("sha256:")}
    for name in sorted(statement.digests.keys() | here.keys()):
        then, now = statement.digests.get(name, "none"), here.get(name, "none")
        if then != now:
            raise Conflict(f"the {name} is another: {now} here, {then} in the record. Run it where the same one is.")


def _compare(recorded: Recorded, form: AnswerForm) -> dict[str, Any]:
    statement, nonce = recorded.statement, recorded.nonce
    is_same = commit(derived_nonce(nonce, ANSWER), form.encode()) == statement.subjects[ANSWER]
    reasoning = form.encode_reasoning()
    if REASONING in statement.subjects:
        is_same = is_same and reasoning is not None
        is_same = is_same and commit(derived_nonce(nonce, REASONING), reasoning or b"") == statement.subjects[REASONING]
    told: dict[str, Any] = {"is_same": is_same, "level": "replayed" if is_same else "not replayed"}
    if not is_same:
        told["difference"] = _first_difference(recorded, form)
    assert form.started is not None
    builds = {n: (statement.internal["engine"].get(n), form.started.digests.get(n)) for n in _TELLS}
    others = [f"{n}: {then} then, {now} now" for n, (then, now) in builds.items() if then and now and then != now]
    if others:
        told["builds"] = "; ".join(others)
    return told


def _first_difference(recorded: Recorded, form: AnswerForm) -> str:
    if recorded.texts is None:
        return "the answer was not kept, so where it differs is not known"
    told = form.tokens() or {}
    for index, ids in (recorded.tokens or {}).items():
        if index in told and told[index] != ids:
            at = _same(ids, told[index])
            return f"choice {index} from token {at} on: {ids[at : at + 5]} then, {told[index][at : at + 5]} now"
    now = form.texts()
    for index in sorted(recorded.texts.keys() | now.keys()):
        one, other = recorded.texts.get(index, ""), now.get(index, "")
        if one != other:
            at = _same(one, other)
            return f"choice {index} from character {at} on: {one[at : at + 40]!r} then, {other[at : at + 40]!r} now"
    return "the texts are the same; tool calls, reasoning or endings differ"


def _same(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How far both are the same."""
    return next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )
