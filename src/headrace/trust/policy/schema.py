"""What policies can speak of: kinds of principals, resources and contexts, each with its fields. One table, from which
the Cedar schema is written and by which questions are checked, so that the two cannot differ.

A field with a `default` is always there; what a question leaves out has the value that permits least. One without is
there if it is known, and a policy must ask (`context has session`) before it reads it. Knows no policies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from headrace.core.trust import Confidentiality, Integrity
from headrace.trust.policy.question import Value

MAX_LONG: Final = 2**63 - 1
MIN_LONG: Final = -(2**63)


class Kind(StrEnum):
    """Types of Cedar that fields have."""

    BOOL = "Bool"
    LONG = "Long"
    STRING = "String"
    SET = "Set<String>"


@dataclass(frozen=True, slots=True)
class Field:
    """One field; `tells` is what it says, for the documentation. `default` None: only there if it is known."""

    kind: Kind
    tells: str
    default: Value | None = None


PRINCIPALS: Final = ("Key", "User", "Workload", "Agent")
"""Who asks: an API key, a person, a program with a SPIFFE ID, an agent that acts on a delegation or by its own name."""

PRINCIPAL: Final[Mapping[str, Field]] = {
    "subject": Field(Kind.STRING, "in full: key:laptop, user:ISSUER#ID, a SPIFFE ID, local", ""),
    "tenant": Field(Kind.STRING, "its tenant", ""),
    "key": Field(Kind.STRING, "name of the key that was shown"),
    "user": Field(Kind.STRING, "whom its requests are for"),
    "agent": Field(Kind.STRING, "name of the agent"),
    "workload": Field(Kind.STRING, "SPIFFE ID of the program that called"),
    "scopes": Field(Kind.SET, "what its credential may be used for", ()),
    "tags": Field(Kind.SET, "what its spending is counted under", ()),
    "labels": Field(Kind.SET, "what every one of its requests holds", ()),
    "is_delegated": Field(Kind.BOOL, "it acts on somebody else's authority", True),
    "depth": Field(Kind.LONG, "how often that was handed on", 0),
    "chain": Field(Kind.SET, "through whom", ()),
}

MODEL: Final[Mapping[str, Field]] = {"name": Field(Kind.STRING, "the name that is asked for", "")}
TARGET: Final[Mapping[str, Field]] = {
    "backend": Field(Kind.STRING, "name of the backend; local: this process's engine", ""),
    "model": Field(Kind.STRING, "what the backend calls the model", ""),
    "region": Field(Kind.STRING, "where the backend keeps what it is sent", ""),
    "retention": Field(Kind.STRING, "how long it does", ""),
    "clearance": Field(Kind.SET, "labels that it may see", ()),
}
TOOL: Final[Mapping[str, Field]] = {
    "name": Field(Kind.STRING, "its name", ""),
    "effect": Field(Kind.STRING, "read, write or egress", "egress"),
    "manifest": Field(Kind.STRING, "digest of its declaration", ""),
    "is_pinned": Field(Kind.BOOL, "a declaration of it was approved", False),
    "is_changed": Field(Kind.BOOL, "and this is another one", False),
}

MOMENT: Final[Mapping[str, Field]] = {
    "minute": Field(Kind.LONG, "of the day in UTC, 0 to 1439", 0),
    "weekday": Field(Kind.LONG, "in UTC, 1 is Monday", 0),
}
_READ: Final[Mapping[str, Field]] = {
    "labels": Field(Kind.SET, "of the request and of its principal", ()),
    "session": Field(Kind.STRING, "the conversation that it belongs to"),
}
_LABELLED: Final[Mapping[str, Field]] = {
    "integrity": Field(Kind.LONG, "of all that the model reads: 0 unknown, 1 tool, 2 user, 3 operator"),
    "confidentiality": Field(Kind.LONG, "of all that the model reads: 0 public, 1 tenant, 2 secret"),
}
_SIZED: Final[Mapping[str, Field]] = {
    "task": Field(Kind.STRING, "generate, embed, score or count", ""),
    "needs": Field(Kind.SET, "what not every model can do: tools, schema, vision, logprobs, ...", ()),
    "tags": Field(Kind.SET, "what it is counted under", ()),
    "is_stream": Field(Kind.BOOL, "the answer is streamed", False),
    "prompt_tokens": Field(Kind.LONG, "at most so many", MAX_LONG),
    "max_tokens": Field(Kind.LONG, "of the answer, if the request says so"),
    "left_nanos": Field(Kind.LONG, "what is left of its delegation's budget, billionths"),
    "left_calls": Field(Kind.LONG, "requests that are left of its delegation's"),
}
REQUEST_CONTEXT: Final[Mapping[str, Field]] = {**MOMENT, **_READ, **_LABELLED, **_SIZED}
ROUTE_CONTEXT: Final[Mapping[str, Field]] = {
    **REQUEST_CONTEXT,
    "tokens": Field(Kind.LONG, "of prompt and answer at most"),
    "cost_nanos": Field(Kind.LONG, "what it can cost there at most, billionths; 0 where no price is known"),
}
TOOL_CONTEXT: Final[Mapping[str, Field]] = {
    **MOMENT,
    **_READ,
    "integrity": Field(Kind.LONG, _LABELLED["integrity"].tells, int(Integrity.UNKNOWN)),
    "confidentiality": Field(Kind.LONG, _LABELLED["confidentiality"].tells, int(Confidentiality.SECRET)),
    "sources": Field(Kind.SET, "who wrote what the model reads: operator, user, tool:NAME, unknown", ("unknown",)),
    "untrusted_arguments": Field(
        Kind.SET, "names of security-relevant arguments whose values are not from trusted text", ("*",)
    ),
    "endorsed_arguments": Field(
        Kind.SET, "names of those that would be among them, but for somebody with the right to endorse values", ()
    ),
    "depth": Field(Kind.LONG, "how many agents the call was handed through", 0),
    "calls": Field(Kind.LONG, "tool calls of this conversation so far", 0),
    "verdicts": Field(Kind.SET, "names of the monitors that raised something", ()),
    "is_endorsed": Field(Kind.BOOL, "somebody with the right to do so let this very call pass", False),
    "model": Field(Kind.STRING, "the model that calls it"),
}


@dataclass(frozen=True, slots=True)
class Action:
    """What can be asked: the kind of its resource, and the fields of both."""

    resource: str
    attributes: Mapping[str, Field]
    context: Mapping[str, Field]


ACTION_TABLE: Final[Mapping[str, Action]] = {
    "request": Action("Model", MODEL, REQUEST_CONTEXT),
    "route": Action("Target", TARGET, ROUTE_CONTEXT),
    "tool": Action("Tool", TOOL, TOOL_CONTEXT),
}


class UnknownField(ValueError):
    """A question has a field that there is none of, or one of another type; the text names it."""


def conform(given: Mapping[str, Value], fields: Mapping[str, Field], what: str) -> dict[str, Any]:
    """The values of a record as Cedar's JSON has them, with what was left out. Raises UnknownField."""
    record: dict[str, Any] = {}
    for name, value in given.items():
        field = fields.get(name)
        if field is None:
            raise UnknownField(f"{what} has no field {name[:80]!r}; known are {', '.join(fields)}")
        record[name] = _value(value, field.kind, f"{what}.{name}")
    for name, field in fields.items():
        if name not in record and field.default is not None:
            record[name] = _value(field.default, field.kind, name)
    return record


def _value(value: Value, kind: Kind, name: str) -> Any:
    match kind:
        case Kind.SET:
            if isinstance(value, (tuple, list, set, frozenset)) and all(isinstance(one, str) for one in value):
                return sorted(set(value))
        case Kind.LONG:
            # IntEnum and int; a bool is an int and is none here. Cedar's Long has 64 bits.
            if isinstance(value, int) and not isinstance(value, bool) and MIN_LONG <= value <= MAX_LONG:
                return int(value)
        case Kind.BOOL:
            if isinstance(value, bool):
                return value
        case Kind.STRING:
            if isinstance(value, str):
                return str(value)
    raise UnknownField(f"{name} is {repr(value)[:80]}, which is no {kind}")


def _record(fields: Mapping[str, Field], indent: str) -> str:
    lines = [
        f"{indent}    {name}{'?' if field.default is None else ''}: {field.kind},  // {field.tells}"
        for name, field in fields.items()
    ]
    return "{\n" + "\n".join(lines) + f"\n{indent}}}"


def write_schema() -> str:
    """The schema in Cedar's own words, as `headrace policy schema` prints it."""
    blocks = [
        "entity Tenant;",
        "entity Group in [Group];",
        # An agent is in whoever it acts for: what that one is forbidden, its agents are.
        f"entity Key, User, Workload, Agent in [Tenant, Group, Key, User, Workload, Agent] "
        f"= {_record(PRINCIPAL, '')} tags String;",
    ]
    blocks += [f"entity {action.resource} = {_record(action.attributes, '')};" for action in ACTION_TABLE.values()]
    blocks += [
        f"action {name} appliesTo {{\n"
        f"    principal: [{', '.join(PRINCIPALS)}],\n"
        f"    resource: [{action.resource}],\n"
        f"    context: {_record(action.context, '    ')},\n}};"
        for name, action in ACTION_TABLE.items()
    ]
    return "\n\n".join(blocks) + "\n"
