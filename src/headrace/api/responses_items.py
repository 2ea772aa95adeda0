"""Items of a conversation: from the wire to the form that is kept, and from there to the messages of a neutral request.

An item is kept as the wire shows it, with its id and with its content as a list of parts; what is asked of a model is
made from kept items each time. Parts that carry no text are refused by name, as the models served here read none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn

import msgspec

from headrace.api.openai_refusal import refuse_field, refuse_inert, show
from headrace.api.responses_cache import CacheWish, breakpoints, ttl_s
from headrace.api.responses_fields import (
    INERT_CALL,
    ITEMS,
    CallOutputItem,
    CompactionItem,
    CustomCallItem,
    FunctionCallItem,
    ItemPart,
    MessageItem,
    ReasoningItem,
    ReferenceItem,
)
from headrace.api.responses_seal import open_seal, sealed_confidentiality
from headrace.api.responses_service import Item, qualified
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import Message, Request, Role, TextPart, ToolCall
from headrace.core.trust import Integrity, Label

ROLES: Final = ("user", "assistant", "system", "developer")
_STATUSES: Final = ("in_progress", "completed", "incomplete")
# `type` -> how ids of such items begin.
ID_PREFIXES: Final = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "compaction": "cmp",
}
CALLS: Final = ("function_call", "custom_tool_call")
RESULTS: Final = ("function_call_output", "custom_tool_call_output")
_SUMMARY: Final = "Summary of the conversation so far:\n\n"

NewId = Callable[[str], str]


def read_items(given: str | Sequence[Any] | None, data: bytes, path: str, new_id: NewId) -> tuple[Item, ...]:
    """The items of a body; a string is what the user says.

    `data` is the body, for refusals that show a value; `new_id(prefix)` names items that have no id. Raises
    InvalidRequest or UnsupportedField with the path of what is wrong.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return tuple(_read(item, data, f"{path}[{index}]", new_id) for index, item in enumerate(given))


def _read(item: Any, data: bytes, path: str, new_id: NewId) -> Item:
    if not isinstance(item, dict):
        raise InvalidRequest(f"{path}: {show(item)} given, but an object is needed.", param=path, code="invalid_type")
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item or "id" not in item else "item_reference"
    struct = ITEMS.get(kind) if isinstance(kind, str) else None
    if struct is None:
        raise UnsupportedField(
            f"{path}.type: {show(kind)} is not supported; send items of type {', '.join(ITEMS)}.", param=f"{path}.type"
        )
    try:
        read = msgspec.convert(item, struct)
    except (msgspec.ValidationError, RecursionError) as error:
        refuse_field(error, data, path)
    return _KEEP[struct](read, kind, path, new_id)


def _keep_message(item: MessageItem, kind: str, path: str, new_id: NewId) -> Item:
    if item.role not in ROLES:
        raise InvalidRequest(
            f"{path}.role: {show(item.role)} is no role; use {', '.join(ROLES)}.", param=f"{path}.role"
        )
    says = "output_text" if item.role == "assistant" else "input_text"
    content = [ItemPart("input_text", item.content)] if isinstance(item.content, str) else item.content
    parts = [_keep_part(part, says, f"{path}.content[{index}]") for index, part in enumerate(content)]
    kept = _named(item, kind, path, new_id) | {"role": item.role, "content": parts}
    if item.phase is not None:
        if item.phase not in ("commentary", "final_answer"):
            raise InvalidRequest(
                f"{path}.phase: {show(item.phase)} is none; use commentary or final_answer.", param=f"{path}.phase"
            )
        kept["phase"] = item.phase
    return kept


def _keep_part(part: ItemPart, says: str, path: str) -> dict[str, Any]:
    if part.type == "refusal" and says == "output_text":
        if part.refusal is None:
            _missing(f"{path}.refusal", "refusal")
        return {"type": "refusal", "refusal": part.refusal}
    if part.type not in ("input_text", "output_text"):
        raise UnsupportedField(
            f"{path}.type: {show(part.type)} is not supported by the models served here; send parts of type {says!r}.",
            param=f"{path}.type",
        )
    if part.text is None:
        _missing(f"{path}.text", part.type)
    kept: dict[str, Any] = {"type": says, "text": part.text}
    if says == "output_text":
        kept |= {"annotations": part.annotations or [], "logprobs": part.logprobs or []}
    mark = part.prompt_cache_breakpoint
    if mark is not None:
        if mark.mode not in (None, "explicit"):
            where = f"{path}.prompt_cache_breakpoint.mode"
            raise UnsupportedField(f"{where}: {show(mark.mode)} is not supported; send 'explicit'.", param=where)
        ttl_s(mark.ttl, f"{path}.prompt_cache_breakpoint.ttl")
        kept["prompt_cache_breakpoint"] = {"mode": "explicit"} | ({} if mark.ttl is None else {"ttl": mark.ttl})
    return kept


def _keep_call(item: FunctionCallItem | CustomCallItem, kind: str, path: str, new_id: NewId) -> Item:
    refuse_inert(item, INERT_CALL, f"{path}.")
    kept = _named(item, kind, path, new_id) | {"call_id": item.call_id, "name": item.name}
    if isinstance(item, FunctionCallItem):
        kept["arguments"] = item.arguments
    else:
        kept["input"] = item.input
    if item.namespace is not None:
        kept["namespace"] = item.namespace
    return kept


def _keep_output(item: CallOutputItem, kind: str, path: str, new_id: NewId) -> Item:
    refuse_inert(item, {"caller": INERT_CALL["caller"]}, f"{path}.")
    output: Any = item.output
    if not isinstance(output, str):
        output = [_keep_part(part, "input_text", f"{path}.output[{index}]") for index, part in enumerate(output)]
    return _named(item, kind, path, new_id) | {"call_id": item.call_id, "output": output}


def _keep_reasoning(item: ReasoningItem, kind: str, path: str, new_id: NewId) -> Item:
    kept = _named(item, kind, path, new_id)
    kept["summary"] = _keep_thoughts(item.summary, "summary_text", f"{path}.summary")
    if item.content is not None:
        kept["content"] = _keep_thoughts(item.content, "reasoning_text", f"{path}.content")
    if item.encrypted_content is not None:
        kept["encrypted_content"] = item.encrypted_content
        open_seal(item.encrypted_content, "reasoning", f"{path}.encrypted_content")
    return kept


def _keep_thoughts(parts: Sequence[ItemPart], kind: str, path: str) -> list[dict[str, Any]]:
    for index, part in enumerate(parts):
        if part.type != kind:
            where = f"{path}[{index}].type"
            raise UnsupportedField(f"{where}: {show(part.type)} is not supported; send {kind!r}.", param=where)
        if part.text is None:
            _missing(f"{path}[{index}].text", kind)
    return [{"type": kind, "text": part.text} for part in parts]


def _keep_compaction(item: CompactionItem, kind: str, path: str, new_id: NewId) -> Item:
    open_seal(item.encrypted_content, "summary", f"{path}.encrypted_content")
    return {"id": item.id or new_id(ID_PREFIXES[kind]), "type": kind, "encrypted_content": item.encrypted_content}


def _keep_reference(item: ReferenceItem, kind: str, path: str, new_id: NewId) -> Item:
    return {"type": kind, "id": item.id}


_KEEP: Final[Mapping[type[msgspec.Struct], Callable[[Any, str, str, NewId], Item]]] = {
    MessageItem: _keep_message,
    FunctionCallItem: _keep_call,
    CustomCallItem: _keep_call,
    CallOutputItem: _keep_output,
    ReasoningItem: _keep_reasoning,
    CompactionItem: _keep_compaction,
    ReferenceItem: _keep_reference,
}


def _named(item: Any, kind: str, path: str, new_id: NewId) -> dict[str, Any]:
    if item.status not in (None, *_STATUSES):
        raise InvalidRequest(
            f"{path}.status: {show(item.status)} is none; use {', '.join(_STATUSES)}.", param=f"{path}.status"
        )
    return {"id": item.id or new_id(ID_PREFIXES[kind]), "type": kind, "status": item.status or "completed"}


def _missing(path: str, kind: str) -> NoReturn:
    raise InvalidRequest(
        f"{path}: is missing; a part of type {kind!r} needs it.", param=path, code="missing_required_parameter"
    )


@dataclass(slots=True)
class _Turns:
    """Messages so far, and the assistant's turn that is still open: thoughts, then text, then calls."""

    messages: list[Message] = field(default_factory=list)
    marks: list[tuple[int, str | None]] = field(default_factory=list)
    reasoning: str = ""
    parts: list[TextPart] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    mark: Mapping[str, Any] | None = None
    label: Label | None = None
    worth: Mapping[str, Label] = field(default_factory=dict)

    def close(self) -> None:
        if self.reasoning or self.parts or self.calls:
            said = Message(
                role=Role.ASSISTANT,
                parts=tuple(self.parts),
                tool_calls=tuple(self.calls),
                reasoning=self.reasoning,
                label=self.label,
            )
            self.add(said, self.mark)
            self.reasoning, self.parts, self.calls, self.mark, self.label = "", [], [], None, None

    def add(self, message: Message, mark: Mapping[str, Any] | None = None) -> None:
        if mark is not None:
            self.marks.append((len(self.messages), mark.get("ttl")))
        self.messages.append(message)

    def take(self, item: Item) -> None:
        kind, label = item["type"], self.worth.get(item["id"])
        if kind == "reasoning":
            if self.parts or self.calls:
                self.close()
            self.reasoning += _thoughts(item)
            self._lower(label)
        elif kind in CALLS:
            self.calls.append(_call(item))
            self._lower(label)
        elif kind == "message" and item["role"] == "assistant":
            if self.parts or self.calls:
                self.close()
            self.parts = list(_texts(item["content"]))
            self.mark = _mark(item["content"])
            self._lower(label)
        else:
            self.close()
            self._take_alone(kind, item, label)

    def _take_alone(self, kind: str, item: Item, label: Label | None) -> None:
        if kind == "compaction":
            summary = open_seal(item["encrypted_content"], "summary", "compaction")
            known = sealed_confidentiality(item["encrypted_content"], "summary", "compaction")
            if known is not None:
                sealed = Label(Integrity.UNKNOWN, known)
                label = sealed if label is None else label.join(sealed)
            parts: tuple[TextPart, ...] = (TextPart(_SUMMARY + summary),)
            self.add(Message(role=Role.ASSISTANT, parts=parts, is_summary=True, label=label))
        elif kind == "message":
            said = Message(role=Role(item["role"]), parts=_texts(item["content"]), label=label)
            self.add(said, _mark(item["content"]))
        else:
            output = item["output"]
            parts = (TextPart(output),) if isinstance(output, str) else _texts(output)
            said = Message(role=Role.TOOL, parts=parts, tool_call_id=item["call_id"], label=label)
            self.add(said, None if isinstance(output, str) else _mark(output))

    def _lower(self, label: Label | None) -> None:
        """A turn of several items is worth the least of them."""
        if label is not None:
            self.label = label if self.label is None else self.label.join(label)


def is_read(item: Item) -> bool:
    """Whether an item's text can be of what a model has read: everybody's but the user's and the system's own."""
    return not (item["type"] == "message" and item["role"] != "assistant")


def complete(
    request: Request,
    instructions: str | None,
    items: Sequence[Item],
    wish: CacheWish,
    worth: Mapping[str, Label] | None = None,
) -> Request:
    """The request with its messages: instructions first, then what the items say; `worth` is what items were labelled
    with where they were kept, by id. Raises InvalidRequest."""
    # A call that was cut off in the middle was not made.
    items = [item for item in items if not (item["type"] in CALLS and item["status"] == "incomplete")]
    _check_outputs(items)
    turns = _Turns(worth=worth or {})
    if instructions:
        turns.add(Message(role=Role.SYSTEM, parts=(TextPart(instructions),)))
    for item in items:
        turns.take(item)
    turns.close()
    points = breakpoints(wish, turns.marks)
    return replace(request, messages=tuple(turns.messages), cache=replace(request.cache, breakpoints=points))


def _check_outputs(items: Sequence[Item]) -> None:
    """Raise InvalidRequest for the output of a call that nobody made."""
    called: set[str] = set()
    for item in items:
        if item["type"] in CALLS:
            called.add(item["call_id"])
        elif item["type"] in RESULTS and item["call_id"] not in called:
            raise InvalidRequest(
                f"input: no tool call found for the output of call_id {show(item['call_id'])}; send the call before "
                "it, or continue the response that made it.",
                param="input",
            )


def _thoughts(item: Item) -> str:
    told = item.get("content")
    if not told and item.get("encrypted_content"):
        return open_seal(item["encrypted_content"], "reasoning", "reasoning")
    return "".join(part["text"] for part in told or item["summary"])


def _call(item: Item) -> ToolCall:
    arguments = item.get("arguments")
    if arguments is None:
        arguments = msgspec.json.encode({"input": item["input"]}).decode()
    return ToolCall(id=item["call_id"], name=qualified(item["name"], item.get("namespace")), arguments=arguments)


def _texts(parts: Sequence[Mapping[str, Any]]) -> tuple[TextPart, ...]:
    return tuple(TextPart(part["refusal"] if part["type"] == "refusal" else part["text"]) for part in parts)


def _mark(parts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((part["prompt_cache_breakpoint"] for part in parts if "prompt_cache_breakpoint" in part), None)
