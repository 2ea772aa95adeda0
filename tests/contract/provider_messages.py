"""Anthropic's Messages as its provider speaks it."""

import json
from collections.abc import Iterator
from typing import Any

from anthropic.types import Message, MessageCreateParams, RawMessageStreamEvent
from pydantic import TypeAdapter
from tests.contract.provider import (
    WORDS,
    Answer,
    Counts,
    Frame,
    Ids,
    Provider,
    Question,
    Turn,
    as_said,
    offered,
    pieces,
)

from headrace.gateway.settings import Dialect

_MESSAGES_ENDS = {"stop": "end_turn", "length": "max_tokens", "filtered": "refusal"}


def _messages_usage(counts: Counts) -> Turn:
    written = 8
    return {
        "input_tokens": counts.prompt - counts.cached - written,
        "cache_read_input_tokens": counts.cached,
        "cache_creation_input_tokens": written,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
    }


def _messages_blocks(answer: Answer) -> list[tuple[Turn, list[Turn], Turn]]:
    """Each block as it begins, its deltas, and as it is in the end."""
    blocks: list[tuple[Turn, list[Turn], Turn]] = []
    if answer.reasoning:
        empty = {"type": "thinking", "thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(answer.reasoning)]
        deltas.append({"type": "signature_delta", "signature": "c2ln"})
        blocks.append((empty, deltas, empty | {"thinking": answer.reasoning, "signature": "c2ln"}))
    if answer.text:
        start = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces(answer.text)]
        blocks.append((start, deltas, {"type": "text", "text": answer.text}))
    for index, call in enumerate(answer.calls):
        tool = {"type": "tool_use", "id": f"toolu_{index}x", "name": call["name"], "input": {}}
        deltas = [
            {"type": "input_json_delta", "partial_json": piece} for piece in pieces(json.dumps(call["arguments"]))
        ]
        blocks.append((tool, deltas, tool | {"input": call["arguments"]}))
    return blocks


def _messages_head(answer: Answer) -> Turn:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _messages_usage(answer.counts) | {"output_tokens": 1},
    }


def _messages_frames(answer: Answer) -> Iterator[Frame]:
    def told(kind: str, **fields: Any) -> Frame:
        return kind, {"type": kind, **fields}

    yield told("message_start", message=_messages_head(answer))
    yield told("ping")
    for index, (start, deltas, _) in enumerate(_messages_blocks(answer)):
        yield told("content_block_start", index=index, content_block=start)
        for delta in deltas:
            yield told("content_block_delta", index=index, delta=delta)
        yield told("content_block_stop", index=index)
    reason = "tool_use" if answer.calls else _MESSAGES_ENDS[answer.ends]
    usage = {
        "output_tokens": answer.counts.answer,
        "output_tokens_details": {"thinking_tokens": answer.counts.reasoning},
    }
    yield told("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)
    yield told("message_stop")


def _messages_body(answer: Answer) -> Turn:
    usage = {
        "output_tokens": answer.counts.answer,
        "output_tokens_details": {"thinking_tokens": answer.counts.reasoning},
    }
    return _messages_head(answer) | {
        "content": [block for _, _, block in _messages_blocks(answer)],
        "stop_reason": "tool_use" if answer.calls else _MESSAGES_ENDS[answer.ends],
        "usage": _messages_usage(answer.counts) | usage,
    }


def _messages_error(kind: str) -> Turn:
    types = {
        "limited": "rate_limit_error",
        "overloaded": "overloaded_error",
        "invalid": "invalid_request_error",
        "key": "authentication_error",
        "broken": "api_error",
    }
    return {"type": "error", "error": {"type": types[kind], "message": WORDS}, "request_id": "req_1"}


def _messages_read(fields: Turn) -> Question:
    ids, said = Ids(), []
    system = fields.get("system") or []
    texts = [system] if isinstance(system, str) else [block["text"] for block in system]
    said += [as_said("system", text) for text in texts]
    for turn in fields["messages"]:
        content = turn["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text, thoughts, calls = "", "", []
        for block in blocks:
            if block["type"] == "text":
                text += block["text"]
            elif block["type"] == "thinking":
                thoughts += block["thinking"]
            elif block["type"] == "tool_use":
                ids.add(block["id"])
                calls.append((block["name"], block["input"]))
            else:
                inner = block.get("content", "")
                result = inner if isinstance(inner, str) else "".join(one["text"] for one in inner)
                said.append(as_said("tool", result, answers=ids.index(block["tool_use_id"])))
        if text or calls or thoughts:
            said.append(as_said(turn["role"], text, thoughts, calls))
    choice = fields.get("tool_choice", {"type": "auto"})
    word = {"any": "required", "tool": choice.get("name")}.get(choice["type"], choice["type"])
    config = fields.get("output_config") or {}
    return Question(
        tuple(said),
        offered((one["name"], one.get("description", ""), one["input_schema"]) for one in fields.get("tools", ())),
        str(word),
        fields["max_tokens"],
        fields.get("temperature"),
        (config.get("format") or {}).get("schema"),
    )


MESSAGES = Provider(
    "messages",
    Dialect.MESSAGES,
    "/v1/messages",
    _messages_frames,
    _messages_body,
    lambda kind: ("error", _messages_error(kind)),
    _messages_error,
    _messages_read,
    TypeAdapter(MessageCreateParams).validate_python,
    TypeAdapter(RawMessageStreamEvent).validate_python,
    TypeAdapter(Message).validate_python,
    "messages",
)
