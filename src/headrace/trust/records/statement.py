"""The statement about one answer: in-toto Statement v1 with a SLSA Provenance v1 predicate (https://slsa.dev/spec/v1.0).

Who made what from what, in fields that other tools read; what is particular to answers stands where the predicate lets
a build type say it, and `BUILD_TYPE` is ours. No SLSA level is claimed. Built from values; hashes what it commits to,
signs nothing.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from headrace.core.trust import Decision, Delegation, Label, ToolUse, Verdict
from headrace.trust.records import canonical
from headrace.trust.records.answer_form import arguments_form, text_form
from headrace.trust.records.canonical import NotCanonical
from headrace.trust.records.commitment import commit, derived_nonce

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:headrace:answer:v1"
RECORD_URI: Final = "urn:headrace:record:"
ANSWER, REASONING, BODY = "answer", "reasoning", "body"
"""Subjects: the answer's canonical form and its reasoning's, salted; the bytes that were sent, unsalted."""
MAX_SUBJECTS: Final = 16
MAX_DEPENDENCIES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A record that this answer comes from. `relation` is previous (the response it goes on from), parent (the request
    it belongs to) or cache (the answer that was given again). `digest` is the SHA-256 of its envelope, None where it is
    not known here."""

    relation: str
    record_id: str
    digest: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """On whose behalf, as the record names them: pseudonyms, unless the operator wants names."""

    tenant: str
    subject: str = ""
    user: str = ""
    key: str = ""
    agent: str = ""
    workload: str = ""
    delegation: Delegation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended. `state` is whole, cancelled or failed; `error` the code of what ended it; `is_truncated`: a part of
    an answer was given. Counts in tokens."""

    state: str
    error: str = ""
    is_truncated: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Which way it went and why. `cache` is empty, exact or semantic; `told_model` is what the backend called it."""

    route: str = ""
    reason: str = ""
    backend: str = ""
    model: str = ""
    num_attempts: int = 0
    cache: str = ""
    told_model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Who makes records: the node's name, this process of it, and what it runs."""

    node: str
    instance: str
    build: Mapping[str, str]
    log_origin: str = ""
    merge_delay_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a statement tells. `request` and `answer` are canonical forms, `body_digest` the SHA-256 of the bytes
    that were sent. `digests` are those of `Started`: what is no digest there is told as it is. `tools` may have been
    decided about; `results` are what tools had said, in the request."""

    record_id: str
    response_id: str
    sequence: int
    started_s: float
    ended_s: float
    nonce: bytes
    task: str
    asked_model: str
    request: bytes | None
    request_form: str
    answer: bytes | None
    reasoning: bytes | None
    body_digest: bytes | None
    who: Who
    way: Way
    outcome: Outcome
    maker: Maker
    parameters: Mapping[str, Any] = field(default_factory=dict)
    grammar: bytes | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    system: str = ""
    results: tuple[tuple[str, str], ...] = ()
    sources: tuple[Source, ...] = ()
    session: str = ""
    label: Label | None = None
    decisions: tuple[Decision, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    tools: tuple[ToolUse, ...] = ()


def encode_statement(facts: Facts) -> bytes:
    """The statement as the bytes that are signed."""
    nonce = facts.nonce
    subject = []
    for name, form in ((ANSWER, facts.answer), (REASONING, facts.reasoning)):
        if form is not None:
            subject.append(_subject(name, commit(derived_nonce(nonce, name), form)))
    if facts.body_digest is not None:
        subject.append(_subject(BODY, facts.body_digest))
    if not subject:  # a statement is about something: that nothing was said
        subject.append(_subject(ANSWER, commit(derived_nonce(nonce, ANSWER), b"")))
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": _external(facts),
            "internalParameters": _internal(facts),
            "resolvedDependencies": _dependencies(facts),
        },
        "runDetails": _run(facts),
    }
    value = {"_type": STATEMENT, "subject": subject, "predicateType": PREDICATE, "predicate": predicate}
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # a name that a client or a model made up has half of a surrogate pair
        return msgspec.json.encode(_sayable(value))


def _sayable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_sayable(name): _sayable(inner) for name, inner in value.items()}
    return [_sayable(inner) for inner in value] if isinstance(value, tuple | list) else value


def _subject(name: str, digest: bytes) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest.hex()}}


def _external(facts: Facts) -> dict[str, Any]:
    found: dict[str, Any] = {"task": facts.task, "model": facts.asked_model, "parameters": facts.parameters}
    if facts.request is not None:
        digest = commit(derived_nonce(facts.nonce, "request"), facts.request)
        found["request"] = {"form": facts.request_form, "commitment": tagged(digest)}
    if facts.grammar is not None:
        found["grammar"] = tagged(commit(derived_nonce(facts.nonce, "grammar"), facts.grammar))
    if facts.system:
        found["system"] = tagged(commit(derived_nonce(facts.nonce, "system"), text_form(facts.system)))
    return found


def _internal(facts: Facts) -> dict[str, Any]:
    way, outcome = facts.way, facts.outcome
    found: dict[str, Any] = {
        "sequence": facts.sequence,
        "opening": tagged(opening(facts.nonce)),
        "principal": _who(facts.who),
        "way": _told(way),
        "outcome": _told(outcome) | {"cached_tokens": outcome.cached_tokens},
        "engine": {**facts.maker.build, **{n: v for n, v in facts.digests.items() if not _is_digest(v)}},
        "evidence": None,  # of a trusted execution environment, once one vouches for it
    }
    if facts.session:
        found["session"] = facts.session
    if facts.label is not None:
        found["label"] = {
            "integrity": facts.label.integrity.name.lower(),
            "confidentiality": facts.label.confidentiality.name.lower(),
            "sources": sorted(facts.label.sources),
        }
    if facts.decisions:
        found["decisions"] = [_decision(one) for one in facts.decisions]
    if facts.verdicts:
        found["verdicts"] = [_told(one) | {"score": one.score} for one in facts.verdicts]
    if facts.tools:
        found["tools"] = [_tool(one, index, facts.nonce) for index, one in enumerate(facts.tools)]
    if facts.maker.log_origin:
        found["log"] = {"origin": facts.maker.log_origin, "merge_delay_s": facts.maker.merge_delay_s}
    return found


def opening(nonce: bytes) -> bytes:
    """What tells that a nonce is a record's, and nothing else of it."""
    return commit(derived_nonce(nonce, "opening"), b"")


def _who(who: Who) -> dict[str, Any]:
    names = ("tenant", "subject", "user", "key", "agent", "workload")
    found: dict[str, Any] = {name: value for name in names if (value := getattr(who, name))}
    if who.delegation is not None:
        found["delegation"] = {
            "chain": who.delegation.chain,
            "revocation_ids": who.delegation.revocation_ids,
        }
    return found


def _decision(one: Decision) -> dict[str, Any]:
    return {
        "action": one.action,
        "resource": one.resource,
        "is_allowed": one.is_allowed,
        "is_enforced": one.is_enforced,
        "policies": one.policies,
        **({"reason": one.reason} if one.reason else {}),
    }


def _tool(one: ToolUse, index: int, nonce: bytes) -> dict[str, Any]:
    form = text_form(arguments_form(one.arguments))
    found: dict[str, Any] = {
        "call_id": one.call_id,
        "name": one.name,
        "manifest": one.manifest,
        "effect": one.effect.name.lower(),
        "arguments": tagged(commit(derived_nonce(nonce, f"tool:{index}"), form)),
    }
    if one.decision is not None:
        found["decision"] = _decision(one.decision)
    if one.endorsements:
        found["endorsements"] = one.endorsements
    return found


def _dependencies(facts: Facts) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "digest": {"sha256": value[7:]}} for name, value in facts.digests.items() if _is_digest(value)
    ]
    for one in facts.sources:
        source: dict[str, Any] = {
            "name": "record",
            "uri": RECORD_URI + one.record_id,
            "annotations": {"relation": one.relation},
        }
        if one.digest is not None:
            source["digest"] = {"sha256": one.digest.hex()}
        found.append(source)
    manifests = {one.name: one.manifest for one in facts.tools if _is_digest(one.manifest)}
    found.extend(
        {"name": "tool", "digest": {"sha256": manifest[7:]}, "annotations": {"tool": name}}
        for name, manifest in manifests.items()
    )
    for index, (name, text) in enumerate(facts.results):
        digest = commit(derived_nonce(facts.nonce, f"result:{index}"), text_form(text))
        found.append({"name": "tool-result", "digest": {"sha256": digest.hex()}, "annotations": {"tool": name}})
    return found


def _run(facts: Facts) -> dict[str, Any]:
    return {
        "builder": {"id": f"urn:headrace:node:{facts.maker.node}", "version": {**facts.maker.build}},
        "metadata": {
            "invocationId": facts.record_id,
            "startedOn": timestamp(facts.started_s),
            "finishedOn": timestamp(facts.ended_s),
        },
        "byproducts": [
            {"name": "response", "uri": f"urn:headrace:response:{facts.response_id}"},
            {"name": "instance", "uri": f"urn:headrace:instance:{facts.maker.instance}"},
        ],
    }


def _told(value: Any) -> dict[str, Any]:
    """A value's fields that say something."""
    return {name: given for name in value.__slots__ if (given := getattr(value, name)) not in ("", 0, False, None)}


def _is_digest(value: str) -> bool:
    return len(value) == 71 and value.startswith("sha256:")


def tagged(digest: bytes) -> str:
    """A digest with the name of its algorithm."""
    return "sha256:" + digest.hex()


def timestamp(unix_s: float) -> str:
    """RFC 3339, to the millisecond."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement that was read: `payload` as it was signed, the rest what verifiers need of it."""

    payload: bytes
    record_id: str
    response_id: str
    subjects: Mapping[str, bytes]
    external: Mapping[str, Any]
    internal: Mapping[str, Any]
    dependencies: tuple[Mapping[str, Any], ...]
    node: str
    started_on: str
    finished_on: str

    @property
    def digests(self) -> dict[str, str]:
        """What the answer was made with, by name: model, adapter, tokenizer, template, …"""
        others = {"record", "tool", "tool-result"}
        return {
            one["name"]: "sha256:" + one["digest"]["sha256"] for one in self.dependencies if one["name"] not in others
        }

    @property
    def model_names(self) -> frozenset[str]:
        """What the model of this answer is called: by who asked, on the way, and by the backend."""
        way = self.internal["way"]
        names = (self.external["model"], way.get("model"), way.get("told_model"), way.get("route"))
        return frozenset(name for name in names if isinstance(name, str) and name)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Records that it comes from."""
        return tuple(
            Source(
                relation=str(one.get("annotations", {}).get("relation", "")),
                record_id=str(one["uri"]).removeprefix(RECORD_URI),
                digest=None if "digest" not in one else bytes.fromhex(one["digest"]["sha256"]),
            )
            for one in self.dependencies
            if one["name"] == "record"
        )


def read_statement(payload: bytes) -> Statement:
    """A statement about an answer. Raises NotCanonical for anything else."""
    found = canonical.read(payload, "the statement")
    try:
        is_ours = found["_type"] == STATEMENT and found["predicateType"] == PREDICATE
        _demand(is_ours, "the statement is of another type, or has another kind of predicate.")
        predicate = found["predicate"]
        definition, run = predicate["buildDefinition"], predicate["runDetails"]
        kind = definition["buildType"]
        _demand(kind == BUILD_TYPE, f"the statement's buildType is {kind!r:.100}, not {BUILD_TYPE}.")
        subjects = _read_subjects(found["subject"])
        dependencies = definition["resolvedDependencies"]
        is_few = len(dependencies) <= MAX_DEPENDENCIES
        _demand(is_few, f"the statement has more than {MAX_DEPENDENCIES} dependencies.")
        byproducts = {_a_text(one["name"]): _a_text(one["uri"]) for one in run["byproducts"]}
        _check_parameters(definition["externalParameters"], definition["internalParameters"])
        return Statement(
            payload=payload,
            record_id=_a_text(run["metadata"]["invocationId"]),
            response_id=byproducts["response"].removeprefix("urn:headrace:response:"),
            subjects=subjects,
            external=_a_table(definition["externalParameters"]),
            internal=_a_table(definition["internalParameters"]),
            dependencies=tuple(map(_read_dependency, dependencies)),
            node=_a_text(run["builder"]["id"]).removeprefix("urn:headrace:node:"),
            started_on=_a_text(run["metadata"]["startedOn"]),
            finished_on=_a_text(run["metadata"]["finishedOn"]),
        )
    except NotCanonical:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotCanonical(f"the statement is not one about an answer: {type(error).__name__} at {error}.") from error


def _demand(is_met: bool, sentence: str) -> None:
    if not is_met:
        raise NotCanonical(sentence)


def _check_parameters(external: Any, internal: Any) -> None:
    """What every reader of a statement goes by is there, and is what it should be."""
    _a_text(_a_table(external)["model"])
    _a_text(_a_table(_a_table(internal)["outcome"])["state"])
    for name in ("way", "principal", "engine"):
        _a_table(internal[name])
    tools = internal.get("tools", [])
    _demand(isinstance(tools, list), "the statement's tools are no list.")
    for tool in tools:
        _a_text(_a_table(tool)["name"])
        _a_text(tool["manifest"])
        if "decision" in tool:
            _demand(type(_a_table(tool["decision"])["is_allowed"]) is bool, "a decision is neither yes nor no.")


def _read_subjects(found: Any) -> dict[str, bytes]:
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_SUBJECTS:
        raise NotCanonical(f"the statement must have 1 to {MAX_SUBJECTS} subjects.")
    subjects = {_a_text(one["name"]): _a_digest(one["digest"]["sha256"]) for one in found}
    if len(subjects) < len(found):
        raise NotCanonical("the statement has two subjects of one name.")
    return subjects


def _read_dependency(one: Any) -> Mapping[str, Any]:
    if _a_text(one["name"]) == "record":
        _a_text(one["uri"])
    _a_table(one.get("annotations", {}))
    if "digest" in one:
        _a_digest(one["digest"]["sha256"])
    elif "uri" not in one:
        raise NotCanonical("a dependency has neither digest nor uri (in-toto ResourceDescriptor v1).")
    return _a_table(one)


def _a_text(value: Any) -> str:
    if not isinstance(value, str):
        raise NotCanonical(f"{value!r:.50} is no text.")
    return value


def _a_table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise NotCanonical(f"{value!r:.50} is no table.")
    return value


def _a_digest(value: Any) -> bytes:
    digest = bytes.fromhex(_a_text(value))
    if len(digest) != hashlib.sha256().digest_size or digest.hex() != value:
        raise NotCanonical("a SHA-256 has 64 lower-case hexadecimal digits.")
    return digest
