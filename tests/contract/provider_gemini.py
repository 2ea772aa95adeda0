"""Gemini's native API as its provider speaks it, in proto3's JSON. Google's SDK is not among those that tests install;
`tests/oracle/vectors/gemini.json`, which it recorded, stands for it."""

from collections.abc import Iterator
from typing import Any

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

_GEMINI_ENDS = {"stop": "STOP", "length": "MAX_TOKENS", "filtered": "SAFETY"}


def _gemini_usage(counts: Counts) -> Turn:
    return {
        "promptTokenCount": counts.prompt,
        "cachedContentTokenCount": counts.cached,
        "candidatesTokenCount": counts.answer - counts.reasoning,
        "thoughtsTokenCount": counts.reasoning,
        "totalTokenCount": counts.prompt + counts.answer,
    }


def _gemini_frames(answer: Answer) -> Iterator[Frame]:
    def told(*parts: Turn, **fields: Any) -> Frame:
        # Zeros are left out, the index of the first candidate among them.
        candidate = {"content": {"role": "model", "parts": list(parts)}, **fields}
        return "", {"candidates": [candidate], "usageMetadata": _gemini_usage(answer.counts), "modelVersion": "m"}

    for piece in pieces(answer.reasoning):
        yield told({"text": piece, "thought": True})
    for piece in pieces(answer.text):
        yield told({"text": piece})
    if answer.calls:
        yield told(*({"functionCall": {"name": call["name"], "args": call["arguments"]}} for call in answer.calls))
    yield told({"text": ""}, finishReason=_GEMINI_ENDS[answer.ends])


def _gemini_error(kind: str) -> Turn:
    codes = {
        "limited": (429, "RESOURCE_EXHAUSTED"),
        "overloaded": (503, "UNAVAILABLE"),
        "invalid": (400, "INVALID_ARGUMENT"),
        "key": (401, "UNAUTHENTICATED"),
        "broken": (500, "INTERNAL"),
    }
    code, status = codes[kind]
    return {"error": {"code": code, "message": WORDS, "status": status}}


def _gemini_read(fields: Turn) -> Question:
    ids = Ids()
    said = [as_said("system", part["text"]) for part in (fields.get("systemInstruction") or {}).get("parts", ())]
    for content in fields["contents"]:
        text, calls = "", []
        for part in content["parts"]:
            if "functionCall" in part:
                ids.add(part["functionCall"]["id"])
                calls.append((part["functionCall"]["name"], part["functionCall"]["args"]))
            elif "functionResponse" in part:
                result = part["functionResponse"]
                assert content["role"] == "user"
                said.append(as_said("tool", result["response"]["output"], answers=ids.index(result["id"])))
            else:
                text += part["text"]
        if text or calls:
            said.append(as_said({"model": "assistant"}.get(content["role"], content["role"]), text, "", calls))
    config = fields.get("generationConfig") or {}
    calling = (fields.get("toolConfig") or {}).get("functionCallingConfig") or {"mode": "AUTO"}
    names = calling.get("allowedFunctionNames", ())
    tools = [one for group in fields.get("tools", ()) for one in group["functionDeclarations"]]
    return Question(
        tuple(said),
        offered((one["name"], one.get("description", ""), one.get("parametersJsonSchema", {})) for one in tools),
        names[0] if names else {"ANY": "required", "NONE": "none"}.get(calling["mode"], "auto"),
        config.get("maxOutputTokens"),
        config.get("temperature"),
        config.get("responseJsonSchema"),
    )


def _unchecked(value: Turn) -> None:
    """There is no SDK of Google's among those that tests install; `tests/oracle/vectors/gemini.json` stands for it."""


GEMINI = Provider(
    "gemini",
    Dialect.GEMINI,
    "/v1beta/models/m:streamGenerateContent?alt=sse",
    _gemini_frames,
    lambda answer: {},
    lambda kind: ("", _gemini_error(kind)),
    _gemini_error,
    _gemini_read,
    _unchecked,
    _unchecked,
    _unchecked,
    None,
)
