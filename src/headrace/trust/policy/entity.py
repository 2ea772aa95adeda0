"""How a principal and a resource are written for Cedar. Values in, values out; knows no policies."""

from collections.abc import Mapping
from typing import Any, Final

from headrace.core.request import Principal
from headrace.trust.policy.question import Question
from headrace.trust.policy.schema import ACTION_TABLE, PRINCIPAL, conform
from headrace.trust.policy.settings import SubjectSettings

Uid = dict[str, str]

_PREFIXES: Final = (("key:", "Key"), ("user:", "User"), ("agent:", "Agent"), ("spiffe://", "Workload"))


def subject_uid(subject: str) -> Uid:
    """A subject as records name it (`key:laptop`) as Cedar's entity (`Key::"laptop"`); whoever has no such prefix is a
    user by that name, as the local one of a server without keys."""
    for prefix, kind in _PREFIXES:
        if subject.startswith(prefix):
            name = subject if kind == "Workload" else subject.removeprefix(prefix)
            return {"type": kind, "id": name}
    return {"type": "User", "id": subject}


def principal_uid(principal: Principal) -> Uid:
    """Who asks: on a delegation or by its own name the agent, else the subject."""
    if principal.delegation is not None and principal.delegation.chain:
        last = principal.delegation.chain[-1]
        return {"type": "Agent", "id": last.removeprefix("agent:")}
    if principal.agent is not None:
        return {"type": "Agent", "id": principal.agent}
    return subject_uid(principal.subject or (f"key:{principal.key}" if principal.key else "local"))


def principal_entities(principal: Principal, subjects: Mapping[str, SubjectSettings]) -> list[dict[str, Any]]:
    """The principal, and whom it is in: its tenant, its groups, and if it acts for others all of those."""
    uid, delegation = principal_uid(principal), principal.delegation
    chain = () if delegation is None else delegation.chain
    subject = principal.subject or (f"key:{principal.key}" if principal.key else "local")
    given: dict[str, Any] = {
        "subject": subject,
        "tenant": principal.tenant,
        "scopes": tuple(principal.scopes),
        "tags": principal.tags,
        "labels": tuple(principal.labels),
        "is_delegated": delegation is not None,
        "depth": 0 if delegation is None else delegation.depth,
        "chain": chain,
    }
    for name in ("key", "user", "agent", "workload"):
        if (value := getattr(principal, name)) is not None:
            given[name] = value
    tenant = {"type": "Tenant", "id": principal.tenant}
    own = subjects.get(_name_of(uid)) or subjects.get(subject) or SubjectSettings()
    entities: dict[tuple[str, str], dict[str, Any]] = {}

    def add(one: Uid, parents: list[Uid], **more: Any) -> None:
        parents = [parent for parent in parents if parent != one]
        entities.setdefault((one["type"], one["id"]), {"uid": one, "attrs": {}, "parents": parents, **more})

    # Those it acts for: in its chain, and the credential that was shown, if it only says that it is an agent.
    behind = [subject_uid(one) for one in chain[:-1]]
    if delegation is None and uid["type"] == "Agent":
        behind.append(subject_uid(subject))
    groups = [{"type": "Group", "id": one} for one in own.groups]
    attributes = conform(given, PRINCIPAL, "principal")
    add(uid, [tenant, *groups, *behind], attrs=attributes, tags=dict(own.facts))
    for one in behind:
        theirs = subjects.get(_name_of(one), SubjectSettings())
        # What is not known of it is left at what permits least; a policy sees of it only where it belongs to.
        parents = [tenant, *({"type": "Group", "id": group} for group in theirs.groups)]
        blank = conform({"subject": _name_of(one), "tenant": principal.tenant}, PRINCIPAL, "principal")
        add(one, parents, attrs=blank, tags=dict(theirs.facts))
    add(tenant, [])
    for group in {parent["id"] for entity in entities.values() for parent in entity["parents"] if _is_group(parent)}:
        add({"type": "Group", "id": group}, [])
    return list(entities.values())


def resource_entity(question: Question) -> dict[str, Any]:
    """What is asked about. Raises UnknownField."""
    action = ACTION_TABLE[question.action]
    attributes = dict(question.attributes)
    if "name" in action.attributes:
        attributes.setdefault("name", question.resource)
    return {
        "uid": {"type": action.resource, "id": question.resource},
        "attrs": conform(attributes, action.attributes, "resource"),
        "parents": [],
    }


def _name_of(uid: Uid) -> str:
    if uid["type"] == "Workload" or (uid["type"] == "User" and uid["id"] == "local"):
        return uid["id"]
    return f"{uid['type'].lower()}:{uid['id']}"


def _is_group(uid: Uid) -> bool:
    return uid["type"] == "Group"
