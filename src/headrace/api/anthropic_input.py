"""The conversation: Anthropic's turns of blocks become neutral messages, in the order in which a model reads them.

    system (text)                         -> one system message, the first
    user: tool_result*, then text ...     -> one tool message for each result, then one user message
    assistant: thinking, text, tool_use   -> one assistant message with reasoning, text and calls
    assistant, last                       -> what the answer begins with
    system, between the turns             -> a system message where it stands

Turns of one role that follow each other are one turn. Text blocks of a user are lines of one text; those of an
assistant are put together as they were said. A cache mark on a block becomes that of the message it lies in: what is
kept begins with everything up to the block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import msgspec

from headrace.api.anthropic_cache import Mark, Marks
from headrace.api.anthropic_fields import INERT_BLOCK, INERT_SYSTEM_MESSAGE, Block, ContextManagement, PromptBody, Turn
from headrace.api.anthropic_thinking import unseal
from headrace.api.openai_refusal import refuse_inert, show
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import Message, Role, TextPart, ToolCall

MAX_MESSAGES: Final = 100_000

# Claude Code's first system block tells its maker's servers who calls. It changes from one release to the next and is
# not meant for the model; what follows it would be cached anew each time.
_BILLING: Final = "x-anthropic-billing-header:"

_KINDS: Final = {
    "user": ("text", "document", "search_result", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
_RESULT_KINDS: Final = ("text", "document", "search_result", "tool_reference")
_QUOTES: Final = ("document", "search_result")
_NEED_EYES: Final = ("image", "document")

_Value = TypeVar("_Value")


@dataclass(slots=True)
class Conversation:
    """What came of the turns: messages, where cache marks lie among them, tools that results have named, and what the
    answer begins with."""

    messages: list[Message] = field(default_factory=list)
    answer_start: str = ""
    marks: Marks = field(default_factory=Marks)
    referenced: dict[str, None] = field(default_factory=dict)  # in their order

    def mark(self, block: Block, path: str, message: int) -> None:
        """Note a block's cache mark, if it has one, as that of a message."""
        if block.cache_control is not None:
            self.marks.add(Mark(block.cache_control, message, f"{path}.cache_control"))


@dataclass(frozen=True, slots=True)
class _Placed:
    block: Block
    path: str


@dataclass(slots=True)
class _Turn:
    """Messages of one role that follow each other."""

    role: str
    path: str
    blocks: list[_Placed] = field(default_factory=list)


def conversation(body: PromptBody, marks: Marks) -> Conversation:
    """The messages of a body; `marks` already holds those of its tools. Raises InvalidRequest and UnsupportedField."""
    if not 1 <= len(body.messages) <= MAX_MESSAGES:
        raise InvalidRequest(f"messages: {len(body.messages)} given; give 1 to {MAX_MESSAGES}.", param="messages")
    made = Conversation(marks=marks)
    _add_system(body.system, made)
    turns = list(_turns(body.messages))
    start = turns.pop() if turns[-1].role == "assistant" else None
    clear_before = _thinking_kept_from(body.context_management, turns)
    open_calls: dict[str, str] = {}  # id of a call that waits for its result -> where it stands
    for index, turn in enumerate(turns):
        if turn.role == "assistant":
            _refuse_unanswered(open_calls)
            _add_assistant(turn, made, forgets=index < clear_before, open_calls=open_calls)
        elif turn.role == "user":
            _add_user(turn, made, open_calls)
        else:
            _add_text(turn, made, Role.SYSTEM)
    _refuse_unanswered(open_calls)
    if start is not None:
        _add_start(start, made)
    return made


def _add_start(turn: _Turn, made: Conversation) -> None:
    """What the assistant has said already (prefill): the answer goes on from there."""
    if not made.messages:
        raise InvalidRequest("messages: there is nothing to be answered; give a user message.", param="messages")
    for one in turn.blocks:
        if one.block.type != "text":
            raise _wrong_kind(one.block, one.path, ("text",))
        # What is kept ends with what the template says before the answer.
        made.mark(one.block, one.path, len(made.messages) - 1)
    text = "".join(_needed(one, "text", one.block.text) for one in turn.blocks)
    if text != text.rstrip():
        raise InvalidRequest(
            f"{turn.path}.content: ends in white space, which would be a token of its own; leave it off.",
            param=f"{turn.path}.content",
        )
    made.answer_start = text


def _add_system(system: str | list[Block] | None, made: Conversation) -> None:
    blocks = [Block("text", system)] if isinstance(system, str) else system or []
    placed = [_Placed(block, f"system[{index}]") for index, block in enumerate(blocks)]
    for one in placed:
        _check(one, "system")
    told = [one for one in placed if one.block.text and not one.block.text.startswith(_BILLING)]
    for one in told:
        made.mark(one.block, one.path, 0)
    if told:
        made.messages.append(Message(Role.SYSTEM, _lines([_text(one) for one in told])))


def _turns(messages: list[Turn]) -> Iterator[_Turn]:
    turn: _Turn | None = None
    last_user = max((index for index, one in enumerate(messages) if one.role == "user"), default=-1)
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if message.role not in _KINDS:
            raise InvalidRequest(
                f"{path}.role: {show(message.role)} is no role; use {', '.join(_KINDS)}.", param=f"{path}.role"
            )
        if _is_cleared(message, path, index < last_user):
            continue
        if turn is None or turn.role != message.role:
            if turn is not None:
                yield turn
            turn = _Turn(message.role, path)
        turn.blocks += _blocks(message, path)
    if turn is None:
        raise InvalidRequest("messages: nothing is left to be read; give a user message.", param="messages")
    yield turn


def _is_cleared(message: Turn, path: str, has_later_user: bool) -> bool:
    """Whether a system message was meant for an earlier turn only."""
    if message.role != "system":
        for name in ("clear_at", "output_config"):
            if getattr(message, name) is not None:
                raise InvalidRequest(f"{path}.{name}: only goes with role 'system'.", param=f"{path}.{name}")
        return False
    refuse_inert(message, INERT_SYSTEM_MESSAGE, f"{path}.")
    if message.clear_at not in (None, "never", "next_user_message"):
        raise InvalidRequest(
            f"{path}.clear_at: {show(message.clear_at)} is not known; use never or next_user_message.",
            param=f"{path}.clear_at",
        )
    return message.clear_at == "next_user_message" and has_later_user


def _blocks(message: Turn, path: str) -> list[_Placed]:
    content = message.content
    if isinstance(content, str):
        return [_Placed(Block("text", content), path)]
    # What came back as an empty answer may be sent as one.
    if not content and message.role != "assistant":
        raise InvalidRequest(
            f"{path}.content: is missing or empty; give a string or a list of blocks.", param=f"{path}.content"
        )
    placed = [_Placed(block, f"{path}.content[{index}]") for index, block in enumerate(content or [])]
    for one in placed:
        _check(one, message.role)
    return placed


def _check(placed: _Placed, role: str) -> None:
    """Refuse a block that does not go with its role, or has what it may not have."""
    block, path = placed.block, placed.path
    if block.type not in _KINDS[role]:
        raise _wrong_kind(block, path, _KINDS[role])
    refuse_inert(block, INERT_BLOCK, f"{path}.")
    if block.cache_control is not None and block.type in ("thinking", "redacted_thinking"):
        raise InvalidRequest(
            f"{path}.cache_control: thinking cannot be marked; mark the block before or after it.",
            param=f"{path}.cache_control",
        )


def _wrong_kind(block: Block, path: str, kinds: Sequence[str]) -> InvalidRequest:
    why = "needs a model that sees, and those served here read text" if block.type in _NEED_EYES else "is not supported"
    return UnsupportedField(f"{path}.type: {show(block.type)} {why}; send {', '.join(kinds)}.", param=f"{path}.type")


def _add_user(turn: _Turn, made: Conversation, open_calls: dict[str, str]) -> None:
    results = [one for one in turn.blocks if one.block.type == "tool_result"]
    said = [one for one in turn.blocks if one.block.type != "tool_result"]
    if results and turn.blocks[: len(results)] != results:
        late = next(one for one, due in zip(turn.blocks, results, strict=False) if one is not due)
        raise InvalidRequest(
            f"{late.path}: results of tools come first in a turn; put other blocks behind them.", param=late.path
        )
    for one in results:
        call_id = _needed(one, "tool_use_id", one.block.tool_use_id)
        if call_id not in open_calls:
            raise InvalidRequest(
                f"{one.path}.tool_use_id: {show(call_id)} answers no tool_use of the turn before; send each result "
                "once, right after its call.",
                param=f"{one.path}.tool_use_id",
            )
        del open_calls[call_id]
        made.mark(one.block, one.path, len(made.messages))
        made.messages.append(Message(Role.TOOL, _result(one, made), tool_call_id=call_id))
    _refuse_unanswered(open_calls)
    if said:
        _add_text(_Turn("user", turn.path, said), made, Role.USER)


def _add_text(turn: _Turn, made: Conversation, role: Role) -> None:
    for one in turn.blocks:
        made.mark(one.block, one.path, len(made.messages))
    lines = _lines([_text(one) for one in turn.blocks])
    parts = tuple(
        replace(part, is_quoted=True) if one.block.type in _QUOTES else part
        for part, one in zip(lines, turn.blocks, strict=True)
    )
    if not any(part.text for part in parts):
        raise InvalidRequest(f"{turn.path}.content: has no text; give some.", param=f"{turn.path}.content")
    made.messages.append(Message(role, parts))


def _add_assistant(turn: _Turn, made: Conversation, *, forgets: bool, open_calls: dict[str, str]) -> None:
    thoughts: list[str] = []
    parts: list[TextPart] = []
    calls: list[ToolCall] = []
    for one in turn.blocks:
        block = one.block
        made.mark(block, one.path, len(made.messages))
        if block.type == "text":
            parts.append(TextPart(_needed(one, "text", block.text)))
        elif block.type == "thinking":
            text, signature = _needed(one, "thinking", block.thinking), _needed(one, "signature", block.signature)
            thoughts.append(unseal(text, signature, one.path))
        elif block.type == "tool_use":
            call = _call(one)
            if call.id in open_calls:
                raise InvalidRequest(
                    f"{one.path}.id: {show(call.id)} is used twice; each call has an id of its own.",
                    param=f"{one.path}.id",
                )
            open_calls[call.id] = one.path
            calls.append(call)
        else:  # redacted_thinking: nobody but its author can read it
            _needed(one, "data", block.data)
    reasoning = "" if forgets else "".join(thoughts)
    made.messages.append(Message(Role.ASSISTANT, tuple(parts), tool_calls=tuple(calls), reasoning=reasoning))


def _call(placed: _Placed) -> ToolCall:
    block = placed.block
    arguments = _needed(placed, "input", block.input)
    return ToolCall(
        _needed(placed, "id", block.id),
        _needed(placed, "name", block.name),
        msgspec.json.encode(arguments).decode(),
    )


def _refuse_unanswered(open_calls: dict[str, str]) -> None:
    for call_id, path in open_calls.items():
        raise InvalidRequest(
            f"{path}: the call {show(call_id)} has no tool_result in the turn after it; send one for each call.",
            param=path,
        )


def _result(placed: _Placed, made: Conversation) -> tuple[TextPart, ...]:
    """What a tool said. That it failed is said before it, as there is no other place for it."""
    content = placed.block.content
    blocks = [Block("text", content)] if isinstance(content, str) else content or []
    texts = ["Error:"] if placed.block.is_error else []
    for index, block in enumerate(blocks):
        one = _Placed(block, f"{placed.path}.content[{index}]")
        if block.type not in _RESULT_KINDS:
            raise _wrong_kind(block, one.path, _RESULT_KINDS)
        refuse_inert(block, INERT_BLOCK, f"{one.path}.")
        made.mark(block, one.path, len(made.messages))
        if block.type == "tool_reference":
            made.referenced[_needed(one, "tool_name", block.tool_name)] = None
        texts.append(_text(one))
    return _lines(texts)


def _text(placed: _Placed) -> str:
    """What a block reads as."""
    block = placed.block
    if block.type == "text":
        return _needed(placed, "text", block.text)
    if block.type == "tool_reference":
        return f"The tool {block.tool_name} is available."
    if block.type == "search_result":
        source = _needed(placed, "source", block.source if isinstance(block.source, str) else None)
        head = [_needed(placed, "title", block.title), source]
        return "\n".join([*head, *_inner_texts(block.content, placed.path)])
    return "\n".join([text for text in (block.title, block.context) if text] + _document(placed))


def _document(placed: _Placed) -> list[str]:
    path, source = f"{placed.path}.source", placed.block.source
    if not isinstance(source, dict):
        raise InvalidRequest(f"{path}: is missing or no object; a document needs it.", param=path)
    kind = source.get("type")
    if kind == "text" and isinstance(source.get("data"), str):
        return [source["data"]]
    if kind == "content":
        try:
            content = msgspec.convert(source.get("content"), str | list[Block])
        except msgspec.ValidationError:
            raise InvalidRequest(f"{path}.content: give a string or a list of text blocks.", param=path) from None
        return _inner_texts(content, path)
    raise UnsupportedField(
        f"{path}.type: {show(kind)} is not supported by the models served here; send 'text' with data, or 'content'.",
        param=f"{path}.type",
    )


def _inner_texts(content: str | list[Block] | None, path: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    texts = []
    for index, block in enumerate(content or []):
        one = _Placed(block, f"{path}.content[{index}]")
        if block.type != "text":
            raise _wrong_kind(block, one.path, ("text",))
        texts.append(_text(one))
    return texts


def _lines(texts: list[str]) -> tuple[TextPart, ...]:
    """Texts as parts of one, each beginning a line."""
    parts: list[TextPart] = []
    for text in texts:
        starts_line = not parts or parts[-1].text.endswith("\n")
        parts.append(TextPart(text if starts_line else "\n" + text))
    return tuple(parts)


def _needed(placed: _Placed, name: str, value: _Value | None) -> _Value:
    if value is None:
        raise InvalidRequest(
            f"{placed.path}.{name}: is missing; a block of type {show(placed.block.type)} needs it.",
            param=f"{placed.path}.{name}",
            code="missing_required_parameter",
        )
    return value


def _thinking_kept_from(management: ContextManagement | None, turns: list[_Turn]) -> int:
    """The first turn whose thinking is kept. Raises UnsupportedField for edits that need to count tokens."""
    kept = 0
    for index, edit in enumerate((management and management.edits) or ()):
        path = f"context_management.edits[{index}]"
        if edit.type != "clear_thinking_20251015":
            raise UnsupportedField(
                f"{path}.type: {show(edit.type)} is not supported; use clear_thinking_20251015, or leave it out.",
                param=f"{path}.type",
            )
        keep = edit.keep
        if keep == "all" or (isinstance(keep, dict) and keep.get("type") == "all"):
            continue
        value = 1 if keep is None else keep.get("value") if isinstance(keep, dict) else None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidRequest(
                f"{path}.keep: {show(keep)} is not known; use 'all' or {{'type': 'thinking_turns', 'value': 1}}.",
                param=f"{path}.keep",
            )
        thinking = [
            position
            for position, turn in enumerate(turns)
            if turn.role == "assistant" and any(one.block.type == "thinking" for one in turn.blocks)
        ]
        kept = max(kept, thinking[-value] if value <= len(thinking) else 0)
    return kept
