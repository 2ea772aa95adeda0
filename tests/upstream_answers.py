"""What a good backend says in each protocol, whole and streamed: for `tests/upstreams.py`, which sends it.

`up` says what the text is and how many tokens it counted, in and out.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol


class Speaker(Protocol):
    """Who answers."""

    text: str
    usage: tuple[int, int]


def frame(data: dict[str, Any] | str, event: str = "") -> bytes:
    """A server-sent event."""
    said = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {event}\n" if event else "").encode() + f"data: {said}\n\n".encode()


def _words(up: Speaker) -> list[str]:
    return [word if index == 0 else f" {word}" for index, word in enumerate(up.text.split(" "))]


def _usage(up: Speaker) -> dict[str, int]:
    prompt, answer = up.usage
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def chat(up: Speaker, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Chat Completions, whole."""
    message = {"role": "assistant", "content": up.text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(up),
    }


def chat_frames(up: Speaker, model: str, fields: dict[str, Any]) -> Iterable[bytes]:
    """Chat Completions, streamed; usage only if it was asked for."""
    start = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}

    def delta(value: dict[str, Any], reason: str | None = None) -> bytes:
        return frame({**start, "choices": [{"index": 0, "delta": value, "finish_reason": reason}]})

    yield delta({"role": "assistant", "content": ""})
    for word in _words(up):
        yield delta({"content": word})
    yield delta({}, "stop")
    if (fields.get("stream_options") or {}).get("include_usage"):
        yield frame({**start, "choices": [], "usage": _usage(up)})
    yield frame("[DONE]")


def completions(up: Speaker, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Completions, whole."""
    choice = {"index": 0, "text": up.text, "finish_reason": "stop", "logprobs": None}
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": model,
        "choices": [choice],
        "usage": _usage(up),
    }


def completions_frames(up: Speaker, model: str, fields: dict[str, Any]) -> Iterable[bytes]:
    """Completions, streamed."""
    start = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model}
    for word in _words(up):
        yield frame({**start, "choices": [{"index": 0, "text": word, "finish_reason": None, "logprobs": None}]})
    yield frame({**start, "choices": [{"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}]})
    if (fields.get("stream_options") or {}).get("include_usage"):
        yield frame({**start, "choices": [], "usage": _usage(up)})
    yield frame("[DONE]")


def embeddings(up: Speaker, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Embeddings: of each input its length and two numbers more."""
    inputs = fields["input"] if isinstance(fields["input"], list) else [fields["input"]]
    if inputs and isinstance(inputs[0], int):
        inputs = [inputs]
    data = [
        {"object": "embedding", "index": index, "embedding": [float(len(one)), 0.5, -0.25]}
        for index, one in enumerate(inputs)
    ]
    used = {"prompt_tokens": up.usage[0], "total_tokens": up.usage[0]}
    return {"object": "list", "model": model, "data": data, "usage": used}


def rerank(up: Speaker, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Cohere's and Jina's rerank: the longest document first, each scored by its length."""
    ranked = sorted(enumerate(fields["documents"]), key=lambda one: -len(one[1]))
    results = [{"index": index, "relevance_score": len(text) / 1000} for index, text in ranked]
    return {"id": "rerank-1", "model": model, "results": results, "usage": {"total_tokens": up.usage[0]}}


def score(up: Speaker, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    """vLLM's score: each pair by the length of its second text."""
    data = [
        {"object": "score", "index": index, "score": len(text) / 1000} for index, text in enumerate(fields["text_2"])
    ]
    used = {"prompt_tokens": up.usage[0], "total_tokens": up.usage[0]}
    return {"id": "score-1", "object": "list", "model": model, "data": data, "usage": used}


def count_tokens(up: Speaker, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Anthropic's count of a prompt."""
    return {"input_tokens": up.usage[0]}


def messages(up: Speaker, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Anthropic's Messages, whole."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": up.text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": up.usage[0], "output_tokens": up.usage[1]},
    }


def messages_frames(up: Speaker, model: str, fields: dict[str, Any]) -> Iterable[bytes]:
    """Anthropic's Messages, streamed."""

    def told(event: str, **values: Any) -> bytes:
        return frame({"type": event, **values}, event)

    begun = {**messages(up, model, fields), "content": [], "stop_reason": None}
    begun["usage"] = {"input_tokens": up.usage[0], "output_tokens": 1}
    yield told("message_start", message=begun)
    yield told("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield told("ping")
    for word in _words(up):
        yield told("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
    yield told("content_block_stop", index=0)
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    yield told("message_delta", delta=stop, usage={"output_tokens": up.usage[1]})
    yield told("message_stop")


def responses(up: Speaker, model: str, fields: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's Responses, whole."""
    prompt, answer = up.usage
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": model,
        "output": [_item(up.text)],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + answer,
        },
    }


def _item(text: str, status: str = "completed") -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}] if status == "completed" else []
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": content}


def responses_frames(up: Speaker, model: str, fields: dict[str, Any]) -> Iterable[bytes]:
    """OpenAI's Responses, streamed."""
    number = iter(range(1000))

    def told(event: str, **values: Any) -> bytes:
        return frame({"type": event, "sequence_number": next(number), **values}, event)

    done = responses(up, model, fields)
    begun = {**done, "status": "in_progress", "output": [], "usage": None}
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": up.text, "annotations": []}
    yield told("response.created", response=begun)
    yield told("response.in_progress", response=begun)
    yield told("response.output_item.added", output_index=0, item=_item("", "in_progress"))
    yield told("response.content_part.added", **where, part={**part, "text": ""})
    for word in _words(up):
        yield told("response.output_text.delta", **where, delta=word, logprobs=[])
    yield told("response.output_text.done", **where, text=up.text, logprobs=[])
    yield told("response.content_part.done", **where, part=part)
    yield told("response.output_item.done", output_index=0, item=_item(up.text))
    yield told("response.completed", response=done)


def gemini(up: Speaker) -> dict[str, Any]:
    """Gemini's generateContent, whole."""
    return _gemini(up, up.text, "STOP")


def gemini_frames(up: Speaker) -> Iterable[bytes]:
    """Gemini's streamGenerateContent with alt=sse."""
    words = _words(up)
    for index, word in enumerate(words):
        yield frame(_gemini(up, word, "STOP" if index == len(words) - 1 else None))


def _gemini(up: Speaker, text: str, reason: str | None) -> dict[str, Any]:
    prompt, answer = up.usage
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if reason is not None:
        candidate["finishReason"] = reason
    used = {"promptTokenCount": prompt, "candidatesTokenCount": answer, "totalTokenCount": prompt + answer}
    return {"candidates": [candidate], "usageMetadata": used, "modelVersion": "scripted", "responseId": "gem-1"}


_Whole = Callable[[Speaker, str, dict[str, Any]], dict[str, Any]]
_Frames = Callable[[Speaker, str, dict[str, Any]], Iterable[bytes]]
ANSWERS: dict[str, tuple[_Whole, _Frames | None]] = {
    "chat/completions": (chat, chat_frames),
    "completions": (completions, completions_frames),
    "embeddings": (embeddings, None),
    "rerank": (rerank, None),
    "score": (score, None),
    "messages": (messages, messages_frames),
    "messages/count_tokens": (count_tokens, None),
    "responses": (responses, responses_frames),
}
