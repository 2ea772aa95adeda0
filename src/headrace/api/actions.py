"""What administrators did: `GET /v1/admin/actions`, and what is remembered of a body. Ours, in the shape of OpenAI's
lists.

Of a body only those fields are remembered that the route's row in the OpenAPI document names, cut to a bounded length
and never a secret or what a tenant's requests hold: an unknown field may be a key that somebody pasted into the wrong
place. Knows no book.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from headrace.core.actions import ActionPage, ActionQuery, AdminAction, Outcome
from headrace.core.errors import InvalidRequest, UnsupportedField

MAX_PAGE: Final = 1000
MAX_TEXT: Final = 200
MAX_LISTED: Final = 50
MAX_ASKED: Final = 4096
HIDDEN: Final = "(hidden)"
# `value` is what a tenant's tool is called with, which is that tenant's; the list is for everybody who observes.
_SECRETS: Final = frozenset({"secret", "password", "token", "api_key", "authorization", "credential", "value"})
# The last are JSON Web Tokens: `{"` in base64.
_KEY: Final = re.compile(r"hr_[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9_-]{16,}|-----BEGIN|eyJ[A-Za-z0-9_-]{16,}")
# What names that to which something is done, in bodies; the first that is there counts.
_NAMING: Final = ("name", "model", "lora_name", "account", "call_id", "ids")
_KNOWN: Final = ("limit", "after", "who", "action", "target", "outcome")


class WhoAnswer(msgspec.Struct):
    """Who acted. `key` is what logs call a credential."""

    tenant: str
    subject: str
    key: str | None
    through: Literal["api", "console", "cli", "signal"]


class ActionAnswer(msgspec.Struct):
    """An action; times are Unix seconds. `begun_index` and `ended_index` are entries of the transparency log."""

    object: Literal["admin.action"]
    id: str
    number: int
    begun: float
    ended: float | None
    who: WhoAnswer
    action: str
    target: str
    asked: dict[str, Any]
    outcome: Literal["begun", "done", "refused", "failed", "unknown"]
    code: str | None
    request_id: str
    begun_index: int | None
    ended_index: int | None
    is_erased: bool


class ActionAnswerList(msgspec.Struct):
    """Actions, newest first; `last` is what the next page comes after."""

    object: Literal["list"]
    data: list[ActionAnswer]
    has_more: bool
    last: int | None


QUERY: Final[dict[str, Any]] = {
    "limit": Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)],
    "after": Annotated[int, msgspec.Meta(ge=1)],
    "who": str,
    "action": str,
    "target": str,
    "outcome": Literal["begun", "done", "refused", "failed", "unknown"],
}


def read_query(given: Mapping[str, Sequence[str]]) -> ActionQuery:
    """What a query string asks for. Raises InvalidRequest naming the field."""
    for name, values in given.items():
        if name not in _KNOWN:
            raise UnsupportedField(
                f"{name[:100]}: is not known here; possible are {', '.join(_KNOWN)}.", param=name[:100]
            )
        if len(values) > 1:
            raise InvalidRequest(f"{name}: is given {len(values)} times; give it once.", param=name)
    query = {name: values[0] for name, values in given.items()}
    outcome = query.get("outcome")
    if outcome is not None and outcome not in set(Outcome):
        raise InvalidRequest(f"outcome: {outcome[:100]!r} is none; there are {', '.join(Outcome)}.", param="outcome")
    return ActionQuery(
        limit=_whole(query, "limit", 100, MAX_PAGE),
        after=_whole(query, "after", 1, 2**63 - 1) if "after" in query else None,
        who=query.get("who"),
        name=query.get("action"),
        target=query.get("target"),
        outcome=None if outcome is None else Outcome(outcome),
    )


def encode_actions(page: ActionPage) -> bytes:
    """A page of actions."""
    last = page.actions[-1].number if page.actions else None
    return msgspec.json.encode(ActionAnswerList("list", [_answer(one) for one in page.actions], page.has_more, last))


def read_asked(kind: Any, params: Mapping[str, str], body: bytes) -> tuple[str, dict[str, Any]]:
    """What a change is made to, and what is remembered of its body, which is of the type `kind`; None: it has none."""
    known = {one.encode_name for one in msgspec.structs.fields(kind)} if _is_struct(kind) else set()
    asked = _asked(body, known)
    named = next((asked[name] for name in _NAMING if name in asked), None)
    if isinstance(named, list):
        named = named[0] if named else None
    if params:
        return "/".join(_text(one) for one in params.values()), asked
    return named if isinstance(named, str) else "", asked


def cut_asked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as they are remembered: without secrets, and cut; the last ones left out where they are too long
    together."""
    kept: dict[str, Any] = {}
    left = MAX_ASKED
    for name, value in fields.items():
        shown = HIDDEN if name in _SECRETS and value is not None else _shown(value, 3)
        left -= len(msgspec.json.encode({name: shown}))
        if left < 0:
            kept["..."] = "(cut)"
            break
        kept[name] = shown
    return kept


def _asked(body: bytes, known: set[str]) -> dict[str, Any]:
    if not body:
        return {}
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return {"...": "(not JSON)"}
    if not isinstance(fields, dict):
        return {"...": "(not an object)"}
    named = {name: value for name, value in fields.items() if name in known}
    asked = cut_asked(named)
    if len(named) < len(fields):
        asked["..."] = f"({len(fields) - len(named)} unknown)"
    return asked


def _shown(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth == 0:
        return "..."
    if isinstance(value, Mapping):
        inner = {_text(str(name)): one for name, one in list(value.items())[:MAX_LISTED]}
        return {
            name: HIDDEN if name in _SECRETS and one is not None else _shown(one, depth - 1)
            for name, one in inner.items()
        }
    listed = [_shown(one, depth - 1) for one in list(value)[:MAX_LISTED]]
    return listed if len(value) <= MAX_LISTED else [*listed, "..."]


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _text(text: str) -> str:
    return HIDDEN if _KEY.search(text) else _cut(text)


def _cut(text: str) -> str:
    whole = text.encode("utf-8", "replace").decode()  # half a character has no place in a database
    return whole if len(whole) <= MAX_TEXT else whole[: MAX_TEXT - 3] + "..."


def _answer(one: AdminAction) -> ActionAnswer:
    begun, actor = one.begun, one.begun.actor
    return ActionAnswer(
        object="admin.action",
        id=one.id,
        number=one.number,
        begun=one.begun_s,
        ended=one.ended_s,
        who=WhoAnswer(actor.tenant, actor.subject, actor.key, actor.through.value),
        action=begun.name,
        target=begun.target,
        asked=dict(begun.asked),
        outcome=one.outcome.value,
        code=one.code,
        request_id=begun.request_id,
        begun_index=one.begun_index,
        ended_index=one.ended_index,
        is_erased=one.is_erased,
    )


def _whole(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise InvalidRequest(f"{name}: {text[:100]!r} is not a whole number in [1, {most}].", param=name)
    return int(text)
