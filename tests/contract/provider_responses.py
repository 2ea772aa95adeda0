"""OpenAI's Responses as its providers speak it; reasoning as text, as open models' servers tell it."""

import json
from collections.abc import Iterator
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsBase
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

_WHY = {"length": "max_output_tokens", "filtered": "content_filter"}


def _usage(counts: Counts) -> Turn:
    return {
        "input_tokens": counts.prompt,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": 0},
        "output_tokens": counts.answer,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.prompt + counts.answer,
    }


def _items(answer: Answer) -> list[Turn]:
    items: list[Turn] = []
    if answer.reasoning:
        content = [{"type": "reasoning_text", "text": answer.reasoning}]
        items.append({"id": "rs_1", "type": "reasoning", "summary": [], "content": content, "status": "completed"})
    if answer.text:
        content = [{"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}]
        items.append({"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content})
    for index, call in enumerate(answer.calls):
        items.append(
            {
                "id": f"fc_{index}",
                "type": "function_call",
                "call_id": f"call_{index}x",
                "name": call["name"],
                "arguments": json.dumps(call["arguments"]),
                "status": "completed",
            }
        )
    return items


def _body(answer: Answer, *, is_over: bool = True) -> Turn:
    why = _WHY.get(answer.ends) if is_over else None
    status = ("incomplete" if why else "completed") if is_over else "in_progress"
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "m",
        "output": _items(answer) if is_over else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": {"reason": why} if why else None,
        "usage": _usage(answer.counts) if is_over else None,
    }


class _Telling:
    """Numbers the events of a stream."""

    def __init__(self) -> None:
        self._number = -1

    def __call__(self, kind: str, **fields: Any) -> Frame:
        self._number += 1
        return kind, {"type": kind, "sequence_number": self._number, **fields}


# What an item's text is called, in its deltas and its part.
_TEXTS = {
    "message": ("response.output_text", {"type": "output_text", "annotations": []}, {"logprobs": []}),
    "reasoning": ("response.reasoning_text", {"type": "reasoning_text"}, {}),
}


def _frames(answer: Answer) -> Iterator[Frame]:
    told = _Telling()
    yield told("response.created", response=_body(answer, is_over=False))
    yield told("response.in_progress", response=_body(answer, is_over=False))
    for index, item in enumerate(_items(answer)):
        where = {"item_id": item["id"], "output_index": index}
        if item["type"] == "function_call":
            yield told("response.output_item.added", output_index=index, item=item | {"arguments": ""})
            for piece in pieces(item["arguments"]):
                yield told("response.function_call_arguments.delta", **where, delta=piece)
            whole = {"arguments": item["arguments"], "name": item["name"]}
            yield told("response.function_call_arguments.done", **where, **whole)
        else:
            kind, part, more = _TEXTS[item["type"]]
            text = item["content"][0]["text"]
            yield told("response.output_item.added", output_index=index, item=item | {"content": []})
            yield told("response.content_part.added", **where, content_index=0, part=part | {"text": ""})
            for piece in pieces(text):
                yield told(f"{kind}.delta", **where, content_index=0, delta=piece, **more)
            yield told(f"{kind}.done", **where, content_index=0, text=text, **more)
            yield told("response.content_part.done", **where, content_index=0, part=part | {"text": text})
        yield told("response.output_item.done", output_index=index, item=item)
    last = _body(answer)
    yield told(f"response.{last['status']}", response=last)


def _error(kind: str) -> Turn:
    types = {
        "limited": "rate_limit_error",
        "overloaded": "server_error",
        "invalid": "invalid_request_error",
        "key": "invalid_request_error",
        "broken": "server_error",
    }
    return {"error": {"message": WORDS, "type": types[kind], "param": None, "code": kind}}


def _failure(kind: str) -> Frame:
    codes = {"limited": "rate_limit_exceeded", "overloaded": "server_is_overloaded", "broken": "server_error"}
    failed = _body(Answer(), is_over=False) | {
        "status": "failed",
        "error": {"code": codes[kind], "message": WORDS},
    }
    return "response.failed", {"type": "response.failed", "sequence_number": 99, "response": failed}


def _read(fields: Turn) -> Question:
    ids, said = Ids(), []
    if fields.get("instructions"):
        said.append(as_said("system", fields["instructions"]))
    text, thoughts, calls = "", "", []

    def flush() -> None:
        nonlocal text, thoughts, calls
        if text or thoughts or calls:
            said.append(as_said("assistant", text, thoughts, calls))
        text, thoughts, calls = "", "", []

    given = fields["input"]
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        kind = item.get("type", "message")
        if kind == "message":
            content = item["content"]
            words = content if isinstance(content, str) else "".join(part["text"] for part in content)
            if item["role"] == "assistant":
                text += words
                continue
            flush()
            said.append(as_said("system" if item["role"] == "developer" else item["role"], words))
        elif kind == "reasoning":
            flush()
            thoughts += "".join(part["text"] for part in item["content"])
        elif kind == "function_call":
            ids.add(item["call_id"])
            calls.append((item["name"], json.loads(item["arguments"])))
        else:
            flush()
            said.append(as_said("tool", item["output"], answers=ids.index(item["call_id"])))
    flush()
    choice = fields.get("tool_choice", "auto")
    form = (fields.get("text") or {}).get("format") or {}
    return Question(
        tuple(said),
        offered((one["name"], one.get("description", ""), one["parameters"]) for one in fields.get("tools", ())),
        choice if isinstance(choice, str) else choice["name"],
        fields.get("max_output_tokens"),
        fields.get("temperature"),
        form.get("schema"),
    )


RESPONSES = Provider(
    "responses",
    Dialect.RESPONSES,
    "/v1/responses",
    _frames,
    _body,
    _failure,
    _error,
    _read,
    TypeAdapter(ResponseCreateParamsBase).validate_python,
    TypeAdapter(ResponseStreamEvent).validate_python,
    TypeAdapter(Response).validate_python,
    "responses",
)
