"""OpenAI's Chat Completions as its providers speak it; reasoning as DeepSeek and vLLM tell it."""

import json
from collections.abc import Iterator

from openai.types.chat import ChatCompletion, ChatCompletionChunk, CompletionCreateParams
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

_CHAT_ENDS = {"stop": "stop", "length": "length", "filtered": "content_filter"}


def _chat_usage(counts: Counts) -> Turn:
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.answer,
        "total_tokens": counts.prompt + counts.answer,
        "prompt_tokens_details": {"cached_tokens": counts.cached},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning},
    }


def _chat_frames(answer: Answer) -> Iterator[Frame]:
    start = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def delta(value: Turn, reason: str | None = None) -> Frame:
        return "", start | {"choices": [{"index": 0, "delta": value, "finish_reason": reason}]}

    yield delta({"role": "assistant", "content": ""})
    for piece in pieces(answer.reasoning):
        yield delta({"reasoning_content": piece})
    for piece in pieces(answer.text):
        yield delta({"content": piece})
    for index, call in enumerate(answer.calls):
        function = {"name": call["name"], "arguments": ""}
        yield delta(
            {"tool_calls": [{"index": index, "id": f"call_{index}x", "type": "function", "function": function}]}
        )
        for piece in pieces(json.dumps(call["arguments"])):
            yield delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield delta({}, "tool_calls" if answer.calls else _CHAT_ENDS[answer.ends])
    yield "", start | {"choices": [], "usage": _chat_usage(answer.counts)}
    yield "", "[DONE]"


def _chat_body(answer: Answer) -> Turn:
    message: Turn = {"role": "assistant", "content": answer.text or None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {
                "id": f"call_{index}x",
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
            }
            for index, call in enumerate(answer.calls)
        ]
    reason = "tool_calls" if answer.calls else _CHAT_ENDS[answer.ends]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": _chat_usage(answer.counts),
    }


def _chat_error(kind: str) -> Turn:
    types = {
        "limited": "rate_limit_error",
        "overloaded": "server_error",
        "invalid": "invalid_request_error",
        "key": "invalid_request_error",
        "broken": "server_error",
    }
    return {"error": {"message": WORDS, "type": types[kind], "param": None, "code": kind}}


def _chat_read(fields: Turn) -> Question:
    ids, said = Ids(), []
    for one in fields["messages"]:
        content = one.get("content")
        text = "".join(part["text"] for part in content) if isinstance(content, list) else content or ""
        calls = [(call["id"], call["function"]) for call in one.get("tool_calls") or ()]
        for call_id, _ in calls:
            ids.add(call_id)
        answers = ids.index(one["tool_call_id"]) if one["role"] == "tool" else None
        role = "system" if one["role"] == "developer" else one["role"]
        given = [(call["name"], json.loads(call["arguments"])) for _, call in calls]
        said.append(as_said(role, text, one.get("reasoning_content") or "", given, answers))
    tools = [one["function"] for one in fields.get("tools", ())]
    choice = fields.get("tool_choice", "auto")
    form = fields.get("response_format") or {}
    return Question(
        tuple(said),
        offered((one["name"], one.get("description", ""), one.get("parameters", {})) for one in tools),
        choice if isinstance(choice, str) else choice["function"]["name"],
        fields.get("max_completion_tokens", fields.get("max_tokens")),
        fields.get("temperature"),
        form.get("json_schema", {}).get("schema"),
    )


CHAT = Provider(
    "chat",
    Dialect.CHAT,
    "/v1/chat/completions",
    _chat_frames,
    _chat_body,
    lambda kind: ("", _chat_error(kind)),
    _chat_error,
    _chat_read,
    TypeAdapter(CompletionCreateParams).validate_python,
    TypeAdapter(ChatCompletionChunk).validate_python,
    TypeAdapter(ChatCompletion).validate_python,
    "chat",
)
